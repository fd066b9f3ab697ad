"""Footprints from an OpenStreetMap extract (.osm.pbf), as Geofabrik and others publish them."""

from collections import Counter
from pathlib import Path

import osmium
import shapely
from osmium.osm import Node, Relation, Way, osm_entity_bits

from casbah import progress
from casbah.errors import InputError
from casbah.label.found import Area, Found
from casbah.label.osm import Buildings, way_polygon

REACH = 0.05
"""Degrees around the area within which a building's first node must lie to be looked at: about 5 km, more than any
building is long. Whole countries pass through this test, so it has to be cheap."""

SAY_EVERY = 100_000


def read_extract(path: Path, area: Area) -> Found:
    """Read the buildings of an extract around `area`: closed ways and multipolygon relations with a `building` tag.

    The vintage is the extract's own replication time. `InputError` where the file is missing or is no extract.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; an OpenStreetMap extract (.osm.pbf) is wanted")
    west, south, east, north = area.bounds_in("EPSG:4326")
    bounds = (west - REACH, south - REACH, east + REACH, north + REACH)
    progress.say(f"reading {path.name} ({path.stat().st_size / 1e6:.1f} MB)")
    try:
        buildings = _buildings(path, bounds)
        vintage = _vintage(path)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} can't be read as an OpenStreetMap extract ({error})") from None
    return buildings.found(path.name, vintage)


def _vintage(path: Path) -> str:
    with osmium.io.Reader(str(path), osm_entity_bits.NOTHING) as reader:
        return reader.header().get("osmosis_replication_timestamp", "")[:10]


def _buildings(path: Path, bounds: tuple[float, float, float, float]) -> Buildings:
    wanted = osmium.filter.KeyFilter("building")
    processor = osmium.FileProcessor(str(path)).with_areas(wanted).with_filter(osmium.filter.KeyFilter("building"))
    buildings, relations, factory = Buildings(), Counter[int](), osmium.geom.WKBFactory()
    for seen, thing in enumerate(processor, start=1):
        if isinstance(thing, Way):
            _add_way(buildings, thing, bounds)
        elif isinstance(thing, Relation) and thing.tags.get("type") == "multipolygon":
            relations[thing.id] += 0
        elif isinstance(thing, Relation):
            kind = thing.tags.get("type", "none")
            buildings.add(f"relation/{thing.id}", dict(thing.tags), None, f"relation of type {kind}, not multipolygon")
        elif isinstance(thing, Node) and _near((thing.location.lon, thing.location.lat), bounds):
            buildings.add(f"node/{thing.id}", dict(thing.tags), None, "point without an outline")
        elif isinstance(thing, osmium.osm.Area) and not thing.from_way():
            relations[thing.orig_id()] += 1
            _add_area(buildings, thing, bounds, factory)
        if seen % SAY_EVERY == 0:
            progress.say(f"{seen:,} objects looked at, {len(buildings.ids):,} buildings kept")
    absent = sum(count == 0 for count in relations.values())
    if absent:
        # Where they lie is unknown, and so is whether the area misses them.
        buildings.dropped["relation with members outside of the extract"] += absent
    return buildings


def _add_way(buildings: Buildings, way: Way, bounds: tuple[float, float, float, float]) -> None:
    points = [(node.location.lon, node.location.lat) for node in way.nodes if node.location.valid()]
    if points and not _near(points[0], bounds):
        return
    tags = dict(way.tags)
    if len(points) < len(way.nodes):
        buildings.add(f"way/{way.id}", tags, None, "way with nodes outside of the extract")
    else:
        buildings.add(f"way/{way.id}", tags, way_polygon(points), "way that is not closed")


def _add_area(
    buildings: Buildings, area: "osmium.osm.Area", bounds: tuple[float, float, float, float], factory: object
) -> None:
    name, tags = f"relation/{area.orig_id()}", dict(area.tags)
    rings = list(area.outer_rings())
    if not rings:
        buildings.add(name, tags, None, "relation whose rings do not close or cross")
        return
    if _near((rings[0][0].lon, rings[0][0].lat), bounds):
        shape = shapely.from_wkb(factory.create_multipolygon(area))  # type: ignore[attr-defined] # built by osmium
        buildings.add(name, tags, shape)


def _near(point: tuple[float, float], bounds: tuple[float, float, float, float]) -> bool:
    west, south, east, north = bounds
    return west <= point[0] <= east and south <= point[1] <= north
