"""`Scene`: one or several cloud-free composites of Sentinel-2 on one grid, as ingest leaves them."""

from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rasterio.windows import Window

from casbah.errors import InputError
from casbah.grid import Grid
from casbah.products.manifest import Product


class Period(BaseModel):
    """One time step: the composite of the observations from `start` to `end` (ISO dates, both inclusive)."""

    model_config = ConfigDict(frozen=True)
    start: str
    end: str
    dates: tuple[str, ...]
    """The acquisition dates that went into it, ISO, sorted."""

    @property
    def month(self) -> int:
        """The calendar month (1 to 12) of its middle acquisition; of its first day where none is listed."""
        return date.fromisoformat((self.dates or (self.start,))[len(self.dates) // 2][:10]).month


class SceneInfo(BaseModel):
    """The `properties.casbah` of `item.json`: what a later stage asks of a scene beside its pixels."""

    model_config = ConfigDict(frozen=True)
    level: str
    """L1C (top of atmosphere) or L2A (surface reflectance)."""
    bands: tuple[str, ...]
    periods: tuple[Period, ...]
    attribution: str
    """The sentence to print on every map made from this imagery."""
    simulated: bool = False
    sources: tuple[dict[str, Any], ...] = ()
    """Every source item: id, collection, datetime, baseline, offset (what was taken off), how that was decided."""


class Scene(Product):
    """Reflectance x 10000 (uint16, 0 = nodata, offset removed), bands in the order of `casbah.bands`, T >= 1 periods.

    Files: per period t `reflectance_<t>.tif` (bands, rows, cols) and `valid_<t>.tif` (uint8: how many clear
    observations the pixel's median was taken from), and `item.json`, a STAC item.
    """

    schema = "scene"
    required = ("item.json", "reflectance_0.tif", "valid_0.tif")

    @cached_property
    def item(self) -> dict[str, Any]:
        import json

        return json.loads((self.path / "item.json").read_text(encoding="utf-8"))

    @cached_property
    def info(self) -> SceneInfo:
        try:
            return SceneInfo.model_validate(self.item["properties"]["casbah"])
        except (KeyError, ValueError) as error:
            raise InputError(f"{self.path / 'item.json'} does not describe a scene: {error}") from None

    @cached_property
    def grid(self) -> Grid:
        with rasterio.open(self.reflectance_path(0)) as dataset:
            return Grid.of(dataset)

    @property
    def bands(self) -> tuple[str, ...]:
        return self.info.bands

    @property
    def cell(self) -> str:
        """The grid cell of a larger area that it is (`casbah.ingest.cells`); empty for an area of its own."""
        return str(self.manifest.parameters.get("cell") or "")

    @property
    def periods(self) -> int:
        """How many time steps there are."""
        return len(self.info.periods)

    def reflectance_path(self, period: int) -> Path:
        return self.path / f"reflectance_{period}.tif"

    def valid_path(self, period: int) -> Path:
        return self.path / f"valid_{period}.tif"

    def reflectance(self, window: Window | None = None) -> NDArray[np.uint16]:
        """Reflectance x 10000 as (periods, bands, rows, cols) of the window (of the whole scene without one)."""
        return np.stack([_read(self.reflectance_path(t), window) for t in range(self.periods)])

    def valid(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Clear observations per pixel as (periods, rows, cols); 0 where there was none."""
        return np.stack([_read(self.valid_path(t), window)[0] for t in range(self.periods)])


def _read(path: Path, window: Window | None) -> NDArray[Any]:
    with rasterio.open(path) as dataset:
        return dataset.read(window=window)
