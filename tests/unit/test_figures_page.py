"""The interactive map holds all it needs, stays small, and says what it left out; a browser checks that it moves."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GRID, make_evaluation, make_footprints, make_labels, make_map, make_scene
from PIL import Image
from rasterio.warp import transform
from shapely.geometry import Polygon
from shapely.ops import unary_union

from casbah.errors import InputError
from casbah.figures import page as room
from casbah.figures.colour import png
from casbah.figures.page import places
from casbah.figures.visualize import visualize
from casbah.grid import Grid
from casbah.products.footprints import FootprintSet


def seen_blocks() -> dict[str, tuple[str, ...]]:
    """Two blocks of 640 m that lie in `GRID`."""
    col, row = int(GRID.west // 640) + 1, int(GRID.north // 640) - 2
    return {"train": (f"32631_640_{col}_{row}",), "val": (f"32631_640_{col + 1}_{row}",)}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    make_scene(folder / "scene")
    make_labels(folder / "labels")
    make_footprints(folder / "footprints", make_map(folder / "prediction", blocks=seen_blocks()))
    return folder


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert found is not None
    return json.loads(found.group(1))


def footer(page: Path) -> str:
    found = re.search(r"<footer>(.*?)</footer>", page.read_text(), re.S)
    assert found is not None
    return found.group(1)


def polygons(data: dict[str, Any]) -> list[Polygon]:
    """The outlines in pixels of the grid, as the page's script unpacks them."""
    packed = data["areas"][0]["footprints"]
    found = []
    for rings in packed["shapes"]:
        corners = [np.cumsum(np.reshape(ring, (-1, 2)), axis=0) / packed["scale"] for ring in rings]
        found.append(Polygon(corners[0], corners[1:]))
    return found


def test_the_page_has_every_layer_that_was_named_and_asks_for_nothing(town: Path, tmp_path: Path) -> None:
    names = ("scene", "labels", "prediction", "footprints")
    made = visualize(**{name: town / name for name in names}, output=tmp_path / "map.html")
    area = data_of(made)["areas"][0]
    assert set(area["layers"]) == {"colour", "truth", "probability", "error"}
    assert {block["split"] for block in area["blocks"]} == {"train", "val"}
    text = made.read_text()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "default-src 'none'" in text
    assert "SIMULATED DATA" in text
    assert "Casbah&#39;s tests (CC0-1.0)" in footer(made)
    assert "train and val blocks the model shows what it has learned" in footer(made)


def test_the_outlines_of_the_page_are_those_of_the_product(town: Path, tmp_path: Path) -> None:
    made = visualize(scene=town / "scene", footprints=town / "footprints", output=tmp_path / "map.html")
    drawn = unary_union(polygons(data_of(made)))
    whole = FootprintSet.open(town / "footprints").footprints()
    truth = unary_union(
        [
            Polygon(
                [((x - GRID.west) / 10, (GRID.north - y) / 10) for x, y in one.exterior.coords],
                [[((x - GRID.west) / 10, (GRID.north - y) / 10) for x, y in ring.coords] for ring in one.interiors],
            )
            for one in whole.geometry
        ]
    )
    assert drawn.symmetric_difference(truth).area == pytest.approx(0, abs=1e-6)
    packed = data_of(made)["areas"][0]["footprints"]
    assert packed["id"] == list(whole["id"])
    assert packed["area"] == [round(area) for area in whole["area_m2"]]
    assert "count polygons as built-up patches" in packed["about"]["meaning"]
    assert "simplified" not in footer(made)


def test_too_many_or_too_fine_outlines_are_thinned_and_it_is_said(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "POLYGONS", 40)
    monkeypatch.setattr(room, "VERTICES", 220)
    made = visualize(footprints=town / "footprints", output=tmp_path / "map.html")
    areas = FootprintSet.open(town / "footprints").footprints()["area_m2"]
    kept = data_of(made)["areas"][0]["footprints"]["area"]
    assert sorted(kept) == sorted(areas)[-40:]
    assert sum(len(ring) // 2 for one in data_of(made)["areas"][0]["footprints"]["shapes"] for ring in one) <= 220
    assert f"of {len(areas)} footprints the 40 largest are drawn" in footer(made)
    assert re.search(r"outlines are simplified by up to \d+(\.\d+)? m for this page", footer(made))


def test_a_large_scene_is_thinned_and_it_is_said(town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casbah.figures.webmap.MAXIMUM_SIDE", 128)
    made = visualize(scene=town / "scene", prediction=town / "prediction", output=tmp_path / "map.html")
    area = data_of(made)["areas"][0]
    for uri in area["layers"].values():
        assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == (128, 128)
    assert (area["width"], area["height"]) == (256, 256)
    assert "pictures are thinned to 20 m" in footer(made)


def test_an_evaluation_marks_its_test_blocks_with_their_scores(town: Path, tmp_path: Path) -> None:
    col, row = int(GRID.west // 640) + 2, int(GRID.north // 640) - 3
    tested = f"32631_640_{col}_{row}"
    counts = {"tp": 30, "fp": 10, "fn": 20, "tn": 1000}
    evaluation = make_evaluation(tmp_path / "evaluation", blocks=({"block": tested, **counts},))
    made = visualize(prediction=town / "prediction", evaluation=evaluation.path, output=tmp_path / "map.html")
    blocks = {block["split"]: block for block in data_of(made)["areas"][0]["blocks"]}
    assert set(blocks) == {"train", "val", "test"}
    assert blocks["test"]["name"] == tested
    assert blocks["test"]["iou"] == pytest.approx(0.5)
    assert blocks["train"]["iou"] is None
    assert blocks["test"]["x"] * 10 + GRID.west == col * 640
    other = make_evaluation(tmp_path / "other", model="cd" * 32)
    with pytest.raises(InputError, match=r"the evaluation .*other is of model cdcdcdcdcdcd, the prediction"):
        visualize(prediction=town / "prediction", evaluation=other.path, output=tmp_path / "b.html")


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:32733", "EPSG:3035"])
def test_between_its_points_the_page_knows_longitude_and_latitude_to_a_metre(crs: str) -> None:
    corner = (4_000_000.0, 3_000_000.0) if crs == "EPSG:3035" else (300_000.0, 6_000_000.0)
    grid = Grid(crs, *corner, 10_980, 10_980)
    known = places(grid)
    at = np.random.default_rng(0).uniform(0, 10_980, (200, 2))
    longitude, latitude = transform(grid.crs, "EPSG:4326", grid.west + at[:, 0] * 10, grid.north - at[:, 1] * 10)
    u, v = at[:, 0] / 10_980 * known["cols"], at[:, 1] / 10_980 * known["rows"]
    col, row = u.astype(int), v.astype(int)
    for name, truth, metres in (
        ("longitude", longitude, 111_320 * np.cos(np.radians(latitude))),
        ("latitude", latitude, 111_320),
    ):
        nodes = np.reshape(known[name], (known["rows"] + 1, known["cols"] + 1))
        a, b = u - col, v - row
        upper = nodes[row, col] * (1 - a) + nodes[row, col + 1] * a
        lower = nodes[row + 1, col] * (1 - a) + nodes[row + 1, col + 1] * a
        assert np.abs((upper * (1 - b) + lower * b - truth) * metres).max() < 1.0


def test_what_an_observer_reads_in_a_product_cannot_run_in_the_page(tmp_path: Path) -> None:
    prediction = make_map(tmp_path / "prediction", experiment="</script><img src=x onerror=alert(1)>")
    footprints = make_footprints(tmp_path / "footprints", prediction)
    made = visualize(prediction=prediction.path, footprints=footprints.path, output=tmp_path / "map.html")
    assert "<img src=x" not in made.read_text()
    assert made.read_text().count("</script>") == 2


@pytest.mark.parametrize(
    ("named", "options", "sentence"),
    [
        ((), {}, "an interactive map needs --prediction, --footprints, --scene or --labels"),
        (("prediction",), {"what": "error"}, "an interactive map shows all that is named: leave --what error out"),
        (("comparison",), {}, "a comparison has no place on a map"),
    ],
)
def test_what_is_no_map_is_said(town: Path, tmp_path: Path, named: Any, options: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        visualize(**{name: town / name for name in named}, **options, output=tmp_path / "map.html")
    assert not (tmp_path / "map.html").exists()


def test_pictures_of_few_colours_keep_them_all_in_a_palette() -> None:
    rng = np.random.default_rng(0)
    few = rng.integers(0, 256, (200, 4)).astype(np.uint8)[rng.integers(0, 200, (64, 64))]
    many = rng.integers(0, 256, (64, 64, 4)).astype(np.uint8)
    for picture, mode in ((few, "P"), (few[..., :3], "P"), (many, "RGBA")):
        image = Image.open(io.BytesIO(png(picture)))
        assert image.mode == mode
        assert np.array_equal(np.asarray(image.convert("RGBA" if picture.shape[-1] == 4 else "RGB")), picture)


def test_ground_that_looks_unlike_the_training_is_a_layer_with_a_key_of_its_own(town: Path, tmp_path: Path) -> None:
    flagged = np.zeros(GRID.shape, bool)
    flagged[64:128, :64] = True
    prediction = make_map(tmp_path / "prediction", unlike=flagged)
    page = visualize(scene=town / "scene", prediction=prediction.path, output=tmp_path / "map.html")
    assert "imagery unlike what the model was trained on" in page.read_text()
    assert "unlike" in data_of(page)["areas"][0]["layers"]
    plain = visualize(scene=town / "scene", prediction=town / "prediction", output=tmp_path / "plain.html")
    assert "unlike what the model was trained on" not in plain.read_text()
