"""Where imagery looks unlike what a model was trained on, told from its values alone.

A model's bundle holds, band by band, the range between the 1st and the 99th percentile of its training pixels: of
imagery like it 2 % of the values lie outside. They are counted in cells, and a cell is called unlike where

- more than `MUCH` of all its values lie outside: ten times as many as in the training data, or
- more than `MOST` of the values of a single band do: a band that went wrong drowns in twelve.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casbah.bands import NODATA
from casbah.grid import Grid
from casbah.products.model import Training

CELL = 64
"""Pixels across a cell. The edges of cells lie on multiples of it from the origin of the imagery's CRS on, so that all
imagery of one ground has the same cells; those along its border may be cut."""

MUCH = 0.2
"""Share of all values. A cell may well hold a whole lake or quarry that the training data have a percent of."""

MOST = 0.6
"""Share of one band's values."""


@dataclass
class Cells:
    """Sums over the cells of an imagery: `outside` and `known` values (rows, cols, bands), `pixels` (rows, cols).

    Values of all periods count together; `pixels` are those that were observed in any of them. `row` and `col` are the
    number of the first cell, counted from the one that holds the imagery's first pixel.
    """

    outside: NDArray[np.int32]
    known: NDArray[np.int32]
    pixels: NDArray[np.int32]
    row: int = 0
    col: int = 0

    @classmethod
    def none(cls, rows: int, cols: int, bands: int, row: int = 0, col: int = 0) -> "Cells":
        """Of the cells that hold `rows` x `cols` pixels from pixel (`row`, `col`) of the first cell on."""
        shape = (_cells(row, rows), _cells(col, cols))
        return cls(
            np.zeros((*shape, bands), np.int32),
            np.zeros((*shape, bands), np.int32),
            np.zeros(shape, np.int32),
            row // CELL,
            col // CELL,
        )

    def add(self, part: "Cells") -> None:
        """Add the sums of a part."""
        rows = slice(part.row - self.row, part.row - self.row + len(part.pixels))
        cols = slice(part.col - self.col, part.col - self.col + part.pixels.shape[1])
        self.outside[rows, cols] += part.outside
        self.known[rows, cols] += part.known
        self.pixels[rows, cols] += part.pixels

    def flagged(self) -> NDArray[np.bool_]:
        """Which cells (rows, cols) look unlike the training data."""
        much = self.outside.sum(axis=2) > MUCH * self.known.sum(axis=2)
        most = (self.outside > MOST * self.known).any(axis=2)
        return much | most

    def share(self) -> float:
        """Which share of the observed pixels lies in flagged cells."""
        return float(self.pixels[self.flagged()].sum() / max(int(self.pixels.sum()), 1))

    def shares(self, training: Training) -> dict[str, float]:
        """Band -> which share of its values lies outside of the training range."""
        outside, known = self.outside.sum(axis=(0, 1), dtype=np.int64), self.known.sum(axis=(0, 1), dtype=np.int64)
        return {
            name: round(float(outside[i] / max(int(known[i]), 1)), 4)
            for i, name in enumerate(training.bands)
            if name in training.input_range
        }


def corner(grid: Grid) -> tuple[int, int]:
    """Where the first pixel of a grid lies in its cell (row, col). Pixels off the lattice go with the one before."""
    down, across = (math.floor(metres / grid.resolution + 1e-6) for metres in (-grid.north, grid.west))
    return down % CELL, across % CELL


def _cells(start: int, length: int) -> int:
    return (start + length - 1) // CELL - start // CELL + 1


def count(images: NDArray[np.uint16], observed: NDArray[np.bool_], training: Training, row: int, col: int) -> Cells:
    """The sums of images (periods, bands, rows, cols) whose first pixel is (`row`, `col`), counted from the first pixel
    of the cell that the imagery begins in (see `corner`).

    Bands whose range the bundle does not say count nothing.
    """
    rows, cols = images.shape[-2:]
    cells = Cells.none(rows, cols, images.shape[1], row, col)
    breaks = [
        np.unique(np.maximum(np.arange(s // CELL, (s + n - 1) // CELL + 1) * CELL - s, 0))
        for s, n in ((row, rows), (col, cols))
    ]
    cells.pixels += _summed(observed, breaks)
    for i, name in enumerate(training.bands):
        if name not in training.input_range:
            continue
        low, high = (int(value) for value in training.input_range[name])
        for image in images[:, i]:
            known = image != NODATA
            cells.known[..., i] += _summed(known, breaks)
            cells.outside[..., i] += _summed(known & ((image < low) | (image > high)), breaks)
    return cells


def _summed(values: NDArray[np.bool_], breaks: list[NDArray[np.intp]]) -> NDArray[np.int32]:
    along = np.add.reduceat(values, breaks[1], axis=1, dtype=np.int32)
    return np.add.reduceat(along, breaks[0], axis=0, dtype=np.int32)
