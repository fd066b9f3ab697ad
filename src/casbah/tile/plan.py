"""Which tiles there are: every whole tile of every block, less those that hold too little to learn from."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from casbah.errors import InputError
from casbah.grid import Grid
from casbah.products.labels import IGNORE
from casbah.progress import task
from casbah.tile.lattice import Block, Lattice
from casbah.tile.sources import Reader, Source, offset, reading

UNLABELLED = "too few labelled pixels"
UNOBSERVED = "too few observed pixels"
IN_TEST_SCENE = "in a block of the test scene"


@dataclass(frozen=True)
class BlockPlan:
    """The tiles kept of one block of one source; `tiles` are (row, col) of first pixels on the source's grid."""

    source: int
    block: Block
    tiles: tuple[tuple[int, int], ...]

    def extent(self, size: int) -> tuple[int, int, int, int]:
        """(row, col, rows, cols) of the smallest part of the grid that holds all tiles of `size` pixels."""
        rows, cols = [row for row, _ in self.tiles], [col for _, col in self.tiles]
        return min(rows), min(cols), max(rows) + size - min(rows), max(cols) + size - min(cols)


@dataclass
class Plan:
    """All blocks with a tile, in the order in which they are written, and what was left out, by reason."""

    blocks: list[BlockPlan] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    labelled: int = 0
    """Labelled, observed pixels of all scenes."""
    used: int = 0
    """Those that lie in at least one tile."""

    @property
    def tiles(self) -> int:
        return sum(len(block.tiles) for block in self.blocks)


def plan(sources: Sequence[Source], lattices: Sequence[Lattice], max_ignore: float) -> Plan:
    """Go over every block once and decide on its tiles from mask and observation counts alone.

    A tile is dropped where more than `max_ignore` of its pixels are ignored, or more than `max_ignore` were not
    observed in one of the periods; pixels outside of the scene count as both. `InputError` where a tile is larger than
    a scene, unless that is one grid cell of several.
    """
    made = Plan()
    blocks = [list(lattice.over(source.grid)) for source, lattice in zip(sources, lattices, strict=True)]
    for source, lattice in zip(sources, lattices, strict=True):
        if len(sources) == 1 or not source.scene.cell:
            _check_size(source, lattice)
    with task("looking for tiles", sum(map(len, blocks))) as progress:
        for number, (source, lattice) in enumerate(zip(sources, lattices, strict=True)):
            with reading(source) as reader:
                for block in blocks[number]:
                    kept = tuple(_kept(reader, lattice, block, max_ignore, made))
                    if kept:
                        made.blocks.append(BlockPlan(number, block, kept))
                    progress.advance()
    return made


def _check_size(source: Source, lattice: Lattice) -> None:
    grid = source.grid
    if lattice.tile > min(grid.shape):
        raise InputError(
            f"a tile of {lattice.tile} px is larger than the scene {source.name} ({grid.rows} x {grid.cols} px); "
            f"give a --tile-size of at most {min(grid.shape)}, or a larger area"
        )


def _kept(reader: Reader, lattice: Lattice, block: Block, most: float, made: Plan) -> Iterator[tuple[int, int]]:
    grid = reader.source.grid
    row, col = lattice.corner(block, grid)
    part = _seen(lattice, row, col, grid)
    valid = reader.valid(part)
    ignored = (reader.mask(part) == IGNORE) | ~valid.any(axis=0)
    made.labelled += int((~ignored).sum())
    in_tile = np.zeros_like(ignored)
    top, left = offset(part, grid)
    for tile_row, tile_col in _inside(lattice, row, col, grid):
        cut = (
            slice(tile_row - top, tile_row - top + lattice.tile),
            slice(tile_col - left, tile_col - left + lattice.tile),
        )
        reason = _reason(ignored[cut], valid[(slice(None), *cut)], most)
        if reason:
            made.dropped[reason] += 1
            continue
        in_tile[cut] = True
        yield tile_row, tile_col
    made.used += int((in_tile & ~ignored).sum())


def _seen(lattice: Lattice, row: int, col: int, grid: Grid) -> Grid:
    """What tiles on the grid can reach of the block from pixel (`row`, `col`) on: the whole may be far larger."""
    first = max(row, -lattice.tile), max(col, -lattice.tile)
    last = min(row + lattice.block, grid.rows + lattice.tile), min(col + lattice.block, grid.cols + lattice.tile)
    return grid.part(*first, last[0] - first[0], last[1] - first[1])


def _inside(lattice: Lattice, row: int, col: int, grid: Grid) -> Iterator[tuple[int, int]]:
    """First pixels on the grid of the tiles, of the block from (`row`, `col`) on, that share a pixel with it."""
    rows = [row + down for down in lattice.offsets if -lattice.tile < row + down < grid.rows]
    cols = [col + right for right in lattice.offsets if -lattice.tile < col + right < grid.cols]
    yield from product(rows, cols)


def _reason(ignored: NDArray[np.bool_], valid: NDArray[np.uint8], most: float) -> str:
    if (valid == 0).mean(axis=(1, 2)).max() > most:
        return UNOBSERVED
    return UNLABELLED if ignored.mean() > most else ""
