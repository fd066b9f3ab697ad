"""Contours of a probability raster below the size of a pixel, window by window, the same for every size of window.

Values stand at the centres of pixels. Between them they are interpolated to a grid four times as fine by the four-point
scheme (Dyn, Levin & Gregory 1987, doi 10.1016/0167-8396(87)90001-X), which keeps them and looks two pixels far, and are
linear between the points of that (marching squares, by contourpy; the two ways through a saddle are told apart by the
mean of its four corners). Lines that are straight between pixels alone cut the tops of what is a few pixels large:
`python -m bench.footprints` has how much. All vertices lie on lines of the fine grid, and windows share such a line:
what two windows cut along it is one polygon again, with the vertices that it has in one window.

A pixel that was observed is known up to its edge. Values are therefore continued into what was not (the mean of the
neighbours that are known), and contours are cut off along the edges of the observed pixels; what lies outside of the
raster was not observed either.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import contourpy
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio import features
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Polygons = NDArray[np.object_]

SNAP = 2.0**20
"""Vertices are rounded to 1 / SNAP pixels (a hundredth of a millimetre at 10 m), so that the last bit of an
interpolation, which differs with the direction in which a contour was followed, is the same in every window."""

BELOW = 0.4
"""Steps that the contour lies below the lowest value that is building: every pixel at or above the threshold is then
inside and every other outside, and no point of the fine grid, whose values have no factor of five below the line, lies
on the contour."""

CLEAR = 0.25
"""Steps that a point of the fine grid is at least kept from the contour, so that no two vertices around it become one
where they are rounded: an eighth of a percent of probability in 8 bits."""

FINE = 4
"""Points of the fine grid in a pixel's width."""

RIM = 4
"""Pixels around a window that its values depend on: two of the interpolation, two of the continuation."""

UNKNOWN = -1
"""In the place of a value that was never observed."""

Values = NDArray[np.int32]
Read = Callable[[int, int, int, int], Values]
"""Whole-number values of rows [top, bottom) and columns [left, right), `UNKNOWN` where not observed."""

Seen = Callable[[Values, int, int], None]
"""Told once of every pixel: the values of a window, its first row and its first column."""


@dataclass(frozen=True)
class Outline:
    """A polygon in pixels: x counts columns east and y rows south from the raster's outer corner."""

    shape: shapely.Polygon
    cut: bool
    """Whether it ends where nothing was observed."""
    pixels: int
    """Whose centres lie in it."""
    total: int
    """Sum of their values."""
    first: tuple[int, int]
    """(row, col) of the first of them, from the north and then from the west: no other polygon has it."""


@dataclass
class _Pieces:
    """Polygons that reach a line that they are to be stitched along."""

    shapes: list[shapely.Polygon] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)

    def add(self, shape: shapely.Polygon, cut: bool) -> None:
        self.shapes.append(shape)
        self.cut.append(cut)


def outlines(
    read: Read, shape: tuple[int, int], level: int, window: int, seen: Seen, advance: Callable[[], None]
) -> Iterator[list[Outline]]:
    """The polygons around values of at least `level`, some at a time and in no order.

    `shape` is (rows, cols) of the raster, of which about `window` x `window` pixels are in memory at once; polygons
    that reach into the next row of windows wait for it. `advance` is called once a window.
    """
    rows, cols = _edges(shape[0], window), _edges(shape[1], window)
    waiting = _Pieces()
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            values = read(top - RIM, bottom + 1 + RIM, left - RIM, right + 1 + RIM)
            owned = values[RIM + (top < 0) : -RIM - 1, RIM + (left < 0) : -RIM - 1]
            seen(owned, max(top, 0), max(left, 0))
            shapes, cut = _window(values, top, left, level)
            west, north, east, south = shapely.bounds(shapes).reshape(-1, 4).T
            seam = (north <= top + 0.5) & (top > rows[0]) | (south >= bottom + 0.5) & (bottom < rows[-1])
            seam |= (west <= left + 0.5) & (left > cols[0]) | (east >= right + 0.5) & (right < cols[-1])
            for piece, is_cut in zip(shapes[seam], cut[seam], strict=True):
                waiting.add(piece, bool(is_cut))
            if not seam.all():
                whole = _canonical(shapes[~seam])
                counted = _counted(whole, _inner(values, RIM), top, left)
                yield _made(whole, cut[~seam], *counted)
            advance()
        shapes, cut = _stitched(waiting)
        waiting = _Pieces()
        open_ = (shapely.bounds(shapes).reshape(-1, 4)[:, 3] >= bottom + 0.5) & (bottom < rows[-1])
        for piece, is_cut in zip(shapes[open_], cut[open_], strict=True):
            waiting.add(piece, bool(is_cut))
        if not open_.all():
            whole = _canonical(shapes[~open_])
            counted = _counted_apart(whole, read, shape, window)
            yield _made(whole, cut[~open_], *counted)


def windows(shape: tuple[int, int], window: int) -> int:
    """How many windows `outlines` goes through."""
    return (len(_edges(shape[0], window)) - 1) * (len(_edges(shape[1], window)) - 1)


def _edges(length: int, window: int) -> list[int]:
    """The pixels whose centres lie on lines between windows; the first and the last lie outside of the raster."""
    return [-1, *range(window, length, window), length]


def _window(values: Values, top: int, left: int, level: int) -> tuple[Polygons, NDArray[np.bool_]]:
    """The pieces of polygons in one window (`values` has RIM more pixels on each side), and which of them are cut."""
    known = _inner(values, RIM) >= 0
    if not (values >= level).any():
        return np.array([], object), np.array([], bool)
    given = np.maximum(_continued(_continued(values.astype(np.float64))), 0.0)
    # Two halvings of the distance use up the rim but for half a pixel.
    fine = _doubled(_doubled(given))[2:-2, 2:-2]
    off = fine - (level - BELOW)
    near = np.abs(off) < CLEAR
    fine[near] = level - BELOW + np.copysign(CLEAR, off[near])
    rows, cols = fine.shape
    generator = contourpy.contour_generator(
        x=np.arange(cols) / FINE + left + 0.5,
        y=np.arange(rows) / FINE + top + 0.5,
        z=fine,
        name="serial",
        fill_type=contourpy.FillType.ChunkCombinedOffsetOffset,
    )
    points, rings, polygons = (chunks[0] for chunks in generator.filled(level - BELOW, np.inf))
    if points is None or rings is None or polygons is None:
        return np.array([], object), np.array([], bool)
    shapes = shapely.from_ragged_array(
        # contourpy counts polygons by rings, and shapely rings by points.
        shapely.GeometryType.POLYGON,
        _snapped(np.asarray(points, np.float64)),
        (rings, polygons),
    )
    return _cut_off(shapes, ~known, top, left)


def _inner(values: Values, rim: int) -> Values:
    return values[rim:-rim, rim:-rim]


def _continued(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values without their rim of one pixel; where one is unknown the mean of its known neighbours across an edge,
    else of those across a corner, else it stays unknown."""
    known = values >= 0
    found = values[1:-1, 1:-1].copy()
    unknown = ~known[1:-1, 1:-1]
    if not unknown.any():
        return found
    given = np.where(known, values, 0.0)
    rows, cols = found.shape
    for steps in (((0, 1), (1, 0), (1, 2), (2, 1)), ((0, 0), (0, 2), (2, 0), (2, 2))):
        total = np.sum([given[r : r + rows, c : c + cols] for r, c in steps], axis=0)
        count = np.sum([known[r : r + rows, c : c + cols] for r, c in steps], axis=0)
        here = unknown & (count > 0)
        found[here] = total[here] / count[here]
        unknown &= ~here
    return found


def _doubled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values without their rim of one point, and one between each two of them along both axes."""
    for _ in range(2):
        before, left, right, after = values[:-3], values[1:-2], values[2:-1], values[3:]
        made = np.empty((2 * len(left) + 1, values.shape[1]))
        made[::2] = values[1:-1]
        made[1::2] = (9 * (left + right) - (before + after)) / 16
        values = made.T
    return values


def _cut_off(shapes: Polygons, unknown: NDArray[np.bool_], top: int, left: int) -> tuple[Polygons, NDArray[np.bool_]]:
    """What of the polygons lies on observed pixels, and which of them meet others."""
    cut = np.zeros(len(shapes), bool)
    if not unknown.any():
        return shapes, cut
    place = Affine.translation(left, top)
    dark = np.array(
        [_polygon(found) for found, _ in features.shapes(unknown.astype(np.uint8), mask=unknown, transform=place)],
        object,
    )
    piece, other = shapely.STRtree(dark).query(shapes, predicate="intersects")
    if not len(piece):
        return shapes, cut
    cut[piece] = True
    parts: list[Polygons] = []
    for index in np.unique(piece):
        rest = shapely.difference(shapes[index], shapely.union_all(dark[other[piece == index]]))
        parts.append(_polygons_of(shapely.transform(rest, _snapped)))
    clipped = np.concatenate(parts)
    return np.concatenate([shapes[~cut], clipped]), np.repeat([False, True], [int((~cut).sum()), len(clipped)])


def _polygon(found: dict[str, Any]) -> shapely.Polygon:
    outer, *holes = found["coordinates"]
    return shapely.Polygon(outer, holes)


def _polygons_of(shape: shapely.Geometry) -> Polygons:
    """The valid polygons that a geometry is made of."""
    if not shapely.is_valid(shape):
        shape = shapely.make_valid(shape)
    parts = shapely.get_parts(shapely.get_parts(shape))
    return parts[(shapely.get_dimensions(parts) == 2) & (shapely.area(parts) > 0)]


def _stitched(pieces: _Pieces) -> tuple[Polygons, NDArray[np.bool_]]:
    """The pieces united where they share a part of a line."""
    shapes, cut = np.array(pieces.shapes, object), np.array(pieces.cut, bool)
    if len(shapes) < 2:
        return shapes, cut
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    pairs = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(shapes), len(shapes)))
    count, group = connected_components(pairs, directed=False)
    order = np.argsort(group, kind="stable")
    united: list[Polygons] = []
    is_cut: list[NDArray[np.bool_]] = []
    for members in np.split(order, np.cumsum(np.bincount(group, minlength=count))[:-1]):
        parts = shapes[members] if len(members) == 1 else _polygons_of(shapely.union_all(shapes[members]))
        united.append(parts)
        if len(parts) == 1:
            is_cut.append(np.array([cut[members].any()]))
            continue
        flags = np.zeros(len(parts), bool)
        part, member = shapely.STRtree(shapes[members]).query(shapely.point_on_surface(parts), predicate="intersects")
        inside = shapely.STRtree(parts).query(shapely.point_on_surface(shapes[members]), predicate="within")
        np.logical_or.at(flags, inside[1], cut[members][inside[0]])
        np.logical_or.at(flags, part, cut[members][member])
        is_cut.append(flags)
    return np.concatenate(united), np.concatenate(is_cut)


def _snapped(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.rint(points * SNAP) / SNAP


def _canonical(shapes: Polygons) -> Polygons:
    """The same polygons without vertices on straight lines, such as seams leave on the edges of pixels; rings start and
    turn as `shapely.normalize` has it."""
    _, points, (rings, polygons) = shapely.to_ragged_array(shapes, include_z=False)
    ends = np.zeros(len(points), bool)
    ends[rings[1:] - 1] = True
    ring = np.repeat(np.arange(len(rings) - 1), np.diff(rings))
    # Without the repeated last point of each ring, neighbours are those before and after, around the ring.
    kept, ring = points[~ends], ring[~ends]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ring)) + 1])
    lengths = np.diff(np.append(starts, len(kept)))
    before, after = np.arange(len(kept)) - 1, np.arange(len(kept)) + 1
    before[starts] = starts + lengths - 1
    after[starts + lengths - 1] = starts
    a, b = kept - kept[before], kept[after] - kept
    bent = a[:, 0] * b[:, 1] != a[:, 1] * b[:, 0]
    kept, ring = kept[bent], ring[bent]
    counts = np.bincount(ring, minlength=len(rings) - 1)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    closed = np.insert(kept, starts + counts, kept[starts], axis=0)
    offsets = np.concatenate([[0], np.cumsum(counts + 1)])
    return shapely.normalize(
        shapely.from_ragged_array(shapely.GeometryType.POLYGON, closed, (offsets.astype(np.int64), polygons))
    )


Counted = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Of each polygon: pixels, the sum of their values, and (row, col) of the first, as (polygons, 2)."""


def _counted(shapes: Polygons, values: Values, top: int, left: int) -> Counted:
    """Count the pixels whose centres lie in polygons that do not overlap."""
    burnt = features.rasterize(
        zip(shapes, range(1, len(shapes) + 1), strict=True),
        out_shape=values.shape,
        transform=Affine.translation(left, top),
        dtype="int32",
    )
    rows, cols = np.nonzero((burnt > 0) & (values >= 0))
    which, found = burnt[rows, cols] - 1, values[rows, cols]
    pixels, total = np.zeros((2, len(shapes)), np.int64)
    np.add.at(pixels, which, 1)
    np.add.at(total, which, found.astype(np.int64))
    first = np.zeros((len(shapes), 2), np.int64)
    # Pixels come row by row, so that the first of a polygon is its northernmost.
    polygon, index = np.unique(which, return_index=True)
    first[polygon] = np.stack([rows[index] + top, cols[index] + left], axis=1)
    return pixels, total, first


def _counted_apart(shapes: Polygons, read: Read, raster: tuple[int, int], window: int) -> Counted:
    """As `_counted`, for polygons that no window holds: each is gone through by windows of its own."""
    pixels, total = np.zeros((2, len(shapes)), np.int64)
    first = np.zeros((len(shapes), 2), np.int64)
    for index, shape in enumerate(shapes):
        west, north, east, south = shapely.bounds(shape)
        shapely.prepare(shape)
        places: list[tuple[int, int]] = []
        for top in range(max(int(north), 0), min(int(south) + 1, raster[0]), window):
            for left in range(max(int(west), 0), min(int(east) + 1, raster[1]), window):
                bottom, right = (
                    min(top + window, int(south) + 1, raster[0]),
                    min(left + window, int(east) + 1, raster[1]),
                )
                if not shapely.intersects(shape, shapely.box(left, top, right, bottom)):
                    continue
                count, found, place = _counted(np.array([shape]), read(top, bottom, left, right), top, left)
                pixels[index] += count[0]
                total[index] += found[0]
                if count[0]:
                    places.append((int(place[0, 0]), int(place[0, 1])))
        if places:
            first[index] = min(places)
    return pixels, total, first


def _made(
    shapes: Sequence[shapely.Polygon] | Polygons, cut: NDArray[np.bool_], *counted: NDArray[np.int64]
) -> list[Outline]:
    """Outlines of the polygons that hold a pixel; a corner that continues into the unknown may leave one that holds
    none."""
    pixels, total, first = counted
    return [
        Outline(shape, bool(is_cut), int(count), int(found), (int(place[0]), int(place[1])))
        for shape, is_cut, count, found, place in zip(shapes, cut, pixels, total, first, strict=True)
        if count
    ]
