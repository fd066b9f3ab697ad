"""How the simulated instrument sees: point spread, area average, noise and digital numbers."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from casbah.bands import BOA_OFFSET, NODATA, REFLECTANCE_SCALE
from casbah.sample.truth import FINE, MARGIN

Array = NDArray[np.float32]

POINT_SPREAD = {10: 4.9, 20: 7.8, 60: 23.0}
"""Metres: standard deviation of the Gaussian before the pixel's own square, per band resolution. With the square it
gives a modulation transfer at the Nyquist frequency of 0.20, 0.30 and 0.31: within ESA's requirement of 0.15-0.30 at
10 m, and near what is measured at 20 and 60 m (Gascon et al. 2017, Remote Sens. 9, 584)."""

NOISE_FLOOR = 0.0018
NOISE_SHARE = 0.012
"""Standard deviation of the noise: a floor in reflectance and a share of the signal, added in quadrature. Larger than
the instrument's own noise, to stand for what atmospheric correction adds from pixel to pixel."""

PAD = 60.0
"""Metres kept around the image while blurring: 2.6 standard deviations of the widest point spread."""


def area_average(image: Array, factor: int) -> Array:
    """Means of `factor` x `factor` pixels: (rows, cols) -> (rows / factor, cols / factor)."""
    rows, cols = image.shape
    return image.reshape(rows // factor, factor, cols // factor, factor).mean(axis=(1, 3), dtype=np.float32)


def observe(fine: Array, resolution: int, *, shift: tuple[float, float] = (0.0, 0.0), blur: bool = True) -> Array:
    """What a band of `resolution` metres records of the fine truth (with its margin): spread, then averaged.

    `shift` (metres east, north; multiples of 2.5) moves the image against the ground. Returns the imagery without its
    margin.
    """
    across, up = round(shift[0] / FINE), round(shift[1] / FINE)
    before = {10: 1, 20: 2, 60: 4}[resolution]
    pad = round(PAD / FINE) if blur else 0
    margin = round(MARGIN / FINE)
    top, left = margin - pad + up, margin - pad - across
    rows, cols = fine.shape[0] - 2 * (margin - pad), fine.shape[1] - 2 * (margin - pad)
    seen = area_average(fine[top : top + rows, left : left + cols], before)
    if blur:
        step = FINE * before
        seen = ndimage.gaussian_filter(seen, POINT_SPREAD[resolution] / step, mode="nearest", truncate=3.0)
        cut = pad // before
        seen = seen[cut:-cut, cut:-cut]
    return area_average(seen, round(resolution / FINE / before))


def add_noise(reflectance: Array, rng: np.random.Generator) -> Array:
    """Reflectance with the noise of one look."""
    spread = np.hypot(NOISE_FLOOR, NOISE_SHARE * reflectance)
    return reflectance + spread * rng.standard_normal(reflectance.shape, dtype=np.float32)


def digital_numbers(reflectance: Array) -> NDArray[np.uint16]:
    """Reflectance 0-1 -> reflectance x 10000 without offset, at least 1 (0 is nodata)."""
    return np.clip(np.rint(reflectance * REFLECTANCE_SCALE), NODATA + 1, 20_000).astype(np.uint16)


def with_offset(numbers: NDArray[np.uint16], offset: int) -> NDArray[np.uint16]:
    """Add the offset of newer baselines where there is data."""
    assert offset in (0, BOA_OFFSET)
    return np.where(numbers == NODATA, NODATA, numbers + offset).astype(np.uint16)
