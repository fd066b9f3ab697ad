"""The interactive map in a real browser without a network: it moves, answers clicks and keys, and has no error."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsers import Tab, chromium, tab
from builders import GRID, make_footprints, make_labels, make_map, make_scene
from rasterio.warp import transform

from casbah.figures.visualize import visualize
from casbah.products.footprints import FootprintSet

pytestmark = pytest.mark.integration

READY = "document.getElementById('map').dataset.ready === 'yes'"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chromium()
    pytest.importorskip("websocket", reason="needs websocket-client, which the extra `pipeline` brings")
    folder = tmp_path_factory.mktemp("town")
    col, row = int(GRID.west // 640) + 1, int(GRID.north // 640) - 2
    seen = {"train": (f"32631_640_{col}_{row}",), "val": (f"32631_640_{col + 1}_{row}",)}
    make_footprints(folder / "footprints", make_map(folder / "prediction", blocks=seen))
    names = {"scene": make_scene(folder / "scene").path, "labels": make_labels(folder / "labels").path}
    names |= {name: folder / name for name in ("prediction", "footprints")}
    visualize(**names, output=folder / "map.html")
    return folder


@pytest.fixture(scope="module")
def browser(town: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def shown(browser: Tab, town: Path) -> Iterator[Tab]:
    """The page at the width of a desk; at the end nothing was complained of, and nothing asked for."""
    browser.complaints.clear()
    browser.open(town / "map.html")
    browser.until(READY)
    yield browser
    assert browser.complaints == []
    assert browser.asked == []


def screen(page: Tab, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the grid lies on the screen."""
    script = (
        "(() => { const at = map.getBoundingClientRect(); return [at.left + state.x, at.top + state.y, state.k]; })()"
    )
    left, top, scale = page.run(script)
    return left + x * scale, top + y * scale


def largest(town: Path) -> tuple[str, float, float, float]:
    """The largest footprint: its id, its probability, and a pixel of the grid that lies inside."""
    table = FootprintSet.open(town / "footprints").footprints()
    row = table.loc[table["area_m2"].idxmax()]
    at = row.geometry.representative_point()
    return row["id"], row["probability"], (at.x - GRID.west) / 10, (GRID.north - at.y) / 10


def set_input(page: Tab, label: str, value: str) -> None:
    script = (
        f"(() => {{ const one = document.querySelector('input[aria-label=\"{label}\"]'); one.value = {value};"
        " one.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )
    page.run(script)


def tick(page: Tab, layer: str) -> None:
    page.run(
        f"[...document.querySelectorAll('#layers label')].find(one => one.textContent.trim() === '{layer}').click()"
    )


def changed(before: np.ndarray, after: np.ndarray) -> float:
    return float((np.abs(after - before).max(axis=2) > 12).mean())


def test_the_slider_of_the_probability_changes_what_is_seen(shown: Tab) -> None:
    before = shown.picture()
    set_input(shown, "opacity of probability", "0")
    clear = shown.picture()
    assert changed(before, clear) > 0.02
    tick(shown, "probability")
    assert changed(clear, shown.picture()) < 0.002, "what is fully clear looks as what is off"


@pytest.mark.parametrize("layer", ["true colour", "truth", "probability", "error", "footprints", "blocks"])
def test_every_layer_goes_and_comes(shown: Tab, layer: str) -> None:
    before = shown.picture()
    tick(shown, layer)
    off = shown.picture()
    assert changed(before, off) > 0.0015
    tick(shown, layer)
    assert changed(before, shown.picture()) < 0.002


def test_a_click_on_a_footprint_says_what_it_is(shown: Tab, town: Path) -> None:
    name, probability, x, y = largest(town)
    assert shown.run("document.getElementById('details').hidden")
    before = shown.picture()
    shown.click(*screen(shown, x, y))
    said = shown.run("document.getElementById('details').innerText")
    assert f"Footprint {name}" in said
    for words in (f"{probability:.3f}", "m²", "bright pixels abababababab", "2023-06-01", "built-up patches"):
        assert words in said
    assert changed(before, shown.picture()) > 0.01, "the details and the outline of what was clicked"
    shown.click(*screen(shown, -1, 128))
    assert shown.run("document.getElementById('details').hidden"), "a click beside the map closes them"


def test_hidden_footprints_are_not_clicked(shown: Tab, town: Path) -> None:
    tick(shown, "footprints")
    shown.click(*screen(shown, *largest(town)[2:]))
    assert shown.run("document.getElementById('details').hidden")


def test_the_keyboard_alone_moves_zooms_and_opens_footprints(shown: Tab) -> None:
    shown.press("Tab")
    assert shown.run("document.activeElement.id") == "map"
    scale = shown.run("state.k")
    shown.press("+")
    assert shown.run("state.k") == pytest.approx(scale * 1.5)
    left = shown.run("state.x")
    shown.press("ArrowRight")
    assert shown.run("state.x") == pytest.approx(left - 60)
    shown.press("Enter")
    first = shown.run("document.querySelector('#details h2').textContent")
    shown.press("n")
    assert shown.run("document.querySelector('#details h2').textContent") != first
    shown.press("p")
    assert shown.run("document.querySelector('#details h2').textContent") == first
    shown.press("Escape")
    assert shown.run("document.getElementById('details').hidden")


def test_coordinates_under_the_pointer_and_the_scale_bar_are_right(shown: Tab) -> None:
    shown.hover(*screen(shown, 100, 60))
    said = shown.run("document.getElementById('where').textContent")
    (longitude,), (latitude,) = transform(GRID.crs, "EPSG:4326", [GRID.west + 1000], [GRID.north - 600])
    found = [float(part.split("°")[0]) for part in said.split(" · ")[0].split(", ")]
    assert found == pytest.approx([latitude, longitude], abs=2e-4)
    zone, number, east, _, north, _ = said.split(" · ")[1].split()
    assert (zone, number) == ("UTM", "31N")
    assert (float(east), float(north)) == pytest.approx((GRID.west + 1000, GRID.north - 600), abs=12)
    length = shown.run("document.querySelector('#scale span').textContent")
    wide = shown.run("document.querySelector('#scale .bar').getBoundingClientRect().width")
    metres = float(length.split()[0]) * (1000 if length.endswith("km") else 1)
    assert wide == pytest.approx(metres / 10 * shown.run("state.k"), rel=0.01)
    assert shown.run("document.querySelector('#scale .north').innerText").split() == ["▲", "N"]


def test_a_phone_sees_the_map_and_can_open_everything(browser: Tab, town: Path) -> None:
    browser.open(town / "map.html", width=390, height=780)
    browser.until(READY)
    browser.run("document.querySelector('#panel details').open = true")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    boxes = browser.run("[...document.querySelectorAll('.card')].map(one => one.getBoundingClientRect().toJSON())")
    assert all(box["left"] >= 0 and box["right"] <= 390 for box in boxes)
    browser.run("document.querySelector('#panel details').open = false")
    assert browser.run("document.getElementById('panel').getBoundingClientRect().height") < 120
    browser.click(*screen(browser, *largest(town)[2:]))
    details = browser.run("document.getElementById('details').getBoundingClientRect().toJSON()")
    assert details["height"] > 50
    assert details["left"] >= 0
    assert details["right"] <= 390
    assert browser.complaints == []


def test_the_browser_would_tell_of_an_error_and_of_a_request(browser: Tab, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:9/tile.png"><script>nothing.at.all()</script>')
    browser.complaints.clear()
    browser.open(page)
    browser.settle()
    assert any("nothing is not defined" in said for said in browser.complaints)
    assert browser.asked == ["http://127.0.0.1:9/tile.png"]
    browser.asked.clear()
    browser.complaints.clear()
