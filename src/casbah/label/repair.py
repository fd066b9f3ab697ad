"""Repair: from geometries as they were found to one valid polygon a row, with a count of everything that was done."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import shapely

from casbah.errors import InputError
from casbah.grid import Grid
from casbah.label.found import Area, Found

if TYPE_CHECKING:
    import geopandas

POLYGONS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)

SMALLEST = 0.01
"""Square metres: less is what rounding leaves of a line, not a building."""


@dataclass
class Repairs:
    """What was done: `read` geometries, of which `repaired` were invalid, `multi_part` had several parts, and `dropped`
    counts by reason; `outside` lay beyond the area and were never asked for."""

    read: int = 0
    repaired: int = 0
    multi_part: int = 0
    outside: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def repair(found: Found, area: Area) -> tuple["geopandas.GeoDataFrame", Repairs]:
    """One valid polygon a row in the grid's CRS, touching the area, sorted as they came, with `id` and `part`.

    Invalid rings are made valid by shapely's structure method (shells stay shells, holes holes); parts of a multi-part
    footprint become rows of the same `id`. What can't become a polygon with an area is dropped and counted.
    `InputError` where nothing but points or lines was found.
    """
    repairs = Repairs(read=len(found.frame) + found.dropped.total(), dropped=Counter(found.dropped))
    frame = found.frame
    _refuse_points(found)
    kinds = shapely.get_type_id(frame.geometry)
    frame = _without(frame, np.isin(kinds, (-1,)) | frame.geometry.is_empty, "empty", repairs)
    frame = _without(frame, ~_polygonal(frame), "points or lines", repairs)
    frame = _projected(frame, area.grid)
    frame = _without(frame, ~np.isfinite(frame.geometry.bounds.to_numpy()).all(axis=1), "not finite", repairs)
    frame = _valid(frame, repairs)
    near = shapely.intersects(frame.geometry.to_numpy(), _prepared(area.around))
    repairs.outside = int((~near).sum())
    repairs.read -= repairs.outside
    frame = frame[near]
    frame = _without(frame, frame.geometry.normalize().duplicated(), "duplicate", repairs)
    parts = shapely.get_num_geometries(frame.geometry.to_numpy())
    repairs.multi_part = int((parts > 1).sum())
    frame = _exploded(frame, parts)
    return frame, repairs


def _refuse_points(found: Found) -> None:
    kinds = shapely.get_type_id(found.frame.geometry.to_numpy())
    if len(kinds) == 0 or np.isin(kinds, (*POLYGONS, shapely.GeometryType.GEOMETRYCOLLECTION)).any():
        return
    names = Counter(shapely.GeometryType(kind).name.lower() for kind in kinds if kind >= 0)
    what = ", ".join(f"{count:,} of type {name}" for name, count in names.most_common()) or "rows without a geometry"
    raise InputError(f"{found.source} holds no polygon but {what}; building footprints (polygons) are wanted")


def _without(
    frame: "geopandas.GeoDataFrame", bad: np.ndarray, reason: str, repairs: Repairs
) -> "geopandas.GeoDataFrame":
    bad = np.asarray(bad, bool)
    if not bad.any():
        return frame
    repairs.dropped[reason] += int(bad.sum())
    return frame[~bad]


def _polygonal(frame: "geopandas.GeoDataFrame") -> np.ndarray:
    kinds = shapely.get_type_id(frame.geometry.to_numpy())
    return np.isin(kinds, (*POLYGONS, shapely.GeometryType.GEOMETRYCOLLECTION))


def _projected(frame: "geopandas.GeoDataFrame", grid: Grid) -> "geopandas.GeoDataFrame":
    flat = frame.set_geometry(shapely.force_2d(frame.geometry.to_numpy()), crs=frame.crs)
    return flat if flat.crs == grid.crs else flat.to_crs(grid.crs)


def _valid(frame: "geopandas.GeoDataFrame", repairs: Repairs) -> "geopandas.GeoDataFrame":
    """Valid polygons and multipolygons only; what has no area left is dropped."""
    shapes = frame.geometry.to_numpy().copy()
    invalid = ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid], method="structure", keep_collapsed=False)
    mixed = shapely.get_type_id(shapes) == shapely.GeometryType.GEOMETRYCOLLECTION
    shapes[mixed] = [_polygons_of(shape) for shape in shapes[mixed]]
    frame = frame.set_geometry(shapes, crs=frame.crs)
    small = shapely.area(shapes) < SMALLEST
    repairs.repaired = int(((invalid | mixed) & ~small).sum())
    return _without(frame, small, "no area", repairs)


def _polygons_of(shape: shapely.Geometry) -> shapely.Geometry:
    parts = shapely.get_parts(shape)
    return shapely.union_all([part for part in parts if shapely.get_type_id(part) in POLYGONS])


def _prepared(shape: shapely.Geometry) -> shapely.Geometry:
    shapely.prepare(shape)
    return shape


def _exploded(frame: "geopandas.GeoDataFrame", parts: np.ndarray) -> "geopandas.GeoDataFrame":
    shapes, row = shapely.get_parts(frame.geometry.to_numpy(), return_index=True)
    first = np.repeat(np.cumsum(parts) - parts, parts)
    single = frame.iloc[row].set_geometry(shapes, crs=frame.crs).reset_index(drop=True)
    single["part"] = (np.arange(len(row)) - first).astype("int32")
    return single
