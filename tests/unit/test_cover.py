"""Cover is the exact share of each pixel under the union of the footprints."""

import numpy as np
import pytest
import shapely
from builders import GRID, houses
from shapely.geometry import Polygon, box

from casbah import cover as room
from casbah.cover import exact_cover, exact_fractions
from casbah.errors import InputError
from casbah.grid import Grid

SMALL = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 7, 9)


def analytic(polygons: list[Polygon], grid: Grid) -> np.ndarray:
    """The share of each pixel under the union, by shapely's own intersection of every pixel with it."""
    union = shapely.union_all(polygons)
    cells = [box(*grid.part(row, col, 1, 1).bounds) for row in range(grid.rows) for col in range(grid.cols)]
    return np.reshape(shapely.area(shapely.intersection(union, cells)), grid.shape) / grid.resolution**2


def stars(count: int, seed: int) -> list[Polygon]:
    """Crooked, overlapping polygons that also reach over every border of `SMALL`."""
    rng = np.random.default_rng(seed)
    west, south, east, north = SMALL.bounds
    found = []
    for _ in range(count):
        centre = rng.uniform([west - 15, south - 15], [east + 15, north + 15])
        angle = np.sort(rng.uniform(0, 2 * np.pi, 7))
        reach = rng.uniform(2, 30, 7)[:, None]
        found.append(Polygon(centre + np.column_stack([np.cos(angle), np.sin(angle)]) * reach))
    return [polygon for polygon in found if polygon.is_valid]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_cover_is_exact_for_any_polygons_and_counts_overlaps_once(count: int) -> None:
    polygons = stars(count, seed=count)
    assert np.abs(exact_fractions(polygons, SMALL) - analytic(polygons, SMALL)).max() < 1e-9


def test_a_courtyard_is_not_covered() -> None:
    west, south, east, north = SMALL.bounds
    ring = Polygon(
        box(west + 5, south + 5, east - 5, north - 5).exterior,
        [box(west + 25, south + 21, west + 52, south + 48).exterior],
    )
    assert np.abs(exact_fractions([ring], SMALL) - analytic([ring], SMALL)).max() < 1e-9
    assert exact_cover([ring], SMALL)[3, 3] == 0


def test_either_direction_of_the_rings_gives_the_same_cover() -> None:
    polygon = stars(5, seed=5)[0]
    assert (exact_cover([polygon], SMALL) == exact_cover([polygon.reverse()], SMALL)).all()


def test_neighbours_that_share_a_wall_fill_their_pixels_exactly() -> None:
    west, north = SMALL.west, SMALL.north
    row = [box(west + 10 + 3.3 * i, north - 40, west + 10 + 3.3 * (i + 1), north - 20) for i in range(12)]
    cover = exact_cover(row, SMALL)
    assert (cover[2:4, 1:4] == 100).all()
    assert cover.sum() == round(12 * 3.3 * 20)


def test_moving_the_footprints_moves_the_cover() -> None:
    footprints = houses(GRID, 50)
    assert (exact_cover(footprints, GRID, east=30, north=-20)[2:, 3:] == exact_cover(footprints, GRID)[:-2, :-3]).all()
    moved = footprints.translate(3.7, -6.2)
    assert (exact_cover(footprints, GRID, east=3.7, north=-6.2) == exact_cover(moved, GRID)).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    footprints = houses(GRID, 300)
    whole = exact_cover(footprints, GRID)
    monkeypatch.setattr(room, "BLOCK", 37)
    assert (exact_cover(footprints, GRID) == whole).all()


def test_no_footprint_is_no_cover() -> None:
    assert not exact_cover([], SMALL).any()
    assert not exact_cover([box(0, 0, 10, 10)], SMALL).any()


def test_footprints_in_another_crs_are_refused() -> None:
    with pytest.raises(InputError, match=r"the footprints are in EPSG:4326 and the grid in EPSG:32631"):
        exact_cover(houses(GRID).to_crs(4326), GRID)
