"""What a pixel and its surroundings look like: the features that boosted trees learn from and predict with.

Each tile stands alone: its edge is continued by reflection, so that no feature looks into a neighbouring tile, and a
pixel without an observation weighs nothing in the means of the others. Features of a period in which the pixel itself
was not observed are NaN, which the trees know how to take.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from casbah.bands import NODATA, REFLECTANCE_SCALE

Float = NDArray[np.float32]

Planes = Mapping[str, Float]
"""Layer name -> (n, rows, cols)."""

HALF = np.float32(0.5)
SCALE = np.float32(REFLECTANCE_SCALE)

VISIBLE = ("B02", "B03", "B04")

CONTEXT_WINDOWS = (3, 5, 9, 15)
"""Pixels across, for the means of a first stage's probabilities."""

FLOOR = np.float32(1e-3)
"""Added to probabilities on their way to log-odds: no pixel is certain beyond 1 : 1000."""

DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""The eight neighbours as (rows south, columns east)."""


@dataclass(frozen=True)
class Index:
    """A spectral index, made where its bands are there."""

    name: str
    bands: tuple[str, ...]
    formula: Callable[[Planes], Float]
    source: str


def _normalised(high: str, low: str) -> Callable[[Planes], Float]:
    return lambda planes: _ratio(planes[high] - planes[low], planes[high] + planes[low])


def _ratio(part: Float, whole: Float) -> Float:
    ratio: Float = np.divide(part, np.maximum(whole, np.float32(1e-4)), dtype=np.float32)
    return ratio


def _bare_soil(planes: Planes) -> Float:
    soil, rest = planes["B11"] + planes["B04"], planes["B08"] + planes["B02"]
    return _ratio(soil - rest, soil + rest)


def _brightness(planes: Planes) -> Float:
    return (planes["B02"] + planes["B03"] + planes["B04"]) / np.float32(3)


INDICES = (
    Index("NDVI", ("B08", "B04"), _normalised("B08", "B04"), "Rouse et al. 1974: (NIR - red) / (NIR + red)"),
    Index("NDBI", ("B11", "B08"), _normalised("B11", "B08"), "Zha et al. 2003: (SWIR1 - NIR) / (SWIR1 + NIR)"),
    Index("NDWI", ("B03", "B08"), _normalised("B03", "B08"), "McFeeters 1996: (green - NIR) / (green + NIR)"),
    Index("MNDWI", ("B03", "B11"), _normalised("B03", "B11"), "Xu 2006: (green - SWIR1) / (green + SWIR1)"),
    Index(
        "BSI",
        ("B02", "B04", "B08", "B11"),
        _bare_soil,
        "Rikimaru et al. 2002: ((SWIR1 + red) - (NIR + blue)) / ((SWIR1 + red) + (NIR + blue))",
    ),
    Index("redness", ("B04", "B02"), _normalised("B04", "B02"), "(red - blue) / (red + blue): tiles against concrete"),
    Index("brightness", VISIBLE, _brightness, "mean reflectance of blue, green and red"),
)

TEXTURED = ("B02", "B04", "B08", "B11", "B12", "NDVI", "brightness", "redness")
"""Layers whose surroundings are described by means and deviations."""

SHAPED = ("brightness", "NDVI", "B11")
"""Layers whose neighbours and gradients are described one by one."""


@dataclass(frozen=True)
class Recipe:
    """Which surroundings are described; windows are odd numbers of pixels across."""

    means: tuple[int, ...] = (3, 5, 7, 11)
    deviations: tuple[int, ...] = (3, 5, 11)
    neighbours: bool = True
    gradients: bool = True
    differences: bool = True
    """Between consecutive periods."""


def names(bands: Sequence[str], periods: int, recipe: Recipe) -> list[str]:
    """The features of images of these bands and periods, in order."""
    blank = np.ones((1, periods, len(bands), 1, 1), np.uint16)
    return [name for name, _ in _features(blank, bands, recipe)]


def features(images: NDArray[np.uint16], bands: Sequence[str], recipe: Recipe) -> Float:
    """(features, n, rows, cols) of images (n, periods, bands, rows, cols) in reflectance x 10000, 0 = nodata."""
    return np.stack([plane for _, plane in _features(images, bands, recipe)])


def observed(images: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Where (n, rows, cols) the images have every band of at least one period."""
    seen: NDArray[np.bool_] = (images != NODATA).all(axis=2).any(axis=1)
    return seen


def context_names() -> list[str]:
    """The features that `context` gives, in order."""
    return [name for name, _ in _context(np.zeros((1, 1, 1), np.float32))]


def context(probabilities: Float) -> Float:
    """(features, n, rows, cols) that describe the P(building) (n, rows, cols) of a first stage around each pixel.

    Auto-context (Tu & Bai 2010, doi:10.1109/TPAMI.2009.186): a second model that sees what the first one thought of the
    neighbours learns which shapes are believable.
    """
    return np.stack([plane for _, plane in _context(probabilities)])


def _context(probabilities: Float) -> Iterator[tuple[str, Float]]:
    odds: Float = np.log((probabilities + FLOOR) / (1 - probabilities + FLOOR), dtype=np.float32)
    yield "context/odds", odds
    for name, plane in (("chance", probabilities), ("odds", odds)):
        for window in CONTEXT_WINDOWS:
            yield f"context/{name}/mean{window}", ndimage.uniform_filter(plane, window, mode="reflect", axes=(1, 2))
        for window in (3, 5):
            yield f"context/{name}/maximum{window}", ndimage.maximum_filter(plane, window, mode="reflect", axes=(1, 2))
        yield f"context/{name}/minimum3", ndimage.minimum_filter(plane, 3, mode="reflect", axes=(1, 2))
    rows, cols = odds.shape[1:]
    padded = np.pad(odds, ((0, 0), (2, 2), (2, 2)), mode="symmetric")
    for south in range(-2, 3):
        for east in range(-2, 3):
            if (south, east) != (0, 0):
                moved = padded[:, 2 + south : 2 + south + rows, 2 + east : 2 + east + cols]
                yield f"context/odds{south:+d}{east:+d}", moved


def _features(images: NDArray[np.uint16], bands: Sequence[str], recipe: Recipe) -> Iterator[tuple[str, Float]]:
    before: dict[str, Float] = {}
    for period in range(images.shape[1]):
        stack = images[:, period]
        seen = (stack != NODATA).all(axis=1)
        layers = _layers(stack, bands)
        smooth: dict[str, Float] = {}
        for name, plane in layers.items():
            hidden = np.where(seen, plane, np.float32(np.nan))
            smooth[name] = hidden
            yield f"{period}/{name}", hidden
        for name, plane in _surroundings(layers, seen, recipe):
            shown = np.where(seen, plane, np.float32(np.nan))
            if name.endswith("mean3"):
                smooth[name] = shown
            yield f"{period}/{name}", shown
        if recipe.differences and period:
            for name, plane in smooth.items():
                yield f"{period}-{period - 1}/{name}", plane - before[name]
        before = smooth


def _layers(stack: NDArray[np.uint16], bands: Sequence[str]) -> dict[str, Float]:
    """Bands as reflectance 0..1, and the indices that they suffice for."""
    planes: dict[str, Float] = {name: stack[:, i].astype(np.float32) / SCALE for i, name in enumerate(bands)}
    made = {index.name: index.formula(planes) for index in INDICES if set(index.bands) <= set(bands)}
    return planes | made


def _surroundings(layers: Planes, seen: NDArray[np.bool_], recipe: Recipe) -> Iterator[tuple[str, Float]]:
    windows = sorted({*recipe.means, *recipe.deviations})
    weights = {window: _mean(seen.astype(np.float64), window) for window in windows}
    for name in TEXTURED:
        if name not in layers:
            continue
        plane = np.where(seen, layers[name], 0).astype(np.float64)  # float32 squares lose the deviation of flat roofs
        for window in windows:
            weight = np.maximum(weights[window], 1e-9)
            mean = _mean(plane, window) / weight
            if window in recipe.means:
                yield f"{name}/mean{window}", mean.astype(np.float32)
            if window in recipe.deviations:
                square = _mean(plane * plane, window) / weight
                yield f"{name}/deviation{window}", np.sqrt(np.maximum(square - mean * mean, 0)).astype(np.float32)
    for name in SHAPED:
        if name not in layers:
            continue
        whole = _filled(layers[name], seen)
        if recipe.neighbours:
            yield from ((f"{name}/{label}", plane) for label, plane in _neighbours(whole))
        if recipe.gradients:
            yield from ((f"{name}/{label}", plane) for label, plane in _gradients(whole))


def _mean(plane: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = ndimage.uniform_filter(plane, window, mode="reflect", axes=(1, 2))
    return mean


def _filled(plane: Float, seen: NDArray[np.bool_]) -> Float:
    """`plane` with unobserved pixels set to the mean of what its tile shows, so that holes have soft edges."""
    count = np.maximum(seen.sum(axis=(1, 2), keepdims=True), 1)
    mean = np.where(seen, plane, 0).sum(axis=(1, 2), keepdims=True, dtype=np.float64) / count
    return np.where(seen, plane, mean).astype(np.float32)


def _neighbours(plane: Float) -> Iterator[tuple[str, Float]]:
    rows, cols = plane.shape[1:]
    padded = np.pad(plane, ((0, 0), (1, 1), (1, 1)), mode="symmetric")
    for south, east in DIRECTIONS:
        yield (
            f"neighbour{south:+d}{east:+d}",
            padded[:, 1 + south : 1 + south + rows, 1 + east : 1 + east + cols] - plane,
        )
    yield "minimum3", ndimage.minimum_filter(plane, 3, mode="reflect", axes=(1, 2))
    yield "maximum3", ndimage.maximum_filter(plane, 3, mode="reflect", axes=(1, 2))


def _gradients(plane: Float) -> Iterator[tuple[str, Float]]:
    """Edge strength, and the two curvatures of the surface (Hessian eigenvalues): blobs, ridges and saddles."""
    for sigma in (1.0, 2.0):

        def derivative(rows: int, cols: int, sigma: float = sigma) -> Float:
            smooth: Float = ndimage.gaussian_filter(
                plane, sigma, order=(rows, cols), mode="reflect", truncate=3.0, axes=(1, 2)
            )
            return smooth

        yield f"gradient{sigma:g}", np.hypot(derivative(1, 0), derivative(0, 1))
        down, across, mixed = derivative(2, 0), derivative(0, 2), derivative(1, 1)
        middle, spread = (down + across) * HALF, np.hypot((down - across) * HALF, mixed)
        yield f"curvature{sigma:g}", middle + spread
        yield f"hollow{sigma:g}", middle - spread
