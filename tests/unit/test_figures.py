"""Pictures show what is there: size, splits, simulated or not, and a sentence where they can't be drawn."""

import errno
from pathlib import Path

import numpy as np
import pytest
from builders import make_labels, make_scene, make_tiles
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from PIL import Image

from casbah.cli import main
from casbah.errors import InputError, WorldError
from casbah.figures import charts
from casbah.figures import visualize as room
from casbah.figures.charts import BlockOutline, length_text, nice_length
from casbah.figures.colour import (
    CYCLE,
    FALSE_ALARM,
    FOUND,
    MISSED,
    SPLITS,
    TRUTH,
    display_bands,
    error_colours,
    split_colours,
    stretch_limits,
    stretched,
)
from casbah.figures.given import Given, View
from casbah.figures.visualize import visualize
from casbah.figures.webmap import MAXIMUM_SIDE, Canvas, render_map
from casbah.grid import Grid
from casbah.products.scene import Scene

SIMULATED_RED = (0xB0, 0x00, 0x20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene, its labels and its tiles: `tiles-scene`, `tiles-labels`, `tiles`."""
    folder = tmp_path_factory.mktemp("town")
    make_tiles(folder / "tiles")
    return folder


def colours_of(path: Path) -> set[tuple[int, ...]]:
    found = Image.open(path).convert("RGB").getcolors(maxcolors=2**24)
    return {colour for _, colour in found}


def test_a_scene_is_drawn_and_marked_as_simulated(place: Path, tmp_path: Path) -> None:
    made = visualize(scene=place / "tiles-scene", output=tmp_path / "new" / "town.png")
    assert max(Image.open(made).size) > 1000
    assert SIMULATED_RED in colours_of(made)


def test_labels_and_splits_show_in_their_colours(place: Path, tmp_path: Path) -> None:
    plain = colours_of(visualize(scene=place / "tiles-scene", output=tmp_path / "a.png"))
    tiled = visualize(scene=place / "tiles-scene", tiles=place / "tiles", output=tmp_path / "b.png")
    assert set(SPLITS.values()) <= colours_of(tiled)
    assert not set(SPLITS.values()) <= plain
    blocks = visualize(tiles=place / "tiles", output=tmp_path / "c.png")
    assert set(SPLITS.values()) <= colours_of(blocks)
    labelled = visualize(scene=place / "tiles-scene", labels=place / "tiles-labels", output=tmp_path / "d.png")
    assert TRUTH in colours_of(labelled)
    assert TRUTH not in plain


def test_no_colour_means_two_things_in_one_picture() -> None:
    outcomes = {FOUND, FALSE_ALARM, MISSED, TRUTH}
    assert len(outcomes) == 4
    assert not outcomes & set(SPLITS.values())
    assert not outcomes & set(CYCLE)
    assert len(set(SPLITS.values())) == len(SPLITS)


def overlap(one: Bbox, other: Bbox) -> bool:
    return one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1


@pytest.mark.parametrize("shape", [(256, 256), (76, 900), (900, 76)])
def test_neither_the_scale_bar_nor_the_arrow_nor_the_legend_lies_on_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(room, "encoded", lambda figure, suffix: drawn.append(figure) or b"")
    make_tiles(tmp_path / "tiles", grid=Grid("EPSG:32631", 500_000.0, 4_060_000.0, *shape))
    visualize(tiles=tmp_path / "tiles", output=tmp_path / "a.png")
    figure = drawn[0]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axis = figure.axes[0]
    blocks = [patch.get_window_extent() for patch in axis.patches if isinstance(patch, Rectangle)]
    bar, north = (text.get_window_extent() for text in axis.texts)
    assert not overlap(bar, north)
    for box in (bar, north, *(line.get_window_extent() for line in axis.lines), axis.get_legend().get_window_extent()):
        assert not any(overlap(box, block) for block in blocks)


def test_pictures_of_an_evaluation_name_whose_imagery_and_footprints_they_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(charts, "png_of", lambda figure: drawn.append(figure) or b"")
    credit = ["Contains modified Copernicus Sentinel data 2023", "© OpenStreetMap contributors (ODbL-1.0)"]
    blocks = [BlockOutline("a", 0, 0, 40, 40, "fold 0"), BlockOutline("b", 50, 0, 40, 40, "fold 1", 0.5)]
    charts.block_map("town", blocks, 10, False, credit)
    empty = np.zeros((8, 8, 4), np.uint8)
    charts.panels([charts.Panel("a", empty[..., :3], empty, np.zeros((8, 8)), empty)], 10, False, credit)
    for figure in drawn:
        assert all(line in figure.get_supxlabel() for line in credit)
    titles = [axis.get_title(loc="left") for axis in drawn[0].axes]
    assert "fold that tests each block" in titles
    assert "building IoU per block (grey: not scored, or no building)" in titles
    assert not any(axis.get_title(loc="left") == "split of each block" for axis in drawn[0].axes)


def test_folds_are_told_that_one_of_them_is_wanted(tmp_path: Path) -> None:
    folds = make_tiles(tmp_path / "folds", folds=2)
    with pytest.raises(InputError, match=r"folds holds one tile set a fold: name one of them, as .*folds/fold_0"):
        visualize(tiles=folds.path, output=tmp_path / "a.png")
    visualize(tiles=folds.path / "fold_0", output=tmp_path / "a.png")


def test_a_large_scene_is_read_thinned(place: Path) -> None:
    scene = Scene.open(place / "tiles-scene")
    view = View.of(scene.grid, longest=100)
    assert view.step == 3
    assert view.picture(Given(scene=scene)).shape == (86, 86, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": ["B04", "B03", "B10"]}, "band 'B10' is not a Sentinel-2 band"),
        ({"bands": ["B04", "B03"]}, r"cannot be drawn from 2 bands; give three of its bands \(B01, "),
        ({"period": 3}, "has periods 0 to 0, not 3"),
        (
            {"output": "town.jpg"},
            "town.jpg ends in no format of a figure: give an --output of .png",
        ),
        ({"scene": None}, "there is nothing to draw: name a scene, labels, tiles"),
        (
            {"scene": None, "tiles": "tiles", "labels": "tiles-labels"},
            "can only be drawn over their scene, or against a prediction",
        ),
        ({"scene": "tiles"}, "is a tiles; a scene is wanted here"),
    ],
)
def test_what_cannot_be_drawn_is_said(place: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"scene": "tiles-scene", "output": "town.png"} | options
    for name in ("scene", "labels", "tiles"):
        if values.get(name) is not None:
            values[name] = place / str(values[name])
    with pytest.raises(InputError, match=message):
        visualize(**values | {"output": tmp_path / str(values["output"])})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_band_is_named(tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "scene", Grid("EPSG:32631", 0.0, 640.0, 64, 64), bands=("B02", "B03", "B08"))
    with pytest.raises(InputError, match=r"lacks B04; give three of its bands \(B02, B03, B08\)"):
        visualize(scene=scene.path, output=tmp_path / "a.png")
    visualize(scene=scene.path, output=tmp_path / "a.png", bands=["nir", "green", "blue"])


def test_labels_of_another_grid_and_tiles_of_elsewhere_are_refused(place: Path, tmp_path: Path) -> None:
    far = Grid("EPSG:32631", 700_000.0, 4_060_000.0, 64, 64)
    labels, scene = make_labels(tmp_path / "labels", far), make_scene(tmp_path / "scene", far)
    with pytest.raises(InputError, match=r"lies on another grid than .* make the labels for this scene"):
        visualize(scene=place / "tiles-scene", labels=labels.path, output=tmp_path / "a.png")
    with pytest.raises(InputError, match="none of the tiles lies in the scene"):
        visualize(scene=scene.path, tiles=place / "tiles", output=tmp_path / "a.png")


def test_a_full_disk_leaves_no_picture(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WorldError, match=r"a.png could not be written: No space left on device"):
        visualize(tiles=place / "tiles", output=tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_where_the_picture_is(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["visualize", "--tiles", str(place / "tiles"), "--output", str(tmp_path / "a.png")])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.png")


def test_the_stretch_ignores_nodata_and_shows_it_grey() -> None:
    image = np.arange(1, 301, dtype=np.uint16).reshape(3, 10, 10)
    image[:, 0, 0] = 0
    limits = stretch_limits(image.reshape(3, -1))
    assert limits[0, 0] > 1
    shown = stretched(image, limits)
    assert tuple(shown[0, 0]) == (120, 120, 120)
    assert shown[9, 9].tolist() == [255, 255, 255]


def test_errors_are_coloured_by_their_kind_and_the_unknown_is_left_pale() -> None:
    shown = error_colours(np.array([[True, True, False, False, True]]), np.array([[1, 0, 1, 0, 255]], np.uint8))
    assert [tuple(pixel[:3]) for pixel in shown[0, :3]] == [FOUND, FALSE_ALARM, MISSED]
    assert shown[0, 3, 3] == 0
    assert 0 < shown[0, 4, 3] < 255


def test_many_folds_still_have_a_colour_each() -> None:
    for count in (4, 7, 12):
        colours = split_colours([f"fold {k}" for k in range(count)])
        assert len(set(colours.values())) == count


def test_without_red_green_and_blue_a_scene_is_grey() -> None:
    assert display_bands(("B02", "B03", "B04")) == ("B04", "B03", "B02")
    assert display_bands(("B05", "B06")) == ("B05", "B05", "B05")


@pytest.mark.parametrize(("metres", "text"), [(730, "500 m"), (2400, "2 km"), (12, "10 m"), (1000, "1 km")])
def test_a_scale_bar_has_a_round_length(metres: float, text: str) -> None:
    assert length_text(nice_length(metres)) == text


def test_a_large_map_is_thinned_patch_by_patch_in_the_right_place() -> None:
    side = 3 * MAXIMUM_SIDE - 10
    blocks = [
        BlockOutline("nw", 100, 200, 7, 7, "test", 0.5),
        BlockOutline("se", 100 + side - 8, 192 + side, 8, 8, "val"),
    ]
    canvas = Canvas.over("town", blocks, 10.0)
    assert canvas.step == 3
    assert max(canvas.colour.shape) <= MAXIMUM_SIDE
    patch = np.arange(7 * 7, dtype=np.uint8).reshape(7, 7, 1).repeat(3, axis=2)
    canvas.paint("colour", 100, 200, patch)
    assert canvas.colour[:3, :3, 0].tolist() == patch[::3, ::3, 0].tolist()
    canvas.paint("colour", 105, 201, patch)
    assert canvas.colour[1, 2, 0] == patch[2, 1, 0], "pixel (203, 106) of the scene"
    text = render_map([canvas], title="a </script> b", attribution=["<b>"], simulated=False)
    assert "a </script> b" not in text
    assert "<b>" not in text
