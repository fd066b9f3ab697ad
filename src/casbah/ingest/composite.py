"""Makes one block of one time step: masks clouds, takes off offsets, mosaics each day, takes the median.

Each band is composited at its own resolution (10, 20 or 60 m) wherever all its items lie on that lattice of the
scene's UTM zone, which holds for every item of the zone, and is brought to 10 m once (see `interpolation`). That copies
source pixels as they are and costs a quarter and a thirty-sixth of resampling every item to 10 m first. Where an item
lies elsewhere (another zone, another CRS), the band is resampled to 10 m item by item.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.windows import Window
from scipy.ndimage import maximum_filter, minimum_filter

from casbah.bands import NODATA
from casbah.bands import band as band_of
from casbah.grid import RESOLUTION, Grid
from casbah.ingest.reading import Files, Layer, interpolation

CLEAR_CLASSES = (2, 4, 5, 6, 7)
"""SCL: dark area, vegetation, bare ground, water, unclassified. 2 and 7 are kept because dark streets and bright roofs
fall into them; the median is there for the thin cloud that 7 also holds. Not clear: 0 nodata, 1 saturated,
3 cloud shadow, 8 and 9 cloud, 10 cirrus, 11 snow."""

GROWING_CLASSES = (3, 8, 9)
"""Cloud shadow and cloud: their rims are hazier than the classification admits."""

GROWTH = 40.0
"""Metres by which clouds and shadows are widened: two pixels of the SCL."""

LEAST_CLOUD = 60.0
"""Metres: only clumps at least this wide grow. Smaller ones in a town are mostly bright roofs: they mask themselves."""

SCL_RESOLUTION = 20.0
PAD = 120.0
"""Metres read around a block: what a grown cloud and an interpolation reach, and a multiple of 10, 20 and 60."""

STACK_BYTES = 2**26
"""Of one band's observations held by one worker, which bounds memory whatever the area."""

CHUNK = 2**16
"""Pixels whose observations are sorted at a time: what stays in a core's cache."""

CUBIC_SIDE = 5
"""Samples across: all that a cubic interpolation asks for, wherever in the middle one it is asked."""

EDGES = (2048, 1024, 512, 256, 128, 64)


@dataclass(frozen=True)
class Source:
    """One chosen item, ready to read: its layers, and what is taken off its digital numbers."""

    item: str
    layers: dict[str, Layer]
    scl: Layer | None
    offset: int


@dataclass(frozen=True)
class Step:
    """One time step: its looks, each the sources of one day in the order in which they are laid over each other."""

    looks: tuple[tuple[Source, ...], ...]
    bands: tuple[str, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(source for look in self.looks for source in look)


def block_edge(looks: int) -> int:
    """The side of a block in pixels, so that one band's stack of observations fits `STACK_BYTES`."""
    return next((edge for edge in EDGES if looks * edge * edge * 2 <= STACK_BYTES), EDGES[-1])


def composite(
    step: Step, block: Grid, files: Files, pool: ThreadPoolExecutor
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """The median composite of one block.

    Returns reflectance x 10000 (bands, rows, cols), 0 where any band has no clear observation, and the number of
    clear observations (rows, cols), of the band that has fewest.
    """
    clear = list(pool.map(lambda source: _clear(source, block, files), step.sources))
    masks = dict(zip((source.item for source in step.sources), clear, strict=True))
    reflectance = np.empty((len(step.bands), *block.shape), np.uint16)

    def fill(index: int) -> NDArray[np.uint8]:
        reflectance[index], count = _band(step, step.bands[index], block, masks, files)
        return count

    valid = np.minimum.reduce(list(pool.map(fill, range(len(step.bands)))))
    reflectance[:, valid == 0] = NODATA
    return reflectance, valid


def _band(
    step: Step, name: str, block: Grid, masks: dict[str, "Mask"], files: Files
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """One band of one block at 10 m, and its count of clear observations."""
    native = float(band_of(name).resolution)
    on_lattice = all(files.lies_on(source.layers[name], block.crs, native) for source in step.sources)
    resolution = native if on_lattice else RESOLUTION
    frame = block if resolution == RESOLUTION else _around(block, resolution)
    stack = np.zeros((len(step.looks), *frame.shape), np.uint16)
    for slot, look in zip(stack, step.looks, strict=True):
        for number, source in enumerate(look):
            values = files.read(source.layers[name], frame).astype(np.uint16, copy=False)
            take_off(values, source.offset)
            values *= masks[source.item].on(frame)
            np.copyto(slot, values, where=slot == NODATA if number else True)
    values, count = median(stack)
    if frame is block:
        return values, count
    return _to_block(values, frame, block), _nearest(count, frame, block)


def take_off(values: NDArray[np.uint16], offset: int) -> None:
    """Take the offset off digital numbers, in place: 0 (nodata) stays 0, and nothing else falls below 1."""
    if not offset:
        return
    seen = values != NODATA
    np.maximum(values, offset + 1, out=values)
    values -= np.uint16(offset)
    values *= seen


def median(stack: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Median over the first axis of (looks, rows, cols) without zeros, and how many there were; the stack is consumed.

    Of an even number the mean of the middle two, rounded half up. Sorting goes by exchanging whole planes (odd-even
    transposition), which for a dozen looks is 10 to 40 times faster than sorting each pixel by itself.
    """
    values = np.empty(stack.shape[1:], np.uint16)
    count = np.empty(stack.shape[1:], np.uint8)
    rows = max(1, CHUNK // stack.shape[2])
    for top in range(0, stack.shape[1], rows):
        part = slice(top, top + rows)
        values[part], count[part] = _median_rows(stack[:, part])
    return values, count


def _median_rows(stack: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    looks = len(stack)
    count = np.zeros(stack.shape[1:], np.uint8)
    for plane in stack:
        count += plane != NODATA
    _sort_planes(list(stack))
    values = _middle(stack[(looks - 1) // 2], stack[looks // 2])
    some = np.nonzero((count < looks) & (count > 0))
    kept = count[some].astype(np.intp)
    first = looks - kept
    values[some] = _middle(stack[(first + (kept - 1) // 2, *some)], stack[(first + kept // 2, *some)])
    values[count == 0] = NODATA
    return values, count


def _sort_planes(planes: Sequence[NDArray[np.uint16]]) -> None:
    for turn in range(len(planes)):
        for i in range(turn % 2, len(planes) - 1, 2):
            lower = np.minimum(planes[i], planes[i + 1])
            np.maximum(planes[i], planes[i + 1], out=planes[i + 1])
            planes[i][...] = lower


def _middle(low: NDArray[np.uint16], high: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The mean of two, rounded half up, without leaving 16 bits."""
    return low + (high - low + 1) // 2


@dataclass(frozen=True)
class Mask:
    """Where a source is clear, on `grid`; everywhere where `clear` is None (no SCL)."""

    grid: Grid
    clear: NDArray[np.bool_] | None

    def on(self, frame: Grid) -> NDArray[np.uint8] | np.uint16:
        """The mask on a frame inside of its grid: 1 where all of a frame's pixel is clear, 0 elsewhere."""
        if self.clear is None:
            return np.uint16(1)
        own, wanted = self.grid.resolution, frame.resolution
        fine = min(own, wanted)
        top = round((self.grid.north - frame.north) / fine)
        left = round((frame.west - self.grid.west) / fine)
        factor = round(wanted / fine)
        height, width = frame.rows * factor, frame.cols * factor
        grow = round(own / fine)
        rows, cols = np.arange(top, top + height) // grow, np.arange(left, left + width) // grow
        cut = self.clear[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        if grow > 1:
            cut = np.repeat(np.repeat(cut, grow, 0), grow, 1)[top % grow :, left % grow :][:height, :width]
        if factor > 1:
            cut = np.logical_and.reduce(cut.reshape(frame.rows, factor, frame.cols, factor), axis=(1, 3))
        return np.ascontiguousarray(cut).view(np.uint8)


def _clear(source: Source, block: Grid, files: Files) -> Mask:
    frame = _around(block, 60.0)
    if source.scl is None:
        return Mask(frame, None)
    on_lattice = files.lies_on(source.scl, block.crs, SCL_RESOLUTION)
    wide = Grid.covering(block.crs, _buffered(frame.bounds, PAD), SCL_RESOLUTION if on_lattice else RESOLUTION)
    return Mask(wide, clear_of(files.read(source.scl, wide), wide.resolution))


def clear_of(scl: NDArray[np.uint8], resolution: float) -> NDArray[np.bool_]:
    """Where a scene classification (rows, cols) shows clear ground, clouds and shadows widened by `GROWTH`."""
    clear: NDArray[np.bool_] = np.isin(scl, CLEAR_CLASSES)
    growing = np.isin(scl, GROWING_CLASSES)
    if growing.any():
        core = round(LEAST_CLOUD / resolution)
        solid = minimum_filter(growing.view(np.uint8), core)
        # The core was shrunk to a point of each clump: what brings it back and GROWTH further is one dilation.
        reach = 2 * (core // 2 + round(GROWTH / resolution)) + 1
        clear = clear & (maximum_filter(solid, reach) == 0)
    return clear


def _around(block: Grid, resolution: float) -> Grid:
    """The block widened by `PAD` and snapped to multiples of 60 m, on which the three native lattices meet."""
    west, south, east, north = _buffered(block.bounds, PAD)
    snapped = (
        math.floor(west / 60.0) * 60.0,
        math.floor(south / 60.0) * 60.0,
        math.ceil(east / 60.0) * 60.0,
        math.ceil(north / 60.0) * 60.0,
    )
    return Grid.covering(block.crs, snapped, resolution)


def _buffered(bounds: tuple[float, float, float, float], metres: float) -> tuple[float, float, float, float]:
    west, south, east, north = bounds
    return west - metres, south - metres, east + metres, north + metres


def _window(frame: Grid, block: Grid) -> Window:
    """Where the block lies in the frame, in the frame's (fractional) pixels."""
    r = frame.resolution
    left, top = (block.west - frame.west) / r, (frame.north - block.north) / r
    return Window(left, top, block.cols * block.resolution / r, block.rows * block.resolution / r)


def _to_block(values: NDArray[np.uint16], frame: Grid, block: Grid) -> NDArray[np.uint16]:
    """Interpolation from the frame to the block, nodata taking no part.

    A cubic one is taken where all samples around are there, and a bilinear one elsewhere: weights of both signs that
    are left over beside a gap sum to anything.
    """
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, dtype="uint16", nodata=NODATA, **frame.profile()) as target:
            target.write(values, 1)
        with rasterio.open(memory.name) as source:
            read = partial(source.read, 1, window=_window(frame, block), out_shape=block.shape)
            found: NDArray[np.uint16] = read(resampling=interpolation(frame.resolution))
            if interpolation(frame.resolution) == Resampling.cubic and not values.all():
                whole = minimum_filter((values != NODATA).view(np.uint8), CUBIC_SIDE)
                np.copyto(found, read(resampling=Resampling.bilinear), where=_nearest(whole, frame, block) == 0)
    return found


def _nearest(count: NDArray[np.uint8], frame: Grid, block: Grid) -> NDArray[np.uint8]:
    """The count, or another number, of the frame's pixel that holds each pixel of the block."""
    window, factor = _window(frame, block), frame.resolution / block.resolution
    rows = ((np.arange(block.rows) + 0.5) / factor + window.row_off).astype(int)
    cols = ((np.arange(block.cols) + 0.5) / factor + window.col_off).astype(int)
    return count[rows[:, None], cols[None, :]]
