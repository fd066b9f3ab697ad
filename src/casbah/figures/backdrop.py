"""A single raster, shown where a scene is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from casbah.bands import NODATA
from casbah.errors import InputError
from casbah.grid import Grid
from casbah.products.scene import Period
from casbah.raster_tags import band_name, lower_case, told_level, told_simulated, whole_periods


@dataclass(frozen=True)
class Facts:
    """What of a scene's `info` a picture says; a raster does not tell its dates."""

    attribution: str
    simulated: bool
    level: str
    periods: tuple[Period, ...] = ()


@dataclass(frozen=True)
class Raster:
    """Reflectance whose band descriptions are ESA's names, period after period, on whatever grid: it is warped to that
    of the map that it lies under."""

    path: Path
    bands: tuple[str, ...]
    periods: int
    info: Facts

    @classmethod
    def open(cls, path: Path) -> "Raster":
        """`InputError` for a file that is no raster, has no georeference, or does not name its bands."""
        try:
            with rasterio.open(path) as dataset:
                if dataset.crs is None:
                    raise InputError(f"{path} has no georeference, so it can't be laid under a map: give it one")
                named = [band_name(text or "") for text in dataset.descriptions]
                tags = lower_case(dataset.tags())
        except RasterioError:
            raise InputError(f"{path} is neither a scene's directory nor a raster: name one of them") from None
        whole = whole_periods(named)
        if not all(named) or whole is None:
            raise InputError(
                f"{path} does not say which bands it holds: describe each by ESA's name (B02, B03, …), the same bands "
                "in the same order for each period"
            )
        own, periods = whole
        facts = Facts(tags.get("attribution", ""), told_simulated(tags), told_level(tags) or "")
        return cls(path, tuple(own), periods, facts)

    @cached_property
    def grid(self) -> Grid:
        """Its own; `InputError` where that is no grid of square metres."""
        with rasterio.open(self.path) as dataset:
            return Grid.of(dataset)

    def on(self, grid: Grid, shape: tuple[int, int], period: int, names: Sequence[str]) -> NDArray[Any]:
        """Means of bands (bands, rows, cols) over the pixels of a grid, thinned to `shape`, 0 where there is nothing;
        `InputError` where nothing of the raster lies there."""
        first = period * len(self.bands)
        indexes = [first + self.bands.index(name) + 1 for name in names]
        step = Affine.scale(grid.cols / shape[1], grid.rows / shape[0])
        with (
            rasterio.open(self.path) as dataset,
            WarpedVRT(
                dataset, crs=grid.crs, transform=grid.transform @ step, height=shape[0], width=shape[1],
                src_nodata=NODATA if dataset.nodata is None else dataset.nodata, nodata=NODATA,
                resampling=Resampling.average,
            ) as warped,
        ):  # fmt: skip
            found: NDArray[Any] = warped.read(indexes)
        if not np.any(found != NODATA):
            raise InputError(f"nothing of {self.path} lies where the map is: name a raster of the same ground")
        return found
