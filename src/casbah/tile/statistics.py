"""What normalisation needs to know, from the train split alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casbah.bands import NODATA
from casbah.products.labels import IGNORE

CHUNK = 64
"""Tiles counted at a time."""

VALUES = 2**16
"""uint16 takes as many values: a histogram of them holds the exact mean, deviation and percentiles."""

LOW, HIGH = 0.01, 0.99


def statistics(train: Path) -> dict[str, Any]:
    """`mean`, `std` (population), `low`, `high` (1st and 99th percentile) and `pixels` as (periods, bands) lists.

    Counted over the observed pixels (not 0) of `train/images.npy`, in reflectance x 10000; a band of a period that was
    nowhere observed has mean 0 and deviation 1. `building_share` is that of the labelled pixels of `train/masks.npy`.
    A pixel in two overlapping tiles counts twice, as it does in training.
    """
    images = np.load(train / "images.npy", mmap_mode="r", allow_pickle=False)
    masks = np.load(train / "masks.npy", mmap_mode="r", allow_pickle=False)
    building = labelled = 0
    for start in range(0, len(images), CHUNK):
        chunk = masks[start : start + CHUNK]
        building += int((chunk == 1).sum())
        labelled += int((chunk != IGNORE).sum())
    found = describe(images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return found | {"building_share": building / labelled if labelled else 0.0}


def describe(parts: Iterable[NDArray[np.uint16]]) -> dict[str, Any]:
    """The figures of `statistics` that images alone give; each part is (tiles, periods, bands, rows, cols)."""
    histogram: NDArray[np.int64] | None = None
    for images in parts:
        if histogram is None:
            histogram = np.zeros((*images.shape[1:3], VALUES), np.int64)
        _count(images, histogram)
    assert histogram is not None, "a split that is described holds a tile"
    histogram[..., NODATA] = 0
    return _described(histogram)


def _count(images: NDArray[np.uint16], histogram: NDArray[np.int64]) -> None:
    for period in range(images.shape[1]):
        for band in range(images.shape[2]):
            histogram[period, band] += np.bincount(images[:, period, band].ravel(), minlength=VALUES)


def _described(histogram: NDArray[np.int64]) -> dict[str, Any]:
    values = np.arange(VALUES, dtype=np.float64)
    pixels = histogram.sum(axis=-1)
    seen = np.maximum(pixels, 1)
    mean = (histogram * values).sum(axis=-1) / seen
    variance = (histogram * (values - mean[..., None]) ** 2).sum(axis=-1) / seen
    share = histogram.cumsum(axis=-1) / seen[..., None]
    return {
        "mean": mean.tolist(),
        "std": np.where(variance > 0, np.sqrt(variance), 1.0).tolist(),
        "low": (share < LOW).sum(axis=-1).tolist(),
        "high": np.where(pixels > 0, (share < HIGH).sum(axis=-1), 0).tolist(),
        "pixels": pixels.tolist(),
    }
