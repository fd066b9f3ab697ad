"""A folded network gives the same answers with fewer steps, and what can't be folded is left as it is."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casbah.models import network
from casbah.models.fusion import Convolution, folded, in_bfloat16

in_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN computes in bfloat16 with AVX-512 and later"
)

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


def convolutions(model: nn.Module) -> list[Convolution]:
    return [module for module in model.modules() if isinstance(module, Convolution)]


@in_bf16
def test_a_unet_in_bfloat16_answers_as_it_did_but_for_rounding() -> None:
    model = folded(unet(), IMAGES)
    made = in_bfloat16(model, IMAGES)
    assert len(convolutions(made)) == sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert {(one.weight.dtype, one.then) for one in convolutions(made)} == {
        (torch.bfloat16, "relu"), (torch.bfloat16, "none"),
    }  # fmt: skip
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found, wanted = made(IMAGES).output.float(), model(IMAGES).output.float()
    assert (found - wanted).abs().mean() < 0.02 * wanted.abs().max()
    assert not convolutions(model), "the network itself is as it was"


@in_bf16
def test_in_bfloat16_a_bias_is_not_rounded() -> None:
    """PyTorch's own convolution rounds it, which moves all pixels the same way."""
    model = Skipping(inplace=True).eval()
    nn.init.constant_(model.conv.weight, 0.01)
    nn.init.constant_(model.conv.bias, 1.003)  # of which bfloat16 makes 1
    with torch.no_grad():
        wanted = model.conv(IMAGES).mean()
        rounded = model.conv.to(torch.bfloat16)(IMAGES.to(torch.bfloat16)).float().mean()
        model.conv.float()
        nn.init.constant_(model.conv.bias, 1.003)
        (conv,) = convolutions(in_bfloat16(model, IMAGES))
        found = conv(IMAGES).float().mean()
    assert abs(rounded - wanted) > 2e-3
    assert abs(found - wanted) < 1e-3


class Skipping(nn.Module):
    """A convolution whose result is added to, or looked at by another, before its ReLU."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.relu, self.inplace = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), inplace

    def forward(self, images: Tensor) -> Any:
        seen = self.conv(images)
        if self.inplace:
            seen += images
            return SimpleNamespace(output=self.relu(seen))
        return SimpleNamespace(output=self.relu(seen) - seen)


@in_bf16
def test_a_relu_is_not_done_before_something_is_added() -> None:
    model = Skipping(inplace=True).eval()
    made = in_bfloat16(model, IMAGES)
    assert [one.then for one in convolutions(made)] == ["none"]
    with torch.inference_mode():
        torch.testing.assert_close(made(IMAGES).output.float(), model(IMAGES).output, atol=0.05, rtol=0)


@in_bf16
def test_a_relu_whose_input_is_needed_elsewhere_leaves_the_network_as_it_is() -> None:
    model = Skipping(inplace=False).eval()
    assert in_bfloat16(model, IMAGES) is model


def test_a_network_without_plain_convolutions_is_handed_back() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    assert in_bfloat16(model, IMAGES) is model
