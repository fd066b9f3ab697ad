"""Figures for a paper: what is named decides what is drawn, to scale, credited, honest about what a model has seen."""

import errno
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from builders import (
    GRID,
    make_comparison,
    make_evaluation,
    make_footprints,
    make_labels,
    make_map,
    make_scene,
    make_tiles,
)
from matplotlib.patches import Rectangle
from predictors import write_raster
from rasterio.vrt import WarpedVRT
from skimage.color import deltaE_ciede2000, rgb2lab

from casbah.cli import main
from casbah.errors import InputError
from casbah.figures.backdrop import Raster
from casbah.figures.charts import nice_length
from casbah.figures.colour import FALSE_ALARM, FOUND, MISSED, OUTLINE, SPLITS, TRUE_COLOUR, TRUTH
from casbah.figures.given import Given, View, lattice_outlines
from casbah.figures.saving import write_whole
from casbah.figures.visualize import NEEDED, choose, draw, visualize
from casbah.grid import Grid
from casbah.products.footprints import FootprintSet
from casbah.products.labels import LabelSet
from casbah.products.prediction import Prediction
from casbah.products.scene import Scene
from casbah.products.tiles import TileSet

DICHROMACY = {
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
"""Of linear RGB: Machado, Oliveira and Fernandes (2009), severity 1."""

APART = 10.0
"""CIEDE2000: what nobody takes for one colour (a just noticeable difference is about 1)."""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scene`, `labels`, `tiles`, a `prediction` of a model that learned from the tiles, and its `footprints`."""
    folder = tmp_path_factory.mktemp("town")
    tiles = make_tiles(folder / "tiles")
    (folder / "tiles-scene").rename(folder / "scene")
    (folder / "tiles-labels").rename(folder / "labels")
    seen = {split: tiles.info.blocks[split] for split in ("train", "val")}
    prediction = make_map(folder / "prediction", blocks=seen)
    make_footprints(folder / "footprints", prediction)
    make_evaluation(folder / "evaluation")
    make_comparison(folder / "comparison", {"good": (0.5, 0.45, 0.55), "poor": (0.3, 0.2, 0.4)}, [50, None])
    return folder


def given(town: Path, *names: str) -> Given:
    kinds = {"scene": Scene, "labels": LabelSet, "tiles": TileSet, "prediction": Prediction, "footprints": FootprintSet}
    return Given(**{name: kinds[name].open(town / name) for name in names})


def words(path: Path) -> str:
    return " ".join(re.findall(r">([^<>]+)</text>", path.read_text(encoding="utf-8")))


def test_a_raster_that_was_mapped_lies_under_its_map_as_a_scene_does(town: Path, tmp_path: Path) -> None:
    scene = Scene.open(town / "scene")
    raster = tmp_path / "town.tif"
    with rasterio.open(scene.reflectance_path(0)) as source:
        profile = {**source.profile, "driver": "GTiff", "tiled": False}
        with rasterio.open(raster, "w", **profile) as target:
            target.write(source.read())
            target.descriptions = scene.bands
            target.update_tags(LEVEL="L2A", ATTRIBUTION="A survey of the town")
    pair = {"prediction": town / "prediction"}
    as_scene = Given.open(pair | {"scene": town / "scene"}, 0, TRUE_COLOUR)
    as_raster = Given.open(pair | {"scene": raster}, 0, TRUE_COLOUR)
    for longest in (2100, 30):
        view = View.of(as_scene.grid, longest)
        apart = view.picture(as_raster).astype(int) - view.picture(as_scene)
        assert np.abs(apart).mean() < (0.01 if longest == 2100 else 4), "overviews are means of means"
    assert "A survey of the town" in as_raster.attribution
    half = tmp_path / "half.tif"  # without a nodata tag, as `casbah predict` takes it
    bands = np.full((3, 256, 256), 1000, np.uint16)
    bands[:, :, 127:] = 0
    write_raster(half, bands, names=TRUE_COLOUR, grid=as_scene.grid, nodata=None)
    assert set(np.unique(Raster.open(half).on(as_scene.grid, (128, 128), 0, TRUE_COLOUR))) == {0, 1000}
    turned = tmp_path / "turned.tif"
    with rasterio.open(raster) as source, WarpedVRT(source, crs="EPSG:4326", nodata=0) as degrees:
        rasterio.shutil.copy(degrees, turned, driver="GTiff")
    with rasterio.open(turned, "r+") as target:
        target.descriptions = scene.bands
    view = View.of(as_scene.grid, 2100)
    known = Given.open(pair | {"scene": turned}, 0, TRUE_COLOUR)
    alike = np.corrcoef(view.picture(known).ravel(), view.picture(as_scene).ravel())[0, 1]
    assert alike > 0.8, "another grid, the same ground"
    for file in ("map.png", "map.html"):
        visualize(scene=raster, prediction=town / "prediction", footprints=town / "footprints", output=tmp_path / file)


def test_a_raster_that_can_not_lie_under_a_map_is_one_sentence(town: Path, tmp_path: Path) -> None:
    def refused(sentence: str, path: Path) -> None:
        with pytest.raises(InputError, match=sentence):
            visualize(scene=path, prediction=town / "prediction", output=tmp_path / "map.png")
        assert not (tmp_path / "map.png").exists()

    bands = np.full((3, 64, 64), 900, np.uint16)
    colours = ("B04", "B03", "B02")
    far = Grid("EPSG:32631", 700_000.0, 4_060_000.0, 64, 64)
    refused(r"far.tif lies where the map is", write_raster(tmp_path / "far.tif", bands, names=colours, grid=far))
    refused(r"bare.tif does not say which bands", write_raster(tmp_path / "bare.tif", bands, names=(None,) * 3))
    other = write_raster(tmp_path / "other.tif", bands, names=("B04", "B08", "B02"))
    refused(r"other.tif lacks B03; give three of its bands \(B04, B08, B02\)", other)
    (tmp_path / "page.tif").write_text("<html>")
    refused(r"page.tif is neither a scene's directory nor a raster", tmp_path / "page.tif")


@pytest.mark.parametrize(
    ("named", "figure"),
    [
        ("scene", "scene"),
        ("scene labels", "labels"),
        ("scene labels tiles", "labels"),
        ("tiles", "tiles"),
        ("prediction", "prediction"),
        ("prediction scene", "prediction"),
        ("prediction scene footprints", "prediction"),
        ("prediction labels", "error"),
        ("prediction labels scene", "panels"),
        ("footprints scene", "footprints"),
        ("footprints", "footprints"),
        ("evaluation", "calibration"),
        ("comparison", "comparison"),
    ],
)
def test_what_is_named_decides_what_is_drawn(named: str, figure: str) -> None:
    assert choose(set(named.split()), None) == figure


@pytest.mark.parametrize(
    ("named", "what", "sentence"),
    [
        ("", None, "there is nothing to draw: name a scene, labels"),
        ("labels", None, "labels can only be drawn over their scene, or against a prediction"),
        ("prediction evaluation", None, "a figure of --evaluation is drawn alone: leave --prediction out"),
        ("footprints prediction labels", None, "no figure shows --footprints and --labels and --prediction together"),
        ("prediction", "error", "a figure of error needs --prediction and --labels: --labels is missing"),
        ("prediction labels", "prediction", "a figure of prediction does not show --labels: leave that out"),
        ("prediction", "heatmap", "a figure 'heatmap' is unknown; choose from scene, labels, tiles"),
    ],
)
def test_what_no_figure_shows_is_said_in_a_sentence(named: str, what: str | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        choose(set(named.split()), what)


@pytest.mark.parametrize("what", [name for name in NEEDED if name != "tiles"])
def test_every_figure_names_its_sources_and_says_that_it_is_simulated(town: Path, tmp_path: Path, what: str) -> None:
    paths = {name: town / name for name in NEEDED[what]}
    made = visualize(**paths, what=what, output=tmp_path / "a.svg")
    text = words(made)
    assert "Simulated by Casbah's tests" in text.replace("&#x27;", "'").replace("&apos;", "'")
    assert "SIMULATED DATA" in text
    if "labels" in NEEDED[what]:
        assert "Casbah's tests (CC0-1.0)" in text


@pytest.mark.parametrize("named", ["scene", "scene labels", "tiles", "prediction", "prediction labels", "footprints"])
def test_every_map_has_a_scale_bar_and_north(town: Path, named: str) -> None:
    shown = given(town, *named.split())
    texts = [text.get_text() for text in draw(choose(set(named.split()), None), shown).axes[0].texts]
    assert sorted(texts) == ["500 m", "N"]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_input_makes_the_same_bytes(town: Path, tmp_path: Path, suffix: str) -> None:
    paths = {name: town / name for name in ("scene", "labels", "prediction")}
    one, other = (visualize(**paths, output=tmp_path / f"{n}.{suffix}") for n in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    assert not re.search(rb"CreationDate|ModDate|<dc:date>|tIME", one.read_bytes()[:4000])


def test_a_png_has_the_300_dots_an_inch_that_journals_ask_for(town: Path, tmp_path: Path) -> None:
    from PIL import Image

    made = visualize(prediction=town / "prediction", output=tmp_path / "a.png")
    assert Image.open(made).info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert max(Image.open(made).size) > 1200


def test_the_scale_bar_is_as_long_as_it_says_in_the_pixels_of_the_picture(town: Path) -> None:
    figure = draw("prediction", given(town, "prediction"))
    figure.canvas.draw()
    axis = figure.axes[0]
    bar = axis.lines[-1].get_window_extent()
    metres = GRID.cols * GRID.resolution
    said = next(text.get_text() for text in axis.texts if text.get_text().endswith(" m"))
    length = float(said.removesuffix(" m"))
    assert length == nice_length(metres * 0.3)
    assert bar.width / axis.get_window_extent().width == pytest.approx(length / metres, rel=0.02)


def test_errors_are_pale_and_outlined_in_blocks_that_the_model_has_seen(town: Path) -> None:
    shown = given(town, "prediction", "labels")
    figure = draw("error", shown)
    seen = lattice_outlines(dict(shown.seen), shown.grid)
    assert {b.split for b in seen} == {"train", "val"}
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [(box.get_x(), box.get_y(), box.get_width()) for box in boxes] == [(b.left, b.top, b.cols) for b in seen]
    veil = figure.axes[0].images[-1].get_array()[..., 3]
    inside = View(shown.grid, 1).inside(seen)
    assert inside.any()
    assert not inside.all()
    assert np.array_equal(veil > 0, inside)
    key = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert key == ["found", "missed", "false alarm", "pale: learned from", "pale: tuned on"]
    beside = draw("error", given(town, "prediction", "labels", "tiles")).axes[0]
    assert not [patch for patch in beside.patches if isinstance(patch, Rectangle) and patch.get_linewidth() < 1]
    key = [text.get_text() for text in beside.get_legend().get_texts()]
    assert key[3:4] == ["pale: model has seen"], "no colour stands in it that is not drawn"


def test_a_model_that_saw_nothing_here_has_no_pale_errors(tmp_path: Path) -> None:
    prediction, labels = make_map(tmp_path / "prediction"), make_labels(tmp_path / "labels")
    figure = draw("error", Given(prediction=prediction, labels=labels))
    assert len(figure.axes[0].images) == 1
    assert not figure.axes[0].patches


def test_found_missed_and_false_alarm_lie_where_they_are(tmp_path: Path) -> None:
    probability = np.full(GRID.shape, 0.1)
    labels = make_labels(tmp_path / "labels")
    building = np.argwhere(labels.mask() == 1)
    other = np.argwhere(labels.mask() == 0)[0]
    probability[tuple(building[0])] = probability[tuple(other)] = 0.9
    probability[tuple(building[1])] = np.nan
    prediction = make_map(tmp_path / "prediction", probability=probability)
    shown = draw("error", Given(prediction=prediction, labels=labels)).axes[0].images[0].get_array()
    for pixel, colour in ((building[0], FOUND), (other, FALSE_ALARM), (building[2], MISSED)):
        assert tuple(shown[tuple(pixel)][:3]) == colour
    assert 0 < shown[tuple(building[1])][3] < 255, "not observed: neither missed nor right"


def test_the_threshold_runs_as_a_line_around_what_is_called_building(tmp_path: Path) -> None:
    probability = np.full(GRID.shape, 0.1)
    probability[100:120, 50:80] = 0.9
    prediction = make_map(tmp_path / "prediction", probability=probability, threshold=0.4)
    axis = draw("prediction", Given(prediction=prediction)).axes[0]
    line = axis.collections[0].get_paths()[0].vertices
    assert line.min(axis=0) == pytest.approx((50, 100), abs=0.6)
    assert line.max(axis=0) == pytest.approx((80, 120), abs=0.6)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["threshold 0.40"]


def test_footprints_lie_on_the_pixels_they_were_drawn_from(town: Path) -> None:
    shown = given(town, "footprints", "scene")
    figure = draw("footprints", shown)
    lines = np.concatenate(figure.axes[0].collections[0].get_segments())
    called = np.argwhere(given(town, "prediction").prediction.mask() == 1)
    assert lines.min(axis=0)[::-1] == pytest.approx(called.min(axis=0))
    assert lines.max(axis=0)[::-1] == pytest.approx(called.max(axis=0) + 1)


@pytest.mark.parametrize("shape", [(256, 256), (90, 512), (512, 90)])
def test_no_panel_title_key_or_credit_lies_on_another(tmp_path: Path, shape: tuple[int, int]) -> None:
    grid = Grid("EPSG:32631", 500_000.0, 4_060_000.0, *shape)
    shown = Given(
        scene=make_scene(tmp_path / "scene", grid),
        labels=make_labels(tmp_path / "labels", grid),
        prediction=make_map(tmp_path / "prediction", grid),
    )
    figure = draw("panels", shown)
    figure.canvas.draw()
    frames = [axis.get_window_extent() for axis in figure.axes]
    keys = [axis.get_legend().get_window_extent() for axis in figure.axes if axis.get_legend()]
    bars = [child.get_tightbbox() for axis in figure.axes for child in axis.child_axes]
    titles = [title.get_window_extent() for axis in figure.axes for title in (axis._left_title,) if title.get_text()]
    texts = [text.get_window_extent() for text in figure.texts]
    boxes = frames + keys + bars + titles + texts
    assert len(titles) == 4
    for one, other in combinations(boxes, 2):
        apart = one.x1 <= other.x0 + 1 or other.x1 <= one.x0 + 1 or one.y1 <= other.y0 + 1 or other.y1 <= one.y0 + 1
        assert apart, (one, other)
    whole = figure.bbox
    assert all(box.x0 >= 0 and box.x1 <= whole.x1 and box.y0 >= 0 and box.y1 <= whole.y1 for box in boxes)


def test_the_forest_plot_has_every_model_with_its_interval_best_on_top(
    town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah.figures.comparison import forest
    from casbah.products.comparison import Comparison

    axis = forest(Comparison.open(town / "comparison").facts).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["good", "poor"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "row 0 is on top"
    spans = [tuple(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2 and line.get_lw() == 1.6]
    assert spans == [(0.45, 0.55), (0.2, 0.4)]
    assert "0.500 (0.450–0.550)   best" in [text.get_text() for text in axis.texts]


def test_a_curve_needs_two_numbers_of_labels(tmp_path: Path) -> None:
    made = make_comparison(tmp_path / "comparison", {"good": (0.5, 0.45, 0.55)}, [None])
    with pytest.raises(InputError, match="holds one number of labels, a curve needs two"):
        visualize(comparison=made.path, what="curve", output=tmp_path / "a.png")
    empty = make_comparison(tmp_path / "empty", {}, [None])
    with pytest.raises(InputError, match="holds no score on test blocks"):
        visualize(comparison=empty.path, output=tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_products_of_two_grids_or_models_are_not_drawn_together(town: Path, tmp_path: Path) -> None:
    far = Grid("EPSG:32631", 700_000.0, 4_060_000.0, 64, 64)
    labels, elsewhere = make_labels(tmp_path / "labels", far), make_map(tmp_path / "far", far)
    with pytest.raises(InputError, match=r"labels lies on another grid than .*prediction: draw products of one scene"):
        visualize(prediction=town / "prediction", labels=labels.path, output=tmp_path / "a.png")
    with pytest.raises(InputError, match=r"make the prediction for this scene with `casbah predict --scene"):
        visualize(prediction=elsewhere.path, scene=town / "scene", output=tmp_path / "a.png")
    other = make_map(tmp_path / "other", digest="cd" * 32)
    with pytest.raises(InputError, match=r"the footprints .* is of model abababababab, the prediction .* of cdcd"):
        visualize(prediction=other.path, footprints=town / "footprints", output=tmp_path / "a.png")
    strangers = make_footprints(tmp_path / "strangers", elsewhere)
    with pytest.raises(InputError, match=r"none of the footprints of .*strangers lies in the area drawn"):
        visualize(scene=town / "scene", footprints=strangers.path, output=tmp_path / "a.png")
    nothing = make_footprints(tmp_path / "nothing", make_map(tmp_path / "none", probability=np.zeros(GRID.shape)))
    with pytest.raises(InputError, match="holds no polygon: name a scene too"):
        visualize(footprints=nothing.path, output=tmp_path / "a.png")
    visualize(footprints=nothing.path, scene=town / "scene", output=tmp_path / "b.png")
    assert not (tmp_path / "a.png").exists()


def test_a_place_that_cannot_be_written_is_bad_input(
    town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "b.png").mkdir()
    for target in (tmp_path / "b.png", tmp_path / "file" / "a.png"):
        with pytest.raises(SystemExit) as ended:
            main(["visualize", "--prediction", str(town / "prediction"), "--output", str(target)])
        assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2
    assert "is a directory; name a file" in said[0]
    assert "file is a file, not a directory" in said[1]


def test_a_read_only_disk_is_bad_input_and_no_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("write_bytes", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(InputError, match="could not be written: Read-only file system; nothing was left there"):
        write_whole(tmp_path / "a.png", b"picture")


def test_colour_blind_eyes_tell_the_outcomes_and_the_blocks_apart() -> None:
    families = [(FOUND, FALSE_ALARM, MISSED), tuple(SPLITS.values()), (OUTLINE, FOUND, FALSE_ALARM, MISSED, TRUTH)]
    families += [(OUTLINE, *SPLITS.values())]
    for name, matrix in {"full colour": np.eye(3).tolist(), **DICHROMACY}.items():
        for family in families:
            for one, other in combinations(family, 2):
                if {one, other} == {FALSE_ALARM, TRUTH}:
                    continue
                assert difference(one, other, np.array(matrix)) >= APART, (name, one, other)


def difference(one: tuple[int, ...], other: tuple[int, ...], matrix: np.ndarray) -> float:
    """CIEDE2000 of two sRGB colours as an eye sees them that mixes linear RGB by `matrix`."""
    seen = []
    for colour in (one, other):
        share = np.array(colour) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        mixed = np.clip(matrix @ linear, 0, 1)
        srgb = np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)
        seen.append(rgb2lab(srgb.reshape(1, 1, 3))[0, 0])
    return float(deltaE_ciede2000(*seen))


def test_a_large_scene_is_read_no_finer_than_it_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prediction, labels = make_map(tmp_path / "prediction"), make_labels(tmp_path / "labels")
    monkeypatch.setattr("casbah.figures.visualize.LONGEST", 100)
    image = draw("error", Given(prediction=prediction, labels=labels)).axes[0].images[0]
    assert image.get_array().shape == (86, 86, 4)
    assert image.get_extent() == [0, 256, 256, 0]
