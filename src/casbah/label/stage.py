"""`label`: footprints from a source become cover and mask on a scene's grid."""

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from pyproj.exceptions import ProjError

from casbah import progress
from casbah.errors import InputError
from casbah.grid import Grid
from casbah.label.found import UNKNOWN, Area, Found, extent
from casbah.label.rasters import write_rasters
from casbah.label.repair import repair
from casbah.label.shifts import estimate_shifts
from casbah.label.sources import find
from casbah.label.summary import summarise
from casbah.label.vector import read_polygons
from casbah.products.labels import BUILDING_COVER, LabelInfo, LabelSet
from casbah.products.manifest import check_target
from casbah.products.scene import Scene


def label(
    *,
    scene: str | Path,
    source: str | Path,
    output: str | Path,
    labelled_area: str | Path | None = None,
    building_cover: int = BUILDING_COVER,
    licence: str | None = None,
    attribution: str | None = None,
    vintage: str | None = None,
    snapshot: str | None = None,
    layer: str | None = None,
    overpass: str | None = None,
) -> LabelSet:
    """Make the label set of a scene: repaired footprints, the percent of each pixel under them, and the mask.

    `source` is `osm` (Overpass), `overture`, or the path, s3:// or https:// address of a vector file or an OSM extract
    (.osm.pbf). Outside the polygons of `labelled_area` (a vector file) and where the scene observed nothing, cover and
    mask are 255. A pixel is building from `building_cover` percent on. `licence`, `attribution` and `vintage` say what
    the source does not. `snapshot` is the date of OSM's data (ISO) or Overture's release, so that labels can be made
    again; `overpass` is the URL of another Overpass server, `layer` the layer of a file that has several.

    Raises `InputError` for a source or area that can't be used (nothing is written then), and `WorldError` where the
    network fails after bounded retries.
    """
    if not 1 <= building_cover <= 100:
        raise InputError(f"building_cover is {building_cover}; a percentage from 1 to 100 is wanted")
    check_target(Path(output), LabelSet.schema)
    opened = Scene.open(scene)
    area = Area(opened.grid, None if labelled_area is None else _labelled(Path(labelled_area), opened.grid))
    found = find(str(source), area, snapshot=snapshot, layer=layer, overpass=overpass)
    _say_over(found, licence, attribution, vintage)
    footprints, repairs = repair(found, area)
    if footprints.empty:
        raise InputError(_nothing(found, area, repairs.read))
    parameters = {
        "source": str(source),
        "labelled_area": None if labelled_area is None else str(labelled_area),
        "building_cover": building_cover,
        "snapshot": snapshot,
        "layer": layer,
    }
    with LabelSet.write(output, parameters=parameters, inputs={"scene": opened.digest}) as draft:
        footprints.to_parquet(draft.directory / "footprints.parquet", index=False)
        write_rasters(draft.directory, footprints.geometry.to_numpy(), area, opened, building_cover)
        coverage = draft.directory / "coverage.tif"
        shifts = estimate_shifts(opened, coverage)
        info = LabelInfo(
            source=found.source,
            licence=found.licence,
            attribution=found.attribution,
            vintage=found.vintage,
            building_cover=building_cover,
            simulated=found.simulated or opened.info.simulated,
            footprints=len(footprints),
            labelled_area=None if area.labelled is None else shapely.geometry.mapping(area.inside),
            summary=summarise(found, repairs, footprints, area, coverage, building_cover, shifts, opened),
            shifts=shifts,
        )
        draft.write_json("labels.json", json.loads(info.model_dump_json()))
    return LabelSet.open(output)


def _labelled(path: Path, grid: Grid) -> shapely.Geometry:
    """The union of the polygons of a file, in the grid's CRS; `InputError` where it misses the scene."""
    what = "a polygon inside of which every building is labelled"
    frame = read_polygons(path, what)
    shapes = shapely.make_valid(frame.geometry.to_numpy(), method="structure", keep_collapsed=False)
    if not np.isin(shapely.get_dimensions(shapes), (2,)).all():
        raise InputError(f"{path} holds other things than polygons; {what} is wanted")
    # Straight borders in degrees are curves in metres: more points keep them where they were drawn.
    step = max(float(np.ptp(shapely.total_bounds(shapes)[[0, 2]])) / 200, 1e-6)
    try:
        area = shapely.union_all(geopandas.GeoSeries(shapely.segmentize(shapes, step), crs=frame.crs).to_crs(grid.crs))
        miss = not np.isfinite(shapely.bounds(area)).all() or not shapely.intersects(area, shapely.box(*grid.bounds))
    except (ProjError, shapely.errors.GEOSException) as error:
        raise InputError(f"{path} can't be put into the scene's CRS {grid.crs} ({error})") from None
    if miss:
        raise InputError(
            f"the labelled area {path} misses the scene: in {grid.crs} it spans {extent(tuple(shapely.bounds(area)))}, "
            f"and the scene {extent(grid.bounds)}"
        )
    return area


def _say_over(found: Found, licence: str | None, attribution: str | None, vintage: str | None) -> None:
    """Put what the caller said over what the source said."""
    said: dict[str, Any] = {"licence": licence, "attribution": attribution, "vintage": vintage}
    for name, value in said.items():
        if value:
            setattr(found, name, value)
    if UNKNOWN in (found.licence, found.attribution):
        progress.say(f"{found.source} does not say its licence or whom to name: give --licence and --attribution")


def _nothing(found: Found, area: Area, read: int) -> str:
    where = extent(area.bounds_in("EPSG:4326"))
    dropped = f" ({read} were read and none could be used: {dict(found.dropped)})" if read else ""
    return (
        f"{found.source} holds no building in the labelled part of the scene ({where}){dropped}: take another source, "
        "or another area"
    )
