"""Contours as a map wants them: fewer vertices, right angles where the shape has them, no polygon over another.

Every step is held against the contour: an outline whose area differs from it by more than `MOST` is not taken, and one
that lies over any form of another polygon steps down to the next plainer form, as does the other. A polygon's outline
depends on it and on what lies beside it alone: nothing depends on an order or on windows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Polygons = NDArray[np.object_]

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Indices of the one and of the other."""

MOST = 0.05
"""Share of its contour's area by which an outline may differ."""

TRIES = (1.0, 0.5, 0.25)
"""Parts of the tolerance that simplification is tried with, the largest first that keeps the area."""

SQUARED_PIXELS = 4
"""Fewer pixels have no direction of their own: the contour of a lone one is a square on its corner."""

ALIKE = 0.9
"""IoU with its contour that a squared outline must have; a disc and the square of its area have 0.83."""

OVER = 1e-3
"""Square metres that two outlines may share by rounding."""


@dataclass(frozen=True)
class Forms:
    """Every polygon as its contour, simplified and squared, and the best of these that it can have."""

    contour: Polygons
    simplified: Polygons
    squared: Polygons
    best: NDArray[np.int8]
    """0 contour, 1 simplified, 2 squared."""

    def at(self, level: int) -> tuple[NDArray[np.int64], Polygons]:
        """Which polygons have a form of this level, and those forms."""
        which = np.flatnonzero(self.best >= level)
        return which, (self.contour, self.simplified, self.squared)[level][which]


def forms(
    contour: Polygons,
    area: NDArray[np.float64],
    loose: NDArray[np.bool_],
    pixels: NDArray[np.int64],
    tolerance: float,
    square: bool,
) -> Forms:
    """The forms of contours in metres; those that are not `loose` have no other.

    `area` is that of each with all its holes, in square metres, `pixels` the number of its pixels, and `tolerance` the
    metres that simplification may move an outline by.
    """
    simplified = _simplified(contour, area, tolerance)
    best = (loose & (tolerance > 0)).astype(np.int8)
    squared = simplified.copy()
    if square:
        for index in np.flatnonzero(loose & (pixels >= SQUARED_PIXELS)):
            made = _squared(contour[index], area[index], simplified[index], tolerance)
            if made is not None:
                squared[index], best[index] = made, 2
    return Forms(contour, simplified, squared, best)


def overlapping(
    shapes: Polygons, movable: NDArray[np.bool_], pairs: Callable[[Pairs], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """Which of the `movable` shapes lie over another, of the pairs of shapes that `pairs` lets count."""
    found = np.zeros(len(shapes), bool)
    asked = np.flatnonzero(movable)
    met, other = shapely.STRtree(shapes).query(shapes[asked])
    first, second = asked[met], other
    # Of two movable ones either finds the other.
    once = ~movable[second] | (first < second)
    first, second = first[once], second[once]
    counts = pairs((first, second))
    first, second = first[counts], second[counts]
    swap = shapely.get_num_coordinates(shapes[first]) < shapely.get_num_coordinates(shapes[second])
    large, small = np.where(swap, second, first), np.where(swap, first, second)
    shapely.prepare(shapes[np.unique(large)])
    meet = shapely.intersects(shapes[large], shapes[small])
    large, small = large[meet], small[meet]
    over = shapely.area(shapely.intersection(shapes[large], shapes[small])) > OVER
    found[large[over]] = True
    found[small[over]] = True
    return found & movable


def without_small_holes(polygons: Polygons, least: float) -> Polygons:
    """The polygons with their holes of less than `least` square metres filled, the smallest first, as long as that adds
    no more than `MOST` of a polygon's area."""
    found = polygons.copy()
    for index in np.flatnonzero(shapely.get_num_interior_rings(polygons)):
        outer, *holes = shapely.get_rings(polygons[index])
        areas = shapely.area(shapely.polygons(holes))
        order = np.argsort(areas, kind="stable")
        added = np.empty_like(areas)
        added[order] = np.cumsum(areas[order])
        left = [
            hole
            for hole, own, so_far in zip(holes, areas, added, strict=True)
            if own >= least or so_far > MOST * polygons[index].area
        ]
        if len(left) < len(holes):
            found[index] = shapely.Polygon(outer, left)
    return found


def kept(outline: Polygons, area: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which outlines are valid and have about the area of their contours."""
    return (
        shapely.is_valid(outline) & ~shapely.is_empty(outline) & (np.abs(shapely.area(outline) - area) <= MOST * area)
    )


def _simplified(contour: Polygons, area: NDArray[np.float64], tolerance: float) -> Polygons:
    found = contour.copy()
    left = np.arange(len(contour)) if tolerance > 0 else np.array([], np.int64)
    for part in TRIES:
        tried = shapely.simplify(contour[left], part * tolerance, preserve_topology=True)
        tried = _restored(tried, contour[left], tolerance)
        good = kept(tried, area[left])
        found[left[good]] = tried[good]
        left = left[~good]
    return found


def _restored(outline: Polygons, contour: Polygons, most: float) -> Polygons:
    """The outlines scaled about their middle to the area of their contours, where that moves nothing by over `most`
    metres: fewer vertices cut more corners than they fill."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(shapely.area(contour) / shapely.area(outline))
    west, south, east, north = shapely.bounds(outline).reshape(-1, 4).T
    small = np.isfinite(scale) & (np.hypot(east - west, north - south) / 2 * np.abs(scale - 1) <= most)
    middle = shapely.get_coordinates(shapely.centroid(outline[small]))
    points, index = shapely.get_coordinates(outline[small], return_index=True)
    moved = middle[index] + (points - middle[index]) * scale[small][index, None]
    found = outline.copy()
    found[small] = shapely.set_coordinates(outline[small].copy(), moved)
    return found


def _squared(contour: shapely.Polygon, area: float, simplified: shapely.Polygon, most: float) -> shapely.Polygon | None:
    """The outline with every side along or across its dominant direction; None where that is another shape."""
    angle = _direction(simplified)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    origin = shapely.get_coordinates(shapely.centroid(contour))[0]
    rings = [_rectilinear((shapely.get_coordinates(ring) - origin) @ turn) for ring in shapely.get_rings(simplified)]
    if any(ring is None for ring in rings):
        return None
    outer, *holes = (ring @ turn.T + origin for ring in rings if ring is not None)
    made = shapely.Polygon(outer, holes)
    (made,) = _restored(np.array([made]), np.array([contour]), most)
    if not kept(np.array([made]), np.array([area]))[0]:
        return None
    shared = shapely.area(shapely.intersection(made, contour))
    alike = shared / (shapely.area(made) + shapely.area(contour) - shared)
    return shapely.normalize(made) if alike >= ALIKE else None


def _direction(polygon: shapely.Polygon) -> float:
    """The direction (radians from east) that most of the outer ring runs along or across.

    Directions that differ by right angles are one: the mean of their fourfold angles, in which an edge counts by the
    square of its length, so that the short ones around a corner matter little.
    """
    edges = np.diff(shapely.get_coordinates(shapely.get_exterior_ring(polygon)), axis=0)
    along = edges[:, 0] + 1j * edges[:, 1]
    weight = np.abs(along) ** 2
    return float(np.angle(np.sum(weight * np.exp(4j * np.angle(along)))) / 4)


def _rectilinear(ring: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """A closed ring (points, 2) whose sides run along the axes: each run of edges that are rather along or rather
    across becomes one side, at the mean of where they run; None where fewer than four sides are left."""
    edges, middle = np.diff(ring, axis=0), (ring[1:] + ring[:-1]) / 2
    across = np.abs(edges[:, 1]) > np.abs(edges[:, 0])
    changes = np.flatnonzero(across != np.roll(across, 1))
    if len(changes) < 4:
        return None
    edges, middle = np.roll(edges, -changes[0], axis=0), np.roll(middle, -changes[0], axis=0)
    across = np.roll(across, -changes[0])
    starts = changes - changes[0]
    # Sides along east lie at a mean northing, the others at a mean easting.
    weight = np.where(across, np.abs(edges[:, 1]), np.abs(edges[:, 0]))
    place = np.where(across, middle[:, 0], middle[:, 1])
    at = np.add.reduceat(weight * place, starts) / np.add.reduceat(weight, starts)
    upright = across[starts]
    following, next_upright = np.roll(at, -1), np.roll(upright, -1)
    corners = np.where(upright[:, None], np.stack([at, following], 1), np.stack([following, at], 1))
    assert (upright != next_upright).all()
    return np.concatenate([corners, corners[:1]])
