"""Superpixels of a batch of images (SLIC), and which of them touch."""

import numpy as np
import torch
from skimage.segmentation import slic
from torch import Tensor

ROUNDS = 5
"""Iterations of SLIC: segments of a few pixels have settled by then."""

BRIGHTEST = 4.0
"""Standard deviations at which images are cut off: one glaring roof would flatten all other differences, since SLIC
scales each image by its own extremes."""


def segments(images: Tensor, pixels: int, compactness: float) -> Tensor:
    """The superpixel of each pixel, int64 (n, rows, cols), numbered from 0 on through the whole batch.

    `images` (n, channels, rows, cols) are normalised; each is looked at alone. A superpixel has about `pixels` pixels
    (SLIC starts from a square lattice, so that sizes go in steps: 4, 9, 16 …) and is 4-connected. `compactness` weighs
    distance against likeness: higher means squarer. Achanta et al. 2012 (doi:10.1109/TPAMI.2012.120), by scikit-image.
    """
    values = images.detach().float().clamp(-BRIGHTEST, BRIGHTEST).permute(0, 2, 3, 1).cpu().numpy()
    found = np.empty(values.shape[:3], np.int64)
    first = 0
    for image, target in zip(values, found, strict=True):
        target[:] = _segments(image, pixels, compactness) + first
        first = int(target.max()) + 1
    return torch.from_numpy(found).to(images.device)


def _segments(image: np.ndarray, pixels: int, compactness: float) -> np.ndarray:
    """The superpixels of one image (rows, cols, channels), numbered without a gap."""
    rows, cols, _ = image.shape
    wanted = round(rows * cols / pixels)
    if wanted < 2 or image.min() == image.max():  # nothing to tell apart: SLIC would divide by that difference
        return np.zeros((rows, cols), np.int64)
    found = slic(
        np.ascontiguousarray(image, np.float64),
        n_segments=wanted,
        compactness=compactness,
        max_num_iter=ROUNDS,
        convert2lab=False,
        start_label=0,
        channel_axis=-1,
    )
    return np.unique(found, return_inverse=True)[1].reshape(rows, cols)


def adjacency(segments: Tensor) -> Tensor:
    """Which superpixels share a side of a pixel, (2, edges) int64: each pair in both directions, once.

    `segments` (n, rows, cols) as `segments` gives them. Pixels of two images are never neighbours.
    """
    pairs = torch.cat([_beside(segments[:, :, :-1], segments[:, :, 1:]), _beside(segments[:, :-1], segments[:, 1:])])
    both = torch.cat([pairs, pairs.flip(1)])
    count = int(segments.max()) + 1
    codes = torch.unique(both[:, 0] * count + both[:, 1])  # many times as fast as unique pairs
    return torch.stack([codes // count, codes % count])


def _beside(one: Tensor, other: Tensor) -> Tensor:
    """(pairs, 2) of different superpixels at the same place of two equal arrays."""
    differ = one != other
    return torch.stack([one[differ], other[differ]], dim=1)
