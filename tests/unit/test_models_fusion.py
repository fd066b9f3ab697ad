"""A folded network gives the same answers with fewer steps, and what can't be folded is left as it is."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casbah.models import network
from casbah.models.fusion import folded

IMAGES = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def trained(model: nn.Module) -> nn.Module:
    """With statistics and scales as training leaves them, none of them 0 or 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.5, 2.0)
            for values in (module.running_mean, module.bias):
                nn.init.normal_(values)
    return model.eval()


def unet() -> nn.Module:
    return trained(
        network.build(
            "SMPModelFactory",
            {"backbone": "resnet18", "model": "Unet", "pretrained": False, "bands": ["BLUE", "GREEN", "RED", "NIR"],
             "num_classes": 2},
        )
    )  # fmt: skip


class Small(nn.Module):
    """A convolution and its normalisation, to which somebody else may listen too."""

    def __init__(self, listened: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.listened, self.twice = listened, twice

    def forward(self, images: Tensor) -> Any:
        seen = self.conv(images)
        found = self.norm(seen)
        if self.twice:
            found = self.norm(self.conv(found))
        return SimpleNamespace(output=found + seen if self.listened else found)


def test_a_unet_gives_the_same_answers_without_any_normalisation_left() -> None:
    model = unet()
    assert norms(model) > 10
    made = folded(model, IMAGES)
    assert norms(made) == 0
    assert norms(model) > 10, "the network itself is as it was"
    with torch.inference_mode():
        found, wanted = made(IMAGES).output, model(IMAGES).output
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["listened", "twice"])
def test_a_convolution_that_is_needed_elsewhere_is_left_alone(kind: str) -> None:
    model = trained(Small(**{kind: True}))
    assert folded(model, IMAGES) is model


def test_a_network_without_normalisation_is_handed_back() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    assert folded(model, IMAGES) is model


def test_normalisation_by_the_batch_at_hand_is_left_alone() -> None:
    model = Small()
    model.norm = nn.BatchNorm2d(4, track_running_stats=False)
    assert folded(model.eval(), IMAGES) is model
