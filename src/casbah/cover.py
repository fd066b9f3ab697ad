"""Exact cover: the share of every pixel that lies under the union of the footprints.

The area is summed, not sampled. Every edge of every ring is cut where it crosses a pixel's border; a piece adds its
signed area to its own pixel and its height to all pixels east of it (the accumulation buffer of font rasterisers; the
same line integral as in Green's theorem). That is exact for polygons without overlap, so overlapping footprints are
united first. `bench/label.py` compares it with `rasterio.features` and `exactextract`.
"""

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from casbah.errors import InputError
from casbah.grid import Grid

BLOCK = 1024
"""Pixels on a side that are summed at once, so that memory does not grow with the grid."""

Polygons = NDArray[np.object_]


def exact_cover(footprints: Any, grid: Grid, *, east: float = 0.0, north: float = 0.0) -> NDArray[np.uint8]:
    """Percent (0-100, rounded) of each pixel of `grid` under the union of valid polygons, as (rows, cols) uint8.

    `footprints` is a GeoDataFrame, a GeoSeries or a sequence of shapely polygons in the grid's CRS; `east` and `north`
    are the metres by which all of them are moved first. `InputError` where they are in another CRS.
    """
    polygons = polygons_of(footprints, grid)
    cover = np.zeros(grid.shape, np.uint8)
    for window in grid.windows(BLOCK):
        rows, cols = window.toslices()
        cover[rows, cols] = np.rint(100.0 * _fractions(polygons, _part(grid, window), east, north))
    return cover


def exact_fractions(footprints: Any, grid: Grid, *, east: float = 0.0, north: float = 0.0) -> NDArray[np.float64]:
    """As `exact_cover`, unrounded: the covered share (0-1) of each pixel as (rows, cols) float64, all in memory."""
    return _fractions(polygons_of(footprints, grid), grid, east, north)


def polygons_of(footprints: Any, grid: Grid) -> Polygons:
    """The shapely polygons of a GeoDataFrame, GeoSeries or sequence; `InputError` where its CRS is not the grid's."""
    crs = getattr(footprints, "crs", None)
    if crs is not None and crs != grid.crs:
        raise InputError(f"the footprints are in {crs.to_string()} and the grid in {grid.crs}: reproject them first")
    geometries = footprints.geometry if hasattr(footprints, "geometry") else footprints
    return np.asarray(geometries, dtype=object)


def united(polygons: Polygons) -> Polygons:
    """The same area without overlaps: polygons whose interiors meet are united, the others are kept as they are."""
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    meet = shapely.relate_pattern(polygons[first], polygons[second], "T********")
    if not meet.any():
        return polygons
    first, second = first[meet], second[meet]
    # Group by group: one union of everything is several times slower.
    pairs = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(polygons), len(polygons)))
    _, group = connected_components(pairs, directed=False)
    overlapping = np.unique(np.concatenate([first, second]))
    overlapping = overlapping[np.argsort(group[overlapping], kind="stable")]
    starts = np.flatnonzero(np.diff(group[overlapping])) + 1
    unions = [shapely.union_all(polygons[members]) for members in np.split(overlapping, starts)]
    return np.append(np.delete(polygons, overlapping), np.asarray(unions, dtype=object))


def _part(grid: Grid, window: Window) -> Grid:
    return grid.part(window.row_off, window.col_off, window.height, window.width)


def _fractions(polygons: Polygons, grid: Grid, east: float, north: float) -> NDArray[np.float64]:
    west_edge, south_edge, east_edge, north_edge = grid.bounds
    bounds = shapely.bounds(polygons).reshape(-1, 4) + np.array([east, north, east, north])
    inside = (bounds[:, 0] < east_edge) & (bounds[:, 2] > west_edge)
    inside &= (bounds[:, 1] < north_edge) & (bounds[:, 3] > south_edge)
    if not inside.any():
        return np.zeros(grid.shape)
    edges = _edges(united(polygons[inside]))
    edges[:, [0, 2]] = (edges[:, [0, 2]] + (east - grid.west)) / grid.resolution
    edges[:, [1, 3]] = (grid.north - north - edges[:, [1, 3]]) / grid.resolution
    return _accumulate(edges, grid.rows, grid.cols)


def _edges(polygons: Polygons) -> NDArray[np.float64]:
    """Every edge of every ring as (x0, y0, x1, y1), shells counter-clockwise and holes clockwise."""
    rings = shapely.get_rings(shapely.orient_polygons(shapely.get_parts(polygons)))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    return np.hstack([points[:-1][same], points[1:][same]])


def _accumulate(edges: NDArray[np.float64], rows: int, cols: int) -> NDArray[np.float64]:
    """Covered share of each pixel, (rows, cols), from oriented edges in pixel units (columns east, rows south)."""
    edges = _clipped(edges, rows, cols)
    x0, y0, x1, y1 = _pieces(edges).T
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    column = np.clip(np.floor(middle_x), 0, cols).astype(np.int64)
    row = np.clip(np.floor(middle_y), 0, rows - 1).astype(np.int64)
    height = y1 - y0
    own = height * (column + 1 - middle_x)
    width = cols + 2  # two more columns take what lies east of the grid
    size = rows * width
    start = row * width + column
    sums = np.bincount(start, weights=own, minlength=size)
    sums += np.bincount(start + 1, weights=height - own, minlength=size)
    return np.clip(np.cumsum(sums.reshape(rows, width), axis=1)[:, :cols], 0.0, 1.0)


def _clipped(edges: NDArray[np.float64], rows: int, cols: int) -> NDArray[np.float64]:
    """Edges cut to the grid's rows; what lies west of it is moved to its border, what lies east of it stays there."""
    x0, y0, x1, y1 = edges.T
    keep = (y0 != y1) & (np.maximum(y0, y1) > 0) & (np.minimum(y0, y1) < rows)
    x0, y0, x1, y1 = edges[keep].T
    slope = (x1 - x0) / (y1 - y0)
    top, bottom = np.clip(y0, 0, rows), np.clip(y1, 0, rows)
    left, right = x0 + (top - y0) * slope, x0 + (bottom - y0) * slope
    edges = _cut(np.column_stack([left, top, right, bottom]), np.array([0.0, float(cols)]))
    edges[:, [0, 2]] = np.clip(edges[:, [0, 2]], 0.0, cols)
    return edges


def _cut(edges: NDArray[np.float64], lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges cut where they cross the vertical lines x = `lines`."""
    for line in lines:
        x0, y0, x1, y1 = edges.T
        crossing = (np.minimum(x0, x1) < line) & (np.maximum(x0, x1) > line)
        if not crossing.any():
            continue
        x0, y0, x1, y1 = edges[crossing].T
        at = np.full(len(x0), line)
        y = y0 + (line - x0) / (x1 - x0) * (y1 - y0)
        halves = [np.column_stack([x0, y0, at, y]), np.column_stack([at, y, x1, y1])]
        edges = np.vstack([edges[~crossing], *halves])
    return edges


def _pieces(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges cut at every pixel border that they cross, as (x0, y0, x1, y1) rows that each lie in one pixel."""
    start, end = edges[:, :2], edges[:, 2:]
    owners, places = [np.arange(len(edges))], [np.zeros(len(edges))]
    for axis in (0, 1):
        low = np.floor(np.minimum(start[:, axis], end[:, axis])) + 1
        high = np.ceil(np.maximum(start[:, axis], end[:, axis])) - 1
        count = np.maximum(high - low + 1, 0).astype(np.int64)
        owner = np.repeat(np.arange(len(edges)), count)
        line = low[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        owners.append(owner)
        places.append((line - start[owner, axis]) / (end[owner, axis] - start[owner, axis]))
    owner, place = np.concatenate(owners), np.concatenate(places)
    order = np.lexsort((place, owner))
    owner, place = owner[order], place[order]
    last = np.append(owner[1:] != owner[:-1], True)
    until = np.where(last, 1.0, np.append(place[1:], 1.0))
    way = (end - start)[owner]
    return np.hstack([start[owner] + place[:, None] * way, start[owner] + until[:, None] * way])
