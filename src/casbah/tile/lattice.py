"""The lattice of blocks that splits are made of, and the tiles inside a block.

Blocks lie on a lattice with its origin at (0, 0) of the UTM zone, never at a scene's corner, so that a block keeps its
name, its split and its tiles when the area or the labels grow.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from casbah.blocks import named
from casbah.errors import InputError
from casbah.grid import Grid

GUARD = 120.0
"""Metres. Two pixels that lie so far apart share no source: a 60 m band brought to 10 m by bilinear resampling reaches
120 m between two pixels that still use one sample of it, and everything else reaches less (the 20 m bands, brought
there by a cubic one, 80 m, the sensor's point spread about 20 m, a misregistered footprint about 15 m, the 11 px
texture window of the boosted trees 110 m)."""

LONGEST = 10_000_000.0
"""Metres from the equator to a pole: no block and no guard in a UTM zone needs more."""

BLOCK_SIDE = 1000.0
"""Metres: about how much of a default block tiles use on each side (or one tile, where that is larger)."""


@dataclass(frozen=True, order=True)
class Block:
    """A cell of the lattice: `col` counts east and `row` north from the origin of the UTM zone."""

    col: int
    row: int


@dataclass(frozen=True)
class Lattice:
    """Blocks of `block` x `block` pixels in one UTM zone, and in each the tiles of `tile` x `tile` pixels.

    All lengths are pixels of `resolution` metres. Tiles keep half of `guard` free along every side of their block, so
    that tiles of two blocks are at least `guard` pixels apart, whichever splits the blocks are in.
    """

    crs: str
    resolution: float
    block: int
    guard: int
    tile: int
    stride: int

    def name(self, block: Block) -> str:
        """`<epsg>_<side in metres>_<col>_<row>`, the same for every scene of the zone."""
        return named(self.crs, self.block * self.resolution, block.col, block.row)

    @property
    def key(self) -> str:
        """`<epsg>_<side in metres>`."""
        return f"{self.crs.removeprefix('EPSG:')}_{self.block * self.resolution:g}"

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where tiles start, in pixels from the block's north-west corner, along rows and columns alike."""
        inside = self.block - self.guard
        steps = (inside - self.tile) // self.stride
        first = self.guard // 2 + (inside - self.tile - steps * self.stride) // 2
        return tuple(first + step * self.stride for step in range(steps + 1))

    @property
    def used(self) -> float:
        """Share of a block's area that its tiles cover."""
        # A stride of at most a tile leaves no gap between the first and the last.
        offsets = self.offsets
        return ((offsets[-1] + self.tile - offsets[0]) / self.block) ** 2

    def over(self, grid: Grid) -> Iterator[Block]:
        """Every block that shares a pixel with the grid, from the north-west, row by row."""
        size = self.block * self.resolution
        west, south, east, north = grid.bounds
        nudge = self.resolution / 2
        for row in range(math.floor((north - nudge) / size), math.floor((south + nudge) / size) - 1, -1):
            for col in range(math.floor((west + nudge) / size), math.floor((east - nudge) / size) + 1):
                yield Block(col, row)

    def corner(self, block: Block, grid: Grid) -> tuple[int, int]:
        """(row, col) of the block's north-west pixel on the grid; negative where the block reaches over its edge."""
        west, north = round(grid.west / self.resolution), round(grid.north / self.resolution)
        return north - (block.row + 1) * self.block, block.col * self.block - west


def lattice(
    grid: Grid,
    *,
    tile_size: int,
    stride: int | None = None,
    block_size: float | None = None,
    guard: float | None = None,
) -> Lattice:
    """The lattice for a grid; `block_size` and `guard` in metres, `tile_size` and `stride` in pixels.

    Defaults: stride = tile size; guard = `GUARD`; a block of as many whole tiles as come closest to `BLOCK_SIDE`, plus
    the guard. Raises `InputError` where a block holds no tile, or a length or the grid is not on the pixel lattice.
    """
    if tile_size < 1:
        raise InputError(f"the tile size is {tile_size} pixels; at least 1 is wanted")
    step = tile_size if stride is None else stride
    if not 1 <= step <= tile_size:
        raise InputError(f"the stride is {step} pixels; 1 to {tile_size} (the tile size) is wanted")
    _check_snapped(grid)
    for what, metres in (("guard", guard), ("block size", block_size)):
        # Written so that NaN, which compares to nothing, is out of range too.
        if metres is not None and not -LONGEST <= metres <= LONGEST:
            raise InputError(f"the {what} is {metres:g} m; at most {LONGEST:.0f} m is wanted")
    free = GUARD if guard is None else guard
    if free < 0:
        raise InputError(f"the guard distance is {free:g} m; 0 or more is wanted")
    guard_pixels = _pixels(
        math.ceil(free / grid.resolution) * grid.resolution if guard is None else free, grid, "guard"
    )
    if block_size is None:
        tiles = max(1, round(BLOCK_SIDE / (tile_size * grid.resolution)))
        block = tiles * tile_size + guard_pixels
    else:
        block = _pixels(block_size, grid, "block size")
    needed = tile_size + guard_pixels
    if block < needed:
        raise InputError(
            f"a block of {block * grid.resolution:g} m holds no tile: a tile of {tile_size} px takes "
            f"{tile_size * grid.resolution:g} m and the guard {guard_pixels * grid.resolution:g} m; give a block size "
            f"of at least {needed * grid.resolution:g} m, or a smaller tile or guard"
        )
    return Lattice(grid.crs, grid.resolution, block, guard_pixels, tile_size, step)


def _pixels(metres: float, grid: Grid, what: str) -> int:
    pixels = metres / grid.resolution
    if not math.isclose(pixels, round(pixels), abs_tol=1e-6):
        low = math.floor(pixels) * grid.resolution
        raise InputError(
            f"the {what} is {metres:g} m, not a whole number of {grid.resolution:g} m pixels; "
            f"try {low:g} or {low + grid.resolution:g}"
        )
    return round(pixels)


def _check_snapped(grid: Grid) -> None:
    for edge, metres in (("west", grid.west), ("north", grid.north)):
        pixels = metres / grid.resolution
        if not math.isclose(pixels, round(pixels), abs_tol=1e-3):
            raise InputError(
                f"the scene's {edge} edge ({metres:.10g} m) is not a multiple of its {grid.resolution:g} m pixels, so "
                "the blocks of the UTM lattice would cut pixels in two; make the scene with `casbah ingest`"
            )
