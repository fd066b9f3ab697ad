"""Patches are cut in float32, since bfloat16 makes noise of them on some CPUs; nothing else of a network changes."""

from typing import Any

import pytest
import torch
from torch import nn

from casbah.finetune.experiment import read
from casbah.models import network
from casbah.models.patches import in_float32

BANDS = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]


@pytest.fixture(scope="module")
def prithvi() -> nn.Module:
    """A small one, through TerraTorch's own factory."""
    torch.manual_seed(0)
    given = read("prithvi_tiny_upernet").settings["model"]["init_args"]
    filled = {"backbone_bands": BANDS, "backbone_num_frames": 1, "num_classes": 2}
    return network.build(given["model_factory"], network.untrained(given["model_args"]) | filled).eval()


def test_a_transformer_sees_the_same_patches_in_bfloat16_and_in_float32(prithvi: nn.Module) -> None:
    seen: list[torch.Tensor] = []
    cut: Any = network.encoder_of(prithvi).patch_embed.proj  # type: ignore[union-attr]
    handle = cut.register_forward_hook(lambda _, __, answer: seen.append(answer))
    images = torch.randn(1, 6, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = prithvi(images).output.softmax(1)
        with torch.autocast("cpu", torch.bfloat16):
            found = prithvi(images).output.float().softmax(1)
    handle.remove()
    assert seen[1].dtype == torch.float32
    assert torch.equal(seen[0], seen[1])
    assert (found - wanted).abs().max() < 0.01


def test_only_large_strides_are_changed_and_no_name_or_weight() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 8, 4, stride=4), nn.Conv1d(3, 4, 8, stride=8))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert in_float32(model) is model
    assert [type(one).__name__ for one in model] == ["Conv2d", "Patches2d", "Conv1d"]
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    with torch.autocast("cpu", torch.bfloat16):
        assert model[0](torch.ones(1, 3, 32, 32)).dtype == torch.bfloat16
        model[1](torch.ones(1, 4, 8, 8, requires_grad=True)).sum().backward()
    assert model[1].weight.grad.dtype == torch.float32


def test_a_network_of_half_precision_weights_still_answers() -> None:
    model = in_float32(nn.Sequential(nn.Conv2d(3, 4, 4, stride=4))).to(torch.bfloat16)
    assert model(torch.ones(1, 3, 8, 8)).shape == (1, 4, 2, 2)
