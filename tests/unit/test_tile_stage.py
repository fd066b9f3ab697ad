"""Splits share no ground, grow with the area without moving, and tell train nothing of test."""

import itertools
import json
import re
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from builders import cover_of, houses, make_labels, make_scene, make_tiles, write_raster

from casbah.errors import InputError
from casbah.grid import Grid
from casbah.products.labels import LabelSet
from casbah.products.scene import Scene
from casbah.products.tiles import SPLITS, TileFolds, TileSet
from casbah.registration import ShiftEstimate
from casbah.tile import tile
from casbah.tile.alignment import Alignment
from casbah.tile.lattice import lattice
from casbah.tile.plan import plan
from casbah.tile.sources import open_sources
from casbah.tile.summary import table_of

GRID = Grid("EPSG:32631", 500_130.0, 4_060_100.0, 200, 240)
WHOLE = {"tile_size": 32, "block_size": 380, "guard": 60, "val_fraction": 0.25}
SIZES = WHOLE | {"test_fraction": 0.25}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, LabelSet]:
    """A scene of two periods and its labels, 200 x 240 px."""
    directory = tmp_path_factory.mktemp("town")
    return make_scene(directory / "scene", GRID, periods=2), make_labels(directory / "labels", GRID)


def cut(town: tuple[Scene, LabelSet], output: Path, **options) -> TileSet:
    sizes = WHOLE if "folds" in options else SIZES
    return tile(scenes=[town[0].path], labels=[town[1].path], output=output, **sizes | options)


def copy_scene(scene: Scene, path: Path, grid: Grid, images: np.ndarray, valid: np.ndarray) -> Scene:
    with Scene.write(path, parameters={}) as draft:
        for t in range(len(images)):
            write_raster(draft.directory / f"reflectance_{t}.tif", images[t], grid)
            write_raster(draft.directory / f"valid_{t}.tif", valid[t][None], grid)
        draft.write_json("item.json", scene.item)
    return Scene.open(path)


def copy_labels(
    labels: LabelSet, path: Path, grid: Grid, cover: np.ndarray, mask: np.ndarray, footprints=None
) -> LabelSet:
    with LabelSet.write(path, parameters={}) as draft:
        (labels.footprints() if footprints is None else footprints).to_parquet(draft.directory / "footprints.parquet")
        write_raster(draft.directory / "coverage.tif", cover[None], grid, nodata=255)
        write_raster(draft.directory / "mask.tif", mask[None], grid, nodata=255)
        draft.write_json("labels.json", labels.info.model_dump(mode="json"))
    return LabelSet.open(path)


def crop(town: tuple[Scene, LabelSet], directory: Path, row: int, col: int, rows: int, cols: int):
    """The same ground, less of it."""
    scene, labels = town
    grid = scene.grid.part(row, col, rows, cols)
    part = (..., slice(row, row + rows), slice(col, col + cols))
    return (
        copy_scene(scene, directory / "scene", grid, scene.reflectance()[part], scene.valid()[part]),
        copy_labels(labels, directory / "labels", grid, labels.coverage()[part], labels.mask()[part]),
    )


def no_pixel_in_two_splits(tiles: TileSet) -> bool:
    shapes = [tiles.table[tiles.table["split"] == split].geometry.union_all() for split in SPLITS]
    return all(a.intersection(b).area == 0 for a, b in itertools.combinations(shapes, 2))


def distance_of_splits(tiles: TileSet) -> float:
    """Metres between the two nearest tiles of different splits."""
    parts = [tiles.table[tiles.table["split"] == split].geometry for split in SPLITS]
    parts = [part for part in parts if len(part)]
    return min(min(b.distance(shape).min() for shape in a) for a, b in itertools.combinations(parts, 2))


def strides_stay_in_their_block(tiles: TileSet) -> bool:
    size = tiles.info.block_size
    for row in tiles.table.itertuples():
        col, up = (int(part) for part in row.block.split("_")[2:])
        west, south, east, north = row.geometry.bounds
        if west < col * size or east > (col + 1) * size or south < up * size or north > (up + 1) * size:
            return False
    return True


def place_to_tile(tiles: TileSet) -> dict[tuple, tuple]:
    """(west, south) of a tile -> split, block, image, mask."""
    found = {}
    for split in map(tiles.split, SPLITS):
        for row in split.table.itertuples():
            key = row.geometry.bounds[:2]
            found[key] = (split.name, row.block, split.images[row.row], split.masks[row.row])
    return found


@pytest.mark.parametrize("guard", [0, 50, 60, 120])
@pytest.mark.parametrize("stride", [None, 13])
@pytest.mark.parametrize("seed", [0, 5])
def test_splits_share_no_ground_and_keep_the_guard(town, tmp_path: Path, guard: int, stride: int | None, seed: int):
    tiles = cut(town, tmp_path / "t", guard=guard, stride=stride, seed=seed, block_size=500)
    assert no_pixel_in_two_splits(tiles)
    assert distance_of_splits(tiles) >= guard
    assert strides_stay_in_their_block(tiles)
    assert sum(len(tiles.split(split)) for split in SPLITS) == len(tiles.table)


def test_the_guard_is_no_wider_than_it_has_to_be(town, tmp_path: Path):
    assert distance_of_splits(cut(town, tmp_path / "t")) == SIZES["guard"]


@pytest.mark.parametrize("window", [(0, 0, 150, 150), (37, 61, 160, 170), (3, 90, 190, 150)])
def test_a_larger_area_moves_no_block_and_changes_no_pixel(town, tmp_path: Path, window: tuple[int, int, int, int]):
    small = place_to_tile(cut(crop(town, tmp_path, *window), tmp_path / "small"))
    large = place_to_tile(cut(town, tmp_path / "large"))
    assert len(small) > 9
    assert set(small) < set(large)
    for place, (split, block, image, mask) in small.items():
        assert (split, block) == large[place][:2]
        seen, labelled = image > 0, mask != 255
        assert np.array_equal(image[seen], large[place][2][seen])
        assert np.array_equal(mask[labelled], large[place][3][labelled])
        assert seen.mean() >= 0.5


def test_tiles_hold_the_pixels_of_their_place(town, tmp_path: Path):
    scene, labels = town
    tiles = cut(town, tmp_path / "t")
    images, masks, cover = scene.reflectance(), labels.mask(), labels.coverage()
    for split in map(tiles.split, SPLITS):
        for row in split.table.itertuples():
            first = (row.tile_row, row.tile_col)
            if min(first) < 0 or first[0] + 32 > GRID.rows or first[1] + 32 > GRID.cols:
                continue
            part = (..., slice(first[0], first[0] + 32), slice(first[1], first[1] + 32))
            assert np.array_equal(split.images[row.row], images[part])
            assert np.array_equal(split.masks[row.row], masks[part])
            assert np.array_equal(split.cover[row.row], cover[part])
            assert row.geometry.bounds == GRID.part(*first, 32, 32).bounds


def test_beyond_the_scene_is_nodata_and_ignored(town, tmp_path: Path):
    tiles = cut(town, tmp_path / "t")
    partial = tiles.table[tiles.table["nodata_share"] > 0]
    assert len(partial)
    for row in partial.itertuples():
        split = tiles.split(row.split)
        outside = (split.images[row.row] == 0).all(axis=(0, 1))
        assert row.nodata_share == row.ignore_share == outside.mean()
        assert (split.masks[row.row][outside] == 255).all()
        assert (split.cover[row.row][outside] == 255).all()


def test_what_no_period_observed_is_ignored_and_a_gap_in_one_is_not(town, tmp_path: Path):
    scene, labels = town
    images, valid = scene.reflectance(), scene.valid()
    images[:, :, 50:60], valid[:, 50:60] = 0, 0
    images[0, :, 100:110], valid[0, 100:110] = 0, 0
    tiles = cut((copy_scene(scene, tmp_path / "scene", GRID, images, valid), labels), tmp_path / "t")
    seen = 0
    for split in map(tiles.split, SPLITS):
        gone = (split.images == 0).all(axis=(1, 2))
        gap = (split.images[:, 0] == 0).all(axis=1) & ~gone
        seen += int(gap.sum())
        assert (split.masks[gone] == 255).all()
        assert (split.cover[gone] == 255).all()
        assert (split.masks[gap] != 255).all()
    assert seen > 1000


def test_statistics_are_those_of_the_observed_train_pixels(town, tmp_path: Path):
    tiles = cut(town, tmp_path / "t")
    train = tiles.split("train")
    for period, band in [(0, 0), (1, 7), (1, 11)]:
        values = train.images[:, period, band].astype(float)
        values = values[values > 0]
        assert tiles.statistics["mean"][period][band] == pytest.approx(values.mean())
        assert tiles.statistics["std"][period][band] == pytest.approx(values.std())
        assert tiles.statistics["low"][period][band] == pytest.approx(np.percentile(values, 1), abs=1)
        assert tiles.statistics["high"][period][band] == pytest.approx(np.percentile(values, 99), abs=1)
        assert tiles.statistics["pixels"][period][band] == values.size
    labelled = train.masks[train.masks != 255]
    assert tiles.statistics["building_share"] == pytest.approx((labelled == 1).mean())


def test_train_knows_nothing_of_test_pixels_and_labels(town, tmp_path: Path):
    scene, labels = town
    before = cut(town, tmp_path / "before", align=True)
    images, mask, cover = scene.reflectance(), labels.mask(), labels.coverage()
    aside = np.roll(images, 2, axis=-1)  # what test shows of the shift is another one: 20 m east
    for row in before.split("test").table.itertuples():
        part = (
            slice(max(row.tile_row, 0), row.tile_row + 32),
            slice(max(row.tile_col, 0), row.tile_col + 32),
        )
        images[(..., *part)] = aside[(..., *part)]
        mask[part] = 1
    footprints = labels.footprints()
    tested = before.table[before.table["split"] == "test"].geometry.union_all()
    fewer = footprints[~footprints.within(tested)]
    assert len(fewer) < len(footprints)
    other = (
        copy_scene(scene, tmp_path / "scene", GRID, images, scene.valid()),
        copy_labels(labels, tmp_path / "labels", GRID, cover, mask, fewer),
    )
    after = cut(other, tmp_path / "after", align=True)
    shifts = {split: after.info.summary["splits"][split]["shifts"]["scene"] for split in ("train", "test")}
    assert shifts["test"]["estimate"]["east"] > shifts["train"]["estimate"]["east"] + 10
    assert (after.split("test").masks_unaligned == 1).mean() > 0.9
    assert after.statistics == before.statistics
    for name in ("images", "masks", "cover"):
        assert np.array_equal(getattr(after.split("train"), name), getattr(before.split("train"), name))


def test_folds_test_every_block_once_and_refit_has_them_all(town, tmp_path: Path):
    made = cut(town, tmp_path / "f", folds=4)
    assert isinstance(made, TileFolds)
    folds = TileFolds.open(tmp_path / "f").folds
    tested = [block for fold in folds for block in fold.info.blocks["test"]]
    refit = made.refit
    everything = {block for split in SPLITS for block in folds[0].info.blocks[split]}
    assert sorted(tested) == sorted(everything)
    assert set(refit.info.blocks["train"]) | set(refit.info.blocks["val"]) == everything
    assert len(refit.split("test")) == 0
    assert refit.split("test").images.shape == (0, 2, 12, 32, 32)
    assert refit.info.refit
    assert [fold.info.fold for fold in folds] == [0, 1, 2, 3]
    for fold in folds:
        assert no_pixel_in_two_splits(fold)
        assert distance_of_splits(fold) >= SIZES["guard"]
        assert all(fold.info.blocks[split] for split in SPLITS)


def test_the_same_input_gives_the_same_product(town, tmp_path: Path):
    assert cut(town, tmp_path / "a").digest == cut(town, tmp_path / "b").digest
    assert cut(town, tmp_path / "c", seed=1).digest != cut(town, tmp_path / "a").digest


def test_a_split_without_any_building_is_warned_of(town, tmp_path: Path):
    scene, labels = town
    train = cut(town, tmp_path / "t").table
    places = train[train["split"] == "test"].geometry.union_all().buffer(20)
    left = labels.footprints()
    left = left[~left.intersects(places)]
    make_labels(tmp_path / "labels", GRID, footprints=left)
    text = table_of(tile(scenes=[scene.path], labels=[tmp_path / "labels"], output=tmp_path / "u", **SIZES).info)
    assert [line for line in text.splitlines() if "WARNING" in line] == [
        "WARNING: no tile of test holds a building: another --seed, or more labels, may help"
    ]


def test_a_block_far_larger_than_the_scene_has_the_tiles_of_the_scene(town, tmp_path: Path):
    huge = {"tile_size": 32, "block_size": 1_000_000, "guard": 0}
    scene, labels = town
    source = open_sources([scene.path], [labels.path])
    made = plan(source, [lattice(GRID, **huge)], 0.0)
    assert made.labelled == (labels.mask() != 255).sum()
    assert len({corner for block in made.blocks for corner in block.tiles}) == made.tiles > 20


def test_a_whole_city_can_be_the_test_split(town, tmp_path: Path):
    far = Grid(GRID.crs, GRID.west + 20_000, GRID.north, 120, 120)
    scene = make_scene(tmp_path / "harbour", far, periods=2, seed=1)
    labels = make_labels(tmp_path / "harbour-labels", far, seed=1)
    scenes, label_sets = [town[0].path, scene.path], [town[1].path, labels.path]
    tiles = tile(scenes=scenes, labels=label_sets, output=tmp_path / "t", test_scene="harbour", **WHOLE)
    assert set(tiles.split("test").table["scene"]) == {"harbour"}
    assert "harbour" not in set(tiles.split("train").table["scene"]) | set(tiles.split("val").table["scene"])
    assert tiles.info.scenes == ("scene", "harbour")
    together = tile(scenes=scenes, labels=label_sets, output=tmp_path / "all", **SIZES)
    assert set(together.split("train").table["scene"]) == {"scene", "harbour"}


def test_no_ground_of_the_test_city_is_trained_on_from_another_scene(town, tmp_path: Path):
    crop(town, tmp_path / "corner", 100, 120, 100, 120)
    scenes = [town[0].path, tmp_path / "corner" / "scene"]
    labels = [town[1].path, tmp_path / "corner" / "labels"]
    with rasterio.open(scenes[1] / "reflectance_0.tif") as dataset:
        assert dataset.width == 120
    renamed = tmp_path / "port"
    scenes[1].rename(renamed)
    rename_item(renamed, "port")
    tiles = tile(scenes=[scenes[0], renamed], labels=labels, output=tmp_path / "t", test_scene="port", **WHOLE)
    assert no_pixel_in_two_splits(tiles)
    assert tiles.info.summary["dropped"]["in a block of the test scene"] > 0


FAR = Grid("EPSG:32631", 540_130.0, 4_060_100.0, 200, 240)


def darkened(scene: Scene, path: Path, gain: float, add: float) -> Scene:
    """The scene as another air would show it."""
    images = scene.reflectance().astype(float)
    changed = np.where(images == 0, 0, np.clip(np.rint(images * gain + add), 1, 65_535)).astype(np.uint16)
    made = copy_scene(scene, path, scene.grid, changed, scene.valid())
    rename_item(path, path.name)
    return made


@pytest.fixture(scope="module")
def two_cities(town, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The town, and a harbour under another air."""
    place = tmp_path_factory.mktemp("cities")
    darkened(make_scene(place / "clear", FAR, periods=2, seed=1), place / "harbour", gain=0.6, add=400)
    labels = make_labels(place / "harbour-labels", FAR, seed=1)
    return {"scenes": [town[0].path, place / "harbour"], "labels": [town[1].path, labels.path]}


def moments(tiles: TileSet, scene: str, *splits: str) -> np.ndarray:
    """(2, periods, bands): mean and deviation of the observed pixels of a scene."""
    parts = []
    for name in splits:
        split = tiles.split(name)
        parts.append(np.asarray(split.images)[(split.table["scene"] == scene).to_numpy()])
    images = np.concatenate(parts).astype(float)
    images[images == 0] = np.nan
    return np.stack([np.nanmean(images, axis=(0, 3, 4)), np.nanstd(images, axis=(0, 3, 4))])


def test_scenes_that_are_normalised_have_the_same_moments_whatever_the_air(two_cities, tmp_path: Path):
    plain = tile(**two_cities, output=tmp_path / "plain", test_scene="harbour", **WHOLE)
    tiles = tile(**two_cities, output=tmp_path / "t", test_scene="harbour", normalise="scene", **WHOLE)
    assert (plain.info.normalise, tiles.info.normalise) == ("none", "scene")
    ours, theirs = moments(tiles, "scene", "train"), moments(tiles, "harbour", "test")
    assert np.allclose(ours, theirs, rtol=0.01)
    before = moments(plain, "scene", "train") / moments(plain, "harbour", "test")
    assert (np.abs(before - 1) > 0.1).mean() > 0.5
    for split in SPLITS:
        assert np.array_equal(tiles.split(split).images == 0, plain.split(split).images == 0), "nodata stays nodata"
    stored = tiles.statistics["scenes"]
    assert (stored["scene"]["of"], stored["harbour"]["of"]) == ("train", "test")
    assert np.allclose(stored["harbour"]["mean"], moments(plain, "harbour", "test")[0])
    assert "scenes" not in plain.statistics


def test_test_blocks_tell_nothing_to_the_statistics_of_their_scene(town, tmp_path: Path):
    """Held-out blocks of a scene that is trained on: change what they show, and no training pixel moves."""
    tiles = cut(town, tmp_path / "t", normalise="scene")
    images = town[0].reflectance()
    grid, size = town[0].grid, tiles.info.tile_size
    for _, row in tiles.split("test").table.iterrows():
        rows, cols = slice(max(row.tile_row, 0), row.tile_row + size), slice(max(row.tile_col, 0), row.tile_col + size)
        images[..., rows, cols] = np.where(images[..., rows, cols] == 0, 0, 9000)
    copy_scene(town[0], tmp_path / "scene", grid, images, town[0].valid())
    rename_item(tmp_path / "scene", str(town[0].item["id"]))
    other = cut((Scene.open(tmp_path / "scene"), town[1]), tmp_path / "other", normalise="scene")
    assert not np.array_equal(other.split("test").images, tiles.split("test").images)
    for split in ("train", "val"):
        assert np.array_equal(other.split(split).images, tiles.split(split).images)
    assert other.statistics == tiles.statistics


def test_labels_do_not_reach_the_statistics_of_the_test_scene(two_cities, tmp_path: Path):
    labels = LabelSet.open(two_cities["labels"][1])
    inverted = np.where(labels.mask() == 255, 255, 1 - labels.mask()).astype(np.uint8)
    copy_labels(labels, tmp_path / "other", FAR, labels.coverage(), inverted)
    changed = two_cities | {"labels": [two_cities["labels"][0], tmp_path / "other"]}
    made = [
        tile(**given, output=tmp_path / name, test_scene="harbour", normalise="scene", **WHOLE)
        for name, given in (("a", two_cities), ("b", changed))
    ]
    assert not np.array_equal(made[0].split("test").masks, made[1].split("test").masks)
    assert np.array_equal(made[0].split("test").images, made[1].split("test").images)


def test_a_few_labels_of_the_test_city_go_to_train_as_whole_blocks(two_cities, tmp_path: Path):
    none = tile(**two_cities, output=tmp_path / "none", test_scene="harbour", **WHOLE)
    few = tile(**two_cities, output=tmp_path / "few", test_scene="harbour", few_labels=0.25, **WHOLE)
    table = few.table[few.table["scene"] == "harbour"]
    learned, tested = (set(table.loc[table["split"] == split, "block"]) for split in ("train", "test"))
    assert learned
    assert not learned & tested
    assert len(learned) < len(tested)
    assert learned | tested == set(none.info.blocks["test"])
    assert no_pixel_in_two_splits(few)
    with pytest.raises(InputError, match=r"--few-labels 0\.001 of the \d+ blocks of 'harbour' with tiles is none"):
        tile(**two_cities, output=tmp_path / "fewer", test_scene="harbour", few_labels=0.001, **WHOLE)
    more = tile(**two_cities, output=tmp_path / "more", test_scene="harbour", few_labels=0.5, **WHOLE)
    assert learned < set(more.info.blocks["train"]), "what was learned from stays so when the share grows"


def test_the_scored_blocks_of_a_city_tell_nothing_to_its_few_blocks_that_are_learned_from(two_cities, tmp_path: Path):
    given = {"test_scene": "harbour", "few_labels": 0.4, "normalise": "scene", **WHOLE}
    tiles = tile(**two_cities, output=tmp_path / "t", **given)
    assert tiles.statistics["scenes"]["harbour"]["of"] == "train"
    scene = Scene.open(two_cities["scenes"][1])
    images, size = scene.reflectance(), tiles.info.tile_size
    tested = tiles.split("test").table
    for _, row in tested[tested["scene"] == "harbour"].iterrows():
        part = (..., slice(row.tile_row, row.tile_row + size), slice(row.tile_col, row.tile_col + size))
        images[part] = np.where(images[part] == 0, 0, 9000)
    copy_scene(scene, tmp_path / "brighter" / "harbour", scene.grid, images, scene.valid())
    rename_item(tmp_path / "brighter" / "harbour", str(scene.item["id"]))
    changed = two_cities | {"scenes": [two_cities["scenes"][0], tmp_path / "brighter" / "harbour"]}
    other = tile(**changed, output=tmp_path / "other", **given)
    assert not np.array_equal(other.split("test").images, tiles.split("test").images)
    assert np.array_equal(other.split("train").images, tiles.split("train").images)


def rename_item(path: Path, name: str) -> None:
    """Write the scene at `path` again under another item id."""
    scene = Scene.open(path)
    images, valid, item = scene.reflectance(), scene.valid(), scene.item | {"id": name}
    with Scene.write(path, parameters={}) as draft:
        for t in range(len(images)):
            write_raster(draft.directory / f"reflectance_{t}.tif", images[t], scene.grid)
            write_raster(draft.directory / f"valid_{t}.tif", valid[t][None], scene.grid)
        draft.write_json("item.json", item)


def test_scenes_of_two_zones_share_a_table_in_degrees(town, tmp_path: Path):
    other = Grid("EPSG:32632", 500_000.0, 4_060_000.0, 120, 120)
    scene = make_scene(tmp_path / "east", other, periods=2, seed=1)
    labels = make_labels(tmp_path / "east-labels", other, seed=1)
    paths = {"scenes": [town[0].path, scene.path], "labels": [town[1].path, labels.path]}
    table = tile(**paths, output=tmp_path / "t", **SIZES).table
    assert table.crs == "EPSG:4326"
    assert table[table["scene"] == "east"].total_bounds[0] == pytest.approx(9, abs=0.1)
    assert table[table["scene"] == "scene"].total_bounds[0] == pytest.approx(3, abs=0.1)


def test_tiles_with_too_little_to_learn_from_are_dropped_and_counted(town, tmp_path: Path):
    scene, labels = town
    mask, valid = labels.mask(), scene.valid()
    mask[:, :70] = 255
    valid[1, 165:] = 0
    poor = (
        copy_scene(scene, tmp_path / "scene", GRID, scene.reflectance(), valid),
        copy_labels(labels, tmp_path / "labels", GRID, labels.coverage(), mask),
    )
    tiles, all_tiles = cut(poor, tmp_path / "t"), cut(town, tmp_path / "all")
    dropped = tiles.info.summary["dropped"]
    assert dropped["too few labelled pixels"] > 3
    assert dropped["too few observed pixels"] > all_tiles.info.summary["dropped"]["too few observed pixels"]
    assert tiles.table["ignore_share"].max() <= 0.5
    assert len(cut(poor, tmp_path / "more", max_ignore=0.9).table) > len(tiles.table)


def test_attribution_and_simulation_travel_with_the_tiles(town, tmp_path: Path):
    info = cut(town, tmp_path / "t").info
    assert info.simulated
    assert info.attribution == ("Simulated by Casbah's tests", "Casbah's tests (CC0-1.0)")


@pytest.mark.parametrize(
    ("attribution", "licence", "told"),
    [
        ("(c) OpenStreetMap contributors", "ODbL-1.0", "(c) OpenStreetMap contributors (ODbL-1.0)"),
        ("Regione Toscana, CC BY 4.0", "CC BY 4.0", "Regione Toscana, CC BY 4.0"),
        ("Regione Toscana", "unknown", "Regione Toscana"),
        ("Summit County", "MIT", "Summit County (MIT)"),
    ],
)
def test_a_known_licence_is_told_once_beside_whom_to_name(town, tmp_path: Path, attribution, licence, told):
    labels = make_labels(tmp_path / "labels", GRID, attribution=attribution, licence=licence)
    assert cut((town[0], labels), tmp_path / "t").info.attribution[1:] == (told,)


def test_the_table_of_simulated_tiles_says_so(town, tmp_path: Path):
    info = cut(town, tmp_path / "t").info
    assert table_of(info).splitlines()[0] == "SIMULATED DATA: no number here says anything about a real town"
    assert "SIMULATED" not in table_of(info.model_copy(update={"simulated": False}))


def test_the_manifest_leads_back_to_scene_and_labels(town, tmp_path: Path):
    tiles = cut(town, tmp_path / "t")
    assert tiles.manifest.inputs == {"scene": town[0].digest, "labels": town[1].digest}
    assert TileSet.open(tmp_path / "t").digest == tiles.digest


def test_memory_does_not_grow_with_the_number_of_tiles(town, tmp_path: Path):
    tiles = cut(town, tmp_path / "t", stride=4)
    assert isinstance(tiles.split("train").images, np.memmap)
    assert not tiles.split("train").images.flags.writeable
    header = json.loads((tmp_path / "t" / "tileset.json").read_text())
    assert header["summary"]["splits"]["train"]["tiles"] == len(tiles.split("train"))


def moved(footprints: geopandas.GeoDataFrame, east: float, north: float) -> geopandas.GeoDataFrame:
    return footprints.set_geometry(footprints.translate(east, north))


def test_aligned_masks_are_those_of_footprints_that_lie_right(tmp_path: Path):
    right = houses(GRID, 500)
    make_scene(tmp_path / "scene", GRID, periods=2, cover=cover_of(right, GRID))
    make_labels(tmp_path / "labels", GRID, footprints=moved(right, -12, 9))
    paths = {"scenes": [tmp_path / "scene"], "labels": [tmp_path / "labels"]}
    tiles = tile(**paths, output=tmp_path / "t", align=True, **SIZES)
    make_labels(tmp_path / "truth", GRID, footprints=right)
    truth = tile(scenes=[tmp_path / "scene"], labels=[tmp_path / "truth"], output=tmp_path / "u", **SIZES)
    assert tiles.info.align_period == 1
    for name in SPLITS:
        shift = tiles.info.summary["splits"][name]["shifts"]["scene"]
        assert shift["by"] == "own"
        assert (shift["east"], shift["north"]) == pytest.approx((12, -9), abs=2)
        split, wanted = tiles.split(name), truth.split(name).masks
        known = (split.masks != 255) & (wanted != 255)
        assert split.masks_unaligned is not None
        unaligned = (split.masks_unaligned != wanted)[known].mean()
        assert (split.masks != wanted)[known].mean() < unaligned / 4
        assert np.abs(split.cover[known].astype(int) - truth.split(name).cover[known]).mean() < 3


def test_what_the_moved_footprints_no_longer_cover_is_ignored(tmp_path: Path):
    right = houses(GRID, 500)
    make_scene(tmp_path / "scene", GRID, cover=cover_of(right, GRID))
    make_labels(tmp_path / "labels", GRID, footprints=moved(right, -25, 0))
    tiles = tile(scenes=[tmp_path / "scene"], labels=[tmp_path / "labels"], output=tmp_path / "t", align=True, **SIZES)
    edge = tiles.table[tiles.table["tile_col"] < 0]
    assert len(edge)
    for row in edge.itertuples():
        split, first = tiles.split(row.split), -row.tile_col
        assert split.masks_unaligned is not None
        assert (split.masks[row.row][:, first : first + 2] == 255).all()
        assert (split.masks[row.row][:, first + 3 :] != 255).any()
        assert (split.masks_unaligned[row.row][:, first] != 255).any()


def test_unaligned_tiles_keep_the_masks_of_the_labels(town, tmp_path: Path):
    plain, aligned = cut(town, tmp_path / "plain"), cut(town, tmp_path / "aligned", align=True)
    for split in SPLITS:
        assert plain.split(split).masks_unaligned is None
        unaligned = aligned.split(split).masks_unaligned
        assert unaligned is not None
        assert np.array_equal(unaligned, plain.split(split).masks)


def test_footprints_stay_where_too_little_is_built_to_tell(tmp_path: Path):
    make_scene(tmp_path / "scene", GRID, cover=np.zeros(GRID.shape, "uint8"))
    make_labels(tmp_path / "labels", GRID, footprints=houses(GRID, 20))
    tiles = tile(scenes=[tmp_path / "scene"], labels=[tmp_path / "labels"], output=tmp_path / "t", align=True, **SIZES)
    shift = tiles.info.summary["splits"]["train"]["shifts"]["scene"]
    assert (shift["east"], shift["north"], shift["by"]) == (0.0, 0.0, "none")


def test_train_lends_its_shift_to_the_other_splits_and_takes_none():
    def told(east: float, reliable: bool) -> ShiftEstimate:
        return ShiftEstimate(east, -east, 0.2, 0.4, reliable)

    sure = {(0, "train"): told(12, True), (0, "val"): told(90, False), (0, "test"): told(7, True)}
    unsure = {(1, "train"): told(80, False), (1, "val"): told(9, True), (1, "test"): told(70, False)}
    alignment = Alignment(0, (), sure | unsure)
    assert alignment.applied(0, "val") == (12, -12, "train")
    assert alignment.applied(0, "test") == (7, -7, "own")
    assert alignment.applied(1, "train") == (0, 0, "none"), "val's shift must not reach train, nor another scene's"
    assert alignment.applied(1, "val") == (9, -9, "own")
    assert alignment.applied(1, "test") == (0, 0, "none"), "train of another scene was asked"


def test_small_tiles_for_other_tests_have_every_split(tmp_path: Path):
    tiles = make_tiles(tmp_path / "t")
    assert all(len(tiles.split(split)) >= 8 for split in SPLITS)


def test_blocks_that_are_mostly_guard_are_told_a_size_that_wastes_less(
    town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cut(town, tmp_path / "t", tile_size=16, block_size=280, guard=120)
    said = capsys.readouterr().err
    used, better = (int(part) for part in re.findall(r"(?:use|would use) (\d+) %", said))
    assert better >= 60 > used
    assert int(re.findall(r"--block-size\s+of (\d+)", said)[0]) > 280
