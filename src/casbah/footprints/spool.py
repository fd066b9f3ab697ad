"""Polygons that wait on disk while others are made, so that memory holds numbers of them alone."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
import shapely
from numpy.typing import NDArray

Polygons = NDArray[np.object_]


class Spool:
    """A file of polygons that has no name and is gone with the process; each is known by when it was added.

    Takes 8 bytes of memory a polygon. OSError where the disk is full.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._ends: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self._count, self._end = 0, 0

    @classmethod
    @contextmanager
    def within(cls, folder: Path) -> Iterator[Self]:
        """A spool on the disk of a folder, for as long as the block lasts."""
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            yield cls(file)

    def add(self, polygons: Polygons) -> NDArray[np.int64]:
        """Append polygons; their numbers."""
        written = shapely.to_wkb(polygons, byte_order=1)
        left = memoryview(b"".join(written))
        while left:
            left = left[self._file.write(left) :]
        sizes = np.array([len(one) for one in written], np.int64)
        self._ends.append(self._end + sizes.cumsum())
        self._end += int(sizes.sum())
        first, self._count = self._count, self._count + len(polygons)
        return np.arange(first, self._count)

    def read(self, numbers: NDArray[np.int64]) -> Polygons:
        """The polygons of these numbers."""
        if len(self._ends) > 1:
            self._ends = [np.concatenate(self._ends)]
        (ends,) = self._ends
        starts, sizes = ends[numbers].tolist(), (ends[numbers + 1] - ends[numbers]).tolist()
        found = [os.pread(self._file.fileno(), size, start) for start, size in zip(starts, sizes, strict=True)]
        return shapely.from_wkb(np.array(found, object))
