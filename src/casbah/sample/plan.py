"""The plan of the simulated town: coast, wadi, roads, districts, lots and footprints, as polygons in UTM metres."""

import math
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from casbah.sample import spectra
from casbah.sample.surfaces import Surfaces
from casbah.sample.typology import BUILT, RINGS, Typology

Points = NDArray[np.float64]
Shapes = NDArray[np.object_]

SEA_SHARE = 0.13
"""Share of the imagery that lies under the sea, at its north."""

GREEN = ("grass", "tree", "orchard")


@dataclass
class Footprints:
    """The buildings: polygons (UTM metres), OSM's building value, district, height in metres, surface row."""

    shapes: Shapes
    tags: NDArray[np.str_]
    districts: NDArray[np.str_]
    heights: NDArray[np.float64]
    surfaces: NDArray[np.int32]


@dataclass
class Plan:
    """What to paint, in order: `layers` of (polygons, surface rows), then `trees` (x, y, radius, surface row), then
    the footprints. `land` is everything south of the coast line."""

    bounds: tuple[float, float, float, float]
    surfaces: Surfaces
    land: BaseGeometry
    layers: list[tuple[Shapes, NDArray[np.int32]]] = field(default_factory=list)
    trees: list[Points] = field(default_factory=list)
    buildings: list[Footprints] = field(default_factory=list)

    def paint(self, shapes: BaseGeometry | Shapes, rows: NDArray[np.int32]) -> None:
        """Add a layer on top of the ones before."""
        self.layers.append((np.atleast_1d(np.asarray(shapes, dtype=object)), rows))

    def footprints(self) -> Footprints:
        """All buildings of all districts."""
        return Footprints(
            *(np.concatenate([getattr(part, name) for part in self.buildings]) for name in Footprints.__annotations__)
        )


def plan(imagery: tuple[float, float, float, float], margin: float, seed: int) -> Plan:
    """Draw a town into `imagery` (west, south, east, north; UTM metres) and a margin of so many metres around it.

    The same seed gives the same town.
    """
    rng = np.random.default_rng([seed, 7])
    west, south, east, north = imagery
    bounds = (west - margin, south - margin, east + margin, north + margin)
    coast = _coast(bounds, north - SEA_SHARE * (north - south), rng)
    west, south, east, _ = bounds
    land = Polygon([*coast, (east + 1, south - 1), (west - 1, south - 1)])
    town = Plan(bounds, Surfaces(), land)
    _sea_and_land(town, rng)
    beach = _beach(town, coast, rng)
    wadi = _wadi(town, rng)
    roads = _roads(town, coast, rng)
    free = shapely.difference(land, shapely.union_all([beach.buffer(12), wadi.buffer(14), *roads]))
    centre = (west + 0.42 * (east - west), float(np.interp(west + 0.42 * (east - west), *np.array(coast).T)) - 250)
    for district, kind in _districts(town, free, centre, rng):
        _fill(town, district, kind, rng)
    return town


def _coast(
    bounds: tuple[float, float, float, float], level: float, rng: np.random.Generator
) -> list[tuple[float, float]]:
    west, south, east, north = bounds
    x = np.linspace(west - 1, east + 1, max(80, int((east - west) / 20)))
    y = np.full_like(x, level)
    for waves, size in ((1, 0.045), (2.3, 0.025), (5, 0.009), (13, 0.003)):
        y += size * (north - south) * np.sin(2 * np.pi * waves * (x - west) / (east - west) + rng.uniform(0, 2 * np.pi))
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _sea_and_land(town: Plan, rng: np.random.Generator) -> None:
    box = shapely.box(*town.bounds)
    s = town.surfaces
    town.paint(box, s.add(rng, 1, spectra.index("deep sea"), spread=0.02, rough=0.03))
    for reach, water in ((420, "coastal sea"), (110, "coastal sea"), (35, "shallow sea")):
        town.paint(town.land.buffer(reach), s.add(rng, 1, spectra.index(water), spread=0.05, rough=0.05))
    ground = spectra.index("dry grass")
    town.paint(
        town.land,
        s.add(rng, 1, ground, plant=spectra.index("grass"), always=0.05, season=0.3, peak=140, rough=0.1),
    )


def _beach(town: Plan, coast: list[tuple[float, float]], rng: np.random.Generator) -> Polygon:
    line = np.array(coast)
    along = (line[:, 0] - line[0, 0]) / (line[-1, 0] - line[0, 0])
    width = 22 + 38 * np.sin(2 * np.pi * (2.2 * along + rng.uniform())) + 12 * np.sin(2 * np.pi * 7 * along)
    width = np.clip(width, 4, 70)
    strip = Polygon([*coast, *np.column_stack([line[:, 0], line[:, 1] - width])[::-1]]).buffer(0)
    sand = np.where(width[len(width) // 2] > 10, "dry sand", "rock")
    town.paint(strip, town.surfaces.add(rng, 1, spectra.index("rock"), rough=0.15))
    wide = shapely.intersection(strip, strip.buffer(-5).buffer(6))
    town.paint(wide, town.surfaces.add(rng, 1, spectra.index(str(sand)), rough=0.07))
    wash = shapely.intersection(wide, LineString(coast).buffer(7))
    town.paint(wash, town.surfaces.add(rng, 1, spectra.index("wet sand"), rough=0.08))
    return strip


def _wadi(town: Plan, rng: np.random.Generator) -> BaseGeometry:
    west, south, east, north = town.bounds
    y = np.linspace(south - 1, north, 120)
    along = (y - south) / (north - south)
    x = west + (east - west) * (0.74 - 0.12 * along + 0.035 * np.sin(2 * np.pi * (1.6 * along + rng.uniform())))
    x += 14 * np.sin(2 * np.pi * (north - south) / 420 * along + rng.uniform(0, 6))
    line = LineString(np.column_stack([x, y]))
    s = town.surfaces
    bank = shapely.intersection(line.buffer(26), town.land)
    reeds = s.add(rng, 1, spectra.index("gravel"), plant=spectra.index("reeds"), always=0.45, season=0.25, rough=0.2)
    town.paint(bank, reeds)
    town.paint(shapely.intersection(line.buffer(14), town.land), s.add(rng, 1, spectra.index("gravel"), rough=0.1))
    town.paint(shapely.intersection(line.buffer(3.5), town.land), s.add(rng, 1, spectra.index("wadi water")))
    return bank


def _roads(town: Plan, coast: list[tuple[float, float]], rng: np.random.Generator) -> list[BaseGeometry]:
    west, south, east, north = town.bounds
    width, height = east - west, north - south
    line = np.array(coast)
    shore = LineString(np.column_stack([line[:, 0], line[:, 1] - 95]))
    t = np.linspace(-0.01, 1.01, 60)
    bend = rng.uniform(0, 2 * np.pi, 3)
    crossing = LineString(np.column_stack([west + width * t, south + height * (0.36 + 0.05 * np.sin(4 * t + bend[0]))]))
    avenues = [
        LineString(
            np.column_stack(
                [west + width * (place + 0.04 * np.sin(3 * t + bend[i % 3])), south + height * t * (1 - SEA_SHARE)]
            )
        )
        for i, place in enumerate((0.22, 0.48, 0.86))
    ]
    roads = [(shore, 11, "asphalt"), (crossing, 15, "asphalt"), *[(avenue, 10, "worn asphalt") for avenue in avenues]]
    scale = min(1.0, width / 3000) ** 0.5
    shapes = []
    for road, half, surface in roads:
        shape = shapely.intersection(road.buffer(half * scale), town.land)
        town.paint(shape, town.surfaces.add(rng, 1, spectra.index(surface)))
        shapes.append(shape.buffer(3))
    mole_x = west + 0.3 * width
    mole_y = float(np.interp(mole_x, line[:, 0], line[:, 1]))
    mole = LineString([(mole_x, mole_y - 90), (mole_x, mole_y + 140), (mole_x + 260, mole_y + 190)])
    town.paint(mole.buffer(9 * scale), town.surfaces.add(rng, 1, spectra.index("concrete paving")))
    return shapes


def _districts(
    town: Plan, free: BaseGeometry, centre: tuple[float, float], rng: np.random.Generator
) -> list[tuple[Polygon, str]]:
    west, south, east, north = town.bounds
    side = min(east - west, north - south)
    spacing = float(np.clip(side / 11, 190, 420))
    gx, gy = np.meshgrid(np.arange(west, east, spacing), np.arange(south, north, spacing))
    seeds = np.column_stack([gx.ravel(), gy.ravel()]) + rng.uniform(0.1, 0.9, (gx.size, 2)) * spacing
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(seeds), extend_to=shapely.box(*town.bounds)))
    found = []
    for cell in cells:
        middle = cell.centroid
        away = math.hypot(middle.x - centre[0], middle.y - centre[1]) / side + rng.normal(0, 0.05)
        weights = next(weights for reach, weights in RINGS if away < reach)
        kind = _pick(rng, weights, 1)[0]
        for part in shapely.get_parts(shapely.intersection(cell, free).buffer(-5)):
            if part.area > 2500:
                found.append((part, str(kind)))
    return found


def _fill(town: Plan, district: Polygon, kind: str, rng: np.random.Generator) -> None:
    town.paint(district.buffer(5, join_style="mitre"), town.surfaces.add(rng, 1, spectra.index("worn asphalt")))
    if kind in BUILT:
        _built(town, district, kind, BUILT[kind], rng)
    else:
        _open(town, district, kind, rng)


def _open(town: Plan, district: Polygon, kind: str, rng: np.random.Generator) -> None:
    """Parks, fields and bare ground: parcels, and trees in the parks."""
    s = town.surfaces
    base = {"park": "dry grass", "fields": "terra rossa", "bare": "pale soil"}[kind]
    town.paint(district.buffer(4), s.add(rng, 1, spectra.index(base), rough=0.12))
    size = {"park": (40, 80), "fields": (45, 110), "bare": (30, 90)}[kind]
    lots = _lots(rng, _radius(district), block=(150, 300), rows=2, street=(3, 6), lot=size, depth=size)
    shapes = shapely.polygons(_place(_corners(*lots), district, rng, bend=6.0))
    shapes = shapely.intersection(shapes, district)
    shapes = shapes[shapely.area(shapes) > 100]
    count = len(shapes)
    if kind == "park":
        plant = _materials(rng, {"grass": 0.5, "tree": 0.5}, count)
        ground = _materials(rng, {"dry grass": 0.8, "pale soil": 0.2}, count)
        rows = s.add(rng, count, ground, plant=plant, always=rng.uniform(0.2, 0.9, count), season=0.2, rough=0.15)
        _trees(town, district, 60, rng)
    elif kind == "fields":
        plant = _materials(rng, {"crop": 0.6, "orchard": 0.25, "grass": 0.15}, count)
        ground = _materials(rng, {"terra rossa": 0.5, "stubble": 0.35, "pale soil": 0.15}, count)
        rows = s.add(
            rng, count, ground, plant=plant, always=rng.choice([0, 0, 0.1, 0.4], count),
            season=rng.uniform(0.3, 0.95, count), peak=rng.uniform(110, 265, count), spread=0.12, rough=0.05,
        )  # fmt: skip
        _trees(town, district, 4, rng)
    else:
        ground = _materials(rng, {"pale soil": 0.35, "rubble": 0.25, "terra rossa": 0.3, "gravel": 0.1}, count)
        rows = s.add(
            rng, count, ground, plant=spectra.index("dry grass"), always=rng.choice([0, 0.2, 0.5], count), spread=0.22,
            rough=0.15,
        )  # fmt: skip
        _trees(town, district, 3, rng)
    town.paint(shapes, rows)


def _built(town: Plan, district: Polygon, kind: str, style: Typology, rng: np.random.Generator) -> None:
    s = town.surfaces
    street = _materials(rng, style.streets, 1)
    town.paint(district.buffer(4), s.add(rng, 1, street, spread=0.16, rough=0.1))
    u0, u1, v0, v1, lower = _lots(
        rng, _radius(district), block=style.block, rows=style.rows, street=style.street, lot=style.lot,
        depth=style.depth, sides=True,
    )  # fmt: skip
    place = _placer(district, rng, style.bend)
    lots = shapely.polygons(place(_corners(u0, u1, v0, v1)))
    shapely.prepare(district)
    inside = shapely.contains(district, lots)
    lots, u0, u1, v0, v1, lower = (values[inside] for values in (lots, u0, u1, v0, v1, lower))
    count = len(lots)
    if count == 0:
        return
    yards = s.add(
        rng, count, _materials(rng, style.yards, count), plant=_materials(rng, dict.fromkeys(GREEN, 1 / 3), count),
        always=rng.uniform(*style.green, count), season=0.1, spread=0.24, rough=0.12,
    )  # fmt: skip
    town.paint(lots, yards)
    _trees(town, district, style.trees, rng)
    kept = np.flatnonzero(rng.random(count) >= style.empty)
    shapes = place_buildings(style, (u0[kept], u1[kept], v0[kept], v1[kept]), lower[kept], place, rng)
    heights = rng.uniform(*style.height, len(kept))
    roofs = s.add(
        rng, len(kept), _materials(rng, style.roofs, len(kept)), spread=0.26, rough=0.1, height=heights
    )  # fmt: skip
    town.buildings.append(
        Footprints(shapes, _pick(rng, style.tags, len(kept)), np.full(len(kept), kind), heights, roofs)
    )


def place_buildings(
    style: Typology,
    lots: tuple[Points, Points, Points, Points],
    lower: NDArray[np.bool_],
    place: "Placer",
    rng: np.random.Generator,
) -> Shapes:
    """One building per lot: a rectangle behind its setbacks, some with a corner cut out (L), some around a court."""
    u0, u1, v0, v1 = lots
    count = len(u0)
    front, rear = _setbacks(rng, style.front, style.rear, v1 - v0, style.least)
    left, right = _setbacks(rng, style.side, style.side, u1 - u0, style.least)
    bu0, bu1 = u0 + left, u1 - right
    bv0, bv1 = v0 + np.where(lower, front, rear), v1 - np.where(lower, rear, front)
    shell = _corners(bu0, bu1, bv0, bv1)
    shapes = shapely.polygons(place(shell))
    ell = rng.random(count) < style.ell
    if ell.any():
        cut_u = bu0 + (bu1 - bu0) * rng.uniform(0.4, 0.7, count)
        cut_v = bv0 + (bv1 - bv0) * rng.uniform(0.4, 0.7, count)
        rings = np.stack([
            np.stack([bu0, bv0], -1), np.stack([bu1, bv0], -1), np.stack([bu1, cut_v], -1),
            np.stack([cut_u, cut_v], -1), np.stack([cut_u, bv1], -1), np.stack([bu0, bv1], -1),
        ], axis=1)  # fmt: skip
        shapes[ell] = shapely.polygons(place(rings[ell]))
    court = (rng.random(count) < style.court) & ~ell & (bu1 - bu0 > 8) & (bv1 - bv0 > 8)
    if court.any():
        size = rng.uniform(0.28, 0.42, count)
        du, dv = (bu1 - bu0) * (1 - size) / 2, (bv1 - bv0) * (1 - size) / 2
        holes = _corners(bu0 + du, bu1 - du, bv0 + dv, bv1 - dv)[court]
        rings = shapely.linearrings(place(holes))
        shapes[court] = shapely.polygons(shapely.linearrings(place(shell[court])), holes=rings[:, None])
    return shapes


def _setbacks(
    rng: np.random.Generator, one: tuple[float, float], other: tuple[float, float], length: Points, least: float
) -> tuple[Points, Points]:
    """What is kept free at both ends of lots of `length`, less where a building would be thinner than `least`."""
    first, second = rng.uniform(*one, len(length)), rng.uniform(*other, len(length))
    ease = np.clip((length - least) / np.maximum(first + second, 0.01), 0, 1)
    return first * ease, second * ease


class Placer:
    """Takes street-plan coordinates (u, v) of a district to UTM: turned, moved, and bent so that no street is ruled."""

    def __init__(self, centre: tuple[float, float], angle: float, bend: float) -> None:
        self.centre, self.angle, self.bend = centre, angle, bend

    def __call__(self, points: Points) -> Points:
        """(…, 2) plan metres -> (…, 2) UTM metres."""
        u, v = points[..., 0], points[..., 1]
        wave = 2 * np.pi / (28 * self.bend)
        u, v = u + self.bend * np.sin(wave * v), v + self.bend * np.sin(wave * 0.8 * u + 1)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.stack([self.centre[0] + cos * u - sin * v, self.centre[1] + sin * u + cos * v], axis=-1)


def _placer(district: Polygon, rng: np.random.Generator, bend: float) -> Placer:
    middle = district.centroid
    return Placer((middle.x, middle.y), rng.uniform(0, math.pi / 2), bend)


def _place(points: Points, district: Polygon, rng: np.random.Generator, bend: float) -> Points:
    return _placer(district, rng, bend)(points)


def _radius(district: Polygon) -> float:
    west, south, east, north = district.bounds
    return math.hypot(east - west, north - south) / 2 + 20


def _lots(
    rng: np.random.Generator,
    radius: float,
    *,
    block: tuple[float, float],
    rows: int,
    street: tuple[float, float],
    lot: tuple[float, float],
    depth: tuple[float, float],
    sides: bool = False,
) -> tuple[NDArray, ...]:
    """Lots of a plan of blocks and streets that covers -radius..radius both ways: u0, u1, v0, v1 (each (lots,)), and
    with `sides` whether the lot's front is its lower v (towards a street)."""
    found: list[tuple[Points, Points, Points, Points, NDArray[np.bool_]]] = []
    v = -radius
    while v < radius:
        deep = rng.uniform(*depth)
        u = -radius - rng.uniform(0, block[1])
        while u < radius:
            length = rng.uniform(*block)
            lots = max(1, round(length / rng.uniform(*lot)))
            edges = np.linspace(u, u + length, lots + 1)
            edges[1:-1] += rng.uniform(-0.15, 0.15, lots - 1) * length / lots
            for row in range(rows):
                low = np.full(lots, v + row * deep)
                found.append((edges[:-1], edges[1:], low, low + deep, np.full(lots, row < (rows + 1) / 2)))
            u += length + rng.uniform(*street)
        v += rows * deep + rng.uniform(*street)
    columns = tuple(np.concatenate(column) for column in zip(*found, strict=True))
    return columns if sides else columns[:4]


def _corners(u0: Points, u1: Points, v0: Points, v1: Points) -> Points:
    """(n, 4, 2): rectangles, counter-clockwise."""
    return np.stack([np.stack(pair, axis=-1) for pair in ((u0, v0), (u1, v0), (u1, v1), (u0, v1))], axis=1)


def _trees(town: Plan, district: Polygon, per_hectare: float, rng: np.random.Generator) -> None:
    count = int(district.area / 10_000 * per_hectare)
    if not count:
        return
    west, south, east, north = district.bounds
    spots = rng.uniform((west, south), (east, north), (count * 3, 2))
    spots = spots[shapely.contains_xy(district, spots)][:count]
    rows = town.surfaces.add(
        rng, 6, spectra.index("tree"), plant=spectra.index("tree"), always=1.0, spread=0.15, rough=0.15, height=5.0
    )
    radius = rng.uniform(1.5, 4.5, len(spots))
    town.trees.append(np.column_stack([spots, radius, rng.choice(rows, len(spots))]))


def _pick(rng: np.random.Generator, weights: dict[str, float], count: int) -> NDArray[np.str_]:
    share = np.array(list(weights.values()))
    return rng.choice(np.array(list(weights)), count, p=share / share.sum())


def _materials(rng: np.random.Generator, weights: dict[str, float], count: int) -> NDArray[np.int64]:
    share = np.array(list(weights.values()))
    return rng.choice(spectra.indices(list(weights)), count, p=share / share.sum())
