"""Convolutions that cut an image into patches, computed in float32 whatever the rest of a network computes in.

On a CPU with matrix units (AMX) oneDNN 3 sums wrongly in convolutions of bfloat16 whose stride is large: patches of 16
x 16 pixels come out as noise, silently (https://github.com/pytorch/pytorch/issues/169688). They are cut once at the
beginning of a network and take little of its time, so that float32 costs nothing to speak of.
"""

from typing import Any

import torch
from torch import Tensor, nn

LARGE = 2
"""Strides above this are computed in float32; of those up to it none was found wrong."""


class _InFloat32:
    """To be put before a convolution among the bases of a class."""

    def forward(self, images: Tensor) -> Tensor:
        """As the convolution's own."""
        convolution: Any = self
        with torch.autocast(images.device.type, enabled=False):
            answer: Tensor = super().forward(images.to(convolution.weight.dtype))  # type: ignore[misc]
        return answer


class Patches2d(_InFloat32, nn.Conv2d):
    """Of images (n, channels, rows, cols)."""


class Patches3d(_InFloat32, nn.Conv3d):
    """Of images (n, channels, dates, rows, cols)."""


EXACT: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: Patches2d, nn.Conv3d: Patches3d}


def in_float32(model: nn.Module) -> nn.Module:
    """The same network, its convolutions of a large stride changed in place: names and weights stay what they are."""
    for module in model.modules():
        kind = EXACT.get(type(module))
        if kind is not None and max(getattr(module, "stride", ())) > LARGE:
            module.__class__ = kind
    return model
