"""The encoders compute what the published ones compute, and every key of a published file has its place in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from casbah.models.backbones import positions
from casbah.models.backbones.galileo import Galileo, galileo_nano
from casbah.models.backbones.satmae import SatMAE, satmae_vit_large
from casbah.models.backbones.scalemae import ScaleMAE, scalemae_vit_large

Encoder = TypeVar("Encoder", bound=nn.Module)

IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))


@pytest.fixture(scope="module")
def reference(shared: Path) -> Path:
    """The folder of reference outputs; the test is skipped where it is absent."""
    if not (shared / "reference").is_dir():
        pytest.skip(f"no reference outputs at {shared / 'reference'}")
    return shared / "reference"


def arrays(folder: Path) -> dict[str, Tensor]:
    stored = np.load(folder / "fixtures.npz")
    return {name: torch.from_numpy(stored[name]) for name in stored.files if stored[name].dtype.kind != "U"}


def loaded(encoder: Encoder, file: Path) -> Encoder:
    """The encoder with a file's weights: no key may be left over on either side."""
    encoder.load_state_dict(load_file(file), strict=True)
    return encoder.eval()


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.detach(), wanted, atol=tolerance, rtol=0)


def shapes(encoder: nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in encoder.state_dict().items()}


def on_meta(builder: Callable[[], nn.Module]) -> dict[str, list[int]]:
    """Keys and shapes of an encoder that takes no memory."""
    with torch.device("meta"):
        return shapes(builder())


# SatMAE


def satmae(reference: Path) -> tuple[SatMAE, dict[str, Tensor]]:
    folder = reference / "satmae_tiny"
    return loaded(SatMAE(64, 16, 2, 4), folder / "state_dict.safetensors"), arrays(folder)


def test_satmae_gives_the_published_tokens(reference: Path) -> None:
    encoder, stored = satmae(reference)
    close(encoder.tokens(stored["input"]), stored["tokens"], 1e-5)


def test_satmae_interpolates_positions_as_published(reference: Path) -> None:
    encoder, stored = satmae(reference)
    close(encoder.tokens(stored["input"][:, :, :64, :64]), stored["tokens_h64_interp"], 1e-5)


def test_satmae_without_a_group_for_the_class_token_is_the_encoder_of_the_pretraining(reference: Path) -> None:
    encoder, stored = satmae(reference)
    nn.init.zeros_(encoder.channel_cls_embed)
    close(encoder.tokens(stored["input"][:1]), stored["tokens_channel_cls_zero"], 1e-5)


def test_satmae_maps_are_the_mean_over_the_groups_of_a_patch(reference: Path) -> None:
    encoder, stored = satmae(reference)
    first, final = encoder(stored["input"])
    tokens = {"first": stored["block0"][0, 1:], "final": stored["tokens"][0, 1:]}
    for found, name in ((first, "first"), (final, "final")):
        groups = tokens[name].reshape(3, 12, 12, 64)
        close(found[0, :, 3, 7], groups[:, 3, 7].mean(0), 1e-5)


def test_satmae_starts_from_the_published_tables(reference: Path) -> None:
    stored = np.load(reference / "satmae_tiny/vitl_tables.npz")
    wanted = {array.shape[-1]: array.reshape(-1, array.shape[-1]) for array in (stored[name] for name in stored.files)}
    rows = {int(row): number for number, row in enumerate((0, 1, 2, 13, 144))}
    encoder = SatMAE(width=1024, channel_width=256, depth=1, heads=16)
    close(encoder.pos_embed[0, list(rows)], torch.from_numpy(wanted[768]).float(), 1e-6)
    close(encoder.channel_embed[0], torch.from_numpy(wanted[256]).float(), 1e-6)


def test_satmae_large_has_the_keys_of_the_published_files(reference: Path) -> None:
    layouts = json.loads((reference / "satmae_tiny/vit_layouts.json").read_text())["large"]
    found = on_meta(satmae_vit_large)
    pretraining = {
        name: shape
        for name, shape in layouts["pretrain_mae"].items()
        if not name.startswith("decoder") and name != "mask_token"
    }
    finetuned = {
        name: shape
        for name, shape in layouts["finetune_vit_global_pool"].items()
        if name.split(".")[0] not in ("head", "fc_norm")
    }
    assert found == pretraining | {"channel_cls_embed": [1, 1, 256]}
    assert {name: found.get(name) for name in finetuned} == finetuned


# Scale-MAE


def scalemae(reference: Path, resolution: float = 10.0) -> tuple[ScaleMAE, dict[str, Tensor], Tensor]:
    folder = reference / "scalemae_tiny"
    stored = arrays(folder)
    mean, std = (torch.from_numpy(values)[:, None, None] for values in IMAGENET)
    image = ((stored["rgb_u8"] / 255 - mean) / std).float()
    return loaded(ScaleMAE(64, 2, 4, resolution), folder / "state_dict.safetensors"), stored, image


@pytest.mark.parametrize("resolution", [10.0, 0.3])
def test_scalemae_gives_the_published_tokens_at_each_resolution(reference: Path, resolution: float) -> None:
    encoder, stored, image = scalemae(reference, resolution)
    wanted = stored[f"tokens_res{resolution:g}"]
    close(encoder.tokens(image)[: len(wanted)], wanted, 1e-4)


def test_scalemae_takes_other_sizes_as_published(reference: Path) -> None:
    encoder, stored, image = scalemae(reference)
    close(encoder.tokens(image[:, :, :96, :96]), stored["tokens_res10_h96"], 1e-4)


def test_scalemae_maps_are_its_patch_tokens(reference: Path) -> None:
    encoder, stored, image = scalemae(reference)
    first, final = encoder(image[:1])
    close(first[0, :, 3, 7], stored["block0_res10"][0, 1 + 3 * 14 + 7], 1e-4)
    close(final[0, :, 3, 7], stored["tokens_res10"][0, 1 + 3 * 14 + 7], 1e-4)


def test_scalemae_positions_are_the_published_ones(reference: Path) -> None:
    stored = arrays(reference / "scalemae_tiny")
    close(positions.on_grid(14, 14, 64, step=10.0).flatten(0, 1), stored["pos_embed_d64_g14_res10"][1:], 2e-5)
    large = positions.on_grid(14, 14, 1024, step=10.0).flatten(0, 1)[[0, 1, 14, 195]]
    close(large, stored["pos_embed_d1024_g14_res10_tokens_0_1_2_15_196"][1:], 2e-5)


def test_scalemae_large_has_the_keys_of_the_published_file(reference: Path) -> None:
    layout = json.loads((reference / "scalemae_tiny/reference.json").read_text())["vit_large_layout"]
    published = layout["torchgeo_scalemae_large_patch16"]
    found = on_meta(scalemae_vit_large)
    assert found == {name: shape for name, shape in published.items() if not name.startswith("head")}


# Galileo


class OfGalileo:
    """The published nano encoder with its inputs and outputs."""

    def __init__(self, reference: Path) -> None:
        self.folder = reference / "galileo_nano"
        self.stored = arrays(self.folder)
        self.contract = json.loads((self.folder / "reference.json").read_text())
        self.image = self.stored["normalised_64"].permute(0, 4, 3, 1, 2)
        self.months = self.stored["months"] + 1

    def encoder(self, dates: int = 1, **options: Any) -> Galileo:
        return loaded(galileo_nano(months=[6] * dates, **options), self.folder / "encoder.safetensors")

    def tolerance(self, patch: int) -> float:
        return 1e-5 if patch == 8 else 1e-4


@pytest.fixture(scope="module")
def nano(reference: Path) -> OfGalileo:
    return OfGalileo(reference)


CASES = {
    "h32_p8": (32, 8),
    "h32_p4": (32, 4),
    "h64_p8": (64, 8),
    "h64_p4": (64, 4),
    "h30_p5": (30, 5),
    "h16_p2": (16, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_galileo_gives_the_published_tokens_at_each_patch_size(nano: OfGalileo, case: str) -> None:
    side, patch = CASES[case]
    wanted = nano.stored[f"{case}_tokens"]
    images = slice(0, len(wanted))
    found = nano.encoder(patch_size=patch).tokens(nano.image[images, ..., :side, :side], nano.months[images])
    close(found, wanted, nano.tolerance(patch))


def test_galileo_knows_the_resolution(nano: OfGalileo) -> None:
    found = nano.encoder(patch_size=8, resolution=20.0).tokens(nano.image[..., :32, :32], nano.months)
    close(found, nano.stored["h32_p8_res20_tokens"], 1e-5)


def test_galileo_takes_ndvi_as_one_more_band(nano: OfGalileo) -> None:
    ndvi = nano.stored["h32_ndvi"].permute(0, 3, 1, 2)[:, None]
    image = torch.cat([nano.image[..., :32, :32], ndvi], 1)
    found = nano.encoder(patch_size=8, ndvi=True).tokens(image, nano.months)
    close(found, nano.stored["h32_p8_ndvi_tokens"], 1e-5)


def two_dates(nano: OfGalileo) -> Tensor:
    scale = nano.contract["normalisation"]
    shift, width = (np.array(scale[name][2:12]) for name in ("shift_13", "div_13"))
    normal = ((nano.stored["t2_dn"].numpy() - shift) / width).astype(np.float32)
    return torch.from_numpy(normal).permute(0, 4, 3, 1, 2)


def test_galileo_takes_two_dates(nano: OfGalileo) -> None:
    found = nano.encoder(2, patch_size=8).tokens(two_dates(nano), nano.stored["t2_months"] + 1)
    close(found, nano.stored["h32_p8_t2_tokens"], 1e-5)


def test_galileo_hides_tokens_from_the_others(nano: OfGalileo) -> None:
    hidden = nano.stored["h32_p8_pm_s_t_mask"][:, ::8, ::8, :, 1:6] != 0
    found = nano.encoder(patch_size=8).tokens(nano.image[..., :32, :32], nano.months, hidden)
    close(found, nano.stored["h32_p8_pm_tokens"], 1e-5)


def test_galileo_maps_are_the_published_mean_over_the_groups_of_a_patch(nano: OfGalileo) -> None:
    february = nano.months[0, 0].item()
    encoder = loaded(galileo_nano(months=[int(february)], patch_size=8), nano.folder / "encoder.safetensors")
    found = encoder(nano.image[:1, ..., :32, :32])
    close(found[-1].flatten(2).transpose(1, 2), nano.stored["h32_p8_patch_mean"][:1], 1e-5)
    close(found[1][0].permute(1, 2, 0), nano.stored["h32_p8_dbg_block2"][0].mean(3).squeeze(2), 1e-5)


def test_galileo_maps_have_the_dates_side_by_side(nano: OfGalileo) -> None:
    months = (nano.stored["t2_months"][0] + 1).tolist()
    encoder = loaded(galileo_nano(months=months, patch_size=8), nano.folder / "encoder.safetensors")
    wanted = nano.stored["h32_p8_t2_tokens"][0].mean(3).flatten(2)
    close(encoder(two_dates(nano))[-1][0].permute(1, 2, 0), wanted, 1e-5)


def test_galileo_in_windows_sees_each_as_an_image_of_its_own(nano: OfGalileo) -> None:
    def features(image: Tensor, window: int | None) -> Tensor:
        found: Tensor = nano.encoder(patch_size=4, window=window)(image)[-1]
        return found

    image = nano.image[:1]
    windowed = features(image, 32)
    quarters = [[features(image[..., r : r + 32, c : c + 32], None) for c in (0, 32)] for r in (0, 32)]
    close(windowed, torch.cat([torch.cat(row, 3) for row in quarters], 2), 1e-5)
    close(features(image, 64), features(image, None), 0)
    assert (windowed - features(image, None)).abs().max() > 0.01


def test_galileo_starts_from_the_published_tables(nano: OfGalileo) -> None:
    published, own = load_file(nano.folder / "encoder.safetensors"), galileo_nano(months=[6]).state_dict()
    assert shapes(galileo_nano(months=[6])) == {name: list(value.shape) for name, value in published.items()}
    for name in ("pos_embed", "month_embed.weight"):
        close(own[name], published[name], 1e-5)
