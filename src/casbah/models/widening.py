"""ImageNet's first convolution, which knows red, green and blue, for images of more bands and dates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from casbah.errors import InputError

PRIMARIES = ({"B04", "RED"}, {"B03", "GREEN"}, {"B02", "BLUE"})
"""Names of the channels of an ImageNet kernel, in its order, by ESA and by TerraTorch."""


def widen(weight: Tensor, channels: Sequence[object]) -> Tensor:
    """A kernel (out, 3, rows, cols) of R, G, B -> one (out, channels, rows, cols) for images of several dates.

    `channels` names the band of each channel, date after date (B02, B03, B04, B08, B02, …). The red, green and blue
    channels of every date get ImageNet's kernels divided by the number of dates, and all others start at zero: before
    the first step the network answers exactly what ImageNet's would to the mean of the dates' RGB images, whatever the
    other bands hold, and learns from there what they are good for.

    `InputError` where the channels have no names, or a date lacks one of the three.
    """
    names = [str(getattr(channel, "value", channel)) for channel in channels]
    places = [[place for place, name in enumerate(names) if name in primary] for primary in PRIMARIES]
    dates = len(places[0])
    if dates == 0 or any(len(found) != dates for found in places):
        raise InputError(
            f"ImageNet's weights start from red, green and blue, so B04, B03 and B02 are wanted once for each date; "
            f"the channels are {', '.join(names) or 'without names'}"
        )
    wide = torch.zeros(weight.shape[0], len(names), *weight.shape[2:], dtype=weight.dtype)
    for source, found in enumerate(places):
        for place in found:
            wide[:, place] = weight[:, source] / dates
    return wide
