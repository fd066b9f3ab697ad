"""The item search of the sample's STAC API, against the same list of items searched by hand."""

import json

import pytest

from casbah.sample import COLLECTION, Town
from casbah.sample.search import BadSearch, Search, find


@pytest.fixture(scope="module")
def items(town: Town) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(town.path.glob(f"{COLLECTION}/*/*.json"))]


def ids(items: list[dict], **body: object) -> list[str]:
    return [item["id"] for item in find(items, Search.of({"limit": 100, **body}))[0]]


def where(items: list[dict], test) -> list[str]:
    newest_first = sorted(items, key=lambda i: (i["properties"]["datetime"], i["id"]), reverse=True)
    return [item["id"] for item in newest_first if test(item)]


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2021-06-01T00:00:00Z/2021-07-20T00:00:00Z", "2021-06-01", "2021-07-20"),
        ("../2021-07-20T00:00:00Z", "0", "2021-07-20"),
        ("2021-08-01T00:00:00Z/..", "2021-08-01", "9"),
    ],
)
def test_datetime(items: list[dict], text: str, first: str, last: str) -> None:
    expected = where(items, lambda i: first <= i["properties"]["datetime"] <= last)
    assert 0 < len(expected) < len(items)
    assert ids(items, datetime=text) == expected


def test_place(items: list[dict]) -> None:
    east = max(item["bbox"][2] for item in items)
    north = items[0]["bbox"][3]
    strip = [east - 0.001, north - 0.004, east - 0.0005, north - 0.002]
    assert ids(items, bbox=strip) == where(items, lambda i: "31SEA" in i["id"])
    corner = {"type": "Point", "coordinates": [strip[0], strip[1]]}
    assert ids(items, intersects=corner) == where(items, lambda i: "31SEA" in i["id"])
    assert ids(items, bbox=[10, 10, 11, 11]) == []


def test_clouds(items: list[dict]) -> None:
    expected = where(items, lambda i: i["properties"]["eo:cloud_cover"] < 20)
    assert 0 < len(expected) < len(items)
    assert ids(items, query={"eo:cloud_cover": {"lt": 20}}) == expected
    condition = {"op": "<", "args": [{"property": "eo:cloud_cover"}, 20]}
    assert ids(items, filter=condition) == expected
    tile = {"op": "=", "args": [{"property": "grid:code"}, "MGRS-31SDA"]}
    both = {"op": "and", "args": [condition, tile]}
    assert ids(items, filter=both) == [name for name in expected if "31SDA" in name]
    assert ids(items, filter={"op": "not", "args": [condition]}) == where(
        items, lambda i: i["properties"]["eo:cloud_cover"] >= 20
    )


def test_ids_and_collections(items: list[dict]) -> None:
    assert ids(items, ids=[items[3]["id"]]) == [items[3]["id"]]
    assert ids(items, collections=[COLLECTION]) == where(items, lambda i: True)
    assert ids(items, collections=["landsat"]) == []


def test_pages_cover_every_item_once(items: list[dict]) -> None:
    seen, token = [], 0
    while token is not None:
        page, matched, token = find(items, Search.of({"limit": 5, "token": token}))
        assert matched == len(items)
        seen += [item["id"] for item in page]
    assert seen == where(items, lambda i: True)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"bbox": [1, 2, 3]}, "bbox has 3 numbers"),
        ({"bbox": [1, 5, 2, 3]}, "south above its north"),
        ({"bbox": [1, 2, 3, 4], "intersects": {}}, "exclude each other"),
        ({"datetime": "summer"}, "not RFC 3339"),
        ({"datetime": "2021-07-01T00:00:00Z/2021-06-01T00:00:00Z"}, "ends before it begins"),
        ({"intersects": {"type": "Blob"}}, "not a GeoJSON geometry"),
        ({"query": {"eo:cloud_cover": {"about": 3}}}, "'about' is not a comparison"),
        ({"query": {"eo:cloud_cover": {"lt": "few"}}}, "can't be compared"),
        ({"filter": "eo:cloud_cover < 3", "filter-lang": "cql2-text"}, "send filter as CQL2 JSON"),
        ({"filter": {"op": "like", "args": []}}, "'like' is not understood"),
        ({"limit": "many"}, "limit must be a whole number"),
        ({"ids": "one"}, "ids must be a list"),
    ],
)
def test_a_search_that_makes_no_sense_is_told_why(items: list[dict], body: dict, says: str) -> None:
    with pytest.raises(BadSearch, match=says):
        find(items, Search.of(body))
