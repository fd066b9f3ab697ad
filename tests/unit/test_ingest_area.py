"""The area of interest: any CRS, one grid, and a plain sentence for whatever is wrong with it."""

import json
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import geopandas
import pytest
from catalogues import AREA, serve, write_area, write_geojson
from shapely.geometry import MultiPolygon, Point, box

from casbah.errors import InputError, WorldError
from casbah.ingest.area import read_area
from casbah.patience import Patience

ALGIERS = box(3.0, 36.70, 3.02, 36.72)


def square(west: float, south: float, east: float, north: float) -> dict:
    return {
        "type": "Polygon",
        "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
    }


def test_the_same_area_in_any_crs_and_format_gives_the_same_grid(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(geometry=[ALGIERS], crs="EPSG:4326")
    grids = set()
    for crs in ("EPSG:4326", "EPSG:32631", "EPSG:3857"):
        for name in ("a.gpkg", "a.geojson"):
            path = tmp_path / f"{crs[5:]}{name}"
            frame.to_crs(crs).to_file(path)
            grids.add(read_area(path).grid)
    assert len(grids) == 1
    grid = grids.pop()
    assert (grid.crs, grid.west % 10, grid.north % 10, grid.resolution) == ("EPSG:32631", 0, 0, 10)


def test_an_area_drawn_on_the_grid_gets_exactly_that_grid(tmp_path: Path) -> None:
    assert read_area(write_area(tmp_path / "a.geojson")).grid == AREA


def test_only_the_boxes_of_the_polygons_are_filled_not_the_gap_between_them(tmp_path: Path) -> None:
    two = write_geojson(tmp_path / "a.geojson", square(3.0, 36.7, 3.001, 36.701), square(3.01, 36.7, 3.011, 36.701))
    area = read_area(two)
    filled = area.filled(area.grid)
    assert filled[:, :5].any()
    assert filled[:, -5:].any()
    assert not filled[:, area.grid.cols // 2].any()


def test_many_polygons_and_multipolygons_count_as_one_area(tmp_path: Path) -> None:
    geopandas.GeoDataFrame(
        geometry=[MultiPolygon([box(3, 36, 3.01, 36.01), box(3.05, 36, 3.06, 36.01)])], crs=4326
    ).to_file(tmp_path / "a.gpkg")
    assert read_area(tmp_path / "a.gpkg").grid.cols > 500


def test_a_missing_file_is_named_and_the_built_ins_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.geojson does not exist; give a GeoJSON or GeoPackage file"):
        read_area(tmp_path / "nowhere.geojson")


def test_a_file_that_is_no_vector_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text("hello")
    with pytest.raises(InputError, match="can't be read as a vector file"):
        read_area(tmp_path / "a.geojson")
    (tmp_path / "b.geojson").write_text(json.dumps({"a": 1}))
    with pytest.raises(InputError, match="can't be read as a vector file"):
        read_area(tmp_path / "b.geojson")


def test_no_area_and_advice_that_is_not_casbahs_are_kept_from_the_person(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^no area is given; a GeoJSON or GeoPackage file is wanted"):
        read_area("")
    (tmp_path / "a.geojson").write_text("hello")
    with pytest.raises(InputError) as caught:
        read_area(tmp_path / "a.geojson")
    assert str(caught.value).endswith(
        "a.geojson can't be read as a vector file (not recognized as being in a supported file format); "
        "a GeoJSON or GeoPackage of polygons is wanted"
    )


def test_an_area_on_a_web_server_is_asked_for_again_and_one_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    write_area(tmp_path / "a.geojson")
    patience = Patience(connect=1.0, read=0.3, attempts=3, pause=0.01)
    with serve(tmp_path) as site:
        site.faults = {"/a.geojson": ["hang", 503]}
        assert read_area(f"{site.url}/a.geojson", patience).grid == AREA
        with pytest.raises(InputError, match=r"none\.geojson can't be fetched: its server answered 404; check"):
            read_area(f"{site.url}/none.geojson", patience)
        site.faults = {"/a.geojson": "hang"}
        with pytest.raises(WorldError, match=r"a\.geojson could not be fetched in 3 attempts \(timed out\); try"):
            read_area(f"{site.url}/a.geojson", patience)
        assert site.asked["/a.geojson"] == 6
        site.faults = {"/a.geojson": 403}
        with pytest.raises(WorldError, match=r"refused it \(403\); check the user, password or signature"):
            read_area(f"{site.url}/a.geojson", patience)


def test_an_empty_collection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty; at least one polygon is wanted"):
        read_area(write_geojson(tmp_path / "a.geojson"))


def test_a_polygon_that_crosses_itself_is_refused_with_the_place(tmp_path: Path) -> None:
    bow = {"type": "Polygon", "coordinates": [[[3, 36], [3.01, 36.01], [3.01, 36], [3, 36.01], [3, 36]]]}
    with pytest.raises(
        InputError, match=r"polygon 2 .* is not valid \(Self-intersection\[3\.005 36\.005\]\); repair it"
    ):
        read_area(write_geojson(tmp_path / "a.geojson", square(3, 36, 3.01, 36.01), bow))


def test_points_in_place_of_polygons_are_refused(tmp_path: Path) -> None:
    geopandas.GeoDataFrame(geometry=[Point(3, 36)], crs=4326).to_file(tmp_path / "a.gpkg")
    with pytest.raises(InputError, match="holds Point; polygons are wanted"):
        read_area(tmp_path / "a.gpkg")


def test_a_file_without_a_crs_is_refused(tmp_path: Path) -> None:
    geopandas.GeoDataFrame(geometry=[box(0, 0, 1, 1)]).to_file(tmp_path / "a.gpkg")
    with pytest.raises(InputError, match="has no CRS; set one"):
        read_area(tmp_path / "a.gpkg")


@pytest.mark.parametrize(
    "shapes",
    [
        [square(179.9, 0, 180.1, 0.2)],
        [square(-179.9, 0, 179.9, 0.2)],
        [square(179.9, 0, 180, 0.1), square(-180, 0, -179.9, 0.1)],
    ],
)
def test_an_area_across_the_antimeridian_is_refused_with_what_to_do(tmp_path: Path, shapes: list[dict]) -> None:
    with pytest.raises(InputError, match=r"reaches across the antimeridian .* split it at 180 degrees"):
        read_area(write_geojson(tmp_path / "a.geojson", *shapes))


def test_metres_taken_for_degrees_are_recognised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its coordinates look like metres"):
        read_area(write_geojson(tmp_path / "a.geojson", square(500_000, 4_000_000, 501_000, 4_001_000)))


def test_an_area_too_wide_or_too_polar_for_one_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"20\.0 degrees wide; a scene lies in one UTM zone"):
        read_area(write_geojson(tmp_path / "a.geojson", square(0, 40, 20, 41)))
    with pytest.raises(InputError, match="UTM, and so a scene, ends at"):
        read_area(write_geojson(tmp_path / "b.geojson", square(0, 85, 1, 86)))


def test_a_damaged_geometry_is_bad_input_and_a_feature_without_one_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A GeoPackage of two squares; the last corner of the second is moved, then all of its bytes are lost."""
    path = tmp_path / "aoi.gpkg"
    squares = [box(2.0, 40.0, 2.1, 40.1), box(2.2, 40.0, 2.3, 40.1)]
    geopandas.GeoDataFrame(geometry=squares, crs="EPSG:4326").to_file(path)
    _overwrite_geometry(path, lambda blob: blob[:-16] + struct.pack("<dd", 9.0, 9.0))
    with pytest.raises(InputError, match=r"aoi\.gpkg can't be read as a vector file \(.*closed linestring"):
        read_area(path)
    _overwrite_geometry(path, lambda blob: blob[:-20])
    assert len(read_area(path).lonlat.geoms) == 1
    assert "1 of 2 features of the area" in " ".join(capfd.readouterr().err.split())


def _overwrite_geometry(path: Path, change: Callable[[bytes], bytes]) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for (trigger,) in database.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            database.execute(f'drop trigger "{trigger}"')
        (blob,) = database.execute("select geom from aoi where fid = 2").fetchone()
        database.execute("update aoi set geom = ? where fid = 2", (change(blob),))
