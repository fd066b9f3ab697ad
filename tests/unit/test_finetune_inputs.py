"""Each backbone sees its input in the units of its pretraining; other units are refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from builders import make_tiles
from numpy.typing import NDArray

import casbah.finetune
from casbah.bands import BAND_NAMES, BOA_OFFSET, TEN_BANDS
from casbah.errors import InputError
from casbah.finetune import inputs
from casbah.models import torchvision_cure
from casbah.models.normalisation import Normalisation
from casbah.products.tiles import TileSet
from casbah.sample import spectra

LEVELS = ("L1C", "L2A")
PLAIN = ("prithvi_v1", "prithvi_v2", "terramind_v1")
"""Standardised by mean and deviation, not cut off."""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("inputs") / "tiles", periods=2)


def land_covers(bands: tuple[str, ...]) -> NDArray[np.uint16]:
    """One scene for all: every material of the simulated town once, (1, 1, bands, 1, materials)."""
    index = [BAND_NAMES.index(name) for name in bands]
    reflectance = np.maximum(spectra.TABLE[:, index].T * 10_000, 1)
    return reflectance.astype(np.uint16)[None, None, :, None, :]


def normalised(found: Normalisation, images: NDArray[np.uint16]) -> NDArray[np.float32]:
    out = np.empty(images.shape, np.float32)
    found.apply(images, out)
    return out


def seen_by(name: str, level: str, offset: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    """What a backbone is fed of the scene, with digital numbers that are off by so much."""
    row = inputs.pretraining(name, level)
    images = np.maximum(land_covers(row.bands) * scale + offset, 1).astype(np.uint16)
    return normalised(inputs.of_backbone(name, row.bands, 1, level), images)[0, 0, :, 0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PLAIN)
def test_land_lies_within_what_the_pretraining_saw(name: str, level: str) -> None:
    found = seen_by(name, level)
    assert -2 < np.median(found) < 1, "half of the materials are darker and half brighter than the world's mean"
    assert np.abs(found).max() < 6, "not even a cloud is six deviations off"
    assert found.std(axis=1).min() > 0.3, "and materials differ in every band"


@pytest.mark.parametrize(("name", "low", "high"), [("satmae", 0, 1), ("galileo", -0.2, 1.8)])
def test_land_lies_within_what_the_pretraining_saw_as_a_share(name: str, low: float, high: float) -> None:
    found = seen_by(name, "L1C")
    assert low <= found.min()
    assert found.max() <= high
    assert 0.3 < np.median(found) < 0.7, "the published mean is 0.5"


def test_scalemae_sees_eight_bit_images_standardised_as_imagenet() -> None:
    least, most = (0 - np.array(inputs.IMAGENET_MEAN)), (1 - np.array(inputs.IMAGENET_MEAN))
    for level in LEVELS:
        found = seen_by("scalemae", level)
        assert (found.min(axis=1) >= least / inputs.IMAGENET_STD - 1e-5).all()
        assert (found.max(axis=1) <= most / inputs.IMAGENET_STD + 1e-5).all()
        eight_bit = (found * np.array(inputs.IMAGENET_STD)[:, None] + np.array(inputs.IMAGENET_MEAN)[:, None]) * 255
        np.testing.assert_allclose(eight_bit, eight_bit.round(), atol=1e-3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("name", "dark"), [*((name, 0.0) for name in PLAIN), ("satmae", 0.4), ("galileo", 0.35), ("scalemae", -1.0)]
)
def test_dark_land_is_dark_in_every_band_which_an_offset_left_on_or_a_wrong_scale_would_change(
    name: str, dark: float, level: str
) -> None:
    """`dark` lies between what water, the darkest material, is in the right units and in the usual wrong ones."""
    found = seen_by(name, level)
    assert (found.min(axis=1) < dark).all()
    assert not (seen_by(name, level, offset=BOA_OFFSET).min(axis=1) < dark).all()
    for scale in (0.1, 255 / 10_000):
        assert seen_by(name, level, scale=scale).std(axis=1).max() < found.std(axis=1).min()


def test_the_offset_of_terraminds_statistics_is_taken_off() -> None:
    found = inputs.of_backbone("terramind_v1", ["B02"], 1, "L2A")
    assert found.mean.tolist() == [[np.float32(1503.317 - 1000)]]
    assert inputs.of_backbone("terramind_v1", ["B02"], 1, "L1C").mean.tolist() == [[np.float32(2137.385 - 1000)]]


def test_statistics_are_repeated_for_each_period() -> None:
    found = inputs.of_backbone("prithvi_v2", ["B04", "B8A"], 2, "L2A")
    assert found.mean.tolist() == [[1433.0, 2734.0]] * 2
    assert found.std.tolist() == [[2178.0, 1850.0]] * 2


def test_the_table_of_statistics_is_that_of_terratorch() -> None:
    torchvision_cure.apply()
    from terratorch.models.backbones import prithvi_vit
    from terratorch.models.backbones.terramind.model import terramind_register

    for name, version in (("prithvi_v1", "V1"), ("prithvi_v2", "V2")):
        row = inputs.pretraining(name, "L2A")
        assert list(row.mean) == getattr(prithvi_vit, f"PRITHVI_{version}_MEAN")
        assert list(row.std) == getattr(prithvi_vit, f"PRITHVI_{version}_STD")
        assert [inputs.HLS_NAMES[band] for band in row.bands] == [b.value for b in prithvi_vit.PRETRAINED_BANDS]
    row = inputs.pretraining("terramind_v1", "L2A")
    assert list(row.mean) == terramind_register.v1_pretraining_mean["untok_sen2l2a@224"]
    assert list(row.std) == terramind_register.v1_pretraining_std["untok_sen2l2a@224"]
    assert row.bands == BAND_NAMES
    cirrus = 10  # B10, which Casbah's scenes leave out
    for key, published in (
        ("mean", terramind_register.v1_pretraining_mean["untok_sen2l1c@224"]),
        ("std", terramind_register.v1_pretraining_std["untok_sen2l1c@224"]),
    ):
        without = [*published[:cirrus], *published[cirrus + 1 :]]
        assert list(getattr(inputs.pretraining("terramind_v1", "L1C"), key)) == without


def test_satmaes_eight_bit_images_are_those_of_the_published_code(shared: Path) -> None:
    stored = np.load(shared / "reference" / "satmae_tiny" / "fixtures.npz")
    found = normalised(inputs.of_backbone("satmae", TEN_BANDS, 1, "L1C"), stored["dn"][:, None])
    observed = stored["dn"] != 0
    np.testing.assert_allclose(found[:, 0][observed], stored["input"][observed], atol=1e-6)


def test_galileos_input_is_that_of_the_published_code(shared: Path) -> None:
    stored = np.load(shared / "reference" / "galileo_nano" / "fixtures.npz")
    images = np.moveaxis(stored["dn_64"], (3, 4), (1, 2))  # (n, rows, cols, dates, bands) -> (n, dates, bands, …)
    found = normalised(inputs.of_backbone("galileo", TEN_BANDS, 1, "L1C"), images)
    wanted = np.moveaxis(stored["normalised_64"], (3, 4), (1, 2))
    np.testing.assert_allclose(found[images != 0], wanted[images != 0], atol=1e-5)


def test_what_was_not_observed_is_the_mean_of_the_pretraining() -> None:
    for name in inputs.PRETRAINING:
        row = inputs.pretraining(name, "L2A")
        found = inputs.of_backbone(name, row.bands, 1, "L2A")
        fill = normalised(found, np.zeros((1, 1, len(row.bands), 1, 1), np.uint16))
        if row.visual:
            assert (fill == 0).all(), "ImageNet's mean"
            continue
        mean = np.array(row.mean) - row.offset
        average = normalised(found, mean.round().astype(np.uint16)[None, None, :, None, None])
        np.testing.assert_allclose(fill, average, atol=1 / 255)


def test_imagenet_gets_true_colour_and_the_other_bands_their_own_statistics(tiles: TileSet) -> None:
    found = inputs.of_imagenet(tiles, BAND_NAMES)
    own = inputs.of_tiles(tiles, BAND_NAMES)
    white = np.full((1, 2, 12, 1, 1), 2000, np.uint16)
    values, plain = normalised(found, white)[0, 0, :, 0, 0], normalised(own, white)[0, 0, :, 0, 0]
    for name, mean, std in zip(inputs.RGB, inputs.IMAGENET_MEAN, inputs.IMAGENET_STD, strict=True):
        assert values[BAND_NAMES.index(name)] == pytest.approx((1 - mean) / std, abs=1e-5)
    others = [i for i, name in enumerate(BAND_NAMES) if name not in inputs.RGB]
    np.testing.assert_allclose(values[others], plain[others], rtol=1e-5)
    with pytest.raises(InputError, match=r"B04, B03, B02\), and B02 is not among"):
        inputs.of_imagenet(tiles, ("B03", "B04", "B08"))


def test_a_bundle_keeps_the_numbers(tiles: TileSet) -> None:
    images = np.asarray(tiles.split("val").images[:2])
    for made in (
        inputs.of_tiles(tiles, BAND_NAMES),
        inputs.of_imagenet(tiles, BAND_NAMES),
        inputs.of_backbone("terramind_v1", BAND_NAMES, 2, "L2A"),
    ):
        again = Normalisation.from_dict(json.loads(json.dumps(made.as_dict(), allow_nan=False)))
        np.testing.assert_array_equal(normalised(made, images), normalised(again, images))
    ten = inputs.of_backbone("satmae", TEN_BANDS, 2, "L2A")
    index = [BAND_NAMES.index(name) for name in TEN_BANDS]
    again = Normalisation.from_dict(json.loads(json.dumps(ten.as_dict(), allow_nan=False)))
    np.testing.assert_array_equal(normalised(ten, images[:, :, index]), normalised(again, images[:, :, index]))


@pytest.mark.parametrize("name", inputs.PRETRAINING)
def test_the_datamodule_takes_the_bands_of_the_pretraining_in_its_order(tiles: TileSet, name: str) -> None:
    module = casbah.finetune.TileDataModule(tiles=str(tiles.path), normalisation=name, layout="frames")
    row = inputs.pretraining(name, "L2A")
    assert module.band_names == row.bands
    module.setup("fit")
    assert next(iter(module.train_dataloader()))["image"].shape[1:] == (len(row.bands), 2, 32, 32)


def test_tiles_of_other_units_are_refused(tiles: TileSet, tmp_path: Path) -> None:
    """An image in 0..255 would train without a word, and badly."""
    import shutil

    with TileSet.write(tmp_path / "eight-bit", parameters={}) as draft:
        shutil.copytree(tiles.path, draft.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        found = json.loads((draft.directory / "statistics.json").read_text())
        for key in ("mean", "std", "low", "high"):
            found[key] = (np.array(found[key]) / 40).tolist()
        (draft.directory / "statistics.json").write_text(json.dumps(found))
    module = casbah.finetune.TileDataModule(tiles=str(tmp_path / "eight-bit"))
    with pytest.raises(InputError, match=r"8-bit image or an unscaled one, and reflectance x 10000"):
        module.setup("fit")


@pytest.mark.parametrize(
    ("factory", "model_args", "normalisation", "wanted"),
    [
        (
            "EncoderDecoderFactory",
            {"backbone": "prithvi_eo_v2_300", "backbone_pretrained": True},
            "train",
            "prithvi_v2",
        ),
        (
            "EncoderDecoderFactory",
            {"backbone": "terratorch_terramind_v1_base", "backbone_pretrained": True},
            "prithvi_v2",
            "terramind_v1",
        ),
        ("SMPModelFactory", {"backbone": "resnet50", "pretrained": True}, "train", "imagenet"),
        ("SMPModelFactory", {"backbone": "resnet50"}, "train", "imagenet"),
    ],
)
def test_pretrained_weights_in_other_units_are_an_error(
    factory: str, model_args: dict[str, object], normalisation: str, wanted: str
) -> None:
    with pytest.raises(InputError, match=f"normalisation is {normalisation}, and .* expect their input by {wanted}"):
        inputs.check_pretrained(factory, model_args, normalisation, "x.yaml")
    inputs.check_pretrained(factory, model_args, wanted, "x.yaml")
    switch = "pretrained" if factory == "SMPModelFactory" else "backbone_pretrained"
    inputs.check_pretrained(factory, model_args | {switch: False}, normalisation, "x.yaml")


def test_tiles_know_the_month_of_each_period(tiles: TileSet) -> None:
    assert tiles.info.months == (6, 7)


def test_the_figures_of_another_level_and_a_month_that_nobody_knows_are_said(tiles: TileSet) -> None:
    info = tiles.info
    assert inputs.caveats("prithvi_v2", "prithvi_eo_v2_300", info) == []
    assert inputs.caveats("galileo", "galileo_nano", info) == [
        "the figures of galileo are of level L1C, the tiles of level L2A"
    ]
    own = info.model_copy(update={"level": "L1C"})
    assert inputs.caveats("galileo", "galileo_nano", own) == []
    for months in ((), (6, None)):
        (said,) = inputs.caveats("galileo", "galileo_nano", own.model_copy(update={"months": months}))
        assert "is told June" in said


def test_published_figures_are_refused_for_scenes_that_were_brought_to_a_common_mean(tmp_path: Path) -> None:
    common = make_tiles(tmp_path / "common", normalise="scene")
    module = casbah.finetune.TileDataModule(tiles=str(common.path), normalisation="prithvi_v2", layout="frames")
    with pytest.raises(InputError, match=r"made with --normalise scene, and .* expects reflectance as it was seen"):
        module.setup("fit")
    casbah.finetune.TileDataModule(tiles=str(common.path)).setup("fit")


@pytest.mark.parametrize(
    ("name", "backbone", "more"),
    [
        ("satmae", "satmae_vit_tiny", {}),
        ("scalemae", "scalemae_vit_tiny", {}),
        ("prithvi_v2", "prithvi_eo_v2_tiny_tl", {}),
        ("terramind_v1", "terramind_v1_tiny", {"modalities": ["S2L2A"]}),
        ("galileo", "galileo_nano", {"months": [1], "patch_size": 8}),
    ],
)
def test_the_patches_of_the_table_are_those_of_the_backbones(name: str, backbone: str, more: dict[str, object]) -> None:
    from casbah.models import backbones, network

    with network.quiet():
        backbones.register()
        import terratorch.models
        import terratorch.registry

        found = terratorch.registry.BACKBONE_REGISTRY.build(backbone, **more)
    kernels = {tuple(module.kernel_size)[-2:] for module in found.modules() if hasattr(module, "kernel_size")}
    shapes = {value.shape[-1] for value in found.parameters() if value.ndim >= 4}
    sides = {side for kernel in kernels for side in kernel} | shapes
    if sides:
        assert inputs.pretraining(name, "L2A").patch in sides
    else:  # TerraMind embeds flattened patches
        projection = next(value for key, value in found.named_parameters() if "proj.weight" in key)
        assert projection.shape[1] == len(BAND_NAMES) * inputs.pretraining(name, "L2A").patch ** 2


@pytest.mark.parametrize(
    ("darkest", "normalise", "doubted"), [(1100, "none", True), (900, "none", False), (1100, "scene", False)]
)
def test_an_offset_that_may_be_left_on_is_told(darkest: int, normalise: str, doubted: bool) -> None:
    info = SimpleNamespace(normalise=normalise)
    low = [[darkest + 300.0, float("nan")], [float(darkest), 2000.0]]
    said = inputs.units_in_doubt(SimpleNamespace(path="tiles", info=info, statistics={"low": low}))
    assert bool(said) is doubted
    assert not doubted or "1st percentile at 1100: is the offset of 1000" in said[0]
