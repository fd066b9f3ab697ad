"""An OpenStreetMap extract: closed ways and multipolygon relations of the area, and a count of all else."""

from pathlib import Path
from typing import Any

import osmium
import pytest
from builders import make_scene
from label_sources import AREA, GRID, degrees, square
from osmium.osm import mutable

from casbah.errors import InputError
from casbah.label import label
from casbah.label.extract import read_extract
from casbah.label.repair import repair

BUILDING = {"building": "yes"}


class Extract:
    """Writes nodes, ways and relations in the order that extracts have."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.ways: list[Any] = []
        self.relations: list[Any] = []
        self.hidden: set[int] = set()

    def way(
        self, number: int, ring: list[dict[str, float]], tags: dict[str, str] = BUILDING, closed: bool = True
    ) -> None:
        ids = [number * 100 + index for index in range(len(ring))]
        for node, point in zip(ids, ring, strict=True):
            self.nodes.append(mutable.Node(id=node, location=(point["lon"], point["lat"])))
        if closed:
            ids[-1] = ids[0]
        self.ways.append(mutable.Way(id=number, nodes=ids, tags=tags))

    def relation(self, number: int, members: list[tuple[int, str]], **tags: str) -> None:
        tags = {"type": "multipolygon", "building": "yes"} | tags
        listed = [("w", ref, role) for ref, role in members]
        self.relations.append(mutable.Relation(id=number, members=listed, tags=tags))

    def write(self, path: Path) -> Path:
        header = osmium.io.Header()
        header.set("osmosis_replication_timestamp", "2026-09-30T20:21:00Z")
        writer = osmium.SimpleWriter(str(path), header=header)
        for node in sorted(self.nodes, key=lambda item: item.id):
            if node.id not in self.hidden:
                writer.add_node(node)
        for item in sorted(self.ways, key=lambda item: item.id):
            writer.add_way(item)
        for item in sorted(self.relations, key=lambda item: item.id):
            writer.add_relation(item)
        writer.close()
        return path


@pytest.fixture
def extract(tmp_path: Path) -> Extract:
    return Extract()


def test_ways_and_relations_of_the_area_are_read_with_their_courtyards(extract: Extract, tmp_path: Path) -> None:
    extract.way(1, square(100, 100, 20), {"building": "mosque", "name": "Djamaa el Djazaïr"})
    extract.way(2, square(200, 200, 40), {})
    extract.way(3, square(210, 210, 10), {})
    extract.relation(9, [(2, "outer"), (3, "inner")])
    extract.way(4, square(90_000, 100, 20))
    found = read_extract(extract.write(tmp_path / "town.osm.pbf"), AREA)
    assert found.frame["id"].tolist() == ["relation/9", "way/1"]
    assert found.frame.to_crs(AREA.grid.crs).area.round(-1).tolist() == [1500, 400]
    assert found.frame["tags"][1] == '{"building": "mosque", "name": "Djamaa el Djazaïr"}'
    assert (found.source, found.vintage) == ("town.osm.pbf", "2026-09-30")
    assert (found.licence, found.attribution) == ("ODbL-1.0", "(c) OpenStreetMap contributors")
    assert not found.dropped


def test_what_can_not_be_a_building_is_counted_with_its_reason(extract: Extract, tmp_path: Path) -> None:
    extract.way(1, square(10, 10, 20))
    extract.way(2, square(50, 10, 20)[:4], closed=False)
    extract.way(3, square(90, 10, 20), {"building": "no"})
    extract.way(4, square(130, 10, 20), {"building": "garages", "location": "underground"})
    extract.way(5, square(170, 10, 20))
    extract.hidden.add(502)
    extract.way(6, square(210, 10, 20)[:3], {}, closed=False)
    extract.relation(7, [(6, "outer")])
    extract.relation(8, [(999, "outer")])
    extract.relation(9, [(1, "outline")], type="building")
    extract.nodes.append(mutable.Node(id=1, location=tuple(degrees(5, 5).values())[::-1], tags=BUILDING))
    found = read_extract(extract.write(tmp_path / "town.osm.pbf"), AREA)
    assert found.frame["id"].tolist() == ["way/1"]
    assert dict(found.dropped) == {
        "way that is not closed": 1,
        "tagged building=no": 1,
        "underground": 1,
        "way with nodes outside of the extract": 1,
        "relation whose rings do not close or cross": 1,
        "relation with members outside of the extract": 1,
        "relation of type building, not multipolygon": 1,
        "point without an outline": 1,
    }
    assert repair(found, AREA)[1].read == 9


def test_a_self_crossing_way_is_repaired(extract: Extract, tmp_path: Path) -> None:
    a, b, c, d, _ = square(100, 100, 20)
    extract.way(1, [a, c, b, d, a])
    footprints, repairs = repair(read_extract(extract.write(tmp_path / "town.osm.pbf"), AREA), AREA)
    assert (repairs.repaired, repairs.multi_part, len(footprints)) == (1, 1, 2)


def test_a_simulated_extract_says_so(extract: Extract, tmp_path: Path) -> None:
    extract.way(1, square(100, 100, 20), {"building": "yes", "source": "simulated"})
    found = read_extract(extract.write(tmp_path / "town.osm.pbf"), AREA)
    assert found.simulated
    assert (found.licence, found.attribution) == ("unknown", "Simulated; not an observation")


def test_a_file_that_is_no_extract_is_refused(tmp_path: Path) -> None:
    (tmp_path / "town.osm.pbf").write_bytes(b"PK nothing of the kind")
    with pytest.raises(InputError, match=r"town\.osm\.pbf can't be read as an OpenStreetMap extract"):
        read_extract(tmp_path / "town.osm.pbf", AREA)


def test_an_extract_of_another_country_is_refused_with_the_reasons_in_words(tmp_path: Path, extract: Extract) -> None:
    extract.way(1, square(100, 100, 40), tags={})
    extract.relation(2, [(1, "outer")], type="site")
    source = extract.write(tmp_path / "b.osm.pbf")
    scene = make_scene(tmp_path / "scene", GRID)
    with pytest.raises(InputError) as raised:
        label(scene=scene.path, source=source, output=tmp_path / "labels")
    assert "(1 were read and none could be used: 1 relation of type site, not multipolygon)" in str(raised.value)
