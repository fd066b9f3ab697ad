"""What OpenStreetMap's tags and members mean, whichever way its data came here."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import shapely

from casbah.label.found import OSM_ATTRIBUTION, OSM_LICENCE, UNKNOWN, Found

if TYPE_CHECKING:
    import geopandas

NOT_BUILT = ("no", "false", "0", "demolished", "proposed")
"""Values of `building` that say that no building stands there."""

SIMULATED_ATTRIBUTION = "Simulated; not an observation"

Ring = list[tuple[float, float]]


@dataclass
class Buildings:
    """Buildings as they come in: `add` keeps or counts each one."""

    ids: list[str] = field(default_factory=list)
    tags: list[dict[str, str]] = field(default_factory=list)
    shapes: list[shapely.Geometry] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, tags: Mapping[str, str], shape: shapely.Geometry | None, fault: str = "") -> None:
        """Keep the building `name` (`way/123`), or count why not: its tags say so, or `fault` where it has no shape."""
        reason = not_seen(tags)
        if reason or shape is None:
            self.dropped[reason or fault] += 1
            return
        self.ids.append(name)
        self.tags.append(dict(tags))
        self.shapes.append(shape)

    def frame(self) -> "geopandas.GeoDataFrame":
        """EPSG:4326, sorted by kind and number, with `id`, `building` and all tags as JSON text."""
        import geopandas

        order = sorted(range(len(self.ids)), key=lambda index: _order(self.ids[index]))
        columns = {
            "id": [self.ids[index] for index in order],
            "building": [self.tags[index].get("building") for index in order],
            "tags": [json.dumps(self.tags[index], sort_keys=True, ensure_ascii=False) for index in order],
        }
        return geopandas.GeoDataFrame(columns, geometry=[self.shapes[index] for index in order], crs="EPSG:4326")

    def found(self, source: str, vintage: str) -> Found:
        """With OpenStreetMap's licence and attribution, which every map made from it must carry.

        A sample that only has the shape of OpenStreetMap's data (all of it tagged `source=simulated`) is not given
        the mappers' name.
        """
        simulated = bool(self.tags) and all(tags.get("source") == "simulated" for tags in self.tags)
        return Found(
            source=source,
            frame=self.frame(),
            licence=UNKNOWN if simulated else OSM_LICENCE,
            attribution=SIMULATED_ATTRIBUTION if simulated else OSM_ATTRIBUTION,
            vintage=vintage or UNKNOWN,
            simulated=simulated,
            dropped=self.dropped,
        )


def not_seen(tags: Mapping[str, str]) -> str:
    """Why no satellite sees a building with these tags; empty where one can."""
    if tags.get("building", "no") in NOT_BUILT:
        return f"tagged building={tags.get('building', 'no')}"
    if tags.get("location") == "underground":
        return "underground"
    return ""


def way_polygon(ring: Ring) -> shapely.Polygon | None:
    """The polygon of a closed way of (longitude, latitude); None where it is open or has fewer than three corners."""
    if len(ring) < 4 or ring[0] != ring[-1]:
        return None
    return shapely.Polygon(ring)


def relation_polygon(members: Iterable[tuple[str, Ring]]) -> shapely.Geometry | None:
    """The area of a multipolygon relation from its member ways as (role, points); None where no outer ring closes.

    Ways are joined to rings where they end on each other, in either direction; inner rings are cut out. A member
    without a role counts as outer, as OpenStreetMap's wiki has it.
    """
    lines: dict[str, list[Any]] = {"outer": [], "inner": []}
    for role, points in members:
        if len(points) > 1:
            lines["inner" if role == "inner" else "outer"].append(shapely.LineString(points))
    outer, inner = _rings(lines["outer"]), _rings(lines["inner"])
    if outer is None:
        return None
    return outer if inner is None else shapely.difference(outer, inner)


def _rings(lines: list[Any]) -> shapely.Geometry | None:
    """The union of the areas that lines enclose; None where a line is left over, or there is none."""
    if not lines:
        return None
    merged = shapely.get_parts(shapely.line_merge(shapely.MultiLineString(lines)))
    closed = shapely.is_closed(merged)
    areas = [shapely.Polygon(line.coords) for line in merged[closed]]
    if not closed.all():
        # Rings that meet in a point leave it open which way to go on there: let all faces be found.
        faces, *left = shapely.polygonize_full(merged[~closed])
        if not all(shapely.is_empty(part) for part in left):
            return None
        areas.extend(shapely.get_parts(faces))
    return shapely.union_all(shapely.make_valid(areas, method="structure", keep_collapsed=False))


def _order(name: str) -> tuple[str, int]:
    kind, _, number = name.partition("/")
    return kind, int(number)
