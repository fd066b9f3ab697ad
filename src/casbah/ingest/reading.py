"""Reads pixels of assets onto grids: files stay open, every fault is retried and then named.

Why not `odc.stac.load`: it opens a file anew for each block, so that a COG tile that four blocks share is fetched and
decoded four times; it upsamples every item to the target resolution before anything is composited; and it fuses items
before an offset could be taken off each one. Over 2000 x 2000 pixels of six dates it took 10 times the time of
decoding in memory, and ingest 3 times with the scene written; `bench/ingest.py` keeps measuring both.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from casbah.addresses import shown
from casbah.bands import NODATA, band
from casbah.errors import CasbahError, InputError, WorldError
from casbah.grid import Grid
from casbah.patience import REFUSED, REMOTE, Patience, complaint, gdal_status
from casbah.storage import Location, Store

Result = TypeVar("Result")

OPEN_FILES = 400
"""Well below the usual limit of 1024 file descriptors."""

CACHE_BYTES = 256 * 2**20
"""GDAL's cache of decoded source tiles: what two rows of blocks share of them stays in it."""

POSITION_ERROR = 0.01
"""Source pixels (10 cm). GDAL's default of 0.125 is visible as a step where two blocks meet."""

STRIP = 512
"""Columns that are resampled at a time."""

CUBIC_UP_TO = 20
"""Metres of a band's own pixels up to which reflectance is interpolated cubically (Keys 1981, a = -0.5), since a
building is a pixel or two, and a bilinear interpolation blurs it. Of a 60 m band a cubic one would carry each sample
over 230 m, further than `casbah.tile` keeps splits apart, to sharpen what is mostly air."""

COARSEST = 60.0
"""Metres: of Sentinel-2's own pixels."""


class UnreadableAsset(InputError):
    """A file of an item is missing or damaged: once it is fetched again, the same ingest can go on."""


@dataclass(frozen=True)
class Layer:
    """One band of one item: where it lies, whose it is, and how it may be resampled.

    `stripped` where the address was saved without the password or signature that it had.
    """

    item: str
    band: str
    href: str
    nearest: bool = False
    stripped: bool = False


@dataclass(frozen=True)
class Header:
    """What a file's header says: its CRS, pixel size, bounds in its own CRS, shape, and whether it has overviews."""

    crs: Any
    resolution: tuple[float, float]
    bounds: tuple[float, float, float, float]
    north_up: bool
    shape: tuple[int, int]
    overviews: bool


class Files:
    """A pool of open files. Several threads may read at once as long as they read different layers."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._open: OrderedDict[Layer, rasterio.DatasetReader] = OrderedDict()
        self._headers: dict[Layer, Header] = {}
        self._bounds: dict[tuple[Layer, str], tuple[float, float, float, float]] = {}
        self._lock = threading.Lock()
        self._options = patience.gdal() | {"GDAL_CACHEMAX": CACHE_BYTES}

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every file and give its cached tiles back; a later read opens it again."""
        for dataset in self._open.values():
            dataset.close()
        self._open.clear()

    def header(self, layer: Layer) -> Header:
        """What the file's header says; `InputError` where its numbers are not those of Sentinel-2's files."""
        if layer not in self._headers:
            with self._dataset(layer) as dataset:
                _check_type(layer, dataset.dtypes[0])
                t = dataset.transform
                self._headers[layer] = Header(
                    crs=dataset.crs,
                    resolution=(t.a, -t.e),
                    bounds=tuple(dataset.bounds),
                    north_up=t.b == 0 and t.d == 0 and t.a > 0 and t.e < 0,
                    shape=dataset.shape,
                    overviews=bool(dataset.overviews(1)),
                )
        return self._headers[layer]

    def lies_on(self, layer: Layer, crs: str, resolution: float) -> bool:
        """Whether the file's pixels are those of the lattice of multiples of `resolution` metres in `crs`."""
        header = self.header(layer)
        if not header.north_up or header.crs is None or header.crs.to_epsg() != int(crs.removeprefix("EPSG:")):
            return False
        west, _, _, north = header.bounds
        return header.resolution == (resolution, resolution) and west % resolution == 0 and north % resolution == 0

    def read(self, layer: Layer, grid: Grid) -> NDArray[Any]:
        """The layer's values on `grid`, (rows, cols) in the file's own dtype; 0 where the file has none.

        Pixels are copied where the grid lies on the file's own lattice; otherwise they are resampled, see
        `interpolation`, or for classes by the nearest. Nodata takes no part in an interpolation.
        """
        if not self._touches(layer, grid):
            return np.zeros(grid.shape, "uint8" if layer.nearest else "uint16")
        copied = self.lies_on(layer, grid.crs, grid.resolution)

        def act(dataset: rasterio.DatasetReader) -> NDArray[Any]:
            return _copy(dataset, grid) if copied else _warp(dataset, grid, _interpolation(layer))

        return self._insist(layer, act)

    def sample(self, layer: Layer, side: int, within: Grid) -> NDArray[Any]:
        """A coarse sample of at most `side` x `side` values of the whole file, from its overviews.

        A big file without overviews would have to be read whole; of that only the part over `within` is sampled.
        """
        header = self.header(layer)
        if not header.overviews and max(header.shape) > 4 * side:
            step = max(1, -(-max(within.shape) // side))
            rows, cols = -(-within.rows // step), -(-within.cols // step)
            return self.read(layer, Grid(within.crs, within.west, within.north, rows, cols, within.resolution * step))
        scale = max(1.0, max(header.shape) / side)
        shape = (round(header.shape[0] / scale), round(header.shape[1] / scale))
        return self._insist(layer, lambda dataset: dataset.read(1, out_shape=shape, resampling=Resampling.nearest))

    def _touches(self, layer: Layer, grid: Grid) -> bool:
        key = (layer, grid.crs)
        if key not in self._bounds:
            header = self.header(layer)
            if header.crs is None:
                raise InputError(f"{_whose(layer)} has no CRS; it can't be placed on the map")
            self._bounds[key] = transform_bounds(header.crs, grid.crs, *header.bounds, densify_pts=21)
        west, south, east, north = self._bounds[key]
        g = grid.bounds
        return west < g[2] and east > g[0] and south < g[3] and north > g[1]

    def _insist(self, layer: Layer, act: Any) -> NDArray[Any]:
        def attempt() -> NDArray[Any]:
            with self._dataset(layer) as dataset:
                return act(dataset)

        return self._patiently(layer, attempt)

    def _patiently(self, layer: Layer, act: Callable[[], Result]) -> Result:
        """What `act` returns, tried again where the file is remote; a fault of GDAL's becomes a sentence."""

        def attempt() -> Result:
            try:
                return act()
            except RasterioError as error:
                if _remote(layer) and gdal_status(error) in REFUSED:
                    # No further attempt changes that.
                    raise _fault(layer, error, self._patience) from None
                raise

        try:
            return self._patience.insist(attempt, RasterioError) if _remote(layer) else attempt()
        except RasterioError as error:
            raise _fault(layer, error, self._patience) from None

    @contextmanager
    def _dataset(self, layer: Layer) -> Iterator[rasterio.DatasetReader]:
        """The open file, lent to one reader; closed after a fault, so that the next attempt starts afresh."""
        with rasterio.Env(**self._options):
            with self._lock:
                dataset = self._open.pop(layer, None)
            if dataset is None:
                dataset = self._opened(layer)
            try:
                yield dataset
            except RasterioError:
                dataset.close()
                raise
            with self._lock:
                self._open[layer] = dataset
                old = self._open.popitem(last=False)[1] if len(self._open) > OPEN_FILES else None
            if old is not None:
                old.close()

    def _opened(self, layer: Layer) -> rasterio.DatasetReader:
        # /vsis3/ rather than s3://, for which rasterio would want boto3.
        path = layer.href.replace("s3://", "/vsis3/", 1) if layer.href.startswith("s3://") else layer.href
        return self._patiently(layer, lambda: rasterio.open(path, sharing=False))


def _copy(dataset: rasterio.DatasetReader, grid: Grid) -> NDArray[Any]:
    """Values of a file whose lattice is the grid's, padded with nodata where the grid reaches over its edge."""
    row = round((dataset.bounds.top - grid.north) / grid.resolution)
    col = round((grid.west - dataset.bounds.left) / grid.resolution)
    top, left = max(0, row), max(0, col)
    bottom, right = min(dataset.height, row + grid.rows), min(dataset.width, col + grid.cols)
    inside = (slice(top - row, bottom - row), slice(left - col, right - col))
    window = Window(left, top, right - left, bottom - top)
    if (bottom - top, right - left) == grid.shape:
        return _zero_for_nodata(dataset, dataset.read(1, window=window))
    out = np.zeros(grid.shape, dataset.dtypes[0])
    if bottom > top and right > left:
        out[inside] = _zero_for_nodata(dataset, dataset.read(1, window=window))
    return out


def _interpolation(layer: Layer) -> Resampling:
    return Resampling.nearest if layer.nearest else interpolation(band(layer.band).resolution)


def interpolation(resolution: float) -> Resampling:
    """How reflectance of a band with pixels of so many metres is interpolated."""
    return Resampling.cubic if resolution <= CUBIC_UP_TO else Resampling.bilinear


def _warp(dataset: rasterio.DatasetReader, grid: Grid, how: Resampling) -> NDArray[Any]:
    """Values resampled onto the grid, the same for a place whatever the rest of the grid is.

    GDAL derives the width of its filter from the window that is read, and its approximation of coordinates from the
    ends of a row. So the one is given, and rows are cut into strips on a fixed lattice.
    """
    nodata = NODATA if dataset.nodata is None else dataset.nodata
    wide = _in_strips(grid)
    across, down = _shrinking(dataset, grid)
    with WarpedVRT(
        dataset,
        crs=wide.crs,
        transform=wide.transform,
        width=wide.cols,
        height=wide.rows,
        src_nodata=nodata,
        nodata=NODATA,
        resampling=how,
        tolerance=POSITION_ERROR,
        XSCALE=str(across),
        YSCALE=str(down),
    ) as warped:
        starts = range(0, wide.cols, STRIP)
        strips = [warped.read(1, window=Window(s, 0, min(STRIP, wide.cols - s), wide.rows)) for s in starts]
    left = round((grid.west - wide.west) / grid.resolution)
    return np.ascontiguousarray(np.concatenate(strips, axis=1)[:, left : left + grid.cols])


def _in_strips(grid: Grid) -> Grid:
    """The grid widened to whole strips; a coarse sample of a wide area stays as it is, or it would leave the zone."""
    if grid.resolution > COARSEST:
        return grid
    side = STRIP * grid.resolution
    first, after = math.floor(grid.west / side), math.ceil((grid.west + grid.cols * grid.resolution) / side)
    return Grid(grid.crs, first * side, grid.north, grid.rows, (after - first) * STRIP, grid.resolution)


def _shrinking(dataset: rasterio.DatasetReader, grid: Grid) -> tuple[float, float]:
    """Pixels of the grid per pixel of the whole file, eastwards and northwards; 1 where the file is the coarser."""
    west, south, east, north = transform_bounds(dataset.crs, grid.crs, *dataset.bounds, densify_pts=21)
    across = (east - west) / dataset.width / grid.resolution
    down = (north - south) / dataset.height / grid.resolution
    return min(across, 1.0), min(down, 1.0)


def _zero_for_nodata(dataset: rasterio.DatasetReader, values: NDArray[Any]) -> NDArray[Any]:
    if dataset.nodata not in (None, NODATA):
        values[values == dataset.nodata] = NODATA
    return values


def _check_type(layer: Layer, kind: str) -> None:
    if kind not in ("uint8", "uint16"):
        raise InputError(
            f"{_whose(layer)} holds {kind} numbers; digital numbers of Sentinel-2 as unsigned integers of at most 16 "
            "bits are wanted: multiply reflectance by 10000 and write it as uint16"
        )


def _remote(layer: Layer) -> bool:
    return layer.href.startswith(REMOTE)


def _whose(layer: Layer) -> str:
    return f"{layer.band} of item {layer.item} ({shown(layer.href)})"


def _fault(layer: Layer, error: Exception, patience: Patience) -> CasbahError:
    """The sentence for a file that can't be read, and whose fault that is."""
    if not _remote(layer):
        return UnreadableAsset(
            f"{_whose(layer)} could not be read: {complaint(error)}; the file is missing, cut short or damaged: fetch "
            "it again and run the same command, finished parts are kept, or leave the item out with "
            f"--exclude {layer.item}"
        )
    if layer.href.startswith("s3://") and Store.configured():
        return _fault_in_store(layer, error, patience)
    if gdal_status(error) in REFUSED:
        return WorldError(
            f"{_whose(layer)} could not be read: its server refused it ({gdal_status(error)}); {_key(layer)}"
        )
    return WorldError(
        f"{_whose(layer)} could not be read after {patience.attempts} attempts: {complaint(error)}; run the same "
        "command again, finished parts are kept; where the file is gone for good, leave the item out with "
        f"--exclude {layer.item}"
    )


def _key(layer: Layer) -> str:
    """What would open the door of a server that refused a file."""
    if ".blob.core.windows.net/" in layer.href:
        return (
            "Planetary Computer wants addresses that are signed, which ingest does not do: use another --stac, for "
            "example Earth Search, which is the default"
        )
    if layer.stripped:
        return (
            "its address was saved without the password or signature that it had: search again with --stac, --start "
            "and --end in place of --items"
        )
    if layer.href.startswith("s3://"):
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "check the user, password or signature in the catalogue's addresses"


def _fault_in_store(layer: Layer, error: Exception, patience: Patience) -> CasbahError:
    """GDAL says the same of a store that is down and of an object that is not there, so the store is asked."""
    try:
        there = Store.from_environment().exists(Location.parse(layer.href))
    except CasbahError as known:
        return type(known)(f"{layer.band} of item {layer.item} could not be read: {known}")
    if not there:
        return UnreadableAsset(
            f"{_whose(layer)} does not exist in the object store; copy it there and run the same command, finished "
            f"parts are kept, or leave the item out with --exclude {layer.item}"
        )
    return WorldError(
        f"{_whose(layer)} could not be read after {patience.attempts} attempts: {complaint(error)}; run the same "
        "command again, finished parts are kept; where the file is damaged, leave the item out with "
        f"--exclude {layer.item}"
    )
