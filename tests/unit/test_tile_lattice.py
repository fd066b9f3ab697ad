"""Blocks and splits depend on place and seed alone."""

import pytest

from casbah.errors import InputError
from casbah.grid import Grid
from casbah.tile import splitting
from casbah.tile.lattice import Block, Lattice, lattice

GRID = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 300, 400)
LATTICE = Lattice("EPSG:32631", 10.0, 140, 12, 64, 64)
AREA = [Block(col, row) for row in range(290, 320) for col in range(30, 60)]


def tiles_keep_half_the_guard(lat: Lattice) -> bool:
    first, last = lat.offsets[0], lat.offsets[-1] + lat.tile
    return first >= lat.guard // 2 and lat.block - last >= lat.guard - lat.guard // 2


@pytest.mark.parametrize("tile", [1, 16, 63, 64, 224])
@pytest.mark.parametrize("guard", [0.0, 50.0, 60.0, 120.0])
@pytest.mark.parametrize("stride", [None, 1, 7])
def test_tiles_keep_half_the_guard_free_on_each_side_of_their_block(tile: int, guard: float, stride: int | None):
    stride = min(stride or tile, tile)
    default = lattice(GRID, tile_size=tile, stride=stride, guard=guard)
    wide = lattice(GRID, tile_size=tile, stride=stride, guard=guard, block_size=default.block * 10 + 370)
    assert tiles_keep_half_the_guard(default)
    assert tiles_keep_half_the_guard(wide)


def test_a_default_block_wastes_nothing_but_its_guard():
    assert lattice(GRID, tile_size=64) == LATTICE
    assert len(LATTICE.offsets) == 2
    assert LATTICE.used == pytest.approx((128 / 140) ** 2)
    assert lattice(GRID, tile_size=224).block == 224 + 12


def test_every_pixel_of_a_grid_is_in_exactly_one_block():
    seen = [[0] * GRID.cols for _ in range(GRID.rows)]
    for block in LATTICE.over(GRID):
        top, left = LATTICE.corner(block, GRID)
        for row in range(max(top, 0), min(top + LATTICE.block, GRID.rows)):
            for col in range(max(left, 0), min(left + LATTICE.block, GRID.cols)):
                seen[row][col] += 1
    assert {count for row in seen for count in row} == {1}


def test_a_block_lies_where_its_name_says():
    block = next(iter(LATTICE.over(GRID)))
    epsg, side, col, row = LATTICE.name(block).split("_")
    top, left = LATTICE.corner(block, GRID)
    assert epsg == "32631"
    assert GRID.west + left * 10 == int(col) * int(side)
    assert GRID.north - top * 10 == (int(row) + 1) * int(side)


def test_splits_stay_the_same_in_every_version_of_casbah():
    # A release that changed these would silently test models on blocks they were trained on.
    assign = splitting.hold_out(LATTICE, seed=0, test_fraction=0.2, val_fraction=0.1)
    assert (
        "".join(assign(Block(col, 300))[1] for col in range(40, 60)) == "ererrreererraeerarer"
    )  # t[r]ain, v[a]l, t[e]st


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("test", "val"), [(0.2, 0.1), (0.25, 0.25), (0.05, 0.05), (0.6, 0.3)])
def test_splits_have_the_shares_that_were_asked_for(seed: int, test: float, val: float):
    counts = splitting.count(splitting.hold_out(LATTICE, seed=seed, test_fraction=test, val_fraction=val), AREA)
    assert counts["test"] / len(AREA) == pytest.approx(test, abs=0.03)
    assert counts["val"] / len(AREA) == pytest.approx(val, abs=0.03)


def test_another_seed_draws_other_blocks():
    drawn = [splitting.hold_out(LATTICE, seed=seed, test_fraction=0.2, val_fraction=0.1) for seed in (0, 1)]
    assert [drawn[0](block) for block in AREA] != [drawn[1](block) for block in AREA]


@pytest.mark.parametrize("folds", [2, 3, 4, 5, 10])
def test_folds_test_each_block_once_and_are_balanced(folds: int):
    assigned = [splitting.fold(LATTICE, seed=3, folds=folds, number=n, val_fraction=0.1) for n in range(folds)]
    for block in AREA:
        assert [assign(block) for assign in assigned].count("test") == 1
    for assign in assigned:
        counts = splitting.count(assign, AREA)
        assert counts["test"] / len(AREA) == pytest.approx(1 / folds, abs=0.03)
        assert counts["val"] / len(AREA) == pytest.approx(0.1, abs=0.03)


def test_refit_keeps_no_block_for_testing():
    counts = splitting.count(splitting.refit(LATTICE, seed=0, val_fraction=0.1), AREA)
    assert counts["test"] == 0
    assert counts["val"] / len(AREA) == pytest.approx(0.1, abs=0.03)


def test_small_areas_are_seldom_short_of_a_split():
    def short(area: list[Block], seed: int) -> bool:
        assign = splitting.hold_out(LATTICE, seed=seed, test_fraction=0.2, val_fraction=0.1)
        return min(splitting.count(assign, area).values()) == 0

    area = [Block(col, row) for row in range(301, 307) for col in range(40, 46)]
    assert sum(short(area, seed) for seed in range(200)) <= 2  # a plain hash: 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile_size": 0}, "tile size is 0"),
        ({"tile_size": 64, "stride": 0}, "stride is 0"),
        ({"tile_size": 64, "stride": 65}, "1 to 64"),
        ({"tile_size": 64, "guard": -10}, "guard distance is -10"),
        ({"tile_size": 64, "guard": 35}, "guard is 35 m.*try 30 or 40"),
        ({"tile_size": 64, "block_size": 1005}, "block size is 1005 m, not a whole number of 10 m pixels"),
        ({"tile_size": 64, "block_size": 700}, "block of 700 m holds no tile.*at least 760 m"),
    ],
)
def test_impossible_blocks_are_refused(options: dict, words: str):
    with pytest.raises(InputError, match=words):
        lattice(GRID, **options)


def test_a_scene_off_the_pixel_lattice_is_refused():
    with pytest.raises(InputError, match=r"west edge \(500003 m\) is not a multiple of its 10 m pixels"):
        lattice(Grid("EPSG:32631", 500_003.0, 4_060_000.0, 300, 400), tile_size=64)
