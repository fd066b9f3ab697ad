"""The area of interest: read from a file in any CRS, checked, and laid on one UTM grid."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio.errors
import requests
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import rasterize
from shapely.errors import ShapelyError

from casbah import areas
from casbah.addresses import scrubbed, shown
from casbah.errors import InputError, WorldError
from casbah.grid import Grid, utm_crs
from casbah.patience import Patience, status_of, why
from casbah.progress import say
from casbah.storage import Location, Store

MAX_DEGREES = 12.0
"""Widest area in degrees of longitude: beyond two zones' width a single UTM zone distorts by more than 1 %."""

UTM_LATITUDES = (-80.0, 84.0)
"""Where UTM is defined, in degrees."""


@dataclass(frozen=True)
class Area:
    """An area of interest: polygons in longitude and latitude, the same in metres of the grid's CRS, and the grid."""

    name: str
    lonlat: shapely.MultiPolygon
    metres: shapely.Geometry
    grid: Grid
    cell: str = ""
    """The cell of a larger area that this is (`casbah.ingest.cells`); empty for an area of its own."""

    @property
    def boxes(self) -> shapely.Geometry:
        """The bounding box of each polygon, in metres: what is filled with pixels (the polygons' gaps are not)."""
        return shapely.union_all([shapely.box(*polygon.bounds) for polygon in shapely.get_parts(self.metres)])

    def filled(self, part: Grid) -> NDArray[np.bool_]:
        """Where pixels of `part` are wanted, (rows, cols): inside the bounding box of some polygon."""
        return _burnt(self.boxes, part, all_touched=True)

    def inside(self, part: Grid) -> NDArray[np.bool_]:
        """Where pixels of `part` have their centre in the polygons themselves, (rows, cols)."""
        return _burnt(self.metres, part, all_touched=False)


def _burnt(geometry: shapely.Geometry, part: Grid, *, all_touched: bool) -> NDArray[np.bool_]:
    burnt = rasterize([geometry], part.shape, transform=part.transform, all_touched=all_touched, dtype="uint8")
    return burnt.astype(bool)


def read_area(source: str | Path, patience: Patience | None = None, name: str | None = None) -> Area:
    """Read an area of interest and give it its 10 m UTM grid.

    `source` is a GeoJSON or GeoPackage file (or any other that GDAL reads) in any CRS, an s3:// or http(s)://
    address of one, or the name of an area that comes with Casbah. All polygons of the first layer count. The grid is
    that of the UTM zone of the centre, covers the polygons' bounds, and is snapped to multiples of 10 m.

    `patience` is that for an http(s):// address. The area's name is `name`, or its address without password and query.

    Raises `InputError` where the file is missing, is no vector file, is empty, has no CRS, holds something other
    than polygons, where a polygon crosses itself, or where the area reaches over the antimeridian, beyond UTM's
    latitudes, or is wider than one zone can serve; `WorldError` where an address does not answer.
    """
    name = name or shown(str(source))
    frame = _frame(str(source), name, patience or Patience())
    polygons = _polygons(frame, name)
    bounds = shapely.total_bounds(polygons)
    _check_extent(bounds, name)
    lonlat = shapely.MultiPolygon([part for polygon in polygons for part in shapely.get_parts(polygon)])
    crs = utm_crs(float(bounds[0] + bounds[2]) / 2, float(bounds[1] + bounds[3]) / 2)
    dense = shapely.segmentize(lonlat, float(max(bounds[2] - bounds[0], bounds[3] - bounds[1])) / 50)
    metres = geopandas.GeoSeries([dense], crs="EPSG:4326").to_crs(crs).iloc[0]
    return Area(name, lonlat, metres, Grid.covering(crs, metres.bounds))


def _frame(source: str, name: str, patience: Patience) -> geopandas.GeoDataFrame:
    known = ", ".join(areas.names())
    if not source.strip():
        raise InputError(f"no area is given; a GeoJSON or GeoPackage file is wanted, or a built-in ({known})")
    with tempfile.TemporaryDirectory() as scratch:
        path = _local(source, Path(scratch), patience)
        if not path.exists():
            raise InputError(
                f"the area {name} does not exist; give a GeoJSON or GeoPackage file, or a built-in ({known})"
            )
        try:
            return geopandas.read_file(path)
        except (
            pyogrio.errors.DataSourceError,
            pyogrio.errors.DataLayerError,
            CRSError,
            ValueError,
            ShapelyError,
        ) as error:
            # GDAL's own words go on with advice on drivers, and hold the path, which may be a passing one.
            reason = str(error).splitlines()[0].split(";")[0].replace(f"'{path}' ", "")
            raise InputError(
                f"the area {name} can't be read as a vector file ({reason.rstrip('.')}); "
                "a GeoJSON or GeoPackage of polygons is wanted"
            ) from None


def _local(source: str, scratch: Path, patience: Patience) -> Path:
    if source.startswith("s3://"):
        location = Location.parse(source)
        target = scratch / Path(location.key).name
        Store.from_environment().get(location, target)
        return target
    if source.startswith(("http://", "https://")):
        target = scratch / (Path(shown(source)).name or "area.geojson")
        target.write_bytes(_fetched(source, patience))
        return target
    if source in areas.names() and not Path(source).exists():
        return areas.find(source)
    return Path(source)


def _fetched(address: str, patience: Patience) -> bytes:
    try:
        with patience.session() as session:
            answer = session.get(address, timeout=(patience.connect, patience.read))
            answer.raise_for_status()
            return answer.content
    except ValueError as error:
        raise InputError(f"the area {shown(address)} has no readable address: {scrubbed(str(error))}") from None
    except requests.RequestException as error:
        status = status_of(error)
        if status in (401, 403):
            raise WorldError(
                f"the area {shown(address)} could not be fetched: its server refused it ({status}); check the user, "
                "password or signature in the address"
            ) from None
        if status is not None and 400 <= status < 500:
            raise InputError(
                f"the area {shown(address)} can't be fetched: its server answered {status}; check the address"
            ) from None
        raise WorldError(
            f"the area {shown(address)} could not be fetched in {patience.attempts} attempts ({why(error)}); try again "
            "later"
        ) from None


def _polygons(frame: geopandas.GeoDataFrame, name: str) -> list[Any]:
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise InputError(f"the area {name} has no geometry; polygons are wanted")
    shapes = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
    if 0 < len(shapes) < len(frame):
        say(f"{len(frame) - len(shapes)} of {len(frame)} features of the area {name} have no geometry: left out")
    if shapes.empty:
        raise InputError(f"the area {name} is empty; at least one polygon is wanted")
    kinds = sorted(set(shapes.geometry.geom_type) - {"Polygon", "MultiPolygon"})
    if kinds:
        raise InputError(
            f"the area {name} holds {', '.join(kinds)}; polygons are wanted (buffer points or lines first)"
        )
    for number, shape in enumerate(shapes.geometry, start=1):
        if not shape.is_valid:
            reason = shapely.is_valid_reason(shape)
            raise InputError(
                f"polygon {number} of the area {name} is not valid ({reason}); repair it, "
                "for example with QGIS's Fix geometries"
            )
    if shapes.crs is None:
        raise InputError(f"the area {name} has no CRS; set one (EPSG:4326 for longitude and latitude)")
    try:
        lonlat = shapes.to_crs("EPSG:4326").geometry.force_2d()
    except ProjError as error:
        raise InputError(
            f"the area {name} can't be brought from {shapes.crs} to longitude and latitude: {error}"
        ) from None
    return list(lonlat)


def _check_extent(bounds: NDArray[np.float64], name: str) -> None:
    west, south, east, north = (float(value) for value in bounds)
    if not np.isfinite(bounds).all() or abs(south) > 90 or abs(north) > 90 or max(abs(west), abs(east)) > 360:
        raise InputError(
            f"the area {name} lies outside of longitude and latitude ({west:g}, {south:g}, {east:g}, {north:g}); "
            "its coordinates look like metres: say which CRS they are in"
        )
    if west < -180 or east > 180 or east - west > 180:
        raise InputError(
            f"the area {name} reaches across the antimeridian (longitudes {west:g} to {east:g}); "
            "split it at 180 degrees and ingest each part by itself"
        )
    if east - west > MAX_DEGREES:
        raise InputError(
            f"the area {name} is {east - west:.1f} degrees wide; a scene lies in one UTM zone, so at most "
            f"{MAX_DEGREES:g} is possible: split it"
        )
    if south < UTM_LATITUDES[0] or north > UTM_LATITUDES[1]:
        raise InputError(
            f"the area {name} lies at latitudes {south:.1f} to {north:.1f}; UTM, and so a scene, ends at "
            f"{UTM_LATITUDES[0]:g} and {UTM_LATITUDES[1]:g}"
        )
