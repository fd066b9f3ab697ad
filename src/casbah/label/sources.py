"""Which source a word, a path or an address means, and how a remote file is fetched."""

import hashlib
import tempfile
import time
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests

import casbah
from casbah import progress
from casbah.addresses import scrubbed, shown
from casbah.errors import InputError, WorldError
from casbah.label.extract import read_extract
from casbah.label.found import Area, Found
from casbah.label.overpass import NO_ADDRESS, read_overpass
from casbah.label.overture import is_overture, read_overture, read_overture_file
from casbah.label.vector import PARQUET, read_vector
from casbah.products.manifest import sha256_of
from casbah.storage import Location, Store

ATTEMPTS = 4
FIRST_PAUSE = 1.0
"""Seconds before the second attempt at a download; doubled for each further one."""

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""

EXTRACT = (".pbf", ".osm", ".osm.bz2", ".osm.gz")
PIECE = 1 << 20


def find(source: str, area: Area, *, snapshot: str | None, layer: str | None, overpass: str | None) -> Found:
    """Footprints around `area` from `osm`, `overture`, or a file or address."""
    if source == "osm":
        return read_overpass(area, overpass, snapshot)
    if source == "overture":
        return read_overture(area, snapshot)
    if snapshot is not None:
        raise InputError(
            f"a snapshot can't be asked of the file {shown(source)}; it goes with --source osm or overture"
        )
    try:
        scheme = urlsplit(source).scheme
    except ValueError as error:
        raise InputError(f"{shown(source)} is no address that can be asked ({error})") from None
    if scheme in ("s3", "minio", "http", "https"):
        with tempfile.TemporaryDirectory(prefix="casbah-label-") as folder:
            return _read(_fetched(source, Path(folder)), area, layer)
    return _read(Path(source), area, layer)


def _read(path: Path, area: Area, layer: str | None) -> Found:
    found = _found(path, area, layer)
    found.sha256 = _digest(path)
    return found


def _found(path: Path, area: Area, layer: str | None) -> Found:
    if path.name.lower().endswith(EXTRACT):
        return read_extract(path, area)
    if path.exists() and (path.is_dir() or path.suffix.lower() in PARQUET) and is_overture(path):
        return read_overture_file(path, area)
    return read_vector(path, area, layer)


def _digest(path: Path) -> str:
    """sha256 of a file, or over the names and sha256 of all files of a folder."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = "\n".join(f"{file.relative_to(path)} {sha256_of(file)}" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _fetched(address: str, folder: Path) -> Path:
    """Download a file into `folder`; `InputError` where it does not exist, `WorldError` where the network fails."""
    name = PurePosixPath(urlsplit(address).path).name
    if not name:
        raise InputError(f"{shown(address)} names no file; the address of a file of building footprints is wanted")
    if name.lower().endswith(".shp"):
        raise InputError(
            f"{shown(address)} is one of a Shapefile's several files: put them into a .zip, or use GeoPackage"
        )
    progress.say(f"fetching {shown(address)}")
    target = folder / name
    if urlsplit(address).scheme in ("s3", "minio"):
        Store.from_environment().get(Location.parse(address), target)
    else:
        _download(address, target)
    return target


def _download(address: str, target: Path) -> None:
    pause, fault = FIRST_PAUSE, ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause)
            pause *= 2
        try:
            with requests.get(
                address, stream=True, timeout=TIMEOUT, headers={"User-Agent": f"casbah/{casbah.__version__}"}
            ) as answer:
                if answer.ok:
                    with open(target, "wb") as file:
                        for piece in answer.iter_content(PIECE):
                            file.write(piece)
                    return
                fault = f"{answer.status_code} {answer.reason}"
                if answer.status_code < 500 and answer.status_code != requests.codes.too_many_requests:
                    raise InputError(f"{shown(address)} can't be fetched ({fault}): check the address")
        except NO_ADDRESS as error:
            raise InputError(f"{shown(address)} is no address that can be asked ({scrubbed(str(error))})") from None
        except requests.RequestException as error:
            fault = type(error).__name__
        except OSError as error:
            raise WorldError(
                f"{shown(address)} could not be kept in {target.parent} ({error.strerror or error}): make room, or "
                "point TMPDIR to a larger disk, and run it again"
            ) from error
    raise WorldError(f"{shown(address)} failed {ATTEMPTS} times ({fault}): try again, or download it and name the file")
