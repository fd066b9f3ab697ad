"""TerraTorch builds our encoders by name; they take tiles of any fitting shape, and refuse the others in a sentence."""

import importlib
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casbah.errors import InputError
from casbah.models import backbones, network
from casbah.models.backbones import windows
from casbah.models.backbones.galileo import galileo_nano
from casbah.models.backbones.satmae import satmae_vit_tiny
from casbah.models.backbones.scalemae import scalemae_vit_tiny

PYRAMID = [{"name": "SelectIndices", "indices": [0, 1, 2, 3]}, {"name": "LearnedInterpolateToPyramidal"}]
UPERNET = {"necks": PYRAMID, "decoder": "UperNetDecoder", "decoder_channels": 16}
FCN = {
    "necks": [{"name": "SelectIndices", "indices": [-1]}],
    "decoder": "FCNDecoder",
    "decoder_channels": 16,
    "decoder_num_convs": 2,
}
ONE_BY_ONE = {
    "backbone_use_temporal": True,
    "backbone_temporal_pooling": "concat",
    "backbone_temporal_n_timestamps": 2,
}
GALILEO = {"backbone": "galileo_nano", "backbone_patch_size": 8, "backbone_window": 32}
NETWORKS = {
    "SatMAE": ({"backbone": "satmae_vit_tiny"}, (10,)),
    "SatMAE, two dates": ({"backbone": "satmae_vit_tiny"} | ONE_BY_ONE, (10, 2)),
    "ScaleMAE": ({"backbone": "scalemae_vit_tiny", "backbone_resolution": 10.0}, (3,)),
    "ScaleMAE, two dates": ({"backbone": "scalemae_vit_tiny"} | ONE_BY_ONE, (3, 2)),
    "Galileo": (GALILEO | {"backbone_months": [7]}, (10, 1)),
    "Galileo, two dates": (GALILEO | {"backbone_months": [1, 7]}, (10, 2)),
}


def build(args: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return network.build("EncoderDecoderFactory", args | {"num_classes": 2})


@pytest.mark.parametrize("decoder", [UPERNET, FCN], ids=["UperNet", "FCN"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_built_by_name_learns(name: str, decoder: dict[str, Any]) -> None:
    args, bands = NETWORKS[name]
    model = build(args | decoder)
    image, mask = torch.randn(2, *bands, 64, 64), torch.randint(0, 2, (2, 64, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(network.logits(model, image), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_takes_sides_that_are_no_multiple_of_the_patch(name: str) -> None:
    args, bands = NETWORKS[name]
    with torch.inference_mode():
        found = network.logits(build(args | UPERNET).eval(), torch.randn(1, *bands, 50, 71))
    assert found.shape == (1, 2, 50, 71)


def test_builders_are_registered_once() -> None:
    from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

    backbones.register()
    before = sorted(TERRATORCH_BACKBONE_REGISTRY)
    backbones.register()
    assert sorted(TERRATORCH_BACKBONE_REGISTRY) == before
    assert TERRATORCH_BACKBONE_REGISTRY["galileo_nano"] is galileo_nano


def test_importing_the_data_module_registers_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

    import casbah.finetune

    assert casbah.finetune.TileDataModule
    monkeypatch.setattr(TERRATORCH_BACKBONE_REGISTRY, "_registry", {})
    monkeypatch.setattr(casbah.finetune, "datamodule", None)
    monkeypatch.delitem(sys.modules, "casbah.finetune.datamodule")
    importlib.import_module("casbah.finetune.datamodule")
    assert {"satmae_vit_large", "scalemae_vit_large", "galileo_nano"} <= set(TERRATORCH_BACKBONE_REGISTRY)


def maps(encoder: nn.Module, *shape: int) -> list[tuple[int, ...]]:
    """Shapes of an encoder's maps, which must be what it says of itself."""
    found: list[Tensor] = encoder(torch.randn(shape))
    channels: Any = encoder.out_channels
    assert [each.shape[1] for each in found] == list(channels)
    return [tuple(each.shape) for each in found]


@pytest.mark.parametrize("side", [(64, 64), (96, 32)])
def test_every_block_gives_a_map(side: tuple[int, int]) -> None:
    rows, cols = side
    assert maps(satmae_vit_tiny(), 2, 10, *side) == [(2, 64, rows // 8, cols // 8)] * 4
    assert maps(scalemae_vit_tiny(), 2, 3, *side) == [(2, 64, rows // 16, cols // 16)] * 4
    assert maps(galileo_nano(months=[6], patch_size=8), 2, 10, *side) == [(2, 128, rows // 8, cols // 8)] * 4
    three = galileo_nano(months=[1, 6, 6], patch_size=8, window=32)
    assert maps(three, 2, 10, 3, *side) == [(2, 384, rows // 8, cols // 8)] * 4


@pytest.mark.parametrize("patch", range(1, 9))
def test_galileo_has_a_token_for_each_patch_of_any_size(patch: int) -> None:
    encoder = galileo_nano(months=[6], patch_size=patch, window=4 * patch)
    assert maps(encoder, 1, 10, 6 * patch, 4 * patch)[0] == (1, 128, 6, 4)


def test_galileo_sees_order_and_season_of_its_dates() -> None:
    image = torch.randn(1, 10, 2, 16, 16)
    torch.manual_seed(0)
    winter_first = galileo_nano(months=[1, 7], patch_size=8).eval()
    torch.manual_seed(0)
    summer_first = galileo_nano(months=[7, 1], patch_size=8).eval()
    assert not torch.allclose(winter_first(image)[-1], summer_first(image)[-1])
    assert not torch.allclose(winter_first(image)[-1], winter_first(image.flip(2))[-1])


def test_one_date_is_the_same_with_and_without_an_axis_for_it() -> None:
    encoder, image = galileo_nano(months=[6], patch_size=8).eval(), torch.randn(1, 10, 16, 16)
    assert torch.equal(encoder(image)[-1], encoder(image[:, :, None])[-1])


def test_windows_cover_a_grid_of_any_size_once() -> None:
    for rows, cols in ((1, 1), (8, 8), (16, 24), (9, 13), (23, 8)):
        grid = torch.arange(2.0 * rows * cols).reshape(2, rows, cols, 1)
        parts = windows.split(grid, (min(8, rows), min(8, cols)))
        assert torch.equal(windows.join(parts, rows, cols), grid)


UNUSED = ("S1", "NDVI", "space_embed", "time_embed", "static_embed", "sp_channel", "t_channel", "st_channel")


@pytest.mark.parametrize("name", ["satmae", "scalemae", "galileo", "galileo with NDVI"])
def test_every_parameter_that_sentinel_2_uses_learns(name: str) -> None:
    encoder, bands = {
        "satmae": (satmae_vit_tiny(), 10),
        "scalemae": (scalemae_vit_tiny(), 3),
        "galileo": (galileo_nano(months=[6], window=16), 10),
        "galileo with NDVI": (galileo_nano(months=[6], window=16, ndvi=True), 11),
    }[name]
    sum((each**2 * torch.randn_like(each)).sum() for each in encoder(torch.randn(2, bands, 32, 32))).backward()
    still = {key for key, value in encoder.named_parameters() if value.grad is None or not value.grad.abs().any()}
    unused = [part for part in UNUSED if "galileo" in name and not (part == "NDVI" and "NDVI" in name)]
    assert still == {key for key, _ in encoder.named_parameters() if _rests(key, unused)}


def _rests(key: str, unused: list[str]) -> bool:
    return any(key.startswith((part, f"space_time_embed.{part}.")) for part in unused)


REFUSED = {
    "a side between patches": (satmae_vit_tiny, {}, (1, 10, 64, 60), "multiples of its patch of 8 px, and got 64 x 60"),
    "a patch too small": (scalemae_vit_tiny, {}, (1, 3, 8, 16), "multiples of its patch of 16 px"),
    "13 bands": (satmae_vit_tiny, {}, (1, 13, 64, 64), "10 bands, and got 13"),
    "ten bands as red, green and blue": (scalemae_vit_tiny, {}, (1, 10, 64, 64), "3 bands, and got 10"),
    "dates for one date": (satmae_vit_tiny, {}, (1, 10, 2, 64, 64), "(batch, bands, rows, cols)"),
    "dates for one date of ScaleMAE": (scalemae_vit_tiny, {}, (1, 3, 2, 64, 64), "(batch, bands, rows, cols)"),
    "another number of dates": (galileo_nano, {"months": [1, 7]}, (1, 10, 3, 64, 64), "the 2 date(s)"),
    "one date for two": (galileo_nano, {"months": [1, 7]}, (1, 10, 64, 64), "the 2 date(s)"),
    "a side between small patches": (galileo_nano, {"months": [7]}, (1, 10, 30, 32), "patch of 4 px, and got 30 x 32"),
    "no NDVI": (galileo_nano, {"months": [7], "ndvi": True}, (1, 10, 32, 32), "11 bands, and got 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_image_that_does_not_fit_is_refused(case: str) -> None:
    builder, options, shape, sentence = REFUSED[case]
    encoder: Any = builder
    with pytest.raises(InputError) as refusal:
        encoder(**options)(torch.zeros(shape))
    assert sentence in str(refusal.value)


SETTINGS = {
    "month 0": (galileo_nano, {"months": [0]}, "months of Galileo are [0]"),
    "no month": (galileo_nano, {"months": []}, "months of Galileo are []"),
    "25 dates": (galileo_nano, {"months": [6] * 25}, "1 to 24 dates"),
    "patch 16": (galileo_nano, {"months": [6], "patch_size": 16}, "patch_size of Galileo is 16"),
    "window 30": (galileo_nano, {"months": [6], "window": 30}, "window of Galileo is 30 px"),
    "window 0": (galileo_nano, {"months": [6], "window": 0}, "window of Galileo is 0 px"),
    "resolution 0": (galileo_nano, {"months": [6], "resolution": 0}, "resolution of Galileo is 0"),
    "no resolution": (scalemae_vit_tiny, {"resolution": float("nan")}, "resolution of ScaleMAE is nan"),
    "blue first": (scalemae_vit_tiny, {"bands": ["B02", "B03", "B04"]}, "B04, B03, B02 in this order"),
    "a band less": (satmae_vit_tiny, {"bands": ["B02", "B03"]}, "and got B02, B03"),
    "weights": (satmae_vit_tiny, {"pretrained": True}, "built untrained"),
    "a file": (galileo_nano, {"months": [6], "ckpt_path": "encoder.pt"}, "built untrained"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_that_does_not_fit_is_refused(case: str) -> None:
    builder, options, sentence = SETTINGS[case]
    call: Any = builder
    with pytest.raises(InputError) as refusal:
        call(**options)
    assert sentence in str(refusal.value)


def test_bands_may_go_by_their_common_names() -> None:
    scalemae_vit_tiny(bands=["RED", "GREEN", "BLUE"])


def test_a_refusal_reaches_who_builds_by_name() -> None:
    with pytest.raises(InputError, match="months of Galileo"):
        build({"backbone": "galileo_nano", "backbone_months": [13]} | FCN)
    with pytest.raises(InputError, match="months"):
        build({"backbone": "galileo_nano"} | FCN)
