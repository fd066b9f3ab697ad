"""How fast exact cover is beside supersampled rasters and exactextract, with how exact each of them is, in one run.

python -m bench.label [--buildings 20000] [--footprints FILE --crs EPSG:n]

Simulated footprints (rotated L shapes, some of them overlapping) or those of a file, on a 10 m grid:
  casbah        `casbah.cover.exact_cover`: the area is summed along the edges; overlaps are united first;
  rasterize kxk `rasterio.features.rasterize` on pixels k times finer, counted by block: k x k samples a pixel;
  exactextract  its `coverage` and `cell_id` of every footprint, after the same union of overlaps.
The truth is shapely's intersection of every touched pixel with the union. Errors are in percent of a pixel, over the
pixels that a footprint touches, before rounding to whole percent (which adds at most 0.5 to any of them).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import exactextract
import geopandas
import numpy as np
import shapely
from affine import Affine
from exactextract.feature import GeoPandasFeatureSource
from exactextract.raster import NumPyRasterSource
from numpy.typing import NDArray
from rasterio.features import rasterize

from casbah.cover import exact_cover, exact_fractions, united
from casbah.grid import Grid

ROUNDS = 3
STRIPE = 64
"""Rows that are supersampled at once, so that 50 x 50 samples a pixel fit in memory."""


def simulated(count: int, seed: int = 0) -> geopandas.GeoDataFrame:
    """L-shaped buildings of 8-40 m, rotated, in a square so large that 8 % of it is built; some overlap."""
    rng = np.random.default_rng(seed)
    side = float(np.ceil(np.sqrt(count * 330 / 0.08) / 10) * 10)
    length, width = rng.uniform(8, 40, (2, count))
    cut_x, cut_y = rng.uniform(0.3, 0.8, (2, count))
    none, one = np.zeros(count), np.ones(count)
    x = np.stack([none, one, one, cut_x, cut_x, none], axis=1) * length[:, None]
    y = np.stack([none, none, cut_y, cut_y, one, one], axis=1) * width[:, None]
    angle = rng.uniform(0, np.pi, (count, 1))
    place = rng.uniform(50, side - 50, (2, count, 1)) + np.array([500_000, 4_000_000])[:, None, None]
    east = place[0] + x * np.cos(angle) - y * np.sin(angle)
    north = place[1] + x * np.sin(angle) + y * np.cos(angle)
    return geopandas.GeoDataFrame(geometry=shapely.polygons(np.stack([east, north], axis=2)), crs="EPSG:32631")


def truth(footprints: geopandas.GeoDataFrame, grid: Grid) -> NDArray[np.float64]:
    """The covered share of each pixel (rows, cols) by shapely's intersections; 0 where no footprint comes near."""
    whole = united(footprints.geometry.to_numpy())
    rows, cols = np.nonzero(rasterize(whole, out_shape=grid.shape, transform=grid.transform, all_touched=True))
    west, north = grid.west + cols * grid.resolution, grid.north - rows * grid.resolution
    cells = shapely.box(west, north - grid.resolution, west + grid.resolution, north)
    cell, part = shapely.STRtree(whole).query(cells, predicate="intersects")
    share = shapely.area(shapely.intersection(cells[cell], whole[part])) / grid.resolution**2
    sums = np.bincount(rows[cell] * grid.cols + cols[cell], weights=share, minlength=grid.rows * grid.cols)
    return sums.reshape(grid.shape)


def supersampled(footprints: geopandas.GeoDataFrame, grid: Grid, times: int) -> NDArray[np.float64]:
    """The covered share of each pixel by `times` x `times` samples, stripe by stripe."""
    shapes = footprints.geometry.to_numpy()
    tree, cover = shapely.STRtree(shapes), np.zeros(grid.shape)
    for top in range(0, grid.rows, STRIPE):
        part = grid.part(top, 0, min(STRIPE, grid.rows - top), grid.cols)
        near = shapes[tree.query(shapely.box(*part.bounds))]
        if len(near) == 0:
            continue
        fine = rasterize(
            near,
            out_shape=(part.rows * times, part.cols * times),
            transform=part.transform * Affine.scale(1 / times),
            dtype="uint8",
        )
        cover[top : top + part.rows] = fine.reshape(part.rows, times, part.cols, times).mean(axis=(1, 3))
    return cover


def by_exactextract(footprints: geopandas.GeoDataFrame, grid: Grid) -> NDArray[np.float64]:
    """The covered share of each pixel by exactextract's per-footprint coverage."""
    whole = geopandas.GeoDataFrame(geometry=united(footprints.geometry.to_numpy()), crs=footprints.crs)
    west, south, east, north = grid.bounds
    raster = NumPyRasterSource(np.zeros(grid.shape, np.uint8), west, south, east, north, srs_wkt=whole.crs.to_wkt())
    found = exactextract.exact_extract(raster, GeoPandasFeatureSource(whole), ["cell_id", "coverage"], output="pandas")
    cells, shares = np.concatenate(found["cell_id"]), np.concatenate(found["coverage"])
    return np.bincount(cells, weights=shares, minlength=grid.rows * grid.cols).reshape(grid.shape)


def timed(act: Callable[[], object]) -> float:
    """The best of a few rounds, in seconds of this process (one thread each): other work on the machine counts less."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        act()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buildings", type=int, default=20_000)
    parser.add_argument("--footprints", type=Path)
    parser.add_argument("--crs", default="EPSG:32631")
    asked = parser.parse_args()
    footprints = simulated(asked.buildings)
    if asked.footprints is not None:
        footprints = geopandas.read_file(asked.footprints).to_crs(asked.crs)
    grid = Grid.covering(str(footprints.crs.to_string()), tuple(footprints.total_bounds))
    exact = truth(footprints, grid)
    touched = exact > 0
    ways: dict[str, tuple[Callable[[], object], Callable[[], NDArray[np.float64]]]] = {
        "casbah": (lambda: exact_cover(footprints, grid), lambda: exact_fractions(footprints, grid)),
        "exactextract": (lambda: by_exactextract(footprints, grid),) * 2,
    }
    for times in (1, 4, 10, 20, 50):
        ways[f"rasterize {times}x{times}"] = (lambda times=times: supersampled(footprints, grid, times),) * 2  # type: ignore[misc]
    print(f"{len(footprints):,} footprints, {grid.rows} x {grid.cols} pixels, {touched.sum():,} of them touched\n")
    print("| way | footprints/s | casbah is faster by | max error, % of a pixel | mean error |\n|---|---|---|---|---|")
    rates: dict[str, float] = {}
    for name, (run, share) in ways.items():
        rates[name] = len(footprints) / timed(run)
        error = 100 * np.abs(share() - exact)[touched]
        ratio = rates["casbah"] / rates[name]
        print(f"| {name} | {rates[name]:,.0f} | {ratio:.1f} | {error.max():.2g} | {error.mean():.2g} |", flush=True)


if __name__ == "__main__":
    main()
