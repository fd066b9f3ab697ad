"""A small real Overpass-like server and small files of each kind, for the tests of labels."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs

import geopandas
import shapely
from pyproj import Transformer

from casbah.grid import Grid
from casbah.label.found import Area

GRID = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 64, 64)
AREA = Area(GRID)
"""The labelled part of a scene of 640 x 640 m."""


@dataclass
class Answer:
    """What a server sends for one request: a status, a body, headers, or nothing at all (`hang` seconds)."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0


@dataclass
class Server:
    """A running server: where it is, and what it was asked (headers and the decoded form or path)."""

    url: str
    asked: list[tuple[dict[str, str], str]] = field(default_factory=list)


@contextmanager
def serving(reply: Callable[[str, int], Answer]) -> Iterator[Server]:
    """Serve `reply(question, number)` over real HTTP on a free port of the loopback."""
    server = Server("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._answer(parse_qs(form)["data"][0])

        def do_GET(self) -> None:
            self._answer(self.path)

        do_HEAD = do_GET

        def _answer(self, question: str) -> None:
            server.asked.append((dict(self.headers), question))
            answer = reply(question, len(server.asked) - 1)
            if answer.hang:
                hold.wait(answer.hang)
                return
            body = answer.body if isinstance(answer.body, bytes) else str(answer.body or "").encode()
            body = json.dumps(answer.body).encode() if isinstance(answer.body, dict) else body
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Tests are silent."""

    hold = Event()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/api/interpreter"
    try:
        yield server
    finally:
        hold.set()
        http.shutdown()
        http.server_close()
        thread.join()


_degrees = Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)


def degrees(x: float, y: float) -> dict[str, float]:
    """A point of metres east and south of the grid's corner, as Overpass writes points."""
    lon, lat = _degrees.transform(GRID.west + x, GRID.north - y)
    return {"lat": round(lat, 7), "lon": round(lon, 7)}


def square(x: float, y: float, side: float) -> list[dict[str, float]]:
    """A closed ring from its north-west corner."""
    corners = [(0, 0), (side, 0), (side, side), (0, side), (0, 0)]
    return [degrees(x + dx, y + dy) for dx, dy in corners]


def way(number: int, ring: list[dict[str, float]], **tags: str) -> dict[str, Any]:
    """A way as `out body geom` writes it."""
    lats, lons = [point["lat"] for point in ring], [point["lon"] for point in ring]
    nodes = list(range(number * 10, number * 10 + len(ring)))
    nodes[-1] = nodes[0] if ring[0] == ring[-1] else nodes[-1]
    bounds = {"minlat": min(lats), "minlon": min(lons), "maxlat": max(lats), "maxlon": max(lons)}
    tags = {"building": "yes"} | tags
    return {"type": "way", "id": number, "bounds": bounds, "nodes": nodes, "geometry": ring, "tags": tags}


def relation(number: int, members: list[tuple[str, list[dict[str, float]]]], **tags: str) -> dict[str, Any]:
    """A multipolygon relation as `out body geom` writes it."""
    listed = [
        {"type": "way", "ref": number * 100 + index, "role": role, "geometry": points}
        for index, (role, points) in enumerate(members)
    ]
    tags = {"building": "yes", "type": "multipolygon"} | tags
    return {"type": "relation", "id": number, "members": listed, "tags": tags}


def overpass(elements: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """An answer in the shape of Overpass API 0.7.62."""
    return {
        "version": 0.6,
        "generator": "Overpass API 0.7.62.5 1bd436f1",
        "osm3s": {
            "timestamp_osm_base": "2026-10-01T11:22:33Z",
            "copyright": "The data included in this document is from www.openstreetmap.org. The data is made available "
            "under ODbL.",
        },
        "elements": elements,
        **more,
    }


def boxes(grid: Grid, *places: tuple[float, float, float, float], **columns: Any) -> geopandas.GeoDataFrame:
    """Rectangles (metres east and south of the grid's corner, width, height) in the grid's CRS."""
    shapes = [
        shapely.box(grid.west + x, grid.north - y - height, grid.west + x + width, grid.north - y)
        for x, y, width, height in places
    ]
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=grid.crs)


def write(frame: geopandas.GeoDataFrame, path: Path) -> Path:
    """Write a frame in the format of the path's suffix."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, engine="pyogrio", driver="SQLite" if path.suffix == ".sqlite" else None)
    return path
