"""Overture Maps: its schema as released, only the rows of the area, who made them, and a bucket that is away."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import pytest
import shapely
from label_sources import AREA, degrees

from casbah.errors import InputError, WorldError
from casbah.label import overture as room
from casbah.label.overture import BUCKET, THEME, is_overture, read_overture, read_overture_file
from casbah.label.sources import find

SOURCE = pa.struct(
    [
        ("property", pa.string()),
        ("dataset", pa.string()),
        ("license", pa.string()),
        ("record_id", pa.string()),
        ("update_time", pa.string()),
        ("confidence", pa.float64()),
        ("between", pa.list_(pa.float64())),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("geometry", pa.binary()),
        ("bbox", pa.struct([(name, pa.float32()) for name in ("xmin", "xmax", "ymin", "ymax")])),
        ("version", pa.int32()),
        ("sources", pa.list_(SOURCE)),
        ("level", pa.int32()),
        ("subtype", pa.string()),
        ("class", pa.string()),
        ("height", pa.float64()),
        ("names", pa.struct([("primary", pa.string()), ("common", pa.map_(pa.string(), pa.string()))])),
        ("has_parts", pa.bool_()),
        ("is_underground", pa.bool_()),
        ("num_floors", pa.int32()),
        ("roof_material", pa.string()),
    ]
)
"""Columns of theme=buildings/type=building as released since 2025, less those that only repeat these types."""


def row(name: str, x: float, y: float, side: float, makers: tuple[str, ...], **more: Any) -> dict[str, Any]:
    north_west, south_east = degrees(x, y), degrees(x + side, y + side)
    shape = shapely.box(north_west["lon"], south_east["lat"], south_east["lon"], north_west["lat"])
    west, south, east, north = shape.bounds
    sources = [
        {"property": "" if index == 0 else "/properties/height", "dataset": maker, "record_id": f"r{index}"}
        for index, maker in enumerate(makers)
    ]
    bbox = {"xmin": west, "xmax": east, "ymin": south, "ymax": north}
    return {"id": name, "geometry": shape.wkb, "bbox": bbox, "version": 1, "sources": sources, **more}


ROWS = [
    row("b-2", 100, 100, 20, ("OpenStreetMap", "Microsoft ML Buildings"), subtype="residential", height=7.5),
    row("a-1", 200, 100, 30, ("Google Open Buildings",), num_floors=2),
    row("c-3", 300, 100, 30, ("OpenStreetMap",), is_underground=True),
    row("d-4", 90_000, 100, 30, ("Esri Community Maps",)),
]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def store(tmp_path: Path) -> pyarrow.fs.FileSystem:
    """A folder laid out as the bucket is, with two releases; the older one lacks a building."""
    for release, rows in (("2026-09-16.0", ROWS[:1]), ("2026-10-21.0", ROWS)):
        folder = tmp_path / BUCKET / "release" / release / THEME
        folder.mkdir(parents=True)
        for part, chunk in enumerate((rows[:2], rows[2:])):
            pyarrow.parquet.write_table(table(chunk), folder / f"part-{part:05d}-c000.zstd.parquet", compression="zstd")
    return pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())


def test_the_latest_release_is_read_around_the_area(store: pyarrow.fs.FileSystem) -> None:
    found = read_overture(AREA, store=store)
    assert found.frame["id"].tolist() == ["a-1", "b-2"]
    assert found.frame.to_crs(AREA.grid.crs).area.round(-1).tolist() == [900, 400]
    assert found.frame["made_by"].tolist() == ["Google Open Buildings", "Microsoft ML Buildings; OpenStreetMap"]
    assert found.frame["height"].tolist()[1] == 7.5
    assert dict(found.dropped) == {"underground": 1}
    assert (found.source, found.vintage) == ("overture", "2026-10-21")


def test_everyone_whose_footprints_are_used_is_named(store: pyarrow.fs.FileSystem) -> None:
    found = read_overture(AREA, store=store)
    assert found.licence == "ODbL-1.0"
    assert found.attribution == (
        "(c) OpenStreetMap contributors, Google Open Buildings, Microsoft ML Buildings, Overture Maps Foundation"
    )


def test_a_named_release_is_read_again(store: pyarrow.fs.FileSystem) -> None:
    found = read_overture(AREA, "2026-09-16.0", store)
    assert found.frame["id"].tolist() == ["b-2"]
    with pytest.raises(
        InputError, match=r"no release '2024-01-01\.0' any more or yet; it keeps 2026-09-16\.0, 2026-10"
    ):
        read_overture(AREA, "2024-01-01.0", store)


def test_a_local_file_of_the_same_shape_is_known_and_read(tmp_path: Path) -> None:
    path = tmp_path / "buildings.parquet"
    pyarrow.parquet.write_table(table(ROWS), path)
    assert is_overture(path)
    found = find(str(path), AREA, snapshot=None, layer=None, overpass=None)
    assert found.frame["id"].tolist() == ["a-1", "b-2"]
    assert found.source == "buildings.parquet"
    assert "Overture Maps Foundation" in found.attribution
    assert read_overture_file(tmp_path, AREA).frame["id"].tolist() == ["a-1", "b-2"]


def test_a_local_file_with_damaged_pages_is_named(tmp_path: Path) -> None:
    path = tmp_path / "buildings.parquet"
    pyarrow.parquet.write_table(table(ROWS), path, compression="zstd")
    damaged = bytearray(path.read_bytes())
    damaged[4:400] = b"\xff" * 396
    path.write_bytes(damaged)
    assert is_overture(path), "its footer is whole"
    with pytest.raises(InputError, match=r"buildings\.parquet can't be read as GeoParquet \(.+\); .* again"):
        find(str(path), AREA, snapshot=None, layer=None, overpass=None)


def test_a_parquet_file_of_another_shape_is_not_taken_for_overture(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"id": ["a"], "bbox": ["text"]}), tmp_path / "b.parquet")
    assert not is_overture(tmp_path / "b.parquet")


def test_a_bucket_that_can_not_be_reached_is_a_fault_of_the_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.time, "sleep", lambda seconds: None)
    away = pyarrow.fs.SubTreeFileSystem(str(tmp_path / "nowhere"), pyarrow.fs.LocalFileSystem())
    with pytest.raises(
        WorldError, match=r"s3://overturemaps-us-west-2 failed 4 times on the list of releases .* a file"
    ):
        read_overture(AREA, store=away)
