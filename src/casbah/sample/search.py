"""Answers a STAC item search over a list of items: place, time, ids, and conditions on properties.

Follows STAC API 1.0.0 (item-search, its `query` extension, and `filter` in CQL2 JSON with comparisons and and/or/not).
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import shapely
from shapely.errors import ShapelyError

Item = Mapping[str, Any]

LIMIT = 10
"""Items per page where the client names no number."""

MOST = 1000

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "startsWith": lambda value, start: str(value).startswith(start),
    "in": lambda value, allowed: value in allowed,
}
_CQL2 = {"=": "eq", "<>": "neq", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte", "in": "in"}


class BadSearch(ValueError):
    """The search can't be understood; the sentence goes to the client with status 400."""


@dataclass(frozen=True)
class Search:
    """What to look for; None leaves a condition out. `token` is the position of the page's first item."""

    bbox: Sequence[float] | None = None
    intersects: Mapping[str, Any] | None = None
    datetime: str | None = None
    ids: Sequence[str] | None = None
    collections: Sequence[str] | None = None
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    filter: Mapping[str, Any] | None = None
    limit: int = LIMIT
    token: int = 0

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Search":
        """The search of a request's body; `BadSearch` where a value has the wrong shape."""
        given = {name: value for name, value in body.items() if value is not None}
        language = given.get("filter-lang", "cql2-json")
        if "filter" in given and (language != "cql2-json" or not isinstance(given["filter"], Mapping)):
            raise BadSearch(f"filter-lang {language} is not understood here; send filter as CQL2 JSON")
        if "bbox" in given and "intersects" in given:
            raise BadSearch("bbox and intersects exclude each other; send one of them")
        for name in ("query", "intersects"):
            if name in given and not isinstance(given[name], Mapping):
                raise BadSearch(f"{name} must be a JSON object")
        for name in ("ids", "collections"):
            if name in given and not isinstance(given[name], list):
                raise BadSearch(f"{name} must be a list")
        values = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        values["limit"] = min(MOST, max(1, _integer("limit", given.get("limit", LIMIT))))
        values["token"] = max(0, _integer("token", given.get("token", 0)))
        return cls(**values)


def find(items: Sequence[Item], search: Search) -> tuple[list[Item], int, int | None]:
    """The page of items that match, newest first; how many match in all; the token of the next page, if any."""
    area, (start, end) = _area(search), _interval(search.datetime)
    matching = [
        item
        for item in items
        if (search.collections is None or item["collection"] in search.collections)
        and (search.ids is None or item["id"] in search.ids)
        and start <= instant(item["properties"]["datetime"]) <= end
        and (area is None or shapely.intersects(area, _shape(item["geometry"])))
        and all(
            _holds(item, name, test, value) for name, tests in search.query.items() for test, value in tests.items()
        )
        and (search.filter is None or _evaluate(search.filter, item))
    ]
    matching.sort(key=lambda item: (item["properties"]["datetime"], item["id"]), reverse=True)
    stop = search.token + search.limit
    return matching[search.token : stop], len(matching), stop if stop < len(matching) else None


def instant(text: str) -> datetime:
    """An RFC 3339 date-time (or a bare date: its midnight) in UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadSearch(f"datetime {text!r} is not RFC 3339, as in 2021-06-01T00:00:00Z") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _interval(text: str | None) -> tuple[datetime, datetime]:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    if text is None:
        return first, last
    start, slash, end = text.partition("/")
    if not slash:
        return instant(start), instant(start)
    span = (first if start in ("", "..") else instant(start), last if end in ("", "..") else instant(end))
    if span[0] > span[1]:
        raise BadSearch(f"datetime {text!r} ends before it begins")
    return span


def _area(search: Search) -> shapely.Geometry | None:
    if search.intersects is not None:
        return _shape(search.intersects)
    if search.bbox is None:
        return None
    try:
        box = [float(value) for value in search.bbox]
    except (TypeError, ValueError):
        raise BadSearch("bbox must be numbers: west, south, east, north") from None
    if len(box) not in (4, 6):
        raise BadSearch(f"bbox has {len(box)} numbers; 4 (west, south, east, north) or 6 are wanted")
    half = len(box) // 2
    if box[1] > box[half + 1]:
        raise BadSearch("bbox has its south above its north")
    return shapely.box(box[0], box[1], box[half], box[half + 1])


def _shape(geometry: Mapping[str, Any]) -> shapely.Geometry:
    try:
        return shapely.geometry.shape(geometry)
    except (ShapelyError, KeyError, TypeError, ValueError, AttributeError):
        raise BadSearch("intersects is not a GeoJSON geometry") from None


def _holds(item: Item, name: str, test: str, value: Any) -> bool:
    if test not in _COMPARE:
        raise BadSearch(f"{test!r} is not a comparison of query; use one of {', '.join(_COMPARE)}")
    found = item["id"] if name == "id" else item["properties"].get(name)
    try:
        # pystac-client's text form ("eo:cloud_cover<20") sends its numbers as text.
        if isinstance(found, (int, float)) and isinstance(value, str):
            value = float(value)
        return found is not None and _COMPARE[test](found, value)
    except (TypeError, ValueError):
        raise BadSearch(f"{name} can't be compared with {value!r}") from None


def _evaluate(expression: Mapping[str, Any], item: Item) -> bool:
    try:
        name, arguments = expression["op"], expression["args"]
        if name in ("and", "or"):
            return (all if name == "and" else any)([_evaluate(part, item) for part in arguments])
        if name == "not":
            return not _evaluate(arguments[0], item)
        if name == "between":
            wanted = arguments[0]["property"]
            return _holds(item, wanted, "gte", arguments[1]) and _holds(item, wanted, "lte", arguments[2])
        if name in _CQL2:
            return _holds(item, arguments[0]["property"], _CQL2[name], arguments[1])
    except (KeyError, IndexError, TypeError):
        raise BadSearch("filter is not CQL2 JSON of the form {op, args: [{property}, value]}") from None
    raise BadSearch(f"filter operator {name!r} is not understood here; use and, or, not, between, {', '.join(_CQL2)}")


def _integer(name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise BadSearch(f"{name} must be a whole number, not {value!r}") from None
