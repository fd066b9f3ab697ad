"""Block by block: how much was observed, and how much of that polygons cover."""

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from casbah.blocks import named, place
from casbah.grid import Grid

if TYPE_CHECKING:
    import geopandas

Polygons = NDArray[np.object_]


class Ground:
    """The lattice of blocks over a grid, filled window by window."""

    def __init__(self, grid: Grid, side: float) -> None:
        self.grid, self.side = grid, side
        self.observed: Counter[str] = Counter()
        """Block -> observed pixels whose centres lie in it."""
        self.polygons: Counter[str] = Counter()
        """Block -> polygons whose first pixel lies in it."""
        self.areas: dict[str, float] = {}
        """Block -> square metres of polygons in it."""

    def add(self, known: NDArray[np.bool_], top: int, left: int) -> None:
        """Count the observed pixels of a window."""
        rows = self._block_rows(np.arange(top, top + known.shape[0]))
        cols = self._block_cols(np.arange(left, left + known.shape[1]))
        starts = [np.concatenate([[0], np.flatnonzero(np.diff(axis)) + 1]) for axis in (rows, cols)]
        counts = np.add.reduceat(np.add.reduceat(known.astype(np.int64), starts[0], axis=0), starts[1], axis=1)
        for i, row in enumerate(rows[starts[0]]):
            for j, col in enumerate(cols[starts[1]]):
                if counts[i, j]:
                    self.observed[self.name(int(col), int(row))] += int(counts[i, j])

    def name(self, col: int, row: int) -> str:
        """Of a block of this lattice."""
        return named(self.grid.crs, self.side, col, row)

    def of_pixels(self, first: NDArray[np.int64]) -> list[str]:
        """The blocks of pixels (row, col)."""
        return [
            self.name(int(col), int(row))
            for row, col in zip(self._block_rows(first[:, 0]), self._block_cols(first[:, 1]), strict=True)
        ]

    def of_points(self, points: Polygons) -> list[str]:
        """The blocks of points."""
        at = np.floor(shapely.get_coordinates(points) / self.side)
        return [self.name(int(col), int(row)) for col, row in at]

    def cover(self, outlines: Polygons, first: NDArray[np.int64]) -> None:
        """Count polygons, whose `first` pixels are (row, col), and measure what of them lies in which block."""
        self.polygons.update(self.of_pixels(first))
        index, col, row = in_squares(shapely.bounds(outlines).reshape(-1, 4), self.side)
        shapes = outlines[index]
        # Most polygons lie in one block and need no cutting.
        cut = np.bincount(index, minlength=len(outlines))[index] > 1
        west, south = col[cut] * self.side, row[cut] * self.side
        shapes[cut] = shapely.intersection(shapes[cut], shapely.box(west, south, west + self.side, south + self.side))
        for east, north, area in zip(col.tolist(), row.tolist(), shapely.area(shapes).tolist(), strict=True):
            if area > 0:
                block = self.name(east, north)
                self.areas[block] = self.areas.get(block, 0.0) + area

    def table(self) -> "geopandas.GeoDataFrame":
        """The rows of `blocks.parquet`, by name."""
        import geopandas

        blocks = sorted(self.observed.keys() | self.areas.keys())
        observed = np.array([self.observed[block] for block in blocks], float) * self.grid.resolution**2
        area = np.array([self.areas.get(block, 0.0) for block in blocks], float)
        with np.errstate(invalid="ignore", divide="ignore"):
            built = area / observed
        columns = {
            "block": np.array(blocks, object),
            "polygons": np.array([self.polygons[block] for block in blocks], np.int64),
            "area_m2": area,
            "observed_m2": observed,
            "built": np.where(observed > 0, built, np.nan),
        }
        squares = [shapely.box(*place(block)[1]) for block in blocks]
        return geopandas.GeoDataFrame(columns, geometry=squares, crs=self.grid.crs)

    def _block_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.floor((self.grid.north - (rows + 0.5) * self.grid.resolution) / self.side).astype(np.int64)

    def _block_cols(self, cols: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.floor((self.grid.west + (cols + 0.5) * self.grid.resolution) / self.side).astype(np.int64)


def is_side(side: float) -> bool:
    """Whether blocks can have such a side (metres)."""
    return math.isfinite(side) and side > 0


def in_squares(bounds: NDArray[np.float64], side: float) -> tuple[NDArray[np.int64], ...]:
    """The squares of a lattice that boxes (west, south, east, north) reach: index of the box, column and row of the
    square, box by box and from the south-west."""
    west, south, east, north = np.floor(bounds / side).astype(np.int64).T
    wide, count = east - west + 1, (east - west + 1) * (north - south + 1)
    index = np.repeat(np.arange(len(bounds)), count)
    nth = np.arange(len(index)) - (np.cumsum(count) - count)[index]
    return index, west[index] + nth % wide[index], south[index] + nth // wide[index]
