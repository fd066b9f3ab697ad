"""Registration: how far footprints must move to lie on the buildings that an image shows.

The cover of the footprints is moved over the image pixel by pixel. At each offset it is regressed on the logarithms of
all bands, both freed of their local mean, so that the image need not show buildings as bright or as dark: the least
squares find the combination of bands. The shift is where the multiple correlation is highest, between pixels too, on a
bicubic spline through the correlations (pixels are averages, so that surface is smooth).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import binary_erosion, uniform_filter

from casbah.errors import InputError

MAX_SHIFT = 3.0
"""Pixels of the search in every direction. Sentinel-2 is placed within 1-2 pixels, and labels are seldom worse."""

LOCAL = 15
"""Pixels of the window whose mean is taken off: streets and blocks stay, fields against towns go (they fit at any
offset, which flattens the peak). On two dates of a real town 9 to 31 pixels gave the same shift within 1 metre."""

STEP = 0.02
"""Pixels between the points at which the spline is looked up."""

GROUPS = 4
"""Independent parts that each give their own estimate, to tell a real peak from noise."""

SPREAD = 0.5
"""Pixels: the standard error, from the scatter of the groups, up to which an estimate is called reliable."""

SIGNAL = 10.0
"""The squared correlation must be this many times what as many bands reach with noise by chance (bands / pixels);
blurred noise, whose pixels are not independent, reaches several times that value."""

CHUNK = 50_000
"""Pixels that are moved to all offsets at once, so that memory does not grow with the area."""

MIN_BUILT = 25.0
"""Pixels' worth of buildings below which no estimate is called reliable."""


@dataclass(frozen=True)
class ShiftEstimate:
    """The metres `east` and `north` by which footprints must move to fit the image.

    `correlation_before` and `correlation_after` are the multiple correlations of cover and bands there; `error` is the
    standard error of the shift in metres (the worse axis; infinite where it can't be told). Where `reliable` is False
    too little is built, the image hardly shows it, the peak lies at the border of the search, or parts of the area
    disagree: do not move by it.
    """

    east: float
    north: float
    correlation_before: float
    correlation_after: float
    reliable: bool
    error: float = float("inf")


def estimate_shift(
    image: NDArray[np.floating] | NDArray[np.uint16],
    cover: NDArray[np.uint8],
    resolution: float,
    *,
    max_shift: float = MAX_SHIFT,
) -> ShiftEstimate:
    """Estimate the shift of one area from an `image` (bands, rows, cols; 0 or NaN = nodata) and its cover.

    `cover` is percent (rows, cols) with 255 unknown: pixels that must not be looked at (other splits, say) are set to
    255. About `max_shift` pixels (3 by default) along every border and around unknown pixels are lost to the search.
    `resolution` is metres per pixel, rows run south. `InputError` where the shapes do not fit.
    """
    return estimate_shift_of([(image, cover)], resolution, max_shift=max_shift)


def estimate_shift_of(
    areas: Iterable[tuple[NDArray[np.floating] | NDArray[np.uint16], NDArray[np.uint8]]],
    resolution: float,
    *,
    max_shift: float = MAX_SHIFT,
) -> ShiftEstimate:
    """Estimate one shift for several areas together (the blocks of a split, say), read one after the other."""
    reach = int(np.ceil(max_shift)) + 1
    groups: list[_Moments | None] = [None] * GROUPS
    for image, cover in areas:
        for group, moments in enumerate(_moments(image, cover, reach)):
            known = groups[group]
            groups[group] = moments if known is None else known + moments
    found = [group for group in groups if group is not None]
    if not found:
        raise InputError("no area was given to estimate a shift from")
    return _estimate(found, resolution, reach, max_shift)


@dataclass
class _Moments:
    """Sums over pixels from which the correlation at each of n offsets follows; they add up over areas.

    `bands` (k, k) and `cross` (k, n) are sums of products, `band` (k) and `cover` (n) sums, `square` (n) sums of
    squares, `count` the pixels and `built` the pixels' worth of buildings.
    """

    bands: NDArray[np.float64]
    cross: NDArray[np.float64]
    band: NDArray[np.float64]
    cover: NDArray[np.float64]
    square: NDArray[np.float64]
    count: float
    built: float

    @classmethod
    def none(cls, bands: int, offsets: int) -> "_Moments":
        pair, cover = np.zeros((bands, bands)), np.zeros(offsets)
        return cls(pair, np.zeros((bands, offsets)), np.zeros(bands), cover, cover, 0.0, 0.0)

    def __add__(self, other: "_Moments") -> "_Moments":
        if self.band.shape != other.band.shape:
            raise InputError(f"areas of {len(self.band)} and of {len(other.band)} bands can't give one shift")
        return _Moments(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def correlations(self) -> NDArray[np.float64]:
        """The multiple correlation (0-1) of cover and bands at each offset."""
        if self.count < 10 * len(self.band):
            return np.zeros(len(self.cover))
        cross = self.cross - np.outer(self.band, self.cover) / self.count
        bands = self.bands - np.outer(self.band, self.band) / self.count
        square = self.square - self.cover**2 / self.count
        explained = np.einsum("kn,kn->n", cross, np.linalg.pinv(bands, rcond=1e-10, hermitian=True) @ cross)
        enough = square > 1e-9 * self.count
        return np.sqrt(np.clip(np.divide(explained, square, out=np.zeros_like(square), where=enough), 0.0, 1.0))


def _moments(image: NDArray, cover: NDArray[np.uint8], reach: int) -> list[_Moments]:
    """The moments of `GROUPS` interleaved sets of parts of an area."""
    if image.ndim != 3 or image.shape[1:] != cover.shape:
        raise InputError(f"an image of shape {image.shape} does not lie on a cover of shape {cover.shape}")
    known = (cover != 255) & (np.nan_to_num(image) > 0).all(axis=0)
    bands = np.log(np.where(known, image, 1).astype(np.float64))
    share = np.where(known, cover, 0) / 100.0
    bands = np.stack([_local(band, known) for band in bands])
    detail = _local(share, known)
    inside = binary_erosion(known, np.ones((2 * reach + 1, 2 * reach + 1), bool))
    group = _groups(cover.shape)
    return [_sums(bands, detail, share, inside & (group == number), reach) for number in range(GROUPS)]


def _local(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values less the mean of the known ones in the window around each; 0 where unknown."""
    weight = uniform_filter(known.astype(np.float64), LOCAL, mode="constant")
    total = uniform_filter(np.where(known, values, 0.0), LOCAL, mode="constant")
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-9)
    return np.where(known, values - mean, 0.0)


def _groups(shape: tuple[int, int]) -> NDArray[np.int64]:
    """The group of each pixel: eighths of the sides, dealt out like a knight's moves so that every group spreads."""
    row, col = (np.arange(side) * 8 // side for side in shape)
    return (row[:, None] * 2 + col[None, :]) % GROUPS


def _sums(bands: NDArray, detail: NDArray, share: NDArray, where: NDArray[np.bool_], reach: int) -> _Moments:
    offsets = _offsets(reach)
    total = _Moments.none(len(bands), len(offsets))
    every_row, every_col = np.nonzero(where)
    for start in range(0, len(every_row), CHUNK):
        rows, cols = every_row[start : start + CHUNK], every_col[start : start + CHUNK]
        values = bands[:, rows, cols]
        moved = np.stack([detail[rows - south, cols - east] for south, east in offsets])
        square = np.einsum("np,np->n", moved, moved)
        sums = values @ values.T, values @ moved.T, values.sum(axis=1), moved.sum(axis=1), square
        total = total + _Moments(*sums, float(len(rows)), float(share[rows, cols].sum()))
    return total


def _offsets(reach: int) -> list[tuple[int, int]]:
    """(rows south, columns east) of every offset of the search, row by row."""
    way = range(-reach, reach + 1)
    return [(south, east) for south in way for east in way]


def _estimate(groups: list[_Moments], resolution: float, reach: int, max_shift: float) -> ShiftEstimate:
    total = groups[0]
    for group in groups[1:]:
        total = total + group
    south, east, after = _peak(total.correlations(), reach, max_shift)
    before = total.correlations()[len(_offsets(reach)) // 2]
    error = _error(groups, reach, max_shift)
    inner = max(abs(south), abs(east)) < max_shift - STEP
    signal = after**2 * total.count > SIGNAL * len(total.band)
    reliable = bool(inner and signal and total.built >= MIN_BUILT and error <= SPREAD)
    if after <= 0:
        south = east = 0.0
    metres = [round(pixels * resolution, 3) for pixels in (east, -south)]
    return ShiftEstimate(
        metres[0] + 0.0,
        metres[1] + 0.0,
        round(float(before), 4),
        round(float(after), 4),
        reliable,
        round(error * resolution, 3),
    )


def _peak(correlations: NDArray[np.float64], reach: int, max_shift: float) -> tuple[float, float, float]:
    """(south, east, correlation) of the highest point within `max_shift` pixels of a spline through the offsets."""
    way = np.arange(-reach, reach + 1)
    surface = RectBivariateSpline(way, way, correlations.reshape(len(way), len(way)), s=0)
    fine = np.arange(-max_shift, max_shift + STEP / 2, STEP)
    height = surface(fine, fine)
    row, col = np.unravel_index(int(height.argmax()), height.shape)
    return float(fine[row]), float(fine[col]), float(height[row, col])


def _error(groups: list[_Moments], reach: int, max_shift: float) -> float:
    """Standard error in pixels of the worse axis, from the scatter of the groups' own peaks."""
    surfaces = [group.correlations() for group in groups]
    if len(groups) < GROUPS or any(surface.max() <= 0 for surface in surfaces):
        return float("inf")
    peaks = np.array([_peak(surface, reach, max_shift)[:2] for surface in surfaces])
    return float(peaks.std(axis=0, ddof=1).max() / np.sqrt(len(groups)))
