"""The order in which a raster goes through a model: panels from left to right, blocks of rows down each of them.

A block is what is finished, written and kept at once. What its windows say of pixels beyond it goes on to the block
below (the carry) and to the panel on the right (the seam), so that no window goes through the model twice, and memory
holds one block and the seam of one panel, whatever the size of the raster.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rasterio.windows import Window

from casbah.predict.blending import Axis

PANEL = 3072
"""Columns of a panel, about: a row of it is six tiles of a COG, and what it shares with its neighbours is little."""

BLOCK = 512
"""Rows of a block, about."""


@dataclass(frozen=True)
class Block:
    """The windows `rows` x `cols` (numbers along either axis) and the pixels that are settled once they are added.

    `reach` is the row, and `edge` the column, after the last pixel that they touch.
    """

    panel: int
    number: int
    rows: range
    cols: range
    window: Window
    reach: int
    edge: int


@dataclass(frozen=True)
class Plan:
    """All windows over a raster."""

    rows: Axis
    cols: Axis

    @classmethod
    def of(cls, height: int, width: int, window: int, overlap: int) -> "Plan":
        return cls(Axis.cut(height, window, overlap), Axis.cut(width, window, overlap))

    @property
    def windows(self) -> int:
        """How many there are."""
        return len(self.rows.starts) * len(self.cols.starts)

    def blocks(self) -> list[Block]:
        """In the order in which they are made."""
        return [
            Block(
                panel,
                number,
                rows,
                cols,
                Window(
                    self.cols.starts[cols[0]],
                    self.rows.starts[rows[0]],
                    self.cols.settled(cols[-1]) - self.cols.starts[cols[0]],
                    self.rows.settled(rows[-1]) - self.rows.starts[rows[0]],
                ),
                self.rows.end(rows[-1]),
                self.cols.end(cols[-1]),
            )
            for panel, cols in enumerate(_groups(self.cols, PANEL))
            for number, rows in enumerate(_groups(self.rows, BLOCK))
        ]


def _groups(axis: Axis, pixels: int) -> Iterator[range]:
    """Numbers of windows, cut where at least so many pixels are settled."""
    first = 0
    for number in range(len(axis.starts)):
        if axis.settled(number) - axis.starts[first] >= pixels or number == len(axis.starts) - 1:
            yield range(first, number + 1)
            first = number + 1
