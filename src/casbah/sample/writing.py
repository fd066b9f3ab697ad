"""What the libraries that write a town's files raise where the disk is full: errors of their own, that name no disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyogrio.errors import DataLayerError, DataSourceError
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from casbah.errors import WorldError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one sentence that the files of `path` could not be written, with the library's word for it."""
    try:
        yield
    except (DataLayerError, DataSourceError, RasterioError, CPLE_BaseError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WorldError(f"{path} could not be written ({reason}): is the disk full? Nothing was left there") from error
