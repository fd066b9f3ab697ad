"""Ground that a model has seen is known again, whatever lattice the blocks were cut on."""

import pytest
from rasterio.warp import transform

from casbah.blocks import place, seen_among
from casbah.errors import InputError


def block_at(x: float, y: float, side: int, epsg: int = 32631) -> str:
    return f"{epsg}_{side}_{int(x // side)}_{int(y // side)}"


def test_a_block_is_where_its_name_says() -> None:
    assert place("32631_1400_361_2903") == (32631, (505400.0, 4064200.0, 506800.0, 4065600.0))


def test_on_one_lattice_neighbours_share_nothing() -> None:
    assert seen_among(["32631_1000_10_20", "32631_1000_11_20"], ["32631_1000_11_20", "32631_1000_12_20"]) == {
        "32631_1000_11_20"
    }


@pytest.mark.parametrize("side", [380, 400, 760, 2360])
def test_blocks_of_another_side_that_hold_the_same_point_share_ground(side: int) -> None:
    here, there = block_at(505_000, 4_064_000, 1400), block_at(505_000, 4_064_000, side)
    assert seen_among([here], [there]) == {here}
    assert seen_among([here], [block_at(515_000, 4_064_000, side)]) == set()


def test_blocks_of_two_zones_that_hold_the_same_point_share_ground() -> None:
    (x,), (y,) = transform("EPSG:32631", "EPSG:32632", [780_000], [4_064_000])
    here, there = block_at(780_000, 4_064_000, 1400), block_at(x, y, 1400, 32632)
    assert seen_among([here], [there]) == {here}
    assert seen_among([here], [block_at(x + 20_000, y, 1400, 32632)]) == set()


def test_a_name_of_no_lattice_is_refused() -> None:
    with pytest.raises(InputError, match="'b7' is no block of the lattice"):
        seen_among(["32631_1000_10_20"], ["b7"])
