"""Finished blocks beside the output: what a killed stage leaves for the next run, and nobody else opens.

Blocks are small GeoTIFFs on parts of the output's grid; `write_cog` joins them in the end.
"""

import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from casbah.bands import NODATA
from casbah.errors import BAD_PATH, CasbahError, InputError, WorldError
from casbah.grid import Grid
from casbah.products.manifest import check_target, replace_directory

DEFLATE_LEVEL = 3
"""Of 12 bands of 2048 x 2048 pixels, level 3 took 40 % of the time of GDAL's default 6 and gave 0.4 % larger files."""

TILE = 512
"""Side of a COG's internal tiles, in pixels: GDAL's default for COGs."""


def no_bad_input(fault: BaseException) -> bool:
    """Whether a fault is another one than of the input: the same command may then go on from where it was."""
    return not isinstance(fault, InputError)


class Workplace:
    """A hidden directory `.<output>.<stage>-<digest>`; the digest is of all that decides the product's content."""

    def __init__(self, output: Path, parameters: dict[str, Any], stage: str) -> None:
        text = json.dumps(parameters, sort_keys=True, default=str)
        self.output = output
        self.stage = stage
        self._missing = [folder for folder in output.parents if not folder.exists()]
        self.path = output.parent / f".{output.name}.{stage}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a second run of the same work out while this one runs; the lock ends with the process."""
        with writing(self.output):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / "lock", "w")  # noqa: SIM115 - it stays open for longer than faults are translated
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another {self.stage} with these arguments is running (it holds {self.path}); let it finish"
                ) from None
            # What a run that was killed while it wrote the product left of it.
            for draft in (self.draft, *self.path.glob(f".{self.draft.name}.partial-*")):
                shutil.rmtree(draft, ignore_errors=True)
            yield

    @property
    def draft(self) -> Path:
        """Where the product is written, before it is handed over."""
        return self.path / "draft"

    @contextmanager
    def making(self, schema: str, keep: Callable[[BaseException], bool] = no_bad_input) -> Iterator[None]:
        """Let the product that the block leaves at `draft` take the output's place, and remove all else.

        After a fault, finished blocks stay where `keep` says so; by default unless the input was bad.
        """
        try:
            yield
            with writing(self.output):
                check_target(self.output, schema)
                replace_directory(self.draft, self.output)
            self.clear()
        except BaseException as fault:
            if keep(fault):
                self.clear_unless_useful()
            else:
                self.clear()
            raise

    def others(self) -> list[tuple[Path, int]]:
        """What killed runs of the same output with other arguments left: directories and their sizes in bytes."""
        beside = self.output.parent.glob(f".{glob.escape(self.output.name)}.{self.stage}-*")
        return sorted((path, _size_of(path)) for path in beside if path != self.path and not _is_held(path))

    def kept(self) -> int:
        """The size in bytes of the blocks that an earlier run finished."""
        return sum(path.stat().st_size for path in self.path.glob("block_*.tif"))

    def clear(self) -> None:
        """Remove the directory, and those above it that were made for an output that is not there."""
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self._missing:
            with suppress(OSError):
                folder.rmdir()

    def clear_unless_useful(self) -> None:
        """Leave nothing behind of a run that finished no block."""
        if not any(self.path.glob("block_*.tif")):
            self.clear()

    def block_path(self, part: int, window: Window) -> Path:
        """The file of a block: a window of one part (a period, say) of the output."""
        return self.path / f"block_{part}_{window.row_off}_{window.col_off}.tif"

    def save_block(self, path: Path, grid: Grid, planes: Sequence[NDArray[Any]]) -> None:
        """Write planes (rows, cols) of one type as the bands of a block; the file appears whole or not at all."""
        partial = path.with_suffix(".partial")
        profile = grid.profile(driver="GTiff", count=len(planes), dtype=planes[0].dtype.name, interleave="band")
        with writing(self.output):
            with rasterio.open(partial, "w", **profile) as target:
                for number, values in enumerate(planes, start=1):
                    target.write(values, number)
            with rasterio.open(partial) as written:
                for number, values in enumerate(planes, start=1):
                    # GDAL can reach the end of a disk without a word, while it closes a file.
                    if not np.array_equal(written.read(number), values):
                        raise OSError(f"{partial.name} does not hold what was written to it")
            partial.replace(path)


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Say of a fault while files of `output` are written whether the path (`InputError`) or the disk (`WorldError`)."""
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise _fault(output, error) from error


def _fault(output: Path, error: Exception) -> CasbahError:
    reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
    if isinstance(error, OSError) and error.errno in BAD_PATH:
        return InputError(f"the output {output} can't be made there: {reason}; name a directory that can be written")
    return WorldError(
        f"{output} could not be written: {reason}; is the disk full or a quota reached? Free space and run the same "
        "command again, finished blocks are kept"
    )


def _is_held(path: Path) -> bool:
    """Whether a run is at work in this directory."""
    try:
        with open(path / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def write_cog(source: str | Path, target: Path, resampling: str, **options: Any) -> None:
    """Copy a raster (a path, or the text of a VRT) to a Cloud-Optimized GeoTIFF, and read it back once.

    Overviews are made by `resampling`; `options` are GDAL's beside those that Casbah gives every COG. Raises an
    `OSError`, or one of rasterio's and GDAL's own errors, where it could not be written whole.
    """
    given = {
        "driver": "COG",
        "compress": "deflate",
        "level": DEFLATE_LEVEL,
        "predictor": 2,
        "blocksize": TILE,
        "bigtiff": "if_safer",
        "num_threads": os.cpu_count() or 1,
    }
    rasterio.shutil.copy(source, target, overview_resampling=resampling, **given | options)
    _read_back(target)


def _read_back(path: Path) -> None:
    """Decode every tile of a file once: GDAL can fill a disk and leave half a COG without an error.

    By one thread: with several GDAL (3.10) does not tell of all tiles that it could not read.
    """
    with rasterio.open(path, num_threads=1) as dataset:
        levels = len(dataset.overviews(1))
    for level in (None, *range(levels)):
        chosen = {} if level is None else {"overview_level": level}
        with rasterio.open(path, num_threads=1, **chosen) as dataset:
            for _, window in dataset.block_windows(1):
                dataset.read(window=window)


def blocks_vrt(
    blocks: Sequence[tuple[Path, Window]],
    grid: Grid,
    bands: dict[str, int],
    kind: str,
    *,
    nodata: int = NODATA,
    scale: float = 1.0,
    tags: Mapping[str, str] | None = None,
) -> str:
    """A GDAL VRT (its XML text, which GDAL opens like a file name) that lays blocks side by side on the grid.

    `bands` maps each band's name to its number in the blocks. Where no block lies there is `nodata`; `scale` is what a
    value stands for, and `tags` go into the file's metadata.
    """
    layers = []
    scaled = "" if scale == 1 else f"<Offset>0</Offset><Scale>{scale!r}</Scale>"
    for number, (name, source_band) in enumerate(bands.items(), start=1):
        parts = "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="0">{escape(str(path.resolve()))}</SourceFilename>'
            f"<SourceBand>{source_band}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="{w.width}" ySize="{w.height}"/>'
            f'<DstRect xOff="{w.col_off}" yOff="{w.row_off}" xSize="{w.width}" ySize="{w.height}"/></SimpleSource>'
            for path, w in blocks
        )
        layers.append(
            f'<VRTRasterBand dataType="{kind}" band="{number}"><Description>{escape(name)}</Description>'
            f"<NoDataValue>{nodata}</NoDataValue>{scaled}{parts}</VRTRasterBand>"
        )
    transform = ", ".join(repr(value) for value in grid.transform.to_gdal())
    return (
        f'<VRTDataset rasterXSize="{grid.cols}" rasterYSize="{grid.rows}"><SRS>{grid.crs}</SRS>'
        f"<GeoTransform>{transform}</GeoTransform>{_metadata(tags or {})}{''.join(layers)}</VRTDataset>"
    )


def _metadata(tags: Mapping[str, str]) -> str:
    items = "".join(f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>" for key, value in tags.items())
    return f"<Metadata>{items}</Metadata>" if items else ""
