"""Footprints from a vector file: GeoPackage, GeoJSON, Shapefile, FlatGeobuf, GeoParquet and what else GDAL reads."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyogrio
import pyogrio.errors
import shapely

from casbah.errors import InputError
from casbah.label.found import UNKNOWN, Area, Found, extent

if TYPE_CHECKING:
    import geopandas

PARQUET = (".parquet", ".geoparquet", ".pq")
SIMULATED = "casbah:simulated"
"""Key of a layer's or file's metadata (or of a GeoJSON's top level) that says that nothing in it was ever observed."""

EMPTY = "casbah:empty"
"""Under this key the number of rows without a geometry, or with one of no point, is handed on: no question for an area
finds them."""

FAULTS = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.CRSError,
    pyogrio.errors.GeometryError,
    shapely.errors.ShapelyError,
    ValueError,
)
"""What libraries raise for a file that they can't read, or whose kind of geometry they do not know."""

IDENTIFIERS = ("id", "osm_id", "@id", "fid", "objectid", "OBJECTID", "gml_id", "uuid")
"""Columns that name a footprint, the first that is there wins."""


def read_vector(path: Path, area: Area, layer: str | None = None) -> Found:
    """Read the footprints of a file around `area`; `layer` picks one of several.

    `InputError` where the file is missing, can't be read, has several layers and none was picked, has no CRS, holds
    no feature, or where its extent does not meet the scene's (that of a cell may miss it).
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; a file of building footprints is wanted")
    frame, about = _read_parquet(path, area) if path.suffix.lower() in PARQUET else _read_ogr(path, area, layer)
    found = Found(source=path.name, frame=identified(frame), simulated=_said(about.get(SIMULATED)))
    found.dropped["empty"] += int(about.get(EMPTY, 0))
    if "simulated" in frame and frame["simulated"].map(_said).any():
        found.simulated = True
    for name in ("licence", "license", "attribution", "vintage"):
        value = about.get(name) or _constant(frame, name)
        if value:
            setattr(found, name.replace("license", "licence"), str(value))
    return found


def read_polygons(path: Path, what: str) -> "geopandas.GeoDataFrame":
    """All features of a small vector file (a labelled area), in its own CRS; `InputError` as `read_vector`."""
    import geopandas

    if not path.exists():
        raise InputError(f"{path} does not exist; a file with {what} is wanted")
    try:
        if path.suffix.lower() in PARQUET:
            frame = geopandas.read_parquet(path)
        else:
            layers = _layers(path)
            if len(layers) > 1:
                raise InputError(
                    f"{path} has {len(layers)} layers ({', '.join(layers)}); a file of one layer with {what} is "
                    f"wanted: ogr2ogr area.gpkg {path.name} {layers[0]}"
                )
            frame = geopandas.read_file(path, layer=layers[0] if layers else None)
    except (*FAULTS, OSError) as error:
        raise InputError(f"{path} can't be read as a vector file ({_first_line(error)})") from None
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.empty:
        raise InputError(f"{path} holds no feature; {what} is wanted")
    if frame.crs is None:
        raise InputError(f"{path} does not say its CRS; write it with one (GeoJSON in longitude and latitude has it)")
    return frame


def identified(frame: "geopandas.GeoDataFrame") -> "geopandas.GeoDataFrame":
    """The frame with a text column `id` in front, and a geometry column of that name."""
    if frame.geometry.name != "geometry":
        frame = frame.drop(columns="geometry", errors="ignore").rename_geometry("geometry")
    known = next((name for name in IDENTIFIERS if name in frame.columns), None)
    ids = frame.index.astype(str) if known is None else frame[known].map(_text)
    rest = [name for name in frame.columns if name not in ("id", "geometry")]
    named = frame.assign(id=np.asarray(ids, dtype=object))[["id", *rest, "geometry"]]
    for name in rest:
        if named[name].dtype == object:
            named[name] = named[name].map(_plain)
    return named


def _read_ogr(path: Path, area: Area, layer: str | None) -> tuple["geopandas.GeoDataFrame", dict[str, Any]]:
    try:
        layer = _layer(path, layer)
        about = pyogrio.read_info(path, layer=layer, force_total_bounds=True, force_feature_count=True)
        _check_crs(path, about["crs"])
        _check_count(path, about["features"])
        total = about["total_bounds"]
        if total is not None and np.isfinite(total).all():
            bounds = _check_overlap(path, about["crs"], total, area)
            frame = pyogrio.read_dataframe(path, layer=layer, bbox=bounds, fid_as_index=True).sort_index()
        else:
            # One infinite coordinate hides the extent of all other rows, and no question for an area finds its own.
            frame = _around(path, pyogrio.read_dataframe(path, layer=layer, fid_as_index=True).sort_index(), area)
        nowhere = _nowhere(path, layer)
    except FAULTS as error:
        raise InputError(f"{path} can't be read as a vector file ({_first_line(error)})") from None
    # Some drivers (GML) give rows without a geometry to a question for an area as well.
    frame = frame[~frame.index.isin(nowhere)]
    said = {**(about.get("dataset_metadata") or {}), **(about.get("layer_metadata") or {}), EMPTY: len(nowhere)}
    if said.get("casbah", "").startswith("simulated="):
        # GDAL stores KEY=VALUE lines and takes the colon of our key for the sign between them.
        said[SIMULATED] = said["casbah"].partition("=")[2]
    return frame, said | _geojson_members(path)


def _nowhere(path: Path, layer: str) -> pd.Index:
    """Feature ids of the rows whose geometry is missing or has no point."""
    # OGR's own SQL is the same for every format; the area of a missing or empty geometry is null in it.
    name = layer.replace('"', r"\"")
    sql = f'SELECT * FROM "{name}" WHERE OGR_GEOM_AREA IS NULL'  # noqa: S608 (a name that the file itself gave, quoted)
    rows = pyogrio.read_dataframe(path, sql=sql, sql_dialect="OGRSQL", columns=[], fid_as_index=True)
    return rows.index[rows.geometry.isna() | rows.geometry.is_empty]


def _layers(path: Path) -> list[str]:
    """Names of the layers with a geometry."""
    return [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]


def _layer(path: Path, wanted: str | None) -> str:
    """The layer of footprints: the one wanted, the only one, or the only one whose name says building."""
    layers = _layers(path)
    names = ", ".join(layers)
    if wanted is not None and wanted not in layers:
        raise InputError(f"{path} has no layer {wanted!r}; it has {names or 'none with a geometry'}")
    named = [name for name in layers if "building" in name.lower() or "footprint" in name.lower()]
    candidates = [wanted] if wanted is not None else named if len(named) == 1 else layers
    if not candidates:
        raise InputError(f"{path} holds no layer with a geometry; building footprints (polygons) are wanted")
    if len(candidates) > 1:
        raise InputError(f"{path} has {len(layers)} layers ({names}); pick the footprints by --layer")
    return candidates[0]


def _read_parquet(path: Path, area: Area) -> tuple["geopandas.GeoDataFrame", dict[str, Any]]:
    import geopandas
    import pyarrow
    import pyarrow.parquet

    try:
        frame = geopandas.read_parquet(path)
        about = pyarrow.parquet.read_schema(path).metadata or {}
    except (pyarrow.ArrowException, *FAULTS, OSError) as error:
        raise InputError(f"{path} can't be read as GeoParquet ({_first_line(error)})") from None
    _check_crs(path, frame.crs)
    _check_count(path, len(frame))
    said = {key.decode(): value.decode(errors="replace") for key, value in about.items() if key != b"geo"}
    return _around(path, frame, area), said


def _around(path: Path, frame: "geopandas.GeoDataFrame", area: Area) -> "geopandas.GeoDataFrame":
    """The rows that meet the area's bounds, and those of which nobody can tell (empty, not finite), to be counted."""
    there = frame.geometry.bounds.to_numpy()
    finite = np.isfinite(there).all(axis=1)
    if not finite.any():
        shapes = (
            "rows without a geometry"
            if (frame.geometry.isna() | frame.geometry.is_empty).all()
            else ("geometries whose coordinates are not finite")
        )
        raise InputError(f"{path} holds {shapes} only; building footprints (polygons) are wanted")
    total = (*there[finite, :2].min(axis=0), *there[finite, 2:].max(axis=0))
    bounds = _check_overlap(path, str(frame.crs.to_string()), total, area)
    apart = (there[:, :2] > np.array(bounds[2:])).any(axis=1) | (there[:, 2:] < np.array(bounds[:2])).any(axis=1)
    return frame[~(apart & finite)]


def _check_crs(path: Path, crs: Any) -> None:
    if not crs:
        raise InputError(
            f"{path} does not say its CRS, so nobody knows where it lies: write it with one (ogr2ogr -a_srs)"
        )


def _check_count(path: Path, count: int) -> None:
    if count == 0:
        raise InputError(f"{path} holds no building: it has no feature at all")


def _check_overlap(path: Path, crs: str, total: Any, area: Area) -> tuple[float, float, float, float]:
    """The area's bounds in the file's CRS; `InputError` where the file's extent does not meet them."""
    try:
        wanted = area.bounds_in(crs)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    found = tuple(float(value) for value in total)
    if area.cell:
        return wanted
    if found[0] > wanted[2] or found[2] < wanted[0] or found[1] > wanted[3] or found[3] < wanted[1]:
        raise InputError(
            f"{path} does not overlap the scene: in {crs} it spans {extent(found)}, and the labelled part of the scene "
            f"{extent(wanted)}; is this the right file, and is its CRS right?"
        )
    return wanted


def _geojson_members(path: Path) -> dict[str, Any]:
    """What a GeoJSON says of itself beside its features (`casbah:simulated`, licence, attribution)."""
    if path.suffix.lower() not in (".geojson", ".json"):
        return {}
    try:
        members = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    except ValueError:
        # GDAL has read it: it is a feature a line, and has no place to say anything of itself.
        return {}
    return {key: value for key, value in members.items() if isinstance(value, str | bool)}


def _said(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes")


def _constant(frame: "geopandas.GeoDataFrame", name: str) -> str | None:
    """The value of a text column that is the same in every row."""
    if name not in frame.columns:
        return None
    values = frame[name].dropna().unique()
    return str(values[0]) if len(values) == 1 and str(values[0]) != UNKNOWN else None


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _plain(value: Any) -> str | None:
    """A cell that Parquet can hold beside others: text; what is nested becomes JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return None if pd.isna(value) else str(value)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
