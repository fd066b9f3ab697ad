"""Footprints moved onto the image, each split by what its own blocks show.

A shift estimated over all blocks would carry test pixels and test labels into the train labels, so every split of every
scene has an estimate of its own, pooled over that split's blocks, and what a test block shows moves nothing but test.
A val or test split with too little built for an estimate of its own takes the train split's: what train shows may move
test (a model carries it there too), never the other way round. Where train can't tell either, nothing is moved.

Dates are misregistered differently. Labels can follow one of them: the last period, since that is the most recent
image and the one that a map of today is laid over. The other periods' images are not resampled onto it, because
interpolation blurs what is barely resolved, a model would have to repeat it wherever it is used, and a displacement
between periods that is constant over a scene is one that a convolution or a texture window learns by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import shapely
from numpy.typing import NDArray

from casbah.cover import exact_cover
from casbah.grid import Grid
from casbah.products.labels import IGNORE
from casbah.progress import task
from casbah.registration import ShiftEstimate, estimate_shift_of
from casbah.tile.lattice import Lattice
from casbah.tile.plan import BlockPlan
from casbah.tile.sources import Reader, Source, reading
from casbah.tile.splitting import Assignment

MOST_BLOCKS = 200
"""Blocks that one estimate looks at; two hundred square kilometres settle it to a metre, more only take time."""


@dataclass(frozen=True)
class MovableLabels:
    """Footprints of one source, found by place, that can be laid down somewhere else."""

    source: Source

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.source.labels.footprints().geometry.to_numpy())

    @cached_property
    def _known(self) -> Any:
        area = self.source.labels.info.labelled_area
        return shapely.box(*self.source.grid.bounds) if area is None else shapely.geometry.shape(area)

    def cover(self, part: Grid, east: float, north: float) -> NDArray[np.uint8]:
        """Percent of cover by the footprints moved by `east` and `north` metres; 255 beyond the moved labelled area."""
        west, south, right, top = part.bounds
        there = shapely.box(west - east, south - north, right - east, top - north)
        footprints = self._tree.geometries[np.sort(self._tree.query(there))]
        cover = exact_cover(footprints, part, east=east, north=north)
        cover[exact_cover([self._known], part, east=east, north=north) < 100] = IGNORE
        return cover


@dataclass
class Alignment:
    """The shift of each split of each source, for one TileSet."""

    period: int
    """The time step that the footprints were moved onto."""
    labels: Sequence[MovableLabels]
    shifts: dict[tuple[int, str], ShiftEstimate] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        assign: Mapping[int, Assignment],
        labels: Sequence[MovableLabels],
        lattices: Sequence[Lattice],
        blocks: Sequence[BlockPlan],
    ) -> Self:
        """Estimate every shift from the blocks' own pixels and the footprints as published."""
        made = cls(labels[0].source.scene.periods - 1, labels)
        parts: dict[tuple[int, str], list[BlockPlan]] = {}
        for block in blocks:
            parts.setdefault((block.source, assign[block.source](block.block)), []).append(block)
        with task("measuring shifts", len(parts)) as progress:
            for (source, split), members in parts.items():
                with reading(labels[source].source) as reader:
                    areas = _areas(reader, lattices[source].tile, members, made.period)
                    made.shifts[source, split] = estimate_shift_of(areas, lattices[source].resolution)
                progress.advance(note=split)
        return made

    def applied(self, source: int, split: str) -> tuple[float, float, str]:
        """(east, north, whose estimate it is: `own`, `train` or `none`) that the split's footprints are moved by."""
        for name, shift in (("own", self.shifts.get((source, split))), ("train", self.shifts.get((source, "train")))):
            if shift is not None and shift.reliable:
                return shift.east, shift.north, name
        return 0.0, 0.0, "none"

    def cover(self, source: int, split: str, part: Grid) -> NDArray[np.uint8]:
        """Percent of cover after the split's footprints were moved, 255 unknown."""
        east, north, _ = self.applied(source, split)
        return self.labels[source].cover(part, east, north)

    def summary(self, split: str) -> dict[str, Any]:
        """Scene -> `east` and `north` (metres moved), `by` (whose estimate) and `estimate`, the split's own."""
        told: dict[str, Any] = {}
        for (source, of), shift in self.shifts.items():
            if of == split:
                east, north, by = self.applied(source, split)
                own = vars(shift) | {"error": shift.error if np.isfinite(shift.error) else None}
                told[self.labels[source].source.name] = {"east": east, "north": north, "by": by, "estimate": own}
        return told


def _areas(
    reader: Reader, tile: int, blocks: Sequence[BlockPlan], period: int
) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.uint8]]]:
    # Evenly spread over the blocks, which come row by row.
    for block in blocks[:: -(-len(blocks) // MOST_BLOCKS)]:
        row, col, rows, cols = block.extent(tile)
        part = reader.source.grid.part(row, col, rows, cols)
        yield reader.images(part)[period], reader.cover(part)
