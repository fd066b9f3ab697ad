"""A known shift between footprints and image is found again, and noise is not taken for one."""

import numpy as np
import pytest
from builders import GRID, houses
from scipy.ndimage import gaussian_filter

from casbah.cover import exact_cover
from casbah.errors import InputError
from casbah.registration import estimate_shift, estimate_shift_of

TOLERANCE = 2.0
"""Metres: 0.2 pixels."""


def image_of(cover: np.ndarray, seed: int) -> np.ndarray:
    """A blurred, noisy image in which some bands brighten and others darken with cover: uint16 (6, rows, cols)."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 8, 6)[:, None, None]
    blurred = gaussian_filter(2000 + weight * cover[None].astype(float), (0, 0.6, 0.6))
    return np.clip(blurred + rng.normal(0, 120, blurred.shape), 1, None).astype("uint16")


@pytest.mark.parametrize("seed", range(6))
def test_a_known_shift_is_recovered_within_a_fifth_of_a_pixel(seed: int) -> None:
    east, north = np.random.default_rng(seed).uniform(-22, 22, 2)
    footprints = houses(GRID, 300, seed)
    image = image_of(exact_cover(footprints, GRID, east=east, north=north), seed)
    found = estimate_shift(image, exact_cover(footprints, GRID), 10.0)
    assert found.reliable
    assert abs(found.east - east) < TOLERANCE
    assert abs(found.north - north) < TOLERANCE
    assert found.error < TOLERANCE
    assert found.correlation_after >= found.correlation_before


def test_what_is_unknown_is_not_looked_at() -> None:
    footprints = houses(GRID, 300, 1)
    cover = exact_cover(footprints, GRID)
    image = image_of(exact_cover(footprints, GRID, east=12, north=-7), 1)
    image[:, :, 128:] = image_of(exact_cover(footprints, GRID, east=-20, north=20), 1)[:, :, 128:]
    half = cover.copy()
    half[:, 128:] = 255
    found = estimate_shift(image, half, 10.0)
    assert (found.east, found.north) == pytest.approx((12, -7), abs=TOLERANCE)
    nodata = image.copy()
    nodata[2, :, 128:] = 0
    assert estimate_shift(nodata, cover, 10.0) == found


def test_several_areas_give_one_shift() -> None:
    footprints = houses(GRID, 300, 2)
    cover = exact_cover(footprints, GRID)
    image = image_of(exact_cover(footprints, GRID, east=5, north=14), 2)
    parts = [(image[:, :120], cover[:120]), (image[:, 136:], cover[136:])]
    found = estimate_shift_of(parts, 10.0)
    assert found.reliable
    assert (found.east, found.north) == pytest.approx((5, 14), abs=TOLERANCE)


def test_noise_is_seldom_called_reliable() -> None:
    cover = exact_cover(houses(GRID, 300, 3), GRID)[:128, :128]
    noise = [
        gaussian_filter(np.random.default_rng(seed).normal(1000, 100, (6, 128, 128)), (0, 1, 1)) for seed in range(30)
    ]
    assert sum(estimate_shift(image, cover, 10.0).reliable for image in noise) <= 2


def test_a_shift_beyond_the_search_is_not_called_reliable() -> None:
    footprints = houses(GRID, 300, 4)
    image = image_of(exact_cover(footprints, GRID, east=34, north=0), 4)
    assert not estimate_shift(image, exact_cover(footprints, GRID), 10.0).reliable


@pytest.mark.parametrize("value", [0, 100, 255])
def test_an_area_without_edges_of_buildings_gives_no_shift(value: int) -> None:
    image = image_of(np.zeros((64, 64), "uint8"), 0)
    found = estimate_shift(image, np.full((64, 64), value, "uint8"), 10.0)
    assert (found.east, found.north, found.reliable) == (0.0, 0.0, False)


def test_an_image_that_does_not_lie_on_the_cover_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"an image of shape \(6, 64, 64\) does not lie on a cover of shape \(64, 63\)"
    ):
        estimate_shift(np.ones((6, 64, 64)), np.zeros((64, 63), "uint8"), 10.0)


@pytest.mark.parametrize("seed", range(3))
def test_fields_brighter_than_any_roof_do_not_pull_the_shift(seed: int) -> None:
    footprints = houses(GRID, 300, seed)
    footprints = footprints[footprints.centroid.x + footprints.centroid.y > GRID.west + GRID.north]
    image = image_of(exact_cover(footprints, GRID, east=9, north=-13), seed).astype(float)
    fields = gaussian_filter(np.random.default_rng(seed + 50).normal(0, 1, (6, *GRID.shape)), (0, 20, 20))
    image += 900 * fields / fields.std()
    found = estimate_shift(image.clip(1), exact_cover(footprints, GRID), 10.0)
    assert found.reliable
    assert (found.east, found.north) == pytest.approx((9, -13), abs=TOLERANCE)
