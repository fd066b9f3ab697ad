"""Overlapping windows laid together: what a model says of images of any size, without seams.

Each window counts fully in its middle and fades out towards its neighbours along a raised cosine (Hann). The outermost
pixels of a window, whose surroundings the model could not see, count nothing where a neighbour has seen them; along the
border of the image nobody has, and a window counts fully there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casbah.bands import NODATA
from casbah.errors import InputError
from casbah.models import Predictor, check_images

WINDOW = 256
"""Pixels: a window is as many of the model's own tiles across as fit in this, but at least one."""

WIDE = 512
"""The same for networks of convolutions alone, which see no farther in a larger window: of all that goes through a
network of this and `OVERLAP` 31 % is seen more than once, of windows of `WINDOW` 78 %."""

OVERLAP = 64
"""Pixels that neighbouring windows share at the least. A quarter of them on either side count nothing: of 16 pixels,
all that a feature of boosted trees sees around its own (13 with a first stage's context) lies inside the window."""

Layers = Callable[[NDArray[np.uint16]], NDArray[np.float32]]
"""Images (n, periods, bands, rows, cols) -> values (layers, n, rows, cols)."""


def default_window(predictor: Predictor) -> int:
    """The side of the windows that go through a model, in pixels, where none is asked for."""
    tile = predictor.training.tile_size
    return tile * max(1, (WIDE if _local(predictor) else WINDOW) // tile)


def default_overlap(predictor: Predictor, window: int) -> int:
    """The pixels that neighbouring windows share where nobody says how many."""
    return min(OVERLAP if _local(predictor) else max(OVERLAP, window // 4), window // 2)


def _local(predictor: Predictor) -> bool:
    """Whether a model says of itself that what lies far from a pixel does not matter to it."""
    return bool(getattr(predictor, "local", False))


def sizes(predictor: Predictor, window: int | None, overlap: int | None) -> tuple[int, int]:
    """Window and overlap in pixels, the defaults filled in; `InputError` where they can't be laid together."""
    window = default_window(predictor) if window is None else window
    if window < 1:
        raise InputError(f"window is {window}; a side of at least 1 pixel is wanted")
    overlap = default_overlap(predictor, window) if overlap is None else overlap
    if not 0 <= overlap <= window // 2:
        raise InputError(
            f"overlap is {overlap}; 0 to {window // 2} pixels are wanted, half of the window of {window} at the most"
        )
    return window, overlap


@dataclass(frozen=True)
class Axis:
    """Where windows begin along one side of an image, and what their pixels count.

    All windows are `size` pixels long and lie inside: the last one overlaps more. `weights` (windows, size) add up to 1
    at each pixel.
    """

    length: int
    size: int
    starts: tuple[int, ...]
    weights: NDArray[np.float32]

    @classmethod
    def cut(cls, length: int, window: int, overlap: int) -> "Axis":
        """Windows over `length` pixels; a shorter image is one window of its own size."""
        size = min(window, length)
        starts = (*range(0, length - size, window - overlap), length - size)
        margin = overlap // 4
        ramp = overlap - 2 * margin
        rising = np.concatenate([np.zeros(margin), np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / max(ramp, 1)) ** 2])
        weights = np.ones((len(starts), size))
        if len(starts) > 1:
            weights[1:, : len(rising)] *= rising
            weights[:-1, size - len(rising) :] *= rising[::-1]
        total = np.zeros(length)
        for start, weight in zip(starts, weights, strict=True):
            total[start : start + size] += weight
        for start, weight in zip(starts, weights, strict=True):
            weight /= total[start : start + size]
        return cls(length, size, starts, weights.astype(np.float32))

    def end(self, window: int) -> int:
        """The pixel after the last one of a window."""
        return self.starts[window] + self.size

    def settled(self, window: int) -> int:
        """The pixel up to which nothing changes any more once this window and those before it are added."""
        return self.starts[window + 1] if window + 1 < len(self.starts) else self.length


def add_row(
    layers: Layers,
    images: NDArray[np.uint16],
    row_weight: NDArray[np.float32],
    cols: Axis,
    chosen: range,
    sums: NDArray[np.float32],
) -> None:
    """Add one row of windows to `sums` (layers, n, rows, width), in place.

    `images` (n, periods, bands, rows, width) begin at the first of the `chosen` windows of `cols` and are one window
    high, of which each row of pixels counts `row_weight`. Windows without any observation are not looked at.
    """
    left = cols.starts[chosen[0]]
    places, windows = [], []
    for number in chosen:
        start = cols.starts[number] - left
        part = images[..., start : start + cols.size]
        for n in range(len(part)):
            if part[n].any():
                places.append((number, n, start))
                windows.append(part[n])
    if not windows:
        return
    found = layers(np.stack(windows))
    for at, (number, n, start) in enumerate(places):
        weight = row_weight[:, None] * cols.weights[number]
        sums[:, n, :, start : start + cols.size] += weight * found[:, at]


def probability_layer(predictor: Predictor) -> Layers:
    """The probabilities of a model as the one layer; `InputError` where it gives NaN or another shape."""

    def layers(images: NDArray[np.uint16]) -> NDArray[np.float32]:
        return checked(predictor, predictor.probabilities(images), images)[None]

    return layers


def checked(predictor: Predictor, found: NDArray[np.float32], images: NDArray[np.uint16]) -> NDArray[np.float32]:
    """`found` if it is a probability of each pixel of `images`, else an `InputError`."""
    if found.shape != (len(images), *images.shape[-2:]) or np.isnan(found).any():
        raise InputError(
            f"{predictor.training.experiment} gave NaN or a wrong shape ({found.shape} for images of {images.shape}): "
            "its weights are not sound; train it again"
        )
    return found


def unobserved(images: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Where (n, rows, cols) images (n, periods, bands, rows, cols) hold no observation of any period and band."""
    return ~(images != NODATA).any(axis=(1, 2))


def blended(
    predictor: Predictor, images: NDArray[np.uint16], *, window: int | None = None, overlap: int | None = None
) -> NDArray[np.float32]:
    """P(building) (n, rows, cols) of images (n, periods, bands, rows, cols) of any size, in memory.

    Windows of `window` pixels that share `overlap` go through the model and are blended; both as the model's tiles
    suggest where None. An image smaller than a window is one window. NaN where a pixel was observed in no period (all
    bands 0). `InputError` for images that the model does not take, and for sizes that can't be laid together.
    """
    check_images(predictor.training, images)
    window, overlap = sizes(predictor, window, overlap)
    height, width = images.shape[-2:]
    sums = np.zeros((1, len(images), height, width), np.float32)
    if not sums.size:
        return sums[0]
    rows, cols = Axis.cut(height, window, overlap), Axis.cut(width, window, overlap)
    layers = probability_layer(predictor)
    for number, start in enumerate(rows.starts):
        part = (..., slice(start, start + rows.size), slice(None))
        add_row(layers, images[part], rows.weights[number], cols, range(len(cols.starts)), sums[part])
    sums[0][unobserved(images)] = np.nan
    return sums[0]
