"""Every bad input of `tile` ends in one sentence that says what to do, and nothing is written."""

import errno
import math
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from builders import make_labels, make_scene, write_raster

from casbah.cli import main
from casbah.errors import InputError, WorldError
from casbah.grid import Grid
from casbah.products.labels import LabelSet
from casbah.products.scene import Scene
from casbah.tile import geotiff, tile

GRID = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 160, 160)
WHOLE = {"tile_size": 32, "block_size": 380, "guard": 60, "val_fraction": 0.25}
SIZES = WHOLE | {"test_fraction": 0.25}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    directory = tmp_path_factory.mktemp("town")
    make_scene(directory / "scene", GRID)
    make_labels(directory / "labels", GRID)
    return {"scenes": [directory / "scene"], "labels": [directory / "labels"]}


def refused(town: dict[str, list[Path]], output: Path, words: str, **options) -> None:
    with pytest.raises(InputError, match=words):
        tile(**town, output=output, **(WHOLE if {"folds", "test_scene"} & set(options) else SIZES) | options)
    assert not list(output.parent.glob("*tiles*"))
    assert not list(output.parent.glob(".*partial*"))


def beside(town: dict[str, list[Path]], tmp_path: Path, grid: Grid = GRID, **options) -> dict[str, list[Path]]:
    """The town and a second scene with its labels."""
    scene = make_scene(tmp_path / "second", grid, **options)
    labels = make_labels(tmp_path / "second-labels", grid)
    return {"scenes": [*town["scenes"], scene.path], "labels": [*town["labels"], labels.path]}


FAR = Grid("EPSG:32631", 520_000.0, 4_060_000.0, 160, 160)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"tile_size": 224, "block_size": None},
            r"tile of 224 px is larger than the scene scene \(160 x 160 px\); give a --tile-size of at most 160",
        ),
        ({"block_size": 320}, "block of 320 m holds no tile.*at least 380 m"),
        ({"block_size": 385}, "block size is 385 m, not a whole number of 10 m pixels; try 380 or 390"),
        ({"guard": 65}, "guard is 65 m, not a whole number"),
        ({"test_fraction": 0}, "test fraction is 0; more than 0 and less than 1"),
        ({"test_fraction": 1.2}, r"test fraction is 1\.2"),
        ({"val_fraction": -0.1}, r"val fraction is -0\.1"),
        ({"test_fraction": 0.6, "val_fraction": 0.4}, "leave nothing to train on"),
        ({"folds": 0}, "number of folds is 0"),
        ({"folds": 2, "val_fraction": 0.5}, r"with 2 folds, a val fraction of 0\.5 leaves nothing.*less than 0\.5"),
        ({"folds": 2, "test_scene": "scene"}, "give one of them"),
        ({"folds": 2, "test_fraction": 0.2}, r"--folds says what is tested, so --test-fraction 0\.2 changes nothing"),
        ({"test_scene": "scene", "test_fraction": 0.2}, r"--test-scene says what is tested, so --test-fraction 0\.2"),
        ({"guard": math.nan}, "guard is nan m; at most 10000000 m is wanted"),
        ({"guard": math.inf}, "guard is inf m"),
        ({"block_size": math.nan}, "block size is nan m"),
        ({"block_size": -math.inf}, "block size is -inf m"),
        ({"block_size": 1e300}, "block size is 1e[+]300 m; at most 10000000 m is wanted"),
        ({"tile_size": 10**9, "block_size": None}, "tile of 1000000000 px is larger than the scene"),
        ({"block_size": 1_000_000}, "val split would be empty|train split would be empty|test split would be empty"),
        ({"test_scene": "scene", "few_labels": 1.0}, "share of few labels is 1; 0 or more and less than 1"),
        ({"few_labels": 0.1}, "--few-labels is a share of the blocks of --test-scene, and none is named"),
        ({"normalise": "city"}, "the normalisation 'city' is unknown; choose none or scene"),
        ({"test_scene": "oran"}, "test scene 'oran' is not one of scene"),
        ({"layout": "zarr"}, "layout 'zarr' is unknown; choose npy or geotiff"),
        ({"max_ignore": 1.0}, "largest ignored share is 1"),
        (
            {"tile_size": 64, "block_size": 700},
            r"(test|val) split would be empty: \d blocks of 700 m hold tiles \(train \d, val \d, test \d\); give a "
            "smaller --block-size or --tile-size, another --seed than 0, other fractions, or a larger area",
        ),
        ({"folds": 30}, "test split of fold_0 would be empty"),
    ],
)
def test_arguments_that_can_not_be_met(town, tmp_path: Path, options: dict, words: str):
    refused(town, tmp_path / "tiles", words, **options)


def test_the_only_scene_as_the_test_scene(town, tmp_path: Path):
    words = "test scene 'scene' is the only one, which leaves none to train on: give a second --scene with its --labels"
    refused(town, tmp_path / "tiles", words, test_scene="scene")


def test_labels_of_another_scene_on_the_same_grid(town, tmp_path: Path):
    def labels_of(scene: Scene) -> Path:
        made = LabelSet.open(town["labels"][0])
        with LabelSet.write(tmp_path / "own", parameters={}, inputs={"scene": scene.digest}) as draft:
            for name in made.manifest.files:
                shutil.copy(made.path / name, draft.directory / name)
        return tmp_path / "own"

    other = make_scene(tmp_path / "later", GRID, seed=1)
    words = r"labels .*own were made for another scene than .*later, on the same grid: .*casbah label --scene .*later"
    refused({"scenes": [other.path], "labels": [labels_of(Scene.open(town["scenes"][0]))]}, tmp_path / "tiles", words)
    tile(scenes=[other.path], labels=[labels_of(other)], output=tmp_path / "tiles", **SIZES)


def test_a_bad_output_is_told_before_anything_is_read(town, tmp_path: Path):
    (tmp_path / "file").write_text("dear")
    for options in ({}, {"folds": 2}):
        with pytest.raises(InputError, match=r"file/t can't be made there: Not a directory"):
            tile(scenes=[tmp_path / "none"], labels=[tmp_path / "none"], output=tmp_path / "file" / "t", **options)


def test_labels_of_another_grid(town, tmp_path: Path):
    labels = make_labels(tmp_path / "labels", GRID.part(1, 0, 160, 160))
    words = "labels .* lie on another grid than the scene .*4059990.*against.*casbah label --scene"
    refused({"scenes": town["scenes"], "labels": [labels.path]}, tmp_path / "tiles", words)


def test_scenes_without_their_labels(town, tmp_path: Path):
    pair = {"scenes": town["scenes"] * 2, "labels": town["labels"]}
    refused(pair, tmp_path / "tiles", "2 scenes and 1 label sets were given; give one --labels for each --scene")
    refused({"scenes": [], "labels": []}, tmp_path / "tiles", "no scene was given")


def test_the_same_scene_twice(town, tmp_path: Path):
    twice = {"scenes": town["scenes"] * 2, "labels": town["labels"] * 2}
    refused(twice, tmp_path / "tiles", "two scenes have the same item id and directory name")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": "L1C"}, r"scenes scene and second can't share a TileSet: they differ in level \(L2A and L1C\)"),
        ({"bands": ("B02", "B03")}, r"they differ in bands \(B01 B02 .* and B02 B03\)"),
        ({"periods": 2}, r"number of periods \(1 and 2\)"),
    ],
)
def test_scenes_that_do_not_go_together(town, tmp_path: Path, options: dict, words: str):
    refused(beside(town, tmp_path, FAR, **options), tmp_path / "tiles", words)


def test_labels_of_different_cover(town, tmp_path: Path):
    scene = make_scene(tmp_path / "second", FAR)
    labels = make_labels(tmp_path / "second-labels", FAR, building_cover=30)
    both = {"scenes": [*town["scenes"], scene.path], "labels": [*town["labels"], labels.path]}
    refused(both, tmp_path / "tiles", r"percent of cover that makes a building \(50 and 30\)")


def test_the_same_ground_in_two_zones(town, tmp_path: Path):
    with rasterio.open(town["scenes"][0] / "reflectance_0.tif") as dataset:
        west, _, _, north = rasterio.warp.transform_bounds(dataset.crs, "EPSG:32630", *dataset.bounds)
    there = Grid("EPSG:32630", round(west, -1), round(north, -1), 160, 160)
    words = "scene .*EPSG:32631.* and second .*EPSG:32630.* meet on the ground but lie in different UTM zones"
    refused(beside(town, tmp_path, there), tmp_path / "tiles", words)


def test_a_scene_of_floats(town, tmp_path: Path):
    scene = Scene.open(town["scenes"][0])
    with Scene.write(tmp_path / "floats", parameters={}) as draft:
        write_raster(draft.directory / "reflectance_0.tif", np.full((12, 160, 160), np.nan, "float32"), GRID)
        shutil.copy(scene.valid_path(0), draft.directory / "valid_0.tif")
        draft.write_json("item.json", scene.item)
    pair = {"scenes": [tmp_path / "floats"], "labels": town["labels"]}
    refused(pair, tmp_path / "tiles", "holds float32; uint16 reflectance x 10000 is wanted .a float can be NaN")


def test_a_scene_off_the_pixel_lattice(tmp_path: Path):
    grid = Grid("EPSG:32631", 500_004.0, 4_060_000.0, 160, 160)
    pair = {
        "scenes": [make_scene(tmp_path / "off", grid).path],
        "labels": [make_labels(tmp_path / "off-labels", grid).path],
    }
    refused(pair, tmp_path / "tiles", "west edge .*is not a multiple of its 10 m pixels.*casbah ingest")


def test_nothing_labelled(town, tmp_path: Path):
    labels = LabelSet.open(town["labels"][0])
    with LabelSet.write(tmp_path / "blank", parameters={}) as draft:
        for name in ("mask.tif", "coverage.tif"):
            write_raster(draft.directory / name, np.full((1, 160, 160), 255, "uint8"), GRID, nodata=255)
        shutil.copy(labels.path / "footprints.parquet", draft.directory)
        shutil.copy(labels.path / "labels.json", draft.directory)
    pair = {"scenes": town["scenes"], "labels": [tmp_path / "blank"]}
    refused(pair, tmp_path / "tiles", r"no tile could be cut \(.*16 had too few labelled pixels")


def test_a_damaged_scene(town, tmp_path: Path):
    shutil.copytree(town["scenes"][0], tmp_path / "damaged")
    raster = tmp_path / "damaged" / "reflectance_0.tif"
    data = bytearray(raster.read_bytes())
    data[-100] ^= 1
    raster.write_bytes(data)
    pair = {"scenes": [tmp_path / "damaged"], "labels": town["labels"]}
    refused(pair, tmp_path / "tiles", "not the file that was written")


@pytest.mark.parametrize("folds", [1, 2])
def test_a_full_disk(town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int):
    def full(self, arrays) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("casbah.tile.store.Arrays.append", full)
    with pytest.raises(WorldError, match=r"tiles could not be written: No space left.*about \d+ MB.*make room"):
        tile(**town, output=tmp_path / "tiles", folds=folds, **WHOLE)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_under_the_folders_of_terratorch_says_why_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture
):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            geotiff._write(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 99, (1, 160, 160), "uint8"), GRID)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capfd.readouterr().err == ""


def test_output_that_holds_something_else(town, tmp_path: Path):
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="already holds something else than a tiles"):
        tile(**town, output=tmp_path / "tiles", **SIZES)
    assert (tmp_path / "tiles" / "thesis.txt").read_text() == "dear"


def test_the_command_says_it_in_one_line_and_ends_with_2(town, tmp_path: Path, capsys: pytest.CaptureFixture):
    arguments = ["tile", "--scene", str(town["scenes"][0]), "--labels", str(town["labels"][0])]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path / "tiles"), "--tile-size", "500"])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("casbah: a tile of 500 px is larger than the scene")
    assert "Traceback" not in said


def test_the_command_prints_what_each_split_holds(town, tmp_path: Path, capsys: pytest.CaptureFixture):
    arguments = ["tile", "--scene", str(town["scenes"][0]), "--labels", str(town["labels"][0])]
    sizes = ["--tile-size", "32", "--block-size", "380", "--guard", "60", "--val-fraction", "0.25"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path / "tiles"), *sizes])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "tiles") in said
    for word in ("split", "train", "val", "test", "building", "nodata", "of the labelled pixels lie in a tile"):
        assert word in said
