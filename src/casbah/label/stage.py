"""`label`: footprints from a source become cover and mask on a scene's grid."""

import json
from collections.abc import Mapping
from pathlib import Path

import geopandas
import numpy as np
import shapely
from pyproj.exceptions import ProjError

from casbah import progress
from casbah.addresses import shown
from casbah.errors import InputError
from casbah.grid import Grid
from casbah.label.found import UNKNOWN, Area, Found, extent
from casbah.label.overpass import SERVER
from casbah.label.rasters import write_rasters
from casbah.label.repair import Repairs, repair
from casbah.label.shifts import estimate_shifts
from casbah.label.sources import find
from casbah.label.summary import reasons, summarise
from casbah.label.vector import read_polygons
from casbah.label.vintage import check_vintage, years_of
from casbah.products.labels import BUILDING_COVER, LabelInfo, LabelSet
from casbah.products.manifest import check_target, sha256_of
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
    origins: Mapping[str, str] | None = None,
) -> LabelSet:
    """Make the label set of a scene: repaired footprints, the percent of each pixel under them, and the mask.

    `source` is `osm` (Overpass), `overture`, or the path, s3:// or https:// address of a vector file or an OSM extract
    (.osm.pbf). Outside the polygons of `labelled_area` (a vector file) and where the scene observed nothing, cover and
    mask are 255. A pixel is building from `building_cover` percent on. `licence`, `attribution` and `vintage` (a date,
    a year or a span) say what the source does not; what it does say can't be said over. `snapshot` is the date of OSM's
    data (ISO) or Overture's release, so that labels can be made again; `overpass` is the URL of another Overpass
    server, `layer` the layer of a file that has several. `origins` holds what the manifest names in place of a `source`
    and a `labelled_area` that are copies: their addresses.

    Of a scene that is one grid cell of a larger area (`casbah ingest --cell`), labels may hold no building.

    Raises `InputError` for a source or area that can't be used (nothing is written then), and `WorldError` where the
    network fails after bounded retries.
    """
    if not 1 <= building_cover <= 100:
        raise InputError(f"building_cover is {building_cover}; a percentage from 1 to 100 is wanted")
    if vintage:
        check_vintage(vintage)
    check_target(Path(output), LabelSet.schema)
    opened = Scene.open(scene)
    cell = bool(opened.cell)
    area = Area(opened.grid, None if labelled_area is None else _labelled(Path(labelled_area), opened.grid, cell), cell)
    # Of a cell without labelled ground the source is asked all the same: whom to name is known from it alone.
    asked = Area(opened.grid, None, cell) if shapely.is_empty(area.inside) else area
    found = find(str(source), asked, snapshot=snapshot, layer=layer, overpass=overpass)
    _complete(found, licence, attribution, vintage)
    footprints, repairs = repair(found, area)
    if footprints.empty:
        if not cell:
            raise InputError(_nothing(found, area, repairs))
        progress.say(f"{found.source} holds no building in the labelled part of the cell {opened.path}")
    named = {"source": str(source)} | dict(origins or {})
    parameters = {
        "labelled_area": None if labelled_area is None else str(labelled_area),
        "building_cover": building_cover,
        "licence": licence,
        "attribution": attribution,
        "vintage": vintage,
        "snapshot": snapshot,
        "layer": layer,
        "overpass": shown(overpass or SERVER) if source == "osm" else None,
    } | {name: shown(address) for name, address in named.items()}
    with LabelSet.write(output, parameters=parameters, inputs=_inputs(opened, found, labelled_area)) as draft:
        footprints.to_parquet(draft.directory / "footprints.parquet", index=False)
        known = write_rasters(draft.directory, footprints.geometry.to_numpy(), area, opened, building_cover)
        if not known and not cell:
            raise InputError(_unseen(opened, labelled_area))
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
    return LabelSet.open(output, verify=False)


def _labelled(path: Path, grid: Grid, cell: bool) -> shapely.Geometry:
    """The union of the polygons of a file, in the grid's CRS; `InputError` where it misses a scene that is no cell."""
    what = "a polygon inside of which every building is labelled"
    frame = read_polygons(path, what)
    shapes = shapely.make_valid(frame.geometry.to_numpy(), method="structure", keep_collapsed=False)
    if not np.isin(shapely.get_dimensions(shapes), (2,)).all():
        raise InputError(f"{path} holds other things than polygons; {what} is wanted")
    # Straight borders in degrees are curves in metres: more points keep them where they were drawn.
    step = max(float(np.ptp(shapely.total_bounds(shapes)[[0, 2]])) / 200, 1e-6)
    try:
        area = shapely.union_all(geopandas.GeoSeries(shapely.segmentize(shapes, step), crs=frame.crs).to_crs(grid.crs))
        inside = shapely.intersection(area, shapely.box(*grid.bounds))
        miss = not np.isfinite(shapely.bounds(area)).all() or (shapely.area(inside) == 0 and not cell)
    except (ProjError, shapely.errors.GEOSException) as error:
        raise InputError(f"{path} can't be put into the scene's CRS {grid.crs} ({error})") from None
    if miss:
        raise InputError(
            f"the labelled area {path} misses the scene: in {grid.crs} it spans {extent(tuple(shapely.bounds(area)))}, "
            f"and the scene {extent(grid.bounds)}"
        )
    return area


def _complete(found: Found, licence: str | None, attribution: str | None, vintage: str | None) -> None:
    """Fill in what the source does not say, and say what stays unknown; `InputError` for what contradicts it."""
    if found.vintage != UNKNOWN and years_of(found.vintage) is None:
        found.notes.append(f"the source's vintage {found.vintage!r} is no date, year or span, and is taken as unknown")
        progress.say(f"{found.source}: {found.notes[-1]}")
        found.vintage = UNKNOWN
    given = {"licence": licence, "attribution": attribution, "vintage": vintage}
    for name, value in given.items():
        own = getattr(found, name)
        if value and own not in (UNKNOWN, value):
            raise InputError(
                f"the {name} of {found.source} is {own!r}, and {value!r} was given: leave out --{name}, since what the "
                "source says of itself travels with the labels"
            )
        setattr(found, name, value or own)
    if UNKNOWN in (found.licence, found.attribution):
        progress.say(f"{found.source} does not say its licence or whom to name: give --licence and --attribution")
    if found.vintage == UNKNOWN:
        progress.say(f"{found.source} does not say how old its footprints are: give --vintage")


def _inputs(scene: Scene, found: Found, labelled_area: str | Path | None) -> dict[str, str]:
    """Digests of all that the labels are made from; footprints of a service have none."""
    area = None if labelled_area is None else sha256_of(Path(labelled_area))
    digests = {"scene": scene.digest, "footprints": found.sha256, "labelled_area": area}
    return {role: digest for role, digest in digests.items() if digest}


def _unseen(scene: Scene, labelled_area: str | Path | None) -> str:
    where = "" if labelled_area is None else f" and lies wholly inside {labelled_area}"
    return (
        f"no pixel of {scene.path} is observed{where}, so nothing could be learned or scored: take another area, or "
        "dates with a clear sky"
    )


def _nothing(found: Found, area: Area, repairs: Repairs) -> str:
    where = extent(area.bounds_in("EPSG:4326"))
    dropped = (
        f" ({repairs.read:,} were read and none could be used: {reasons(repairs.dropped)})" if repairs.read else ""
    )
    return (
        f"{found.source} holds no building in the labelled part of the scene ({where}){dropped}: take another source, "
        "or another area"
    )
