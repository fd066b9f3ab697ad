"""The polygons of a prediction while they are made: shapes on disk, a hundred bytes of numbers for each in memory."""

from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray

from casbah import progress
from casbah.footprints.contours import Outline
from casbah.footprints.ground import in_squares
from casbah.footprints.shaping import Pairs, forms, overlapping, without_small_holes
from casbah.footprints.spool import Spool
from casbah.grid import Grid

Polygons = NDArray[np.object_]

LEVELS = 3
"""Forms of a polygon, the plainest first: contour, simplified, squared."""

ROW = np.dtype(
    [
        ("first", np.int32, 2),  # (row, col) of its first pixel
        ("probability", np.float64),
        ("bounds", np.float64, 4),  # of all its forms: west, south, east, north
        ("contour", np.float64),  # its area with all holes, in square metres
        ("area", np.float64, LEVELS),  # of each form
        ("at", np.int64, LEVELS),  # its number in the spool; -1 where there is no such form
        ("form", np.int8),  # the one that is taken
    ]
)

CHUNK = 20_000
"""Polygons whose shapes are in memory at once."""


class Drawing:
    """Polygons of a grid, added in any order and given out from the north to the south.

    Those of less than `least` square metres are left out, and holes of less filled where that leaves a polygon's area
    as it is; outlines are simplified by at most `tolerance` metres, and with `square` given right angles where their
    shape has them.
    """

    def __init__(self, spool: Spool, grid: Grid, least: float, tolerance: float, square: bool) -> None:
        self.grid, self.least, self.tolerance, self.square = grid, least, tolerance, square
        self.spool = spool
        # Of what shaping may change, the area alone decides what is kept: dust far below it is dropped at once.
        self._dust = 0.9 * least / grid.resolution**2
        self._made: list[NDArray[np.void]] = []
        self.rows: NDArray[np.void] = np.zeros(0, ROW)
        """Of those that are given out, once they are settled."""

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, batch: list[Outline], steps: int) -> None:
        """Take polygons up; `steps` is the value of the probability 1."""
        made = [outline for outline in batch if outline.shape.area >= self._dust]
        if not made:
            return
        loose = ~np.array([outline.cut for outline in made], bool)
        pixels = np.array([outline.pixels for outline in made], np.int64)
        total = np.array([outline.total for outline in made], np.float64)
        drawn = in_metres(made, self.grid)
        area = shapely.area(drawn)
        found = forms(without_small_holes(drawn, self.least), area, loose, pixels, self.tolerance, self.square)
        rows = np.zeros(len(made), ROW)
        rows["contour"] = area
        rows["first"] = [outline.first for outline in made]
        rows["probability"] = total / np.maximum(pixels, 1) / steps
        rows["at"] = -1
        rows["bounds"] = shapely.bounds(found.contour)
        for level in range(LEVELS):
            which, shapes = found.at(level)
            rows["at"][which, level] = self.spool.add(shapes)
            rows["area"][which, level] = shapely.area(shapes)
            low, high = np.split(shapely.bounds(shapes).reshape(-1, 4), 2, axis=1)
            rows["bounds"][which, :2] = np.minimum(rows["bounds"][which, :2], low)
            rows["bounds"][which, 2:] = np.maximum(rows["bounds"][which, 2:], high)
        self._made.append(rows)

    def settle(self, side: float) -> None:
        """Choose the form of each polygon, and what is large enough: none lies over another then.

        A form that lies over any form of another polygon is not taken, so that it does not matter which forms the
        others take; contours lie apart. Shapes are held against each other by squares of `side` metres.
        """
        rows = np.concatenate([np.zeros(0, ROW), *self._made])
        self._made.clear()
        free = rows["at"] >= 0
        for here, index in _by_square(rows["bounds"], side):
            free[index] &= ~self._overlapping(rows[index], here, side)
        free[:, 0] = True
        rows["form"] = LEVELS - 1 - np.argmax(free[:, ::-1], axis=1)
        taken = rows["area"][np.arange(len(rows)), rows["form"]]
        large = np.flatnonzero(taken >= self.least)
        self.rows = rows[large[np.lexsort(rows["first"][large].T[::-1])]]

    def _overlapping(self, rows: NDArray[np.void], here: tuple[int, int], side: float) -> NDArray[np.bool_]:
        """Which forms of the polygons of a square (column, row) lie over one of another polygon, as (rows, levels)."""
        found = np.zeros((len(rows), LEVELS), bool)
        owner, level = np.nonzero(rows["at"] >= 0)
        low = rows["bounds"][:, :2]

        def counts(pairs: Pairs) -> NDArray[np.bool_]:
            first, second = owner[pairs[0]], owner[pairs[1]]
            # Two polygons may meet in several squares: they are asked in that of the corner of what their boxes share.
            corner = np.floor(np.maximum(low[first], low[second]) / side).astype(np.int64)
            return np.asarray((first != second) & (corner == here).all(axis=1))

        if (level > 0).any():
            shapes = self.spool.read(rows["at"][owner, level])
            found[owner, level] = overlapping(shapes, level > 0, counts)
        return found

    def chunks(self) -> Iterator[tuple[NDArray[np.void], Polygons]]:
        """Rows and outlines, some at a time, from the north to the south."""
        for start in range(0, len(self.rows), CHUNK):
            rows = self.rows[start : start + CHUNK]
            yield rows, self.spool.read(rows["at"][np.arange(len(rows)), rows["form"]])

    @property
    def area(self) -> float:
        """Square metres of the outlines."""
        return float(self.rows["area"][np.arange(len(self)), self.rows["form"]].sum())

    @property
    def area_of_contours(self) -> float:
        """Square metres of the contours that they were drawn from, with all their holes."""
        return float(self.rows["contour"].sum())


def in_metres(made: list[Outline], grid: Grid) -> Polygons:
    """The shapes of outlines, which are in pixels, in the grid's CRS."""
    shapes = np.array([outline.shape for outline in made], object)
    scale, corner = np.array([grid.resolution, -grid.resolution]), np.array([grid.west, grid.north])
    return shapely.orient_polygons(shapely.transform(shapes, lambda points: points * scale + corner))


def _by_square(bounds: NDArray[np.float64], side: float) -> Iterator[tuple[tuple[int, int], NDArray[np.int64]]]:
    """Each square (column, row) that boxes reach, from the south, with the indices of those boxes."""
    index, col, row = in_squares(bounds, side)
    if not len(index):
        return
    order = np.lexsort((index, col, row))
    index, col, row = index[order], col[order], row[order]
    starts = np.flatnonzero(np.diff(row, prepend=row[0] - 1) | np.diff(col, prepend=col[0]))
    ends = np.append(starts[1:], len(index))
    with progress.task("outlines", len(starts)) as task:
        for start, end in zip(starts, ends, strict=True):
            yield (int(col[start]), int(row[start])), index[start:end]
            task.advance()
