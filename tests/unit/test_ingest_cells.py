"""A large area is read cell by cell, and what comes out is what reading it as one would have given."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pytest
import shapely
from catalogues import make_catalogue, make_item

from casbah.blocks import place
from casbah.errors import InputError
from casbah.grid import Grid
from casbah.ingest import cells, ingest
from casbah.ingest.area import Area, read_area
from casbah.label import label
from casbah.products.labels import LabelSet
from casbah.products.scene import Scene
from casbah.products.tiles import SPLITS, TileSet
from casbah.sample import END, START
from casbah.tile import tile

if TYPE_CHECKING:
    from casbah.sample import Town

ZONE = "EPSG:32631"
SIDE, BLOCK, TILE = 880.0, 440.0, 16


def area_of(tmp_path: Path, shape: shapely.Geometry) -> Area:
    """An area with straight borders in metres, which are curves in degrees."""
    geopandas.GeoSeries([shapely.segmentize(shape, 500)], crs=ZONE).to_file(tmp_path / "aoi.gpkg")
    return read_area(tmp_path / "aoi.gpkg")


def test_an_area_of_up_to_60_km_is_read_as_one_and_a_larger_one_in_cells(tmp_path: Path) -> None:
    small = area_of(tmp_path, shapely.box(400_000, 4_000_000, 459_000, 4_020_000))
    assert cells.plan(small, block=1400) == [""]
    large = area_of(tmp_path, shapely.box(400_000, 4_000_000, 465_000, 4_020_000))
    found = cells.plan(large, block=1400)
    assert len(found) > 2
    side = place(found[0])[1][2] - place(found[0])[1][0]
    assert side % 1400 == 0, "no block is cut by a border"
    assert abs(side - cells.SIDE) < 1400


def test_cells_cover_the_area_once_and_leave_out_ground_that_it_does_not_touch(tmp_path: Path) -> None:
    corner = shapely.Polygon([(400_000, 4_000_000), (440_000, 4_000_000), (400_000, 4_040_000)])
    area = area_of(tmp_path, corner)
    found = [cells.part(area, name) for name in cells.plan(area, block=1000, side=10_000)]
    assert shapely.area(shapely.union_all([one.metres for one in found])) == pytest.approx(area.metres.area, rel=1e-6)
    assert sum(one.metres.area for one in found) == pytest.approx(area.metres.area, rel=1e-6), "and none twice"
    assert len(found) == 10, "of sixteen squares six lie beyond the hypotenuse"
    for one in found:
        assert one.grid.crs == area.grid.crs
        assert (one.grid.west - area.grid.west) % 10 == (area.grid.north - one.grid.north) % 10 == 0, (
            "one pixel lattice"
        )
    assert sum(one.grid.rows * one.grid.cols for one in found) < 0.7 * area.grid.rows * area.grid.cols


def test_a_margin_reaches_over_the_borders_of_cells_and_not_of_the_area(tmp_path: Path) -> None:
    area = area_of(tmp_path, shapely.box(400_000, 4_000_000, 420_000, 4_010_000))
    one, other = (cells.part(area, name, margin=500) for name in cells.plan(area, block=1000, side=10_000))
    assert one.grid.bounds[2] - other.grid.bounds[0] == pytest.approx(1000, abs=20), "500 m on either side"
    assert shapely.union_all([one.metres, other.metres]).symmetric_difference(area.metres).area < 1
    with pytest.raises(InputError, match=r"cell_margin is -1 m; 0 or more is wanted"):
        cells.part(area, "", margin=-1)


def test_a_strip_that_the_margin_of_a_neighbour_holds_is_no_cell_of_its_own(tmp_path: Path) -> None:
    area = area_of(tmp_path, shapely.box(400_000, 4_000_000, 420_015, 4_010_000))
    assert len(cells.plan(area, block=1000, side=10_000)) == 3
    found = cells.plan(area, block=1000, side=10_000, margin=500)
    assert len(found) == 2
    read = shapely.union_all([cells.part(area, name, margin=500).metres for name in found])
    assert read.symmetric_difference(area.metres).area < 1, "and nothing of the area is lost"


def test_a_cell_over_which_the_catalogue_has_nothing_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As over the open sea: a map of a coast must not fail for it."""
    area = area_of(tmp_path, shapely.box(400_000, 4_000_000, 420_000, 4_010_000))
    names = cells.plan(area, block=1000, side=10_000)
    item = make_item(tmp_path, "A_L2A", "2023-06-05", tile=Grid(ZONE, 403_000, 4_005_000, 64, 64))
    search: dict[str, Any] = {"start": "2023-06-01", "end": "2023-06-30", "stac": str(make_catalogue(tmp_path, [item]))}
    assert cells.with_imagery(area, names, **search) == names[:1]
    said = " ".join(capsys.readouterr().err.split())
    assert f"over 1 of 2 cells of {area.name}, as over the open sea: they are left out ({names[1]})" in said
    later = search | {"start": "2024-06-01", "end": "2024-06-30"}
    assert cells.with_imagery(area, names, **later) == names, "ingest says what to change"
    assert cells.with_imagery(area, [""], **search | {"stac": "nowhere"}) == [""], "nobody is asked for one"


def test_a_narrow_area_keeps_all_of_its_cells(tmp_path: Path) -> None:
    river = area_of(tmp_path, shapely.box(400_000, 4_000_000, 440_000, 4_000_300))
    assert len(cells.plan(river, block=1000, side=10_000, margin=500)) == 4
    assert len(cells.plan(river, block=1000, side=10_000, least=320)) == 4, "else none were left"


def test_a_strip_too_narrow_for_a_tile_is_not_read_for_tiles(tmp_path: Path) -> None:
    area = area_of(tmp_path, shapely.box(400_000, 4_000_000, 420_300, 4_010_000))
    assert len(cells.plan(area, block=1000, side=10_000, least=320)) == 2
    assert len(cells.plan(area, block=1000, side=10_000, least=280)) == 3


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"side": 500.0}, r"cell_size is 500 m; at least the side of a block is wanted \(1000 m\), or 0"),
        ({"side": float("nan")}, "cell_size is nan m; at least the side of a block"),
        ({"side": float("inf")}, "cell_size is inf m"),
        ({"side": 1000.0}, r"has 2,100 cells of 1000 m, and a run takes at most 2,000"),
    ],
)
def test_a_side_that_no_run_can_take_is_one_sentence(given: dict[str, float], sentence: str, tmp_path: Path) -> None:
    area = area_of(tmp_path, shapely.box(400_000, 4_000_000, 470_000, 4_030_000))
    with pytest.raises(InputError, match=sentence):
        cells.plan(area, block=1000, **given)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("north-west", "'north-west' is no cell; <epsg>_<side in metres>_<column>_<row> is wanted"),
        ("32632_1000_400_4000", "lies in EPSG:32632, and the grid of the area .* in EPSG:32631"),
        ("32631_1000_399_4000", "does not meet the area .*: nothing is to be read there"),
    ],
)
def test_a_cell_that_is_none_of_the_area_is_one_sentence_and_nothing_is_written(
    cell: str, sentence: str, tmp_path: Path
) -> None:
    area_of(tmp_path, shapely.box(400_000, 4_000_000, 405_000, 4_005_000))
    with pytest.raises(InputError, match=sentence):
        ingest(
            aoi=tmp_path / "aoi.gpkg", cell=cell, start="2023-06-01", end="2023-06-30", stac="x", output=tmp_path / "s"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["aoi.gpkg"]


@pytest.fixture(scope="module")
def read(town: "Town", tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    """The town as a whole (under the empty name) and in cells, each a scene with labels beside it."""
    folder = tmp_path_factory.mktemp("cells")
    area = read_area(town.aoi)
    names = cells.plan(area, block=BLOCK, side=SIDE)
    assert len(names) >= 4
    found = {}
    for number, name in enumerate(["", *names]):
        found[name] = ingest(
            aoi=town.aoi,
            cell=name,
            start=START,
            end=END,
            stac=str(town.catalog),
            bands=["B02", "B08", "B11"],
            output=folder / f"scene-{number}",
        )
        label(scene=found[name].path, source=town.footprints, output=folder / f"labels-{number}")
    return found


def labels_of(scene: Scene) -> Path:
    return scene.path.parent / scene.path.name.replace("scene", "labels")


def test_each_cell_has_the_pixels_that_the_whole_has_there(read: dict[str, Scene]) -> None:
    whole = read[""]
    pixels, seen = whole.reflectance(), np.zeros(whole.grid.shape, int)
    for scene in list(read.values())[1:]:
        top = round((whole.grid.north - scene.grid.north) / 10)
        left = round((scene.grid.west - whole.grid.west) / 10)
        there = slice(top, top + scene.grid.rows), slice(left, left + scene.grid.cols)
        # At the border a 20 m band is interpolated from another corner, and may round the other way.
        np.testing.assert_allclose(scene.reflectance().astype(int), pixels[:, :, *there], atol=1)
        seen[there] += 1
    assert (seen == 1).all()


def test_tiles_of_the_cells_are_those_of_the_whole(read: dict[str, Scene], tmp_path: Path) -> None:
    whole, *parts = read.values()
    sizes = {"tile_size": TILE, "block_size": BLOCK, "seed": 0}
    one = tile(scenes=[whole.path], labels=[labels_of(whole)], output=tmp_path / "one", **sizes)
    many = tile(
        scenes=[part.path for part in parts],
        labels=[labels_of(part) for part in parts],
        output=tmp_path / "many",
        **sizes,
    )
    for split in SPLITS:
        assert placed(one, split).keys() == placed(many, split).keys()
        for where, (image, mask) in placed(one, split).items():
            np.testing.assert_array_equal(placed(many, split)[where][0], image)
            np.testing.assert_array_equal(placed(many, split)[where][1], mask)
    np.testing.assert_allclose(one.statistics["mean"], many.statistics["mean"])


def placed(tiles: TileSet, split: str) -> dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]]:
    """The tiles of a split by where they lie on the ground."""
    part = tiles.split(split)
    bounds = part.table.geometry.bounds.round().to_numpy()
    rows = part.table["row"].to_numpy()
    return {tuple(where): (part.images[row], part.masks[row]) for where, row in zip(bounds, rows, strict=True)}


def test_a_cell_without_a_building_has_labels_of_background(read: dict[str, Scene], tmp_path: Path) -> None:
    scene = list(read.values())[1]
    west, _, _, north = scene.grid.bounds
    far = shapely.box(west - 5000, north + 5000, west - 4980, north + 5020)
    geopandas.GeoSeries([far], crs=scene.grid.crs).to_file(tmp_path / "far.gpkg")
    made = label(scene=scene.path, source=tmp_path / "far.gpkg", output=tmp_path / "labels")
    assert made.info.footprints == 0
    assert set(np.unique(made.mask())) == {0}, "everything is observed, and nothing is built"
    assert made.footprints().empty
    assert made.footprints().crs == scene.grid.crs


def test_a_cell_beyond_the_labelled_area_is_unknown_and_its_neighbours_are_tiled(
    read: dict[str, Scene], town: "Town", tmp_path: Path
) -> None:
    outside, *others = list(read.values())[1:]
    known = shapely.union_all([shapely.box(*scene.grid.bounds) for scene in others])
    geopandas.GeoSeries([known], crs=outside.grid.crs).to_file(tmp_path / "known.gpkg")
    labels = [tmp_path / f"labels-{number}" for number in range(1 + len(others))]
    for scene, target in zip([outside, *others], labels, strict=True):
        label(scene=scene.path, source=town.footprints, labelled_area=tmp_path / "known.gpkg", output=target)
    made = LabelSet.open(labels[0])
    assert set(np.unique(made.mask())) == {255}
    assert made.info.attribution == LabelSet.open(labels[1]).info.attribution, "whom to name is known all the same"
    scenes = [outside.path, *(scene.path for scene in others)]
    tiles = tile(scenes=scenes, labels=labels, output=tmp_path / "t", tile_size=TILE, block_size=BLOCK, align=True)
    assert len(tiles.table) > 0
    assert not tiles.table.to_crs(outside.grid.crs).within(shapely.box(*outside.grid.bounds)).any()


def test_a_scene_that_is_no_cell_must_hold_a_building_and_meet_its_labelled_area(
    read: dict[str, Scene], tmp_path: Path
) -> None:
    whole = read[""]
    west, _, _, north = whole.grid.bounds
    far = shapely.box(west - 5000, north + 5000, west - 4980, north + 5020)
    geopandas.GeoSeries([far], crs=whole.grid.crs).to_file(tmp_path / "far.gpkg")
    with pytest.raises(InputError, match="does not overlap the scene"):
        label(scene=whole.path, source=tmp_path / "far.gpkg", output=tmp_path / "labels")


def test_a_cell_smaller_than_a_tile_gives_none_and_stops_nothing(
    read: dict[str, Scene], town: "Town", tmp_path: Path
) -> None:
    whole = read[""]
    west, _, _, north = whole.grid.bounds
    strip = shapely.box(west, north - 50, west + 800, north)
    geopandas.GeoSeries([strip], crs=whole.grid.crs).to_file(tmp_path / "strip.gpkg")
    (name, *_) = cells.plan(read_area(tmp_path / "strip.gpkg"), block=BLOCK, side=SIDE)
    options = {"start": START, "end": END, "stac": str(town.catalog), "bands": ["B02", "B08", "B11"]}
    small = ingest(aoi=tmp_path / "strip.gpkg", cell=name, output=tmp_path / "small", **options)  # type: ignore[arg-type]
    assert small.grid.rows < TILE
    label(scene=small.path, source=town.footprints, output=tmp_path / "small-labels")
    tiles = tile(
        scenes=[small.path, whole.path],
        labels=[tmp_path / "small-labels", labels_of(whole)],
        output=tmp_path / "t",
        tile_size=TILE,
        block_size=BLOCK,
    )
    assert set(tiles.table["scene"]) == {str(whole.item["id"])}
    with pytest.raises(InputError, match="a tile of 16 px is larger than the scene"):
        tile(scenes=[small.path], labels=[tmp_path / "small-labels"], output=tmp_path / "one", tile_size=TILE)
