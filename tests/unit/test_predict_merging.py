"""Maps of overlapping scenes become one map that shows no border, and others are refused."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import predictors
import pystac
import pytest
import rasterio

from casbah.errors import InputError
from casbah.grid import Grid
from casbah.predict import merge, predict
from casbah.products.prediction import Prediction

WHOLE = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 300, 400)
MARGIN = 48


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    predictors.use(monkeypatch)
    return predictors.bundle(tmp_path / "model").path


def mapped(model: Path, folder: Path, part: Grid, data: np.ndarray, **options: object) -> Prediction:
    """The map of a part of the whole raster `data`."""
    top, left = round((WHOLE.north - part.north) / 10), round((part.west - WHOLE.west) / 10)
    name = f"{part.crs[-1]}_{top}_{left}_{part.cols}"
    folder.mkdir(exist_ok=True)
    raster = predictors.write_raster(
        folder / f"{name}.tif", data[:, top : top + part.rows, left : left + part.cols], grid=part
    )
    return predict(model, raster, folder / name, values="uint16", **options)  # type: ignore[arg-type]


def halves() -> tuple[Grid, Grid]:
    """West and east of the middle, each with a margin over it."""
    middle = WHOLE.cols // 2
    return (
        WHOLE.part(0, 0, WHOLE.rows, middle + MARGIN),
        WHOLE.part(0, middle - MARGIN, WHOLE.rows, WHOLE.cols - middle + MARGIN),
    )


def test_two_scenes_that_overlap_give_the_map_of_the_whole(model: Path, tmp_path: Path) -> None:
    data = predictors.pixels(WHOLE.rows, WHOLE.cols)
    data[:, :40, :60] = 0
    whole = mapped(model, tmp_path, WHOLE, data)
    parts = [mapped(model, tmp_path, part, data).path for part in halves()]
    made = merge(parts, tmp_path / "map")
    assert made.grid == WHOLE
    np.testing.assert_array_equal(np.isnan(made.probability()), np.isnan(whole.probability()))
    np.testing.assert_array_equal(made.mask() == 255, whole.mask() == 255)
    # Where a part ended, its model saw half of the surroundings: that counts next to nothing.
    apart = np.abs(made.probability() - whole.probability())
    assert np.nanmax(apart) < 0.02
    assert np.nanmean(apart > 0.001) < 0.05


def test_where_scenes_disagree_one_fades_into_the_other_without_a_step(model: Path, tmp_path: Path) -> None:
    west, east = (
        mapped(model, tmp_path, part, np.full((4, WHOLE.rows, WHOLE.cols), value, np.uint16))
        for part, value in zip(halves(), (800, 3200), strict=True)
    )
    row = merge([west.path, east.path], tmp_path / "map").probability()[WHOLE.rows // 2]
    assert row[0] == pytest.approx(0.2)
    assert row[-1] == pytest.approx(0.8)
    assert np.abs(np.diff(row)).max() < 1.5 * 0.6 / (2 * MARGIN), "from one to the other over the whole overlap"
    assert (np.diff(row) >= 0).all()


def test_where_a_scene_ends_at_a_cloud_the_other_takes_over_without_a_step(model: Path, tmp_path: Path) -> None:
    """In blocks as in one."""
    parts = []
    for part, value in zip(halves(), (800, 3200), strict=True):
        data = np.full((4, WHOLE.rows, WHOLE.cols), value, np.uint16)
        data[:, :, 190 : 230 if value == 800 else 190] = 0
        parts.append(mapped(model, tmp_path, part, data).path)
    made = merge(parts, tmp_path / "map").probability()
    row = made[WHOLE.rows // 2]
    assert row[0] == pytest.approx(0.2)
    assert row[-1] == pytest.approx(0.8)
    assert np.abs(np.diff(row)).max() < 0.06
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("casbah.predict.merging.BLOCK", 70)
        np.testing.assert_array_equal(merge(parts, tmp_path / "small").probability(), made)


def test_ground_between_scenes_is_nodata_and_corners_of_four_have_no_seam(model: Path, tmp_path: Path) -> None:
    data = np.full((4, WHOLE.rows, WHOLE.cols), 2000, np.uint16)
    quarters = [WHOLE.part(r, c, 180, 230) for r in (0, 120) for c in (0, 170)]
    made = merge([mapped(model, tmp_path, part, data).path for part in quarters], tmp_path / "four")
    np.testing.assert_allclose(made.probability(), 0.5, atol=1e-4)
    corners = [WHOLE.part(0, 0, 100, 100), WHOLE.part(200, 300, 100, 100)]
    made = merge([mapped(model, tmp_path / "c", part, data).path for part in corners], tmp_path / "two")
    assert made.grid == WHOLE
    assert np.isnan(made.probability()[:100, 150:]).all()
    assert np.isfinite(made.probability()[:100, :100]).all()


def test_a_merged_map_is_a_cog_that_names_all_that_it_was_made_from(model: Path, tmp_path: Path) -> None:
    data = predictors.pixels(WHOLE.rows, WHOLE.cols)
    parts = [mapped(model, tmp_path, part, data) for part in halves()]
    made = merge([part.path for part in parts], tmp_path / "map")
    assert made.info.model == parts[0].info.model
    assert made.info.scene.startswith("2 scenes: ")
    assert set(made.manifest.inputs.values()) == {part.digest for part in parts}
    assert made.info.attribution == parts[0].info.attribution
    pystac.Item.from_dict(made.item)
    for name in ("probability.tif", "mask.tif", "unlike.tif"):
        with rasterio.open(made.path / name) as dataset:
            assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert dataset.tags()["CASBAH_MODEL"] == made.info.model.name
    with rasterio.open(made.path / "unlike.tif") as dataset:
        assert dataset.descriptions == ("unlike the training data",)


def test_the_share_of_unlike_ground_is_that_of_the_merged_map(model: Path, tmp_path: Path) -> None:
    west, east = halves()
    data = predictors.pixels(WHOLE.rows, WHOLE.cols)
    one = mapped(model, tmp_path, west, data)
    strange = np.zeros_like(data)
    strange[:, :64, -64:] = 9000
    other = mapped(model, tmp_path, east, strange)
    assert (one.info.unlike["share"], other.info.unlike["share"]) == (0, 1)
    made = merge([one.path, other.path], tmp_path / "map")
    with rasterio.open(made.path / "unlike.tif") as dataset:
        flags = dataset.read(1)
    assert made.info.unlike["share"] == pytest.approx((flags == 1).sum() / (flags != 255).sum(), abs=1e-4)
    assert made.info.unlike["share"] < 0.1, "a corner, however large the scene that holds nothing else"
    assert made.info.unlike["bands"]["B02"] < 0.2


def test_the_mask_is_what_the_stored_probabilities_say_at_the_threshold(model: Path, tmp_path: Path) -> None:
    data = np.full((4, WHOLE.rows, WHOLE.cols), 1400, np.uint16)
    made = merge([mapped(model, tmp_path, part, data, threshold=0.35).path for part in halves()], tmp_path / "map")
    np.testing.assert_array_equal(made.mask() == 1, made.probability() >= np.float32(0.35))
    assert (made.mask() == 1).all()


def test_maps_drawn_by_other_windows_are_one_map_that_tells_the_smallest(model: Path, tmp_path: Path) -> None:
    data = predictors.pixels(WHOLE.rows, WHOLE.cols)
    left, right = halves()
    parts = [mapped(model, tmp_path, left, data, window=128), mapped(model, tmp_path, right, data, window=256)]
    for number, order in enumerate((parts, parts[::-1])):
        made = merge([part.path for part in order], tmp_path / f"map{number}")
        assert (made.info.window, made.info.overlap) == (128, 64)


def test_a_map_of_one_scene_is_that_one(model: Path, tmp_path: Path) -> None:
    one = mapped(model, tmp_path, WHOLE, predictors.pixels(WHOLE.rows, WHOLE.cols))
    assert merge([one.path], tmp_path / "map").digest == one.digest


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"threshold": 0.3}, r"differ in threshold \(0\.[35] and 0\.[35]\); predict them alike"),
        ({"part": Grid("EPSG:32632", 500_000.0, 4_060_000.0, 300, 400)}, "do not lie on one another .*EPSG:32632"),
        (
            {"part": Grid("EPSG:32631", 500_004.0, 4_060_000.0, 300, 400)},
            r"another \(off by -?4 m east and 0 m north\): cut both",
        ),
    ],
)
def test_maps_that_do_not_belong_together_are_one_sentence(
    other: dict[str, object], sentence: str, model: Path, tmp_path: Path
) -> None:
    data = predictors.pixels(WHOLE.rows, WHOLE.cols)
    one = mapped(model, tmp_path, WHOLE, data)
    part = other.pop("part", WHOLE)
    assert isinstance(part, Grid)
    two = mapped(model, tmp_path / "other", part, data, **other)
    with pytest.raises(InputError, match=sentence):
        merge([one.path, two.path], tmp_path / "map")
    assert not (tmp_path / "map").exists()
    assert not list(tmp_path.glob(".map*"))


def test_no_prediction_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no prediction was given"):
        merge([], tmp_path / "map")


SLOW = """
import os, signal, sys
from casbah.predict import merging
kept = merging.Workplace.save_block
merging.BLOCK = 128
def save(self, path, grid, planes):
    kept(self, path, grid, planes)
    if len(list(self.path.glob("block_*.tif"))) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
merging.Workplace.save_block = save
merging.merge(sys.argv[2:], sys.argv[1])
"""


def test_a_killed_merge_leaves_no_map_and_a_rerun_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = predictors.pixels(WHOLE.rows, WHOLE.cols)
    parts = [str(mapped(model, tmp_path, part, data).path) for part in halves()]
    done = subprocess.run([sys.executable, "-c", SLOW, str(tmp_path / "map"), *parts], env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "map").exists()
    (place,) = tmp_path.glob(".map.merge-*")
    kept = {path: path.stat().st_mtime_ns for path in place.glob("block_*.tif")}
    assert len(kept) == 4
    again: list[Path] = []
    from casbah.predict import merging

    save = merging.Workplace.save_block
    monkeypatch.setattr(merging, "BLOCK", 128)
    monkeypatch.setattr(merging.Workplace, "save_block", lambda *given: (again.append(given[1]), save(*given))[1])
    made = merge(parts, tmp_path / "map")
    assert again
    assert not set(again) & set(kept), "what was there was not made again"
    monkeypatch.undo()
    predictors.use(monkeypatch)
    straight = merge(parts, tmp_path / "straight")
    np.testing.assert_array_equal(made.probability(), straight.probability())
    np.testing.assert_array_equal(made.mask(), straight.mask())
