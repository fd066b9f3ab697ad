"""Footprints from OpenStreetMap through an Overpass server, asked politely.

One question at a time, over parts of the area, with a User-Agent that says who asks; a server that is busy (429, 502,
503, 504, a time-out, or a 200 whose remark says that it gave up) is asked again after the pause that it names, a few
times, and a part that is too much for it is asked for in quarters.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any

import numpy as np
import requests
import urllib3

import casbah
from casbah import progress
from casbah.addresses import scrubbed, shown
from casbah.errors import InputError, WorldError
from casbah.label.found import Area, Found
from casbah.label.osm import Buildings, Ring, relation_polygon, way_polygon

SERVER = "https://overpass-api.de/api/interpreter"
USER_AGENT = f"casbah/{casbah.__version__} (building footprints for training data)"

PART = 0.1
"""Degrees on a side of what is asked for at once: about 100 km2, some ten thousand buildings in a town."""

SMALLEST_PART = 0.01
"""Degrees below which a part is not quartered any more."""

SERVER_SECONDS, SERVER_BYTES = 180, 512 * 2**20
"""What a question may cost the server (`timeout` and `maxsize`); the server's own defaults, said aloud."""

NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationValueError,
)
"""What `requests` raises for a URL that names no server; one that urllib3 finds out is not wrapped."""

BUSY = (429, 500, 502, 503, 504)
TOO_MUCH = re.compile(r"timed out|out of memory", re.IGNORECASE)

Box = tuple[float, float, float, float]


class TooMuchError(Exception):
    """The server gave up on a part of the area: a smaller one may do."""


@dataclass(frozen=True)
class Manners:
    """How often to ask (`attempts`), the first pause in seconds (doubled each time), the longest pause that a server
    may ask for, the seconds to wait for a connection and for an answer, and the pause between two parts."""

    attempts: int = 5
    pause: float = 5.0
    longest: float = 180.0
    connect: float = 10.0
    read: float = SERVER_SECONDS + 30.0
    between: float = 1.0


def read_overpass(
    area: Area, server: str | None = None, snapshot: str | None = None, manners: Manners | None = None
) -> Found:
    """Read the buildings around `area` (closed ways, multipolygon relations) from the Overpass `server`.

    `snapshot` (ISO date or time, UTC unless it names a zone) asks for the data as they stood then, so that the same
    question gives the same answer; the vintage is that date, or the server's own. `WorldError` where the server can't
    be reached, refuses, or stays busy.
    """
    server, manners = server or SERVER, manners or Manners()
    if not server.startswith(("http://", "https://")):
        raise InputError(f"the Overpass server is {shown(server)!r}; the http(s):// URL of its interpreter is wanted")
    moment = None if snapshot is None else _moment(snapshot)
    head = _head(moment)
    parts = list(_parts(area.bounds_in("EPSG:4326")))
    elements: dict[str, dict[str, Any]] = {}
    stamps = set()
    with requests.Session() as session, progress.task("OpenStreetMap", len(parts)) as task:
        session.headers["User-Agent"] = USER_AGENT
        for number, part in enumerate(parts):
            if number:
                time.sleep(manners.between)
            for answer in _answers(session, server, head, part, manners):
                stamps.add(str(answer.get("osm3s", {}).get("timestamp_osm_base", ""))[:10])
                elements |= {f"{item['type']}/{item['id']}": item for item in answer["elements"]}
            task.advance(note=f"{len(elements):,} buildings")
    buildings = Buildings()
    for name, element in elements.items():
        _add(buildings, name, element)
    vintage = moment.date().isoformat() if moment else " to ".join(sorted({min(stamps), max(stamps)} - {""}))
    return buildings.found("osm", vintage)


def _moment(snapshot: str) -> datetime:
    """The snapshot in UTC, which is what Overpass reckons in; one without a time zone is taken as UTC."""
    try:
        moment = datetime.fromisoformat(snapshot)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"the snapshot is {snapshot!r}; an ISO date such as 2023-06-01 is wanted") from None
    if moment.date() > datetime.now(UTC).date():
        raise InputError(f"the snapshot {snapshot} lies in the future; a date up to today is wanted")
    return moment


def _head(moment: datetime | None) -> str:
    settings = f"[out:json][timeout:{SERVER_SECONDS}][maxsize:{SERVER_BYTES}]"
    return f'{settings}[date:"{moment.strftime("%Y-%m-%dT%H:%M:%SZ")}"];' if moment else settings + ";"


def _parts(bounds: Box) -> Iterator[Box]:
    """Boxes of at most `PART` degrees that cover the bounds once."""
    west, south, east, north = bounds
    columns = np.linspace(west, east, max(1, int(np.ceil((east - west) / PART))) + 1).tolist()
    rows = np.linspace(south, north, max(1, int(np.ceil((north - south) / PART))) + 1).tolist()
    for low, high in pairwise(rows):
        for left, right in pairwise(columns):
            yield left, low, right, high


def _answers(session: requests.Session, server: str, head: str, part: Box, manners: Manners) -> list[dict[str, Any]]:
    """The answer for a part, or those for its quarters where the whole is too much for the server."""
    try:
        return [_ask(session, server, _question(head, part), manners)]
    except TooMuchError as error:
        west, south, east, north = part
        if east - west < 2 * SMALLEST_PART or north - south < 2 * SMALLEST_PART:
            raise WorldError(f"the Overpass server {shown(server)} gave up on {part} (degrees): {error}") from None
        progress.say(f"the Overpass server found a part too large ({error}): asking for its quarters")
        x, y = (west + east) / 2, (south + north) / 2
        quarters = [(west, south, x, y), (x, south, east, y), (west, y, x, north), (x, y, east, north)]
        return [answer for quarter in quarters for answer in _answers(session, server, head, quarter, manners)]


def _question(head: str, part: Box) -> str:
    west, south, east, north = (f"{value:.7f}" for value in part)
    place = f"({south},{west},{north},{east})"
    return f'{head}(way["building"]{place};relation["building"]["type"="multipolygon"]{place};);out body geom;'


def _ask(session: requests.Session, server: str, question: str, manners: Manners) -> dict[str, Any]:
    pause, fault = manners.pause, ""
    for attempt in range(manners.attempts):
        if attempt:
            progress.say(f"Overpass: {fault}; asking again in {pause:.0f} s")
            time.sleep(pause)
        try:
            answer = session.post(server, data={"data": question}, timeout=(manners.connect, manners.read))
        except NO_ADDRESS as error:
            raise InputError(
                f"the Overpass server is {shown(server)!r}, no address that can be asked ({scrubbed(str(error))}); "
                "the http(s):// URL of its interpreter is wanted"
            ) from None
        except requests.RequestException as error:
            # No server is being burdened here, so the wait for a network that may not exist is kept short.
            fault, pause = _fault(error), manners.pause / 5 * 2**attempt
            continue
        if answer.status_code == requests.codes.ok:
            parsed, fault = _parsed(answer)
            if parsed is not None:
                return parsed
        elif answer.status_code in BUSY:
            fault = f"it answered {answer.status_code} {answer.reason}"
        else:
            raise WorldError(f"the Overpass server {shown(server)} refused the question: {_refusal(answer)}")
        pause = min(_asked_pause(answer) or manners.pause * 2**attempt, manners.longest)
    raise WorldError(
        f"the Overpass server {shown(server)} failed {manners.attempts} times, at last because {fault}: try again "
        "later, name another server by --overpass, or take an extract (.osm.pbf) as --source"
    )


def _parsed(answer: requests.Response) -> tuple[dict[str, Any] | None, str]:
    """The answer as a JSON object, or why it is none: a busy server may send 200 with a page of HTML, or a remark."""
    try:
        parsed = answer.json()
    except ValueError:
        return None, f"it sent no JSON but {_plain(answer.text)[:120]!r}"
    if not isinstance(parsed, dict):
        return None, f"it sent no JSON object but {_plain(answer.text)[:120]!r}"
    remark = str(parsed.get("remark", ""))
    if "error" in remark and TOO_MUCH.search(remark):
        raise TooMuchError(remark)
    if "error" in remark or "elements" not in parsed:
        return None, f"it said {remark or 'nothing'!r}"
    return parsed, ""


def _refusal(answer: requests.Response) -> str:
    return f"{answer.status_code} {answer.reason}, {_plain(answer.text)[:200]!r}"


def _plain(html: str) -> str:
    body = re.sub(r"(?s)<head>.*?</head>", " ", html)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def _fault(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "it did not answer in time"
    if isinstance(error, requests.TooManyRedirects):
        return "it sends from one address to another without end"
    return "it could not be reached or broke off"


def _asked_pause(answer: requests.Response) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or as a date; None without one."""
    text = answer.headers.get("Retry-After", "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _add(buildings: Buildings, name: str, element: dict[str, Any]) -> None:
    tags = element.get("tags", {})
    if element["type"] == "way":
        buildings.add(name, tags, way_polygon(_points(element)), "way that is not closed")
        return
    members = [(str(m.get("role", "")), _points(m)) for m in element.get("members", []) if m.get("type") == "way"]
    shape = relation_polygon(members) if all(points for _, points in members) else None
    buildings.add(name, tags, shape, "relation whose rings do not close")


def _points(element: dict[str, Any]) -> Ring:
    """The points of a way; empty where the server left one out."""
    points = element.get("geometry") or []
    return [] if any(point is None for point in points) else [(point["lon"], point["lat"]) for point in points]
