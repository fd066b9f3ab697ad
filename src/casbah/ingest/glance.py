"""A first look at items over the area, coarse: where they are clear, and whether there is anything but water."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casbah.bands import NODATA
from casbah.grid import Grid
from casbah.ingest.area import Area
from casbah.ingest.assets import SCL, Item, resolve
from casbah.ingest.choose import CELLS, cells_of, covered_cells
from casbah.ingest.composite import CLEAR_CLASSES, take_off
from casbah.ingest.reading import Files, Layer
from casbah.ingest.selection import source_of

WATER = 6
"""SCL's class of water."""

ALL_WATER = 0.995
"""Share of the clear cells from which on there is no land to map; the rest is boats, foam and errors of the SCL."""

DARK_WATER = 1000
"""Reflectance x 10000 in the near infrared: water lies below it, cloud, which NDWI takes for water, above."""


class Glance:
    """The area's cells, and what items show at each of them."""

    def __init__(self, area: Area, files: Files) -> None:
        self.area, self.files = area, files
        self.x, self.y = cells_of(area)
        step = max(area.grid.shape) * area.grid.resolution / CELLS
        rows, cols = (-(-side * area.grid.resolution // step) for side in area.grid.shape)
        self._coarse = Grid(area.grid.crs, area.grid.west, area.grid.north, int(rows), int(cols), step)
        self._water: dict[str, float] = {}

    def covered(self, item: Item) -> NDArray[np.bool_]:
        """The cells inside of the item's footprint."""
        return covered_cells(item, self.area, self.x, self.y)

    def clear(self, item: Item) -> NDArray[np.bool_] | None:
        """The cells that the item's scene classification shows clear; None where it has none."""
        source = source_of(item, ())
        if source.scl is None:
            return None
        classes = self._at_cells(self.files.read(source.scl, self._coarse))
        seen = np.isin(classes, CLEAR_CLASSES)
        self._water[item["id"]] = float((classes[seen] == WATER).mean()) if seen.any() else 1.0
        return seen

    def water(self, item: Item, offset: int) -> float | None:
        """Share of the item's clear cells that are water; None where it can't be told.

        By the scene classification where `clear` has read it. Where there is none, water is darker in the near infrared
        (B08) than in the green (B03), the normalised difference water index (McFeeters 1996), and darker
        than `DARK_WATER`.
        """
        if item["id"] in self._water or SCL in resolve(item):
            return self._water.get(item["id"])
        if not {"B03", "B08"} <= set(resolve(item)):
            return None
        layers = source_of(item, ("B03", "B08")).layers
        green, infrared = (self._values(replace(layers[name], nearest=True), offset) for name in ("B03", "B08"))
        seen = (green != NODATA) & (infrared != NODATA)
        return float(((infrared < green) & (infrared < DARK_WATER))[seen].mean()) if seen.any() else None

    def _values(self, layer: Layer, offset: int) -> NDArray[np.uint16]:
        values = self._at_cells(self.files.read(layer, self._coarse)).astype(np.uint16)
        take_off(values, offset)
        return values

    def _at_cells(self, values: NDArray[Any]) -> NDArray[Any]:
        step, (rows, cols) = self._coarse.resolution, self._coarse.shape
        row = np.clip(((self._coarse.north - self.y) / step).astype(int), 0, rows - 1)
        col = np.clip(((self.x - self._coarse.west) / step).astype(int), 0, cols - 1)
        return values[row, col]
