"""What a superpixel looks like: statistics of its pixels, texture, spectral indices, and its shape.

Nothing says where in the image it lies, and nothing beyond the image is looked at.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from casbah.bands import REFLECTANCE_SCALE
from casbah.models.pixel_features import INDICES

TEXTURE = 5
"""Pixels across of the window whose deviation is the texture of its middle pixel."""

DARKEST = 1 / REFLECTANCE_SCALE
"""Reflectance below which no pixel is taken for an index: ratios of nothing say nothing."""

SHAPE = 4
"""Features of shape: area, perimeter, compactness, extent."""


def index_count(bands: Sequence[str]) -> int:
    """How many spectral indices these bands suffice for."""
    return sum(set(index.bands) <= set(bands) for index in INDICES)


def feature_count(bands: Sequence[str], periods: int) -> int:
    """How many features `features` gives for images of these bands and periods with their `indices`."""
    return periods * (5 * len(bands) + index_count(bands)) + SHAPE


def indices(images: Tensor, bands: Sequence[str], mean: Tensor, std: Tensor) -> Tensor:
    """Spectral indices (n, periods x indices, rows, cols) of normalised images (n, periods x bands, rows, cols).

    They are ratios of reflectance, so that the normalisation by `mean` and `std` (periods, bands) is taken off first;
    the formulas are those of `casbah.models.pixel_features`. Where nothing was observed a normalised image is 0, and
    the index is that of the mean.
    """
    n, _, rows, cols = images.shape
    stack = images.reshape(n, *mean.shape, rows, cols)
    reflectance = (stack * std[..., None, None] + mean[..., None, None]) / REFLECTANCE_SCALE
    values = reflectance.clamp(min=DARKEST).cpu().numpy().astype(np.float32)
    made = []
    for period in range(values.shape[1]):
        planes = {name: values[:, period, number] for number, name in enumerate(bands)}
        made += [index.formula(planes) for index in INDICES if set(index.bands) <= set(bands)]
    found = np.stack(made, axis=1) if made else np.empty((n, 0, rows, cols), np.float32)
    return torch.from_numpy(found).to(images.device)


def features(images: Tensor, segments: Tensor, indices: Tensor) -> Tensor:
    """(superpixels, features) of images (n, channels, rows, cols) with `segments` (n, rows, cols) and `indices`.

    Per channel mean, standard deviation, minimum, maximum, and the mean of its texture (the deviation in a window of 5
    pixels around each pixel); the mean of each index; and the shape (see `shape`).
    """
    count = int(segments.max()) + 1
    of = segments.reshape(-1)
    values = _by_pixel(images)
    mean = _mean(values, of, count)
    deviation = _mean((values - mean[of]) ** 2, of, count).sqrt()
    lowest, highest = (_extreme(values, of, count, which) for which in ("amin", "amax"))
    texture = _mean(_by_pixel(_texture(images)), of, count)
    index = _mean(_by_pixel(indices), of, count)
    return torch.cat([mean, deviation, lowest, highest, texture, index, shape(segments, count)], dim=1)


def shape(segments: Tensor, count: int) -> Tensor:
    """(superpixels, 4): logarithms of area (pixels) and perimeter (sides of pixels), compactness and extent.

    Compactness is 4 pi area / perimeter^2 (Cox 1927: 1 for a circle, 0.785 for a square of pixels), extent the share
    of the bounding box that is filled. The border of the image counts as perimeter.
    """
    of = segments.reshape(-1)
    rows, cols = segments.shape[1:]
    outside = functional.pad(segments, (1, 1, 1, 1), value=-1)
    sides = torch.zeros(segments.shape, device=segments.device)
    for south, east in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        sides += outside[:, 1 + south : 1 + south + rows, 1 + east : 1 + east + cols] != segments
    area = torch.bincount(of, minlength=count).float()
    perimeter = torch.zeros(count, device=of.device).index_add_(0, of, sides.reshape(-1))
    down = torch.arange(rows, device=of.device).float()[:, None].expand(segments.shape)
    across = torch.arange(cols, device=of.device).float()[None].expand(segments.shape)
    place = torch.stack([down.reshape(-1), across.reshape(-1)], dim=1)
    box = (_extreme(place, of, count, "amax") - _extreme(place, of, count, "amin") + 1).prod(dim=1)
    return torch.stack([area.log(), perimeter.log(), 4 * math.pi * area / perimeter**2, area / box], dim=1)


def _by_pixel(planes: Tensor) -> Tensor:
    """(n, channels, rows, cols) -> (pixels, channels)."""
    return planes.permute(0, 2, 3, 1).reshape(-1, planes.shape[1])


def _mean(values: Tensor, of: Tensor, count: int) -> Tensor:
    total = torch.zeros((count, values.shape[1]), device=values.device).index_add_(0, of, values)
    return total / torch.bincount(of, minlength=count)[:, None]


def _extreme(values: Tensor, of: Tensor, count: int, which: str) -> Tensor:
    start = torch.zeros((count, values.shape[1]), device=values.device)
    return start.scatter_reduce_(0, of[:, None].expand_as(values), values, which, include_self=False)


def _texture(images: Tensor) -> Tensor:
    """Standard deviation in the window around each pixel; windows end at the border."""

    def around(planes: Tensor) -> Tensor:
        return functional.avg_pool2d(planes, TEXTURE, 1, TEXTURE // 2, count_include_pad=False)

    mean = around(images)
    return (around(images**2) - mean**2).clamp(min=0).sqrt()
