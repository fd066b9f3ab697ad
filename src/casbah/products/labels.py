"""`LabelSet`: building footprints, the share of each pixel that they cover, and the mask that a model learns."""

import json
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rasterio.windows import Window

from casbah.grid import Grid
from casbah.products.manifest import Product

if TYPE_CHECKING:
    import geopandas

IGNORE = 255
"""Mask and cover value of a pixel that teaches and scores nothing: nodata, cloud, or outside the labelled area."""

BUILDING_COVER = 50
"""Percent of a pixel that buildings must cover for the mask to call it building, unless said otherwise."""


class Shift(BaseModel):
    """How far the footprints lie from the image in one cell of one period.

    `east` and `north` are the metres by which the *footprints must move* to fit the image; `correlation_before` and
    `correlation_after` are those of cover and image there; `reliable` is False where too little is built to tell.
    `cell` is (west, south, east, north) in metres of the grid's CRS.
    """

    model_config = ConfigDict(frozen=True)
    period: int
    cell: tuple[float, float, float, float]
    east: float
    north: float
    correlation_before: float
    correlation_after: float
    reliable: bool


class LabelInfo(BaseModel):
    """`labels.json`: where the footprints come from and what a person wants to know about them."""

    model_config = ConfigDict(frozen=True)
    source: str
    """osm, overture or the file's name."""
    licence: str
    attribution: str
    vintage: str
    """ISO date or span of the footprints, or `unknown`."""
    building_cover: int = BUILDING_COVER
    """Percent of cover from which on a pixel is building."""
    simulated: bool = False
    footprints: int
    labelled_area: dict[str, Any] | None = None
    """GeoJSON geometry in the grid's CRS, outside of which nothing is known; None: the whole grid is labelled."""
    summary: dict[str, Any]
    """Counts and areas: read, repaired, multi-part, dropped (with reasons), km2, cover, share without any building.

    `footprint_km2` is the sum of the polygons' areas, in which overlaps count twice; `cover` counts them once."""
    shifts: tuple[Shift, ...] = ()

    @property
    def credit(self) -> str:
        """Whom to name, with the licence behind it: the line that every map and report made from the labels carries."""
        named = re.search(rf"(?<!\w){re.escape(self.licence)}(?!\w)", self.attribution, re.IGNORECASE)
        if named or self.licence == "unknown":
            return self.attribution
        return f"{self.attribution} ({self.licence})"


class LabelSet(Product):
    """Files: `footprints.parquet` (GeoParquet in the grid's CRS), `coverage.tif` (uint8 percent of each pixel under
    buildings, 255 unknown), `mask.tif` (uint8: 0 background, 1 building, 255 ignore), `labels.json`."""

    schema = "labels"
    required = ("footprints.parquet", "coverage.tif", "mask.tif", "labels.json")

    @cached_property
    def info(self) -> LabelInfo:
        return LabelInfo.model_validate(json.loads((self.path / "labels.json").read_text(encoding="utf-8")))

    @cached_property
    def grid(self) -> Grid:
        with rasterio.open(self.mask_path) as dataset:
            return Grid.of(dataset)

    @property
    def mask_path(self) -> Path:
        return self.path / "mask.tif"

    @property
    def coverage_path(self) -> Path:
        return self.path / "coverage.tif"

    def mask(self, window: Window | None = None) -> NDArray[np.uint8]:
        """0 background, 1 building, 255 ignore, as (rows, cols)."""
        with rasterio.open(self.mask_path) as dataset:
            return dataset.read(1, window=window)

    def coverage(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Percent of each pixel under buildings (0-100), 255 where unknown, as (rows, cols)."""
        with rasterio.open(self.coverage_path) as dataset:
            return dataset.read(1, window=window)

    def footprints(self) -> "geopandas.GeoDataFrame":
        """The repaired footprints, one polygon a row, in the grid's CRS."""
        import geopandas

        return geopandas.read_parquet(self.path / "footprints.parquet")
