"""Footprints from Overture Maps: GeoParquet on S3, one release a month, or a local file of the same shape."""

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.compute
import pyarrow.dataset
import pyarrow.fs
import shapely

from casbah import progress
from casbah.errors import InputError, WorldError
from casbah.label.found import OSM_ATTRIBUTION, OSM_LICENCE, UNKNOWN, Area, Found

if TYPE_CHECKING:
    import geopandas

BUCKET, REGION = "overturemaps-us-west-2", "us-west-2"
THEME = "theme=buildings/type=building"

OVERTURE = "Overture Maps Foundation"
"""Beside whom every map must name the data sets that Overture took its footprints from."""

COLUMNS = ("id", "bbox", "geometry", "sources", "subtype", "class", "height", "num_floors", "is_underground", "version")
NEEDED = ("id", "bbox", "geometry", "sources")
"""Columns by which a GeoParquet file is known as Overture's."""

ATTEMPTS = 4


def read_overture(area: Area, release: str | None = None, store: pyarrow.fs.FileSystem | None = None) -> Found:
    """Read the buildings around `area` from Overture's bucket; `release` (`2026-10-21.0`) or the latest one.

    `store` is another file system with the bucket's layout. `InputError` where there is no such release, `WorldError`
    where S3 can't be reached.
    """
    store = store or pyarrow.fs.S3FileSystem(
        anonymous=True,
        region=REGION,
        connect_timeout=10,
        request_timeout=60,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(ATTEMPTS),
    )
    releases = _insist(lambda: _releases(store), "the list of releases")
    if release is not None and release not in releases:
        raise InputError(f"Overture has no release {release!r} any more or yet; it keeps {', '.join(releases)}")
    release = release or releases[-1]
    progress.say(f"reading Overture's buildings, release {release}")
    where = f"{BUCKET}/release/{release}/{THEME}"
    dataset = _insist(lambda: pyarrow.dataset.dataset(where, format="parquet", filesystem=store), where)
    found = _insist(lambda: _found(dataset, area, "overture"), where)
    found.vintage = release[:10]
    found.notes.append(f"Overture release {release}")
    return found


def read_overture_file(path: Path, area: Area) -> Found:
    """Read a local GeoParquet file (or a folder of them) in Overture's shape around `area`, only its rows there.

    `InputError` where its footer is whole and its pages are not.
    """
    try:
        return _found(pyarrow.dataset.dataset(path, format="parquet"), area, path.name)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(
            f"{path} can't be read as GeoParquet ({_first_line(error)}); if it was cut short or damaged on the way, "
            "fetch it again"
        ) from None


def is_overture(path: Path) -> bool:
    """Whether a Parquet file or folder has Overture's columns."""
    try:
        schema = pyarrow.dataset.dataset(path, format="parquet").schema
    except (pyarrow.ArrowException, OSError, ValueError):
        return False
    return all(name in schema.names for name in NEEDED) and pyarrow.types.is_struct(schema.field("bbox").type)


def _releases(store: pyarrow.fs.FileSystem) -> list[str]:
    entries = store.get_file_info(pyarrow.fs.FileSelector(f"{BUCKET}/release"))
    return sorted(entry.base_name for entry in entries if entry.type == pyarrow.fs.FileType.Directory)


def _insist(act: Any, what: str) -> Any:
    pause, last = 1.0, ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause)
            pause *= 2
        try:
            return act()
        except (OSError, pyarrow.ArrowException) as error:
            last = _first_line(error)
    raise WorldError(
        f"Overture's bucket s3://{BUCKET} failed {ATTEMPTS} times on {what} ({last}): is there a network? Otherwise "
        "take --source osm or a file"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _found(dataset: pyarrow.dataset.Dataset, area: Area, source: str) -> Found:
    west, south, east, north = area.bounds_in("EPSG:4326")
    bbox = pyarrow.compute.field
    inside = (bbox("bbox", "xmin") <= east) & (bbox("bbox", "xmax") >= west)
    inside &= (bbox("bbox", "ymin") <= north) & (bbox("bbox", "ymax") >= south)
    columns = [name for name in COLUMNS if name in dataset.schema.names]
    batches, seen = [], 0
    for batch in dataset.to_batches(columns=columns, filter=inside):
        seen += batch.num_rows
        if batch.num_rows:
            batches.append(batch)
    table = pyarrow.Table.from_batches(batches, schema=pyarrow.schema([dataset.schema.field(n) for n in columns]))
    progress.say(f"{seen:,} buildings in the area")
    return _of_table(table, source)


def _of_table(table: pyarrow.Table, source: str) -> Found:
    datasets = [_datasets(row) for row in table["sources"].to_pylist()]
    frame = _frame(table, datasets)
    dropped: Counter[str] = Counter()
    if "is_underground" in frame:
        below = frame.pop("is_underground").fillna(False).astype(bool)
        if below.any():
            dropped["underground"] = int(below.sum())
            frame = frame[~below]
    makers = sorted({maker for row in datasets for maker in row} - {"OpenStreetMap"})
    osm = any("OpenStreetMap" in row for row in datasets)
    return Found(
        source=source,
        frame=frame.sort_values("id", kind="stable").reset_index(drop=True),
        licence=OSM_LICENCE,
        attribution=", ".join([OSM_ATTRIBUTION] * osm + makers + [OVERTURE]),
        vintage=UNKNOWN,
        dropped=dropped,
    )


def _datasets(sources: list[dict[str, Any]] | None) -> list[str]:
    """Who made one footprint, each once."""
    return sorted({str(source["dataset"]) for source in sources or () if source.get("dataset")})


def _frame(table: pyarrow.Table, datasets: list[list[str]]) -> "geopandas.GeoDataFrame":
    import geopandas

    plain = table.drop_columns([name for name in ("geometry", "bbox", "sources") if name in table.column_names])
    shapes = shapely.from_wkb(table["geometry"].to_pylist(), on_invalid="ignore")
    frame = geopandas.GeoDataFrame(plain.to_pandas(), geometry=shapes, crs="EPSG:4326")
    frame.insert(1, "made_by", ["; ".join(row) for row in datasets])
    return frame
