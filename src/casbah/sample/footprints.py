"""Writes the town's buildings as a mapper would find them: GeoPackage, GeoParquet and an OSM extract (PBF)."""

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import osmium
import pyarrow.parquet
import pyogrio
import shapely
from numpy.typing import NDArray
from osmium.osm import mutable
from pyproj import Transformer

from casbah.sample.catalogue import ATTRIBUTION, to_degrees
from casbah.sample.plan import Footprints

PARQUET, GEOPACKAGE, PBF = "footprints.parquet", "footprints.gpkg", "footprints.osm.pbf"

FIRST_ID = 10_000_000_000
"""OSM ids above this were not given out when this was written, so that no simulated id names a real building."""

FIXED_DATE = "2021-09-30T00:00:00.000Z"
"""Written as the date of change, so that the same town is the same bytes."""

STOREY = 3.1
"""Metres of height per level."""


def frame(footprints: Footprints, crs: str) -> geopandas.GeoDataFrame:
    """The buildings in EPSG:4326 with OSM's columns; multipolygons with courtyards come as relations, as in OSM."""
    shapes = shapely.orient_polygons(shapely.transform(footprints.shapes, _degrees(crs)))
    court = shapely.get_num_interior_rings(shapes) > 0
    ids = FIRST_ID + np.arange(len(shapes))
    levels = np.maximum(1, np.rint(footprints.heights / STOREY)).astype(int)
    return geopandas.GeoDataFrame(
        {
            "osm_type": np.where(court, "relation", "way"),
            "osm_id": ids,
            "building": footprints.tags,
            # Mappers count storeys of a minority of buildings.
            "levels": np.where(ids % 5 < 2, levels.astype(str), ""),
            "district": footprints.districts,
            "simulated": True,
            "attribution": ATTRIBUTION,
        },
        geometry=shapes,
        crs="EPSG:4326",
    )


def write(directory: Path, buildings: geopandas.GeoDataFrame) -> None:
    """Write the three files under `directory`."""
    _write_parquet(directory / PARQUET, buildings)
    about = {"DESCRIPTION": f"SIMULATED. {ATTRIBUTION}", "CASBAH_SIMULATED": "true"}
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": FIXED_DATE})
    try:
        buildings.to_file(
            directory / GEOPACKAGE, layer="buildings", driver="GPKG", engine="pyogrio", layer_metadata=about
        )
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    _write_pbf(directory / PBF, buildings)


def _degrees(crs: str) -> Any:
    transformer = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    # OSM keeps seven decimals (about a centimetre).
    return lambda points: np.round(np.column_stack(transformer.transform(*points.T)), 7)


def _write_parquet(path: Path, buildings: geopandas.GeoDataFrame) -> None:
    buildings.to_parquet(path)
    table = pyarrow.parquet.read_table(path)
    about = {b"casbah:simulated": b"true", b"description": f"SIMULATED. {ATTRIBUTION}".encode()}
    pyarrow.parquet.write_table(table.replace_schema_metadata({**table.schema.metadata, **about}), path)


def _write_pbf(path: Path, buildings: geopandas.GeoDataFrame) -> None:
    """Nodes, ways, then relations, each in the order of its ids, as every reader of PBF expects."""
    header = osmium.io.Header()
    header.set("generator", f"casbah sample: SIMULATED. {ATTRIBUTION}")
    ways: list[tuple[int, mutable.Way]] = []
    relations: list[mutable.Relation] = []
    next_node, next_way = FIRST_ID, FIRST_ID + 2 * len(buildings)
    with osmium.SimpleWriter(str(path), header=header, overwrite=True) as writer:
        for row in buildings.itertuples():
            tags = {"building": row.building, "source": "simulated"} | (
                {"building:levels": row.levels} if row.levels else {}
            )
            rings = [row.geometry.exterior, *row.geometry.interiors]
            nodes = [_ring_nodes(ring) for ring in rings]
            refs = []
            for ring in nodes:
                numbers = list(range(next_node, next_node + len(ring)))
                next_node += len(ring)
                for number, (x, y) in zip(numbers, ring, strict=True):
                    writer.add_node(mutable.Node(id=number, version=1, visible=True, location=(x, y)))
                refs.append([*numbers, numbers[0]])
            if row.osm_type == "way":
                ways.append((row.osm_id, mutable.Way(id=row.osm_id, version=1, visible=True, nodes=refs[0], tags=tags)))
                continue
            parts = range(next_way, next_way + len(refs))
            next_way += len(refs)
            ways += [
                (number, mutable.Way(id=number, version=1, visible=True, nodes=ref, tags={}))
                for number, ref in zip(parts, refs, strict=True)
            ]
            members = [("w", number, "inner" if i else "outer") for i, number in enumerate(parts)]
            relations.append(
                mutable.Relation(
                    id=row.osm_id, version=1, visible=True, members=members, tags={"type": "multipolygon", **tags}
                )
            )
        for _, way in sorted(ways, key=lambda pair: pair[0]):
            writer.add_way(way)
        for relation in relations:
            writer.add_relation(relation)


def _ring_nodes(ring: shapely.LinearRing) -> NDArray[np.float64]:
    return shapely.get_coordinates(ring)[:-1]


def write_area(path: Path, shape: Any, crs: str, name: str) -> None:
    """One polygon (metres of `crs`) as GeoJSON in longitude and latitude."""
    shape = shapely.orient_polygons(shapely.set_precision(to_degrees(shape, crs), 1e-7))
    feature = {
        "type": "Feature",
        "properties": {"name": name, "casbah:simulated": True, "attribution": ATTRIBUTION},
        "geometry": json.loads(shapely.to_geojson(shape)),
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}, indent=1) + "\n", encoding="utf-8")
