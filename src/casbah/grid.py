"""The pixel grid that everything with pixels carries: north-up, square pixels, in a projected CRS."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from affine import Affine
from rasterio.windows import Window

from casbah.addresses import shown
from casbah.errors import InputError

RESOLUTION = 10.0
"""Metres: the finest Sentinel-2 bands, and the grid of every scene."""


def utm_crs(longitude: float, latitude: float) -> str:
    """The WGS 84 / UTM zone of a point in degrees, as `EPSG:32xxx` (the textbook zones, no Norwegian exceptions)."""
    zone = min(int((longitude + 180.0) // 6.0) + 1, 60)
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"


@dataclass(frozen=True)
class Grid:
    """Rows run south and columns east from the outer corner (`west`, `north`), in metres of `crs` (`EPSG:n`)."""

    crs: str
    west: float
    north: float
    rows: int
    cols: int
    resolution: float = RESOLUTION

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise InputError(f"a grid needs at least one pixel, not {self.rows} x {self.cols} (rows x columns)")

    @classmethod
    def covering(cls, crs: str, bounds: tuple[float, float, float, float], resolution: float = RESOLUTION) -> "Grid":
        """The smallest grid over `bounds` (west, south, east, north; metres), snapped to multiples of `resolution`."""
        west = math.floor(bounds[0] / resolution + 1e-9) * resolution
        north = math.ceil(bounds[3] / resolution - 1e-9) * resolution
        cols = max(1, math.ceil((bounds[2] - west) / resolution - 1e-9))
        rows = max(1, math.ceil((north - bounds[1]) / resolution - 1e-9))
        return cls(crs, west, north, rows, cols, resolution)

    @classmethod
    def of(cls, dataset: Any) -> "Grid":
        """The grid of an open rasterio dataset; `InputError` where it is rotated, not square or not projected."""
        t, name = dataset.transform, shown(dataset.name)
        if dataset.crs is None or not dataset.crs.is_projected:
            raise InputError(f"{name}: its CRS is {dataset.crs or 'missing'}; a projected one is wanted")
        if t.b or t.d or t.a <= 0 or not math.isclose(t.a, -t.e, rel_tol=1e-6):
            raise InputError(f"{name}: its pixels are not square and north-up (transform {tuple(t)[:6]})")
        code = dataset.crs.to_epsg()
        if code is None:
            raise InputError(f"{name}: its CRS has no EPSG code ({dataset.crs.to_wkt()[:60]}…)")
        return cls(f"EPSG:{code}", t.c, t.f, dataset.height, dataset.width, t.a)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    @property
    def transform(self) -> Affine:
        """Pixel corner (column, row) -> metres."""
        return Affine(self.resolution, 0.0, self.west, 0.0, -self.resolution, self.north)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in metres."""
        east, south = self.west + self.cols * self.resolution, self.north - self.rows * self.resolution
        return self.west, south, east, self.north

    def part(self, row: int, col: int, rows: int, cols: int) -> "Grid":
        """The grid of a part that starts at pixel (`row`, `col`); it may reach over the edge."""
        west, north = self.west + col * self.resolution, self.north - row * self.resolution
        return Grid(self.crs, west, north, rows, cols, self.resolution)

    def windows(self, size: int) -> Iterator[Window]:
        """Windows of at most `size` x `size` pixels that cover the grid once, row by row."""
        for row in range(0, self.rows, size):
            for col in range(0, self.cols, size):
                yield Window(col, row, min(size, self.cols - col), min(size, self.rows - row))

    def profile(self, **extra: Any) -> dict[str, Any]:
        """What `rasterio.open(..., 'w')` needs to place a raster on this grid."""
        return {"crs": self.crs, "transform": self.transform, "height": self.rows, "width": self.cols, **extra}

    def to_dict(self) -> dict[str, Any]:
        return {
            "crs": self.crs,
            "west": self.west,
            "north": self.north,
            "rows": self.rows,
            "cols": self.cols,
            "resolution": self.resolution,
        }
