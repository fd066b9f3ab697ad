"""How far the footprints lie from each period's image, cell by cell."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from casbah import progress
from casbah.grid import Grid
from casbah.products.labels import IGNORE, Shift
from casbah.products.scene import Scene
from casbah.registration import MAX_SHIFT, estimate_shift

CELL = 1500.0
"""Metres on a side, about: large enough for a few hundred buildings, small enough to see a shift change."""

RIM = int(np.ceil(MAX_SHIFT)) + 1
"""Pixels around a cell that the search for a shift needs."""


def estimate_shifts(scene: Scene, coverage: Path) -> tuple[Shift, ...]:
    """The shift of every cell with buildings and every period, in the order of periods and then of rows and columns."""
    grid = scene.grid
    cells = [cell for cell in _cells(grid) if _built(coverage, cell)]
    shifts = []
    with progress.task("shift of labels against image", len(cells) * scene.periods) as task:
        for period in range(scene.periods):
            for cell in cells:
                shifts.append(_shift(scene, coverage, period, cell))
                task.advance()
    return tuple(shifts)


def _cells(grid: Grid) -> Iterator[Window]:
    """Cells of nearly equal size that cover the grid once, row by row."""
    rows = _edges(grid.rows, grid.resolution)
    cols = _edges(grid.cols, grid.resolution)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            yield Window(left, top, right - left, bottom - top)


def _edges(pixels: int, resolution: float) -> list[int]:
    count = max(1, round(pixels * resolution / CELL))
    return [int(edge) for edge in np.linspace(0, pixels, count + 1).round()]


def _built(coverage: Path, cell: Window) -> bool:
    with rasterio.open(coverage) as dataset:
        cover = dataset.read(1, window=cell)
    return bool(((cover > 0) & (cover != IGNORE)).any())


def _shift(scene: Scene, coverage: Path, period: int, cell: Window) -> Shift:
    grid = scene.grid
    around = _around(cell, grid)
    with rasterio.open(scene.reflectance_path(period)) as dataset:
        image = dataset.read(window=around)
    with rasterio.open(coverage) as dataset:
        cover = dataset.read(1, window=around)
    found = estimate_shift(image, cover, grid.resolution)
    bounds = grid.part(cell.row_off, cell.col_off, cell.height, cell.width).bounds
    return Shift(
        period=period,
        cell=bounds,
        east=found.east,
        north=found.north,
        correlation_before=found.correlation_before,
        correlation_after=found.correlation_after,
        reliable=found.reliable,
    )


def _around(cell: Window, grid: Grid) -> Window:
    top, left = max(cell.row_off - RIM, 0), max(cell.col_off - RIM, 0)
    bottom = min(cell.row_off + cell.height + RIM, grid.rows)
    right = min(cell.col_off + cell.width + RIM, grid.cols)
    return Window(left, top, right - left, bottom - top)
