"""Writes TileSets: one pass over the imagery, whatever the number of folds, holding one block at a time.

The arrays are `.npy` files that readers map into memory. They are written from front to back through plain file
writes, not through a memory map: a full disk is then an error that can be told, not a bus error that kills the process.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from casbah.bands import NODATA
from casbah.products.labels import IGNORE
from casbah.products.tiles import SPLITS
from casbah.progress import task
from casbah.tile.alignment import Alignment
from casbah.tile.lattice import Lattice
from casbah.tile.plan import BlockPlan
from casbah.tile.sources import Reader, Source, reading
from casbah.tile.splitting import Assignment


@dataclass
class TileWriter:
    """One TileSet being written under `directory`."""

    directory: Path
    assign: Mapping[int, Assignment]
    """Source -> the split of each of its blocks."""
    alignment: Alignment | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What becomes `tiles.parquet`, with the grid of each tile."""


class Arrays:
    """The `.npy` files of one split, appended to tile by tile."""

    def __init__(self, directory: Path, tiles: int, shapes: Mapping[str, tuple[int, ...]], stack: ExitStack) -> None:
        directory.mkdir(parents=True)
        self.count = 0
        self._files: dict[str, IO[bytes]] = {}
        for name, shape in shapes.items():
            file = stack.enter_context((directory / f"{name}.npy").open("wb"))
            kind = "<u2" if name == "images" else "|u1"
            header = {"descr": kind, "fortran_order": False, "shape": (tiles, *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            self._files[name] = file

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> int:
        """Add one tile; returns its row."""
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(arrays[name]).tobytes())
        self.count += 1
        return self.count - 1


def write_tiles(
    writers: Sequence[TileWriter], sources: Sequence[Source], lattices: Sequence[Lattice], blocks: Sequence[BlockPlan]
) -> None:
    """Cut every planned tile once and put it into the split that each writer assigns it to."""
    with ExitStack() as stack:
        arrays = [_open(writer, sources[0], lattices[0].tile, blocks, stack) for writer in writers]
        with task("cutting tiles", sum(len(block.tiles) for block in blocks)) as progress:
            for number, (source, lattice) in enumerate(zip(sources, lattices, strict=True)):
                with reading(source) as reader:
                    for block in (b for b in blocks if b.source == number):
                        _cut_block(reader, lattice, block, list(zip(writers, arrays, strict=True)))
                        progress.advance(len(block.tiles))


def _open(
    writer: TileWriter, source: Source, size: int, blocks: Sequence[BlockPlan], stack: ExitStack
) -> dict[str, Arrays]:
    shapes: dict[str, tuple[int, ...]] = {
        "images": (source.scene.periods, len(source.scene.bands), size, size),
        "masks": (size, size),
        "cover": (size, size),
    }
    if writer.alignment is not None:
        shapes |= {"masks_unaligned": (size, size), "cover_unaligned": (size, size)}
    counts = dict.fromkeys(SPLITS, 0)
    for block in blocks:
        counts[writer.assign[block.source](block.block)] += len(block.tiles)
    return {split: Arrays(writer.directory / split, counts[split], shapes, stack) for split in SPLITS}


def _cut_block(
    reader: Reader, lattice: Lattice, block: BlockPlan, outputs: Sequence[tuple[TileWriter, dict[str, Arrays]]]
) -> None:
    top, left, rows, cols = block.extent(lattice.tile)
    part = reader.source.grid.part(top, left, rows, cols)
    images = reader.images(part)
    unobserved = (images == NODATA).any(axis=1)
    unknown = unobserved.all(axis=0)
    cover, mask = reader.cover(part), reader.mask(part)
    mask[unknown], cover[unknown] = IGNORE, IGNORE
    for writer, arrays in outputs:
        split = writer.assign[block.source](block.block)
        whole = {"images": images, "masks": mask, "cover": cover, "unobserved": unobserved}
        if writer.alignment is not None:
            whole |= {"masks_unaligned": mask, "cover_unaligned": cover}
            moved = writer.alignment.cover(block.source, split, part)
            moved[(cover == IGNORE) | (mask == IGNORE)] = IGNORE
            whole |= {"cover": moved, "masks": _mask(moved, reader.source.labels.info.building_cover)}
        for row, col in block.tiles:
            cut = (..., slice(row - top, row - top + lattice.tile), slice(col - left, col - left + lattice.tile))
            tile = {name: array[cut] for name, array in whole.items()}
            number = arrays[split].append(tile)
            writer.rows.append(_row(reader.source, lattice, block, (row, col), split, number, tile))


def _mask(cover: NDArray[np.uint8], building_cover: int) -> NDArray[np.uint8]:
    mask = (cover >= building_cover).astype(np.uint8)
    mask[cover == IGNORE] = IGNORE
    return mask


def _row(
    source: Source,
    lattice: Lattice,
    block: BlockPlan,
    first: tuple[int, int],
    split: str,
    number: int,
    tile: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    mask = tile["masks"]
    labelled = int((mask != IGNORE).sum())
    return {
        "split": split,
        "row": number,
        "block": lattice.name(block.block),
        "scene": source.name,
        "tile_row": first[0],
        "tile_col": first[1],
        "building_share": float((mask == 1).sum() / labelled) if labelled else math.nan,
        "ignore_share": float((mask == IGNORE).mean()),
        "nodata_share": float(tile["unobserved"].mean()),
        "grid": source.grid.part(*first, lattice.tile, lattice.tile),
    }
