"""A scene of any size becomes a map without seams, in flat memory, whole or not at all, and says what made it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from builders import make_scene
from predictors import BANDS, Lopsided, Surroundings, bundle, pixels, training, use, write_raster

from casbah.errors import InputError, WorldError
from casbah.grid import Grid
from casbah.models.ensemble import EnsemblePredictor
from casbah.predict import blended, predict, stage
from casbah.predict.passes import Passes
from casbah.predict.unlike import CELL
from casbah.products.prediction import Prediction

TESTS = str(Path(__file__).parents[1])


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels and blocks so small that a test's raster has several of them."""
    monkeypatch.setattr("casbah.predict.plan.PANEL", 300)
    monkeypatch.setattr("casbah.predict.plan.BLOCK", 200)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return bundle(tmp_path / "model").path


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def unquantised(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> np.ndarray:
    """Filled with the first layer of every block while a map is made."""
    whole, save = np.full(shape, -1, np.float32), stage.Maker._save

    def watched(self: Any, made: Any) -> None:
        whole[made.block.window.toslices()] = made.layers[0]
        save(self, made)

    monkeypatch.setattr(stage.Maker, "_save", watched)
    return whole


@pytest.mark.parametrize("shape", [(700, 1000), (257, 900), (1000, 256), (100, 90), (450, 31)])
@pytest.mark.parametrize(("window", "overlap"), [(None, None), (96, 48), (64, 0)])
def test_what_streams_through_is_what_the_whole_array_gives_at_once(
    shape: tuple[int, int],
    window: int | None,
    overlap: int | None,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model says something else in every window, so that a pixel that counts wrongly shows."""
    use(monkeypatch, Lopsided)
    data, found = pixels(*shape), unquantised(monkeypatch, shape)
    data[:, 40:90, 20:60] = 0
    made = predict(model, write_raster(tmp_path / "r.tif", data), tmp_path / "map", window=window, overlap=overlap)
    wanted = blended(Lopsided(training()), data[None, None], window=window, overlap=overlap)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.isnan(found).sum() == np.isnan(made.probability()).sum() == (data == 0).all(axis=0).sum()
    np.testing.assert_allclose(made.probability(), wanted, atol=0.5 / 200 + 1e-5)


def test_a_window_goes_through_the_model_once_and_one_without_observations_never(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pixels(700, 1000)
    data[:, :, 500:] = 0
    made = use(monkeypatch)
    predict(model, write_raster(tmp_path / "r.tif", data), tmp_path / "map")
    plan = stage.Plan.of(700, 1000, 256, 64)
    assert len(plan.blocks()) > 4
    assert made[0].windows == len(plan.rows.starts) * sum(start < 500 for start in plan.cols.starts)


def test_probabilities_are_stored_in_steps_with_nodata_and_the_mask_keeps_to_what_was_before_rounding(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Edge(Surroundings):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            found = np.full((len(images), *images.shape[-2:]), 0.4996, np.float32)
            found[..., ::2] = 0.5
            return found

    use(monkeypatch, Edge)
    data = pixels(64, 64)
    data[:, :8] = 0
    raster = write_raster(tmp_path / "r.tif", data)
    for kind, high, nodata in (("uint8", 100, 255), ("uint16", 5000, 65535)):
        made = predict(model, raster, tmp_path / kind, values=kind)
        with rasterio.open(made.probability_path) as dataset:
            values, scale = dataset.read(1), dataset.scales[0]
            assert (dataset.nodata, dataset.dtypes[0]) == (nodata, kind)
        assert (values[:8] == nodata).all()
        assert values[20, 0] == high
        assert values[20, 0] * scale == pytest.approx(0.5)
        mask = made.mask()
        assert (mask[:8] == 255).all()
        assert (mask[8:, ::2] == 1).all()
        assert (mask[8:, 1::2] == 0).all(), "0.4996 is rounded to 0.5, and is below the threshold"


def test_another_threshold_than_the_models_is_used_and_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    raster = write_raster(tmp_path / "r.tif", pixels(200, 200))
    low, own = (predict(model, raster, tmp_path / f"m{t}", threshold=t) for t in (0.2, None))
    assert (low.info.threshold, own.info.threshold) == (0.2, 0.5)
    assert (low.mask() == 1).sum() > (own.mask() == 1).sum() > 0


def test_overviews_are_means_of_what_was_observed_under_a_colour_table(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    data = pixels(600, 1100)
    data[:, 300:, :111] = 0
    made = predict(model, write_raster(tmp_path / "r.tif", data), tmp_path / "map")
    with rasterio.open(made.probability_path) as dataset:
        full = dataset.read(1).astype(float)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert len(set(dataset.colormap(1).values())) > 100
    full[full == 255] = np.nan
    with rasterio.open(made.probability_path, overview_level=0) as dataset:
        half = dataset.read(1).astype(float)
    half[half == 255] = np.nan
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning, match="empty slice"):
        mean = np.nanmean(full.reshape(300, 2, 550, 2), axis=(1, 3))
    assert np.nanmax(abs(half - mean)) <= 0.5 + 1e-6
    assert (np.isnan(half) == np.isnan(mean)).all(), "a pixel that was half observed has the mean of that half"


def test_a_map_that_is_passed_on_alone_says_what_it_is_made_from(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    scene = make_scene(tmp_path / "scene", Grid("EPSG:32631", 500_000.0, 4_060_000.0, 80, 90))
    made = predict(model, scene.path, tmp_path / "map", uncertainty=True)
    for name in ("probability", "mask", "unlike", "uncertainty"):
        with rasterio.open(made.path / f"{name}.tif") as dataset:
            tags = dataset.tags()
            assert Grid.of(dataset) == scene.grid
        assert tags["CASBAH_MODEL_DIGEST"] == made.info.model.digest
        assert tags["CASBAH_SCENE"] == "scene"
        assert tags["CASBAH_DATES"] == "2023-06-10"
        assert tags["CASBAH_SIMULATED"] == "true"
        assert tags["CASBAH_ATTRIBUTION"] == "Simulated by Casbah's tests; Labels by Casbah's tests"
    assert made.manifest.inputs == {"model": made.info.model.digest, "scene": scene.digest}
    assert made.info.model.blocks["train"] == ("32631_380_1_1",)


def test_the_item_is_valid_stac_and_leads_back_to_the_imagery(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    scene = make_scene(tmp_path / "scene", Grid("EPSG:32631", 500_000.0, 4_060_000.0, 80, 90))
    made = predict(model, scene.path, tmp_path / "map")
    assert predict(model, scene.path, tmp_path / "again").item == made.item, "nothing in it differs between two runs"
    # The schemas of extensions lie on the network; that of the core comes with pystac.
    item = pystac.Item.from_dict(made.item | {"stac_extensions": []})
    item.validate()
    assert made.item["properties"]["proj:shape"] == [80, 90]
    derived = [link["title"] for link in made.item["links"] if link["rel"] == "derived_from"]
    assert derived[:2] == ["Scene scene", "Source item S2_TEST"]
    assert all((made.path / asset["href"]).is_file() for asset in made.item["assets"].values())


def test_cells_that_look_unlike_the_training_data_are_flagged_and_the_rest_is_not(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    data = pixels(4 * CELL, 5 * CELL)
    data[:, :CELL, :CELL] = 9000  # bright in all bands
    data[2, CELL : 2 * CELL, : CELL * 3 // 4] = 9000  # in one band alone, a sixth of all values
    data[:, :, -8:] = 0
    grid = Grid("EPSG:32631", 780 * CELL * 10.0, 6343 * CELL * 10.0, *data.shape[1:])
    made = predict(model, write_raster(tmp_path / "r.tif", data, grid=grid), tmp_path / "map")
    with rasterio.open(made.path / "unlike.tif") as dataset:
        found = dataset.read(1)
    assert (found[: 2 * CELL, :CELL] == 1).all()
    assert (found[:, -8:] == 255).all()
    assert (found == 1).sum() == 2 * CELL**2
    assert made.info.unlike["share"] == pytest.approx(2 * CELL**2 / (data != 0).all(axis=0).sum(), abs=1e-4)
    assert made.info.unlike["bands"]["B04"] > made.info.unlike["bands"]["B02"] > 0.03


def test_ground_is_flagged_alike_whatever_imagery_it_is_seen_in(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squares lie on multiples of 64 pixels of the projected CRS: two maps flag those that both see whole alike."""
    use(monkeypatch)
    side = 6 * CELL
    data, rng = pixels(side, side), np.random.default_rng(5)
    for row, col in rng.integers(0, side - 50, (12, 2)):  # squares of 50 pixels that fill some cells and not others
        data[:, row : row + 50, col : col + 50] = 9000
    west, north = 9 * CELL * 10.0, 6_000 * CELL * 10.0  # both on the lattice
    whole = Grid("EPSG:32631", west, north, side, side)
    part = whole.part(37, 21, 300, 340)
    flags = {}
    for name, grid, ground in (("whole", whole, data), ("part", part, data[:, 37 : 37 + 300, 21 : 21 + 340])):
        made = predict(model, write_raster(tmp_path / f"{name}.tif", ground, grid=grid), tmp_path / name)
        with rasterio.open(made.path / "unlike.tif") as dataset:
            flags[name] = dataset.read(1)
    first, ends = CELL, (5 * CELL, 5 * CELL)  # what both hold whole
    seen = flags["whole"][first : ends[0], first : ends[1]]
    np.testing.assert_array_equal(seen, flags["part"][first - 37 : ends[0] - 37, first - 21 : ends[1] - 21])
    squares = seen.reshape(4, CELL, 4, CELL).swapaxes(1, 2).reshape(16, -1)
    assert (squares == squares[:, :1]).all(), "no square is cut"
    assert 0 < squares[:, 0].sum() < 16


def test_imagery_drawn_as_the_training_data_were_is_hardly_ever_called_unlike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    data = pixels(10 * CELL, 10 * CELL)
    limits = {name: [int(v) for v in np.percentile(band, (1, 99))] for name, band in zip(BANDS, data, strict=True)}
    made = predict(
        bundle(tmp_path / "model", input_range=limits).path, write_raster(tmp_path / "r.tif", data), tmp_path / "map"
    )
    assert made.info.unlike["share"] < 0.02
    assert all(0.015 < share < 0.025 for share in made.info.unlike["bands"].values())


def test_the_nodata_value_of_a_raster_is_not_taken_for_reflectance(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    data = pixels(64, 64)
    data[:, :8] = 0
    usual = predict(model, write_raster(tmp_path / "r.tif", data), tmp_path / "a")
    data[:, :8] = 65535
    other = predict(model, write_raster(tmp_path / "r.tif", data, nodata=65535), tmp_path / "b")
    np.testing.assert_array_equal(other.probability(), usual.probability())
    assert np.isnan(other.probability()[:8]).all()


def test_what_the_mask_of_a_raster_hides_is_not_taken_for_reflectance(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    seen = np.ones((128, 128), bool)
    seen[:, 64:] = False
    for inside in (True, False):
        raster = write_raster(tmp_path / f"{inside}.tif", pixels(128, 128), nodata=None)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(raster, "r+") as dataset:
            dataset.write_mask(seen)
    made = predict(model, tmp_path / "True.tif", tmp_path / "map")
    np.testing.assert_array_equal(np.isnan(made.probability()), ~seen)
    with pytest.raises(
        InputError, match=r"False.tif has a mask beside it \(False.tif.msk\), and files beside a raster"
    ):
        predict(model, tmp_path / "False.tif", tmp_path / "other")


def test_the_spread_of_an_ensemble_is_over_its_members_by_their_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blend(Surroundings):
        weights = np.array([0.25, 0.75])

        def opinions(self, images: np.ndarray) -> list[np.ndarray]:
            return [np.full((len(images), *images.shape[-2:]), said, np.float32) for said in (0.2, 0.6)]

    use(monkeypatch, Blend)
    raster = write_raster(tmp_path / "r.tif", pixels(64, 64))
    made = predict(model, raster, tmp_path / "map", values="uint16", uncertainty=True)
    with rasterio.open(made.path / "uncertainty.tif") as dataset:
        spread = dataset.read(1)
    assert (made.info.flips, made.info.uncertainty) == (False, "members")
    np.testing.assert_allclose(made.probability(), 0.5, atol=1e-4)
    np.testing.assert_allclose(spread / 10000, np.sqrt(0.25 * 0.3**2 + 0.75 * 0.1**2), atol=1e-4)


@pytest.mark.parametrize("uncertainty", [False, True])
def test_members_that_flip_by_themselves_are_not_flipped_twice(uncertainty: bool) -> None:
    class Flipping(Lopsided):
        flips = True

        def probabilities(self, images: np.ndarray) -> np.ndarray:
            if not self.flips:
                return super().probabilities(images)
            views = [np.rot90(images[..., ::step], turns, (-2, -1)) for step in (1, -1) for turns in range(4)]
            said = [super(Flipping, self).probabilities(np.ascontiguousarray(view)) for view in views]
            back = [np.rot90(one, -(n % 4), (-2, -1))[..., :: 1 if n < 4 else -1] for n, one in enumerate(said)]
            return np.mean(back, axis=0, dtype=np.float32)

    def ensemble() -> EnsemblePredictor:
        return EnsemblePredictor(training(), [Flipping(training()), Lopsided(training())], np.array([0.5, 0.5]))

    images, own, asked = pixels(32, 32)[None, None], ensemble(), ensemble()
    Passes(own, flips=False, uncertainty=uncertainty).layers(images)
    assert [member.windows for member in own.members] == [8, 1], "without being asked, it does what it always does"
    found = Passes(asked, flips=True, uncertainty=uncertainty).layers(images)
    assert [member.windows for member in asked.members] == [8, 8]
    np.testing.assert_allclose(found[0], Flipping(training()).probabilities(images), atol=1e-6)


def test_flips_are_averaged_and_their_spread_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Lopsided)
    data = pixels(64, 64)
    data[:, :8] = 0
    raster = write_raster(tmp_path / "r.tif", data)
    made = predict(model, raster, tmp_path / "map", values="uint16", uncertainty=True)
    images, said = data[None, None], []
    for turns in range(4):
        for flip in (False, True):
            turned = np.rot90(images, turns, (-2, -1))
            turned = turned[..., ::-1] if flip else turned
            back = Lopsided(training()).probabilities(np.ascontiguousarray(turned))
            said.append(np.rot90(back[..., ::-1] if flip else back, -turns, (-2, -1))[0])
    with rasterio.open(made.path / "uncertainty.tif") as dataset:
        spread = dataset.read(1)
    assert (made.info.flips, made.info.uncertainty) == (True, "flips")
    np.testing.assert_allclose(made.probability()[8:], np.mean(said, axis=0)[8:], atol=1e-4)
    np.testing.assert_allclose(spread[8:] / 10000, np.std(said, axis=0)[8:], atol=1e-4)
    assert (spread[:8] == 65535).all()
    flipped = predict(model, raster, tmp_path / "flipped", values="uint16", flips=True)
    np.testing.assert_allclose(flipped.probability(), made.probability(), atol=1e-4)
    assert not (flipped.path / "uncertainty.tif").exists()


def test_several_periods_in_one_raster_are_what_they_are_in_a_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Change(Surroundings):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            return np.clip(images[:, 1, 0] / 10000 - images[:, 0, 1] / 40000, 0, 1).astype(np.float32)

    use(monkeypatch, Change)
    grid = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 80, 90)
    scene = make_scene(tmp_path / "scene", grid, periods=2, bands=BANDS[::-1])
    model = bundle(tmp_path / "model", periods=2).path
    of_scene = predict(model, scene.path, tmp_path / "a", values="uint16")
    data = scene.reflectance().reshape(8, 80, 90)
    names = ["nir", "Red", "b03", "B02"] * 2
    of_raster = predict(
        model, write_raster(tmp_path / "r.tif", data, names=names, grid=grid), tmp_path / "b", values="uint16"
    )
    np.testing.assert_array_equal(of_raster.probability(), of_scene.probability())
    assert of_scene.probability().std() > 0.01


INFRARED = np.array([0, 0, 0, 500], np.uint16)[:, None, None]
HERE = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 64, 64)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"names": [None] * 4}, r"does not say which bands it holds: describe each of its 4 bands by ESA's name"),
        ({"names": ("B02", "B03", "B04", "B11")}, r"lacks B08, and bright surroundings takes B02, B03, B04, B08"),
        ({"names": ("B02", "B03", "B03", "B04")}, r"are no whole periods one after the other"),
        ({"data": pixels(64, 64, 8), "names": BANDS * 2}, r"holds 2 period\(s\) .* takes 1: stack as many"),
        ({"crs": None}, r"its CRS is missing; a projected one is wanted"),
        ({"transform": rasterio.Affine.identity()}, r"has no georeference"),
        ({"crs": "EPSG:4326", "transform": rasterio.Affine(1e-4, 0, 3, 0, -1e-4, 36)}, r"a projected one is wanted"),
        (
            {"crs": "EPSG:2263", "transform": rasterio.Affine(10, 0, 984_000, 0, -10, 208_000)},
            r"is in EPSG:2263, which counts in US survey foot; a CRS in metres is wanted, such as UTM",
        ),
        (
            {"crs": "EPSG:3857", "transform": rasterio.Affine(10, 0, 340_000, 0, -10, 4_400_000)},
            r"in EPSG:3857, where 10 m are 8.01 m on this ground; a CRS that keeps lengths is wanted, such as UTM",
        ),
        ({"transform": rasterio.Affine(10, 3, 500_000, 3, -10, 4e6)}, r"its pixels are not square and north-up"),
        ({"transform": rasterio.Affine(20, 0, 500_000, 0, -20, 4e6)}, r"has pixels of 20 m and .* trained on 10 m"),
        ({"data": pixels(64, 64).astype("float32") / 10000}, r"holds float32; uint16 reflectance x 10000 is wanted"),
        ({"data": (pixels(64, 64) // 20).astype("uint16").clip(0, 255)}, r"no value above \d+ .* as 8-bit images do"),
        (
            {"data": (pixels(64, 64) + INFRARED) // 10},
            r"too dark for ground and no water, as reflectance x 1000 .* are; ",
        ),
        ({"data": pixels(64, 64) * 9 + 10_000}, r"half of the values of .* which is no reflectance x 10000"),
        ({"data": pixels(64, 64) // 8 + 1000}, r"as if they still held the \+1000 of processing baseline"),
        ({"data": np.zeros((4, 64, 64), "uint16")}, r"holds nothing but nodata"),
        ({"tags": {"LEVEL": "L1C"}}, r"its level is L1C and the model was trained on L2A"),
    ],
)
def test_a_raster_that_the_model_can_not_take_is_one_sentence_and_nothing_is_written(
    change: dict[str, Any], sentence: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    raster = write_raster(tmp_path / "r.tif", **{"data": pixels(64, 64), "grid": HERE} | change)
    with pytest.raises(InputError, match=sentence):
        predict(model, raster, tmp_path / "deep" / "map")
    assert not (tmp_path / "deep").exists()


def test_a_raster_with_an_offset_or_scale_of_its_own_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    for field, value, sentence in (("offsets", -0.1, "-0.1 must be added"), ("scales", 0.5, "is scaled by 0.5")):
        raster = write_raster(tmp_path / f"{field}.tif", pixels(64, 64))
        with rasterio.open(raster, "r+") as dataset:
            setattr(dataset, field, [value] * 4)
        with pytest.raises(InputError, match=sentence):
            predict(model, raster, tmp_path / "map")


def test_dark_pixels_that_are_said_to_be_free_of_the_offset_are_believed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    data = pixels(64, 64) // 8 + 1000
    raster = write_raster(tmp_path / "r.tif", data.astype("uint16"), tags={"BOA_OFFSET_APPLIED": "true"})
    assert predict(model, raster, tmp_path / "map").info.scene == "r.tif"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"level": "L1C"}, r"its level is L2A and the model was trained on L1C"),
        ({"periods": 3}, r"its number of periods is 1 and the model was trained on 3"),
        ({"resolution": 20.0}, r"has pixels of 10 m and .* trained on 20 m"),
        ({"bands": ("B02", "B10")}, r"the images lack B10"),
        ({"normalise": "scene"}, r"was trained on tiles of `--normalise scene`"),
    ],
)
def test_a_scene_that_the_model_was_not_trained_on_is_one_sentence(
    fields: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    scene = make_scene(tmp_path / "scene", HERE)
    with pytest.raises(InputError, match=sentence):
        predict(bundle(tmp_path / "model", **fields).path, scene.path, tmp_path / "map")
    assert not (tmp_path / "map").exists()
    assert not left_behind(tmp_path)


def test_a_model_of_a_newer_schema_says_so(model: Path, tmp_path: Path) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    (model / "manifest.json").write_text(json.dumps(manifest | {"version": 9, "casbah": "9.9"}))
    with pytest.raises(InputError, match=r"schema 9, written by casbah 9.9; .* upgrade"):
        predict(model, tmp_path / "r.tif", tmp_path / "map")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"values": "float32"}, "values is 'float32'; uint8 or uint16 is wanted"),
        ({"threshold": 0.0}, "threshold is 0; a probability above 0"),
        ({"device": "tpu"}, "device is 'tpu'; auto, cpu or cuda is wanted"),
        ({"device": "cuda"}, "device is 'cuda', and bright surroundings has no network; take auto or cpu"),
        ({"overlap": 200}, "overlap is 200; 0 to 128 pixels are wanted"),
        ({"scene": "absent.tif"}, r"absent.tif does not exist; a scene's directory, a raster or an address"),
        ({"model": "models:/casbah-buildings"}, r"models:/NAME@ALIAS or models:/NAME/3 is wanted"),
        ({"model": "models:/casbah-buildings@champion"}, r"no MLflow server is named"),
    ],
)
def test_an_option_that_does_not_fit_is_one_sentence(
    options: dict[str, Any], sentence: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    raster = write_raster(tmp_path / "r.tif", pixels(64, 64))
    with pytest.raises(InputError, match=sentence):
        predict(**{"model": model, "scene": raster, "output": tmp_path / "map"} | options)
    assert not (tmp_path / "map").exists()


@pytest.mark.parametrize(
    ("crs", "west", "north"),
    [("EPSG:32631", 9e7, 4e7), ("EPSG:32631", 500_000, 1e9), ("EPSG:3035", 4e7, 4e7), ("EPSG:32631", np.nan, 4e6)],
)
def test_a_raster_that_lies_nowhere_on_earth_is_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crs: str, west: float, north: float
) -> None:
    use(monkeypatch)
    raster = write_raster(tmp_path / "r.tif", pixels(64, 64), crs=crs, transform=Affine(10, 0, west, 0, -10, north))
    with pytest.raises(InputError, match=rf"r.tif lies where {crs} has no ground \(its first pixel at "):
        predict(model, raster, tmp_path / "map")


def test_a_damaged_raster_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    raster = write_raster(tmp_path / "r.tif", pixels(600, 600), compress="deflate")
    raster.write_bytes(raster.read_bytes()[:200_000])
    with pytest.raises(InputError, match=r"r.tif could not be read: .* cut short or damaged"):
        predict(model, raster, tmp_path / "map")
    assert not (tmp_path / "map").exists()
    assert not left_behind(tmp_path)


def test_where_nothing_may_be_written_or_something_else_lies_it_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    raster = write_raster(tmp_path / "r.tif", pixels(64, 64))
    with pytest.raises(InputError, match="can't be made there"):
        predict(model, raster, raster / "map")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something else than a prediction"):
        predict(model, raster, tmp_path / "other")
    mkdir = Path.mkdir

    def denied(self: Path, *given: Any, **named: Any) -> None:
        if self.name.startswith(".map"):
            raise PermissionError(errno.EACCES, "Permission denied")
        mkdir(self, *given, **named)

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(InputError, match="can't be made there: Permission denied; name a directory"):
        predict(model, raster, tmp_path / "map")


def test_a_disk_that_fills_is_a_fault_of_the_world_and_the_rerun_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, Lopsided)
    raster = write_raster(tmp_path / "r.tif", pixels(700, 700))
    whole = predict(model, raster, tmp_path / "whole")
    save, done = np.savez, []

    def full(path: Path, **arrays: Any) -> None:
        done.append(path)
        if len(done) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(WorldError, match=r"could not be written: No space left on device; .* finished blocks are kept"):
        predict(model, raster, tmp_path / "map")
    assert not (tmp_path / "map").exists()
    monkeypatch.setattr(np, "savez", save)
    assert predict(model, raster, tmp_path / "map").digest == whole.digest
    assert "2 of 4 blocks are there from an earlier run" in capsys.readouterr().err
    assert not left_behind(tmp_path)


def test_a_disk_without_room_is_told_before_anything_is_computed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = use(monkeypatch)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("casbah.predict.stage.shutil.disk_usage", lambda _: usage)
    with pytest.raises(WorldError, match=r"MB free and the prediction needs up to"):
        predict(model, write_raster(tmp_path / "r.tif", pixels(700, 700)), tmp_path / "map")
    assert made[0].windows == 0


class Stopped(Surroundings):
    """Is stopped by its user at the ninth window."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        if self.windows > 8:
            raise KeyboardInterrupt
        return super().probabilities(images)


def stopped_midway(model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raster of which a part is mapped already, to `folder` / map."""
    raster = write_raster(folder / "r.tif", pixels(700, 700))
    use(monkeypatch, Stopped)
    with pytest.raises(KeyboardInterrupt):
        predict(model, raster, folder / "map")
    return raster


def test_the_next_rows_are_read_and_the_last_block_is_written_while_the_model_is_at_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, saving, at_work_again = (threading.Event() for _ in range(3))
    count, save, counted = stage.unlike.count, stage.Maker._save, iter(range(10_000))
    seen: list[bool] = []

    class Waiting(Surroundings):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            if not seen:
                seen.append(read.wait(10))
            if saving.is_set():
                at_work_again.set()
            return super().probabilities(images)

    def reading(*given: Any) -> Any:
        if next(counted) == 1:
            read.set()
        return count(*given)

    def writing(maker: stage.Maker, made: Any) -> None:
        if not saving.is_set():
            saving.set()
            seen.append(at_work_again.wait(10))
        save(maker, made)

    monkeypatch.setattr(stage.unlike, "count", reading)
    monkeypatch.setattr(stage.Maker, "_save", writing)
    use(monkeypatch, Waiting)
    predict(model, write_raster(tmp_path / "r.tif", pixels(1400, 700)), tmp_path / "map")
    assert seen == [True, True]


def test_a_rerun_needs_no_room_for_what_it_finished_already(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raster = stopped_midway(model, tmp_path, monkeypatch)
    kept = sum(path.stat().st_size for path in tmp_path.glob(".map.predict-*/block_*.tif"))
    assert kept > 100_000
    use(monkeypatch)
    left = 700 * 700 * 4 - kept  # two layers in blocks, joined beside them, and the overviews of both
    monkeypatch.setattr("casbah.predict.stage.shutil.disk_usage", lambda _: type("Usage", (), {"free": left - 1}))
    with pytest.raises(WorldError, match=f"needs up to {left / 1e6:,.0f} MB more"):
        predict(model, raster, tmp_path / "map")
    monkeypatch.setattr("casbah.predict.stage.shutil.disk_usage", lambda _: type("Usage", (), {"free": left}))
    predict(model, raster, tmp_path / "map")
    assert "blocks are there from an earlier run" in capsys.readouterr().err


SLOWLY = f"""
import sys, time
sys.path.insert(0, {TESTS!r})
import casbah.models, predictors
from casbah.predict import plan, predict
class Slow(predictors.Lopsided):
    def probabilities(self, images):
        time.sleep(0.2)
        return super().probabilities(images)
casbah.models.load = lambda bundle: Slow(bundle.training)
plan.PANEL, plan.BLOCK = 300, 150
predict(*sys.argv[1:], values="uint16")
"""


def test_a_killed_run_leaves_nothing_that_opens_and_its_rerun_goes_on_to_the_same_bytes(
    model: Path, tmp_path: Path
) -> None:
    raster = write_raster(tmp_path / "r.tif", pixels(1200, 900))
    command = [sys.executable, "-c", SLOWLY, str(model), str(raster)]
    undisturbed = subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, text=True, check=False)
    assert undisturbed.returncode == 0, undisturbed.stderr
    output = tmp_path / "map"
    for least in (2, 8):  # in the first panel, and in the second
        with subprocess.Popen([*command, str(output)], stderr=subprocess.DEVNULL) as victim:
            while victim.poll() is None and len(list(tmp_path.glob(".map.predict-*/block_*.tif"))) < least:
                pass
            os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(InputError, match="does not exist"):
            Prediction.open(output)
    blocks = len(list(tmp_path.glob(".map.predict-*/block_*.tif")))
    assert 8 <= blocks < 12
    rerun = subprocess.run([*command, str(output)], capture_output=True, text=True, check=False)
    assert rerun.returncode == 0, rerun.stderr
    assert f"{blocks} of 12 blocks are there from an earlier run" in rerun.stderr
    assert Prediction.open(output).digest == Prediction.open(tmp_path / "whole").digest
    assert not left_behind(tmp_path)


def test_blocks_of_other_settings_are_not_gone_on_from_and_are_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raster = stopped_midway(model, tmp_path, monkeypatch)
    (kept,) = left_behind(tmp_path)
    made = use(monkeypatch)
    predict(model, raster, tmp_path / "map", threshold=0.3)
    assert made[0].windows == 16
    assert f"{kept} (" in capsys.readouterr().err.replace("\n", "")
    assert left_behind(tmp_path) == [kept]


MEASURED = f"""
import re, sys
sys.path.insert(0, {TESTS!r})
import casbah.models, predictors
from casbah.predict import imagery, plan, predict, stage
casbah.models.load = lambda bundle: predictors.Surroundings(bundle.training)
plan.PANEL, plan.BLOCK = 600, 300
imagery.CACHE_BYTES = stage.CACHE_BYTES = 8 * 2**20
predict(*sys.argv[1:])
# Not ru_maxrss, which begins with what the parent held.
print(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])
"""


def test_memory_does_not_grow_with_the_raster(model: Path, tmp_path: Path) -> None:
    """Nine times the pixels: a layer of the whole map in float32 would be 72 MB more, the images 144 MB.

    With one arena: of glibc's, one a thread, each keeps what it happened to hold at once, up to 20 MB more or less.
    """
    peaks = []
    for side in (1500, 4500):
        raster = write_raster(tmp_path / f"{side}.tif", np.tile(pixels(500, 500), (1, side // 500, side // 500)))
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(model), str(raster), str(tmp_path / f"map{side}")],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 36e6, f"{peaks[0] / 1e6:.0f} MB, then {peaks[1] / 1e6:.0f} MB"


def test_a_second_run_of_the_same_map_waits_for_nobody(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster, output = write_raster(tmp_path / "r.tif", pixels(64, 64)), tmp_path / "map"
    said = []

    class Twice(Surroundings):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            with pytest.raises(InputError, match="another predict with these arguments is running") as refused:
                predict(model, raster, output)
            said.append(refused)
            return super().probabilities(images)

    use(monkeypatch, Twice)
    predict(model, raster, output)
    assert len(said) == 1
