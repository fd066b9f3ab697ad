"""The town as it really is: a raster of 2.5 m of surfaces, from which every band is an area average."""

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy import ndimage

from casbah.grid import Grid
from casbah.sample import spectra
from casbah.sample.plan import Plan
from casbah.sample.sky import sun
from casbah.sample.surfaces import Surfaces

FINE = 2.5
"""Metres: an even part of 10, 20 and 60 m, and finer than the narrowest street."""

MARGIN = 240.0
"""Metres of town around the imagery, so that point-spread, shadows and shifts never meet an edge."""


@dataclass(frozen=True)
class Truth:
    """`rows` (fine rows, fine cols) are rows of `surfaces`; `texture` multiplies their reflectance; `height` is in
    metres; `built` marks the buildings. `grid` is that of the arrays: the imagery's plus the margin."""

    grid: Grid
    surfaces: Surfaces
    rows: NDArray[np.int32]
    texture: NDArray[np.float32]
    height: NDArray[np.float32]
    built: NDArray[np.bool_]

    def shade(self, time: datetime, place: tuple[float, float]) -> NDArray[np.bool_]:
        """Where a building or a tree keeps the sun off, at `time` and `place` (longitude, latitude)."""
        azimuth, elevation = (math.radians(angle) for angle in sun(time, *place))
        east, north = math.sin(azimuth), math.cos(azimuth)
        shaded = np.zeros(self.rows.shape, dtype=bool)
        steps = math.ceil(float(self.height.max()) / math.tan(elevation) / FINE)
        for step in range(1, steps + 1):
            down, across = round(-north * step), round(east * step)
            blocker = np.roll(self.height, (-down, -across), axis=(0, 1))
            shaded |= blocker - self.height > step * FINE * math.tan(elevation)
        return shaded

    def reflectance(self, band: int, table: NDArray[np.float32], shade: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Surface reflectance of one band, (fine rows, fine cols); `table` is `Surfaces.reflectance` of the day."""
        image = table[:, band][self.rows] * self.texture
        image[shade] *= spectra.DIFFUSE[band]
        return image


def build(plan: Plan, grid: Grid, seed: int) -> Truth:
    """Paint the plan onto the fine grid (pixel centres decide)."""
    rows = np.zeros(grid.shape, dtype=np.int32)
    shapes, values = (np.concatenate(column) for column in zip(*plan.layers, strict=True))
    _burn(shapes, values, rows, grid)
    _stamp(np.concatenate(plan.trees), rows, grid)
    buildings = plan.footprints()
    first = plan.surfaces.count
    _burn(buildings.shapes, buildings.surfaces, rows, grid)
    roof = np.zeros(first, dtype=bool)
    roof[buildings.surfaces] = True
    height = plan.surfaces.column("height").astype(np.float32)[rows]
    return Truth(grid, plan.surfaces, rows, _texture(plan.surfaces, rows, seed), height, roof[rows])


# One call for all layers: each call of rasterize walks the whole raster.
def _burn(shapes: NDArray[np.object_], values: NDArray[np.int32], out: NDArray[np.int32], grid: Grid) -> None:
    pairs = [(shape, int(v)) for shape, v in zip(shapes, values, strict=True) if not shape.is_empty]
    rasterize(pairs, out=out, transform=grid.transform)


def _stamp(trees: NDArray[np.float64], rows: NDArray[np.int32], grid: Grid) -> None:
    """Discs of trees: all the trees that reach a given neighbour of their own pixel at once."""
    x, y, radius, values = trees.T
    col, row = (x - grid.west) / grid.resolution, (grid.north - y) / grid.resolution
    reach = math.ceil(radius.max() / grid.resolution)
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            i, j = np.floor(row).astype(int) + down, np.floor(col).astype(int) + across
            near = np.hypot(i + 0.5 - row, j + 0.5 - col) * grid.resolution <= radius
            near &= (i >= 0) & (i < grid.rows) & (j >= 0) & (j < grid.cols)
            rows[i[near], j[near]] = values[near]


def _texture(surfaces: Surfaces, rows: NDArray[np.int32], seed: int) -> NDArray[np.float32]:
    """What makes one pixel of a surface brighter than the next: fine clutter, and slow stains of some 30 m."""
    rng = np.random.default_rng([seed, 13])
    clutter = rng.standard_normal(rows.shape, dtype=np.float32)
    stains = ndimage.gaussian_filter(rng.standard_normal(rows.shape, dtype=np.float32), 5, mode="wrap")
    stains /= stains.std()
    rough = surfaces.column("rough").astype(np.float32)[rows]
    return np.clip(1 + rough * (clutter + 0.6 * stains), 0.3, 2.0)
