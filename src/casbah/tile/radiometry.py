"""Brings every scene to the same mean and deviation, band by band and period by period.

A model that learned from one city meets another air, sun and season in the next: at a fixed threshold most of what it
knew is lost. Statistics of a scene's own images take the linear part of that away without any label (relative
radiometric normalisation by mean and standard deviation: Yuan & Elvidge 1996, ISPRS J. 51, 117-126). What they also
take away is what truly differs between two cities, such as how much of one is green.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casbah.bands import NODATA
from casbah.products.tiles import SPLITS
from casbah.tile.statistics import VALUES, describe

REFERENCE = {
    "B01": 1000, "B02": 1000, "B03": 1200, "B04": 1300, "B05": 1600, "B06": 2100,
    "B07": 2300, "B08": 2400, "B8A": 2500, "B09": 2500, "B11": 2300, "B12": 1700,
}  # fmt: skip
"""The mean that every scene is brought to, in reflectance x 10000: round figures of a town among fields, so that
indices keep their meaning. They are fixed, and not taken from the scenes at hand, so that a model fits the tiles of a
city that nobody had when it was trained."""

SPREAD = 1 / 3
"""Deviation as a share of the mean: a pixel three deviations below is then still above nodata."""


def normalise(directory: Path, bands: Sequence[str], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rewrite the images of all splits below `directory`; returns what each scene had: `mean`, `std`, `high` (99th
    percentile), `pixels`, and the split that these are `of`.

    `rows` are the tiles, with `scene`, `split` and `row`. A scene's statistics are those of its training tiles, without
    any those of its validation tiles: its test blocks tell nothing then. A scene that is tested as a whole is a city of
    which the images are all that is known: there they are those of its test tiles, of the images alone.
    """
    images = {split: np.load(directory / split / "images.npy", mmap_mode="r+") for split in SPLITS if _any(rows, split)}
    found = {}
    for scene in dict.fromkeys(row["scene"] for row in rows):
        own = [row for row in rows if row["scene"] == scene]
        of = next(split for split in SPLITS if any(row["split"] == split for row in own))
        described = describe([images[of][row["row"]][None] for row in own if row["split"] == of])
        found[scene] = {name: described[name] for name in ("mean", "std", "high", "pixels")} | {"of": of}
        tables = _tables(bands, np.array(described["mean"]), np.array(described["std"]))
        for row in own:
            tile = images[row["split"]][row["row"]]
            for period, band in np.ndindex(tables.shape[:2]):
                tile[period, band] = tables[period, band][tile[period, band]]
    for array in images.values():
        array.flush()
    return found


def _any(rows: Sequence[dict[str, Any]], split: str) -> bool:
    return any(row["split"] == split for row in rows)


def _tables(bands: Sequence[str], mean: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.uint16]:
    """(periods, bands, 65536): what each value becomes; nodata stays, and nothing else becomes nodata."""
    wanted = np.array([REFERENCE[name] for name in bands], np.float64)[:, None]
    deviations = (np.arange(VALUES) - mean[..., None]) / std[..., None]
    tables = np.clip(np.rint(wanted + SPREAD * wanted * deviations), NODATA + 1, VALUES - 1).astype(np.uint16)
    tables[..., NODATA] = NODATA
    return tables
