"""What a model has to beat: calling nothing a building, and a built-up index with its threshold from validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casbah.bands import NODATA, REFLECTANCE_SCALE
from casbah.models.mosaics import Layer, mosaics
from casbah.products.tiles import TileSet
from casbah.scoring import ThresholdSearch, iou

Planes = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Index:
    """A built-up index, scaled to 0..1 with high = built-up; `source` says where it is from."""

    name: str
    bands: tuple[str, ...]
    formula: Callable[[Planes], NDArray[np.float32]]
    source: str

    def layer(self, bands: Sequence[str]) -> Layer:
        """The index of images (n, periods, bands, rows, cols): the mean over the periods observed, 0 where none was."""
        position = [list(bands).index(name) for name in self.bands]

        def of(images: NDArray[np.uint16]) -> NDArray[np.float32]:
            chosen = images[:, :, position]
            seen = (chosen != NODATA).all(axis=2)
            planes = {name: chosen[:, :, i].astype(np.float32) for i, name in enumerate(self.bands)}
            value = np.where(seen, np.clip(self.formula(planes), 0, 1), 0)
            mean: NDArray[np.float32] = value.sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
            return mean.astype(np.float32)

        return of


def _normalised(high: str, low: str) -> Callable[[Planes], NDArray[np.float32]]:
    """(high - low) / (high + low), moved from -1..1 to 0..1."""
    return lambda planes: (
        ((planes[high] - planes[low]) / np.maximum(planes[high] + planes[low], 1) + np.float32(1)) / np.float32(2)
    )


def _brightness(planes: Planes) -> NDArray[np.float32]:
    brightness: NDArray[np.float32] = np.mean(list(planes.values()), axis=0) / np.float32(REFLECTANCE_SCALE)
    return brightness


INDICES = (
    Index("NDBI", ("B11", "B08"), _normalised("B11", "B08"), "Zha et al. 2003: (SWIR1 - NIR) / (SWIR1 + NIR)"),
    Index("VrNIR-BI", ("B04", "B08"), _normalised("B04", "B08"), "Estoque & Murayama 2015: (red - NIR) / (red + NIR)"),
    Index(
        "VgNIR-BI", ("B03", "B08"), _normalised("B03", "B08"), "Estoque & Murayama 2015: (green - NIR) / (green + NIR)"
    ),
    Index("visible brightness", ("B02", "B03", "B04"), _brightness, "mean reflectance of blue, green and red"),
)
"""The candidates; the one with the highest building IoU on validation is the baseline."""


@dataclass(frozen=True)
class Baseline:
    """A built-up index and the threshold that validation gave it."""

    index: Index
    threshold: float
    validation_iou: float


def tuned_index(tiles: TileSet) -> Baseline | None:
    """The index and threshold with the highest building IoU on the *validation* tiles; None where no band suffices."""
    bands = tiles.info.bands
    candidates = [index for index in INDICES if set(index.bands) <= set(bands)]
    searches = {index.name: ThresholdSearch() for index in candidates}
    for mosaic in mosaics(tiles, "val", {index.name: index.layer(bands) for index in candidates}):
        for name, search in searches.items():
            known = ~np.isnan(mosaic.layers[name])
            search.add(mosaic.layers[name][known], mosaic.mask[known])
    found = []
    for index in candidates:
        search = searches[index.name]
        threshold = search.best()
        counts = search.counts()[round(threshold * (len(search.building) - 1))]
        found.append(Baseline(index, threshold, iou(counts) or 0.0))
    return max(found, key=lambda baseline: baseline.validation_iou) if found else None
