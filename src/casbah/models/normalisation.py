"""What each network wants its input to look like: the statistics it was pretrained with, in the units of Casbah.

Wrong units cost dozens of points and raise no error, so that this is one table with sources, and a network's bundle
carries the numbers that it was trained with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casbah.bands import BOA_OFFSET, NODATA
from casbah.errors import InputError

HLS_NAMES = {
    "B01": "COASTAL_AEROSOL",
    "B02": "BLUE",
    "B03": "GREEN",
    "B04": "RED",
    "B05": "RED_EDGE_1",
    "B06": "RED_EDGE_2",
    "B07": "RED_EDGE_3",
    "B08": "NIR_BROAD",
    "B8A": "NIR_NARROW",
    "B09": "WATER_VAPOR",
    "B11": "SWIR_1",
    "B12": "SWIR_2",
}
"""ESA's band names -> TerraTorch's (`terratorch.datasets.utils.HLSBands`)."""

PRITHVI_BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")
TERRAMIND_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


@dataclass(frozen=True)
class Pretraining:
    """Mean and standard deviation per band that a backbone was pretrained with, as published, and what they count.

    `offset` is what the published statistics have on top of reflectance x 10000.
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    offset: int = 0


PRETRAINING: dict[str, Pretraining] = {
    "prithvi_v1": Pretraining(
        PRITHVI_BANDS,
        (775.0, 1081.0, 1229.0, 2497.0, 2204.0, 1611.0),
        (1282.0, 1270.0, 1399.0, 1368.0, 1292.0, 1155.0),
        "Prithvi-EO-1.0 (PRITHVI_V1_MEAN, _STD in terratorch.models.backbones.prithvi_vit): HLS reflectance x 10000",
    ),
    "prithvi_v2": Pretraining(
        PRITHVI_BANDS,
        (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0),
        (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0),
        "Prithvi-EO-2.0 (PRITHVI_V2_MEAN, _STD in terratorch.models.backbones.prithvi_vit): HLS reflectance x 10000",
    ),
    "terramind_v1": Pretraining(
        TERRAMIND_BANDS,
        (
            1390.458,
            1503.317,
            1718.197,
            1853.91,
            2199.1,
            2779.975,
            2987.011,
            3083.234,
            3132.22,
            3162.988,
            2424.884,
            1857.648,
        ),
        (
            2106.761,
            2141.107,
            2038.973,
            2134.138,
            2085.321,
            1889.926,
            1820.257,
            1871.918,
            1753.829,
            1797.379,
            1434.261,
            1334.311,
        ),
        "TerraMind 1.0 (S2L2A in terratorch's terramind_register): digital numbers that carry the +1000 offset",
        offset=BOA_OFFSET,
    ),
}
"""Names that `TileDataModule(normalisation=…)` takes beside `train`, the statistics of the training tiles."""


def of_backbone(name: str, bands: Sequence[str], periods: int) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """(mean, std, source) of a row of the table, each (periods, bands), in reflectance x 10000 without offset."""
    row = PRETRAINING[name]
    lacking = [band for band in bands if band not in row.bands]
    if lacking:
        raise InputError(
            f"normalisation {name} has no statistics for {', '.join(lacking)}; it knows {', '.join(row.bands)}: "
            "name those under data.init_args.bands"
        )
    index = [row.bands.index(band) for band in bands]
    mean = np.array([row.mean[i] - row.offset for i in index], np.float32)
    std = np.array([row.std[i] for i in index], np.float32)
    return np.tile(mean, (periods, 1)), np.tile(std, (periods, 1)), row.source


def apply(
    images: NDArray[np.uint16], mean: NDArray[np.float32], std: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Fill `out` with (images - mean) / std, and with 0 where a band was not observed.

    `images` (n, periods, bands, rows, cols) in reflectance x 10000 with 0 nodata; `mean` and `std` (periods, bands).
    One tile at a time, so that every pass stays within the processor's cache.
    """
    low, scale = mean[:, :, None, None], (1 / std)[:, :, None, None]
    for image, target in zip(images, out, strict=True):
        np.subtract(image, low, out=target, dtype=np.float32)
        target *= scale
        target[image == NODATA] = 0
