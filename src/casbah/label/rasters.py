"""The two rasters of a label set, written block by block."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from casbah import progress
from casbah.cover import exact_cover, exact_fractions
from casbah.grid import Grid
from casbah.label.found import Area
from casbah.products.labels import IGNORE
from casbah.products.scene import Scene

BLOCK = 1024
"""Pixels on a side of what is in memory at once."""

WHOLE = 0.999
"""Share of a pixel that must lie in the labelled area: of one that is cut by its border, part of the cover is unknown.
A thousandth is left for the rounding of borders that were meant to follow the grid."""

LAYOUT = {
    "driver": "GTiff",
    "count": 1,
    "dtype": "uint8",
    "nodata": IGNORE,
    "tiled": True,
    "blockxsize": 256,
    "blockysize": 256,
    "compress": "deflate",
    "zlevel": 6,
}


def write_rasters(directory: Path, shapes: NDArray[Any], area: Area, scene: Scene, building_cover: int) -> int:
    """Write `coverage.tif` and `mask.tif` (uint8, 255 = unknown) of valid polygons on the scene's grid.

    Unknown is what lies outside the labelled area, and what no period of the scene observed; returned is the number of
    pixels that are not.
    """
    grid = area.grid
    windows = list(grid.windows(BLOCK))
    order = shapely.STRtree(shapes)
    labelled = 0
    with (
        # Through a file of Python's, a full disk is an error with its number; libtiff would print its own and drop it.
        open(directory / "coverage.tif", "wb") as coverage_file,
        open(directory / "mask.tif", "wb") as mask_file,
        rasterio.open(coverage_file, "w", **grid.profile(**LAYOUT)) as coverage,
        rasterio.open(mask_file, "w", **grid.profile(**LAYOUT)) as mask,
        progress.task("cover", len(windows)) as task,
    ):
        for window in windows:
            part = grid.part(window.row_off, window.col_off, window.height, window.width)
            near = np.sort(order.query(shapely.box(*part.bounds)))
            cover = exact_cover(shapes[near], part)
            cover[~known(part, area, scene, window)] = IGNORE
            building = np.where(cover == IGNORE, IGNORE, cover >= building_cover).astype(np.uint8)
            coverage.write(cover, 1, window=window)
            mask.write(building, 1, window=window)
            labelled += int((cover != IGNORE).sum())
            task.advance()
    return labelled


def known(part: Grid, area: Area, scene: Scene, window: Window) -> NDArray[np.bool_]:
    """Where something is known, (rows, cols): observed in some period, and wholly inside the labelled area."""
    observed: NDArray[np.bool_] = np.asarray((scene.valid(window) > 0).any(axis=0))
    if area.labelled is None:
        return observed
    inside = shapely.intersection(area.labelled, shapely.box(*part.bounds))
    polygons = np.asarray(shapely.get_parts(inside), dtype=object)
    polygons = polygons[shapely.area(polygons) > 0]
    return observed & (exact_fractions(polygons, part) >= WHOLE)
