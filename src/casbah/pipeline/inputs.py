"""Pipeline parameters: text that a person types into the Kubeflow UI or a command line, made into what a stage takes.

The KFP command line parses each value as JSON, so a value may arrive as a number or a list where text was meant.
"""

import json
import math
import re
import shutil
import time
from collections.abc import Mapping
from datetime import date
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import urllib3

from casbah import areas, experiments
from casbah.addresses import shown
from casbah.errors import InputError, WorldError
from casbah.products.manifest import MANIFEST, Manifest
from casbah.seeds import checked_seed
from casbah.storage import BUCKET, Location, Store

SAMPLE = Location(BUCKET, "sample")
"""Where `casbah demo` publishes the simulated town."""

TOWN = re.compile(r"sample(@[0-9a-f]{8,64})?")
"""The simulated town, or only the one whose digest begins so: a step is cached by this text, not by what lies there."""

TOWN_LICENCE = "CC0-1.0"

FOOTPRINT_SERVICES = {"osm": "osm", "overture": "overture", "algiers": "osm"}
"""Values of `labels` that name a service; the case study takes OpenStreetMap's footprints."""

DOWNLOAD = urllib3.Retry(total=4, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
"""Attempts to be answered at all."""

ATTEMPTS = 3
"""Times that a download is begun which breaks off in the middle."""

PAUSE = 0.5
"""Seconds before the second one; doubled for the third."""

ADDRESSES = ("s3", "minio", "https", "http")


def known(parameter: str) -> list[str]:
    """The names that a parameter takes beside an address."""
    names = {
        "aoi": [*areas.names(), "sample"],
        "labels": [*FOOTPRINT_SERVICES, "sample"],
        "labelled_area": ["sample"],
        "experiments": experiments.names(),
    }
    return names[parameter]


def text(value: object) -> str:
    """A value of a text parameter as it was typed: one that is JSON (the vintage 2013) may have been parsed."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value.strip() if isinstance(value, str) else json.dumps(value)


def check(values: Mapping[str, Any]) -> None:
    """`InputError` for arguments of a run that a step would refuse, in its words; nothing is read from the world.

    Values are those of `compiled.arguments` with the defaults of the pipeline; names that a pipeline lacks are passed
    over.
    """
    for parameter in ("aoi", "labels", "labelled_area"):
        if value := values.get(parameter):
            _check_name(parameter, value)
    for value in values.get("experiments", ()):
        _check_name("experiments", value)
    if "name" in values:
        from casbah.register.versions import check_name

        check_name(values["name"])
    if vintage := values.get("vintage"):
        from casbah.label.vintage import check_vintage

        check_vintage(text(vintage))
    if "seed" in values:
        checked_seed(values["seed"], "seed")
    if "trials" in values:
        trials(values["trials"])
    for name, unit in (("cell_size", "metres"), ("minimum_area", "square metres")):
        if not 0 <= (size := values.get(name, 0)) < math.inf:
            raise InputError(f"{name} is {size:g}; 0 {unit} or more is wanted")
    if "to" in values:
        _check_to(text(values["to"]))
    if "model" in values:
        from casbah.registered import check_address

        check_address(text(values["model"]))
    if not 0 <= (cloud := values.get("max_cloud", 0)) <= 100:
        raise InputError(f"max_cloud is {cloud:g}; a percentage from 0 to 100 is wanted")
    if {"start", "end", "periods"} <= values.keys():
        from casbah.ingest.choose import equal_parts, parse_dates

        equal_parts(parse_dates(values["start"], values["end"]), values["periods"])
    if {"tile_size", "block_size"} <= values.keys():
        from casbah.grid import Grid
        from casbah.tile.lattice import lattice

        # Any grid of a scene's pixels: what fits together in it does so in all of them.
        grid = Grid("EPSG:32631", 0.0, 0.0, 1, 1)
        lattice(grid, tile_size=values["tile_size"], block_size=values["block_size"] or None)


def _check_to(to: str) -> None:
    if not to.startswith("s3://") or not Location.parse(to).key.strip("/"):
        raise InputError(f"to is {to!r}; an address in a bucket is wanted, such as s3://casbah/maps/algiers")


def trials(value: float) -> int:
    """A number of trials; KFP hands on a whole number as it may have parsed it (3.0)."""
    if value < 0 or value != int(value):
        raise InputError(f"trials is {value!r}; 0 (nothing is tuned) or a whole number above is wanted")
    return int(value)


def area(value: str, folder: Path) -> Path:
    """The file of the area of interest: a built-in name, or a GeoJSON at an s3:// or https:// address."""
    if value in areas.names():
        return areas.find(value)
    if is_town(value):
        return _of_town("aoi.geojson", value, folder)
    return _remote("aoi", value, folder)


def is_town(value: str) -> bool:
    """Whether a value names the simulated town: `sample`, or `sample@` and the beginning of its digest."""
    return TOWN.fullmatch(value) is not None


def published_town() -> str:
    """The value that names the town in the store by its digest, so that another town is another argument of a step."""
    return f"sample@{_town_digest()[:16]}"


def is_osm(source: str) -> bool:
    """Whether footprints come from OpenStreetMap, which can be read as it was on a day."""
    return FOOTPRINT_SERVICES.get(source) == "osm"


def footprints(value: str, folder: Path) -> str:
    """The source of the footprints: `osm`, `overture`, or the path of a vector file fetched from its address."""
    if value in FOOTPRINT_SERVICES:
        return FOOTPRINT_SERVICES[value]
    if is_town(value):
        return str(_of_town("footprints.parquet", value, folder))
    return str(_remote("labels", value, folder))


def labelled_area(value: str, source: str, folder: Path) -> Path | None:
    """The polygons outside of which nothing is known of buildings; None where the footprints are complete.

    Those of the sample come with it: its sea is no place without buildings, but one where nobody looked.
    """
    if is_town(value) or (not value and is_town(source)):
        return _of_town("labelled_area.geojson", value or source, folder)
    return _remote("labelled_area", value, folder) if value else None


def licence(value: str, source: str) -> str | None:
    """The licence of the footprints where their file does not say it: that of the sample is known."""
    if is_town(source) and value not in ("", TOWN_LICENCE):
        raise InputError(f"licence is {value!r}, and the sample's footprints are {TOWN_LICENCE}: leave licence out")
    return TOWN_LICENCE if is_town(source) else value or None


def catalogue(value: str) -> str:
    """The STAC API or catalogue; `sample` is the published simulated town."""
    if not is_town(value):
        return value
    _check_town(value)
    return str(SAMPLE / "catalog.json")


def search(values: Mapping[str, Any]) -> dict[str, Any]:
    """Where and for which days imagery is looked for, by the names that `casbah.ingest` has for them."""
    days = {name: iso_date(name, values[name]) for name in ("start", "end")}
    return days | {"stac": catalogue(text(values["stac"]))}


def experiment(value: str, folder: Path) -> Path:
    """The YAML of an experiment: a built-in name, or a file at an s3:// or https:// address."""
    if value in experiments.names():
        return experiments.find(value)
    return _remote("experiments", value, folder)


def experiment_list(value: object) -> list[str]:
    """The experiments of a run from a JSON list, one name, or names with commas between; no name twice."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = [part.strip() for part in value.split(",") if part.strip()]
        value = parsed if isinstance(parsed, list) else [str(parsed)]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise InputError(f'experiments is {value!r}; a JSON list of names is wanted, such as ["unet_scratch_small"]')
    called = [PurePosixPath(urlsplit(name).path).stem for name in value]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise InputError(f"experiments names {twice[0]} twice: {', '.join(map(shown, value))}")
    return value


def iso_date(name: str, value: object) -> str:
    """An ISO date from `2023-06-01`, or from `20230601`, which the KFP command line has turned into a number."""
    day = text(value)
    if re.fullmatch(r"\d{8}", day):
        day = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    try:
        return date.fromisoformat(day).isoformat()
    except ValueError:
        raise InputError(f"{name} is {value!r}; an ISO date is wanted, such as 2023-06-01") from None


def refuse_shapefile(parameter: str, value: str) -> None:
    """Raise `InputError` for a .shp, which is one of four files and useless when it travels alone."""
    if urlsplit(value).path.lower().endswith(".shp"):
        raise InputError(
            f"{parameter} is {shown(value)!r}, one of the several files of a shapefile; give a GeoPackage, which is "
            "one file: ogr2ogr footprints.gpkg footprints.shp"
        )


def fetch(address: str, folder: Path) -> Path:
    """Download one object or page into a folder and return its path."""
    target = folder / (PurePosixPath(urlsplit(address).path).name or "download")
    if address.startswith(("s3://", "minio://")):
        Store.from_environment().get(Location.parse(address), target)
        return target
    partial = target.with_name(f".{target.name}.partial")
    try:
        with urllib3.PoolManager(retries=DOWNLOAD, timeout=urllib3.Timeout(connect=10, read=120)) as pool:
            _download(pool, address, partial)
        return partial.rename(target)
    except urllib3.exceptions.HTTPError as error:
        raise WorldError(f"{shown(address)} could not be fetched ({type(error).__name__}): is it reachable?") from None
    except OSError as error:
        raise WorldError(f"{shown(address)} could not be kept in {folder}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _download(pool: urllib3.PoolManager, address: str, target: Path) -> None:
    """Stream to a file: an extract of a country does not fit in memory. Begun anew where it breaks off."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with pool.request("GET", address, preload_content=False) as response, open(target, "wb") as file:
                if response.status != 200:
                    raise InputError(
                        f"{shown(address)} answers {response.status}; an address that gives the file is wanted"
                    )
                shutil.copyfileobj(response, file)
            return
        except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError):
            if attempt == ATTEMPTS:
                raise
            time.sleep(PAUSE * 2 ** (attempt - 1))


def _of_town(name: str, value: str, folder: Path) -> Path:
    _check_town(value)
    return fetch(str(SAMPLE / name), folder)


def _check_town(value: str) -> None:
    wanted = value.partition("@")[2]
    if wanted and not (found := _town_digest()).startswith(wanted):
        raise InputError(
            f"{value} names another simulated town than lies at {SAMPLE} now ({found[:16]}): "
            f"give sample@{found[:16]}, or publish the one that is wanted (casbah sample publish)"
        )


def _town_digest() -> str:
    try:
        return Manifest.model_validate_json(Store.from_environment().read(SAMPLE / MANIFEST)).digest
    except ValueError:
        raise InputError(f"{SAMPLE / MANIFEST} is no manifest; publish the town anew (casbah sample publish)") from None


def _remote(parameter: str, value: str, folder: Path) -> Path:
    _check_name(parameter, value)
    return fetch(value, folder)


def _check_name(parameter: str, value: str) -> None:
    """`InputError` unless a value is a known name of its parameter or an address."""
    names = known(parameter)
    refuse_shapefile(parameter, value)
    if value in names or ("sample" in names and is_town(value)):
        return
    if (scheme := urlsplit(value).scheme) in ADDRESSES:
        if scheme in ("s3", "minio"):
            Location.parse(value)
        return
    if value.startswith(("{", "[")):
        raise InputError(f"{parameter} holds GeoJSON text; upload it and give its s3:// or https:// address")
    if "/" in value or "\\" in value or PurePosixPath(value).suffix:
        raise InputError(
            f"{parameter} is {shown(value)!r}, a path of your machine, which does not exist in a pod: "
            "upload the file and give its s3:// or https:// address"
        )
    near = get_close_matches(value, names, n=3, cutoff=0.4) or names
    raise InputError(f"{parameter} is {shown(value)!r}; known here: {', '.join(near)}, or an s3:// or https:// address")
