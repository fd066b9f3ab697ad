"""Tiny static catalogues of made-up Sentinel-2 items, and a web server that misbehaves on request."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.shutil
from rasterio.io import MemoryFile
from rasterio.warp import transform_geom

from casbah.bands import BANDS
from casbah.grid import Grid

TILE = Grid("EPSG:32631", 500_040.0, 4_059_960.0, 120, 120)
"""1.2 km on the lattice on which 10, 20 and 60 m pixels meet, as every MGRS tile lies."""

AREA = Grid(TILE.crs, TILE.west + 130, TILE.north - 70, 90, 80)
"""An area inside of `TILE`, off the 20 and 60 m lattices."""

DARK = 60
"""Reflectance x 10000 of the corner of every made-up image that its offset can be told by."""


def ramp(grid: Grid, base: float = 1500.0) -> np.ndarray:
    """Ground that brightens evenly to the east and the south (linear, so that an interpolation keeps it)."""
    rows, cols = np.indices(grid.shape) + 0.5
    return base + (cols * 2.0 + rows) * grid.resolution / 10.0


def make_item(
    directory: Path,
    name: str,
    day: str,
    *,
    tile: Grid = TILE,
    ground: np.ndarray | float | None = None,
    inside: int = 0,
    scl: np.ndarray | int | None = 4,
    cloud: float | None = 0.0,
    level: str | None = "L2A",
    bands: tuple[str, ...] = ("B02", "B04", "B8A", "B12"),
    dark: bool = True,
    properties: Mapping[str, Any] | None = None,
    naming: str = "name",
    nodata: int | None = 0,
) -> str:
    """Write an item's COGs and JSON under `directory`; returns its href relative to it.

    `ground` is reflectance x 10000 at 10 m, `inside` what is added to it in the digital numbers; `scl` an SCL class or
    a raster of them at 20 m, None for no SCL; `naming` is `name` (B04), or `asset` (red); `nodata` is what the files'
    headers say.
    """
    folder = directory / name
    folder.mkdir(parents=True)
    full = ramp(tile) if ground is None else np.broadcast_to(np.asarray(ground, float), tile.shape).copy()
    if dark:
        full[-12:, -12:] = np.where(full[-12:, -12:] > 0, DARK, 0)
    assets: dict[str, Any] = {}
    for band in BANDS:
        if band.name in bands:
            step = band.resolution // 10
            coarse = full.reshape(tile.rows // step, step, tile.cols // step, step).mean(axis=(1, 3))
            values = np.where(coarse > 0, coarse + inside, 0).round().astype("uint16")
            key = band.name if naming == "name" else band.asset
            assets[key] = _asset(folder / f"{band.name}.tif", values, tile, band.resolution, nodata)
    if scl is not None:
        classes = np.broadcast_to(np.asarray(scl, "uint8"), (tile.rows // 2, tile.cols // 2))
        assets["SCL" if naming == "name" else "scl"] = _asset(folder / "SCL.tif", classes, tile, 20)
    said = {"datetime": f"{day}T10:30:00Z", "platform": "sentinel-2a", "s2:processing_baseline": "03.01"}
    said |= {"eo:cloud_cover": cloud} if cloud is not None else {}
    said |= {"processing:level": level} if level is not None else {}
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "tiny",
        "geometry": footprint(tile),
        "bbox": [0, 0, 1, 1],
        "properties": {**said, **(properties or {})},
        "links": [],
        "assets": assets,
    }
    (folder / f"{name}.json").write_text(json.dumps(item))
    return f"./{name}/{name}.json"


def make_catalogue(directory: Path, items: list[str], **collection: Any) -> Path:
    """A catalogue of one collection `tiny` that lists the items; returns the path of `catalog.json`."""
    links = [{"rel": "item", "href": href} for href in items]
    about = {
        "type": "Collection",
        "id": "tiny",
        "stac_version": "1.0.0",
        "description": "made up",
        "license": "CC0-1.0",
        "extent": {"spatial": {"bbox": [[0, 0, 1, 1]]}, "temporal": {"interval": [[None, None]]}},
        "links": links,
    }
    (directory / "collection.json").write_text(json.dumps(about | collection))
    root = {"type": "Catalog", "id": "root", "stac_version": "1.0.0", "description": "made up"}
    root["links"] = [{"rel": "child", "href": "./collection.json"}]
    path = directory / "catalog.json"
    path.write_text(json.dumps(root))
    return path


def write_area(path: Path, grid: Grid = AREA) -> Path:
    """The grid's outline, a metre inside, as GeoJSON in the grid's own CRS."""
    west, south, east, north = grid.bounds
    ring = [(west + 1, south + 1), (east - 1, south + 1), (east - 1, north - 1), (west + 1, north - 1)]
    return write_geojson(path, {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}, crs=grid.crs)


def write_geojson(path: Path, *geometries: Mapping[str, Any], crs: str | None = None) -> Path:
    """A FeatureCollection of the geometries."""
    features = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in geometries]
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs:
        collection["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{crs[5:]}"}}
    path.write_text(json.dumps(collection))
    return path


def footprint(grid: Grid) -> dict[str, Any]:
    """The grid's outline in longitude and latitude."""
    west, south, east, north = grid.bounds
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return transform_geom(grid.crs, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})


def _asset(path: Path, values: np.ndarray, tile: Grid, resolution: int, nodata: int | None = 0) -> dict[str, Any]:
    grid = Grid(tile.crs, tile.west, tile.north, *values.shape, float(resolution))
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, dtype=values.dtype, nodata=nodata, **grid.profile()) as raster:
            raster.write(values, 1)
        rasterio.shutil.copy(memory.name, path, driver="COG", compress="deflate")
    return {"href": f"./{path.name}", "type": "image/tiff; application=geotiff", "roles": ["data"]}


class Site:
    """A web server of a folder. `faults[path suffix]` is `hang`, a status, or a list of them, one per request;
    `headers` are those that it sends beside its own, which say no ETag and no Last-Modified."""

    def __init__(self, root: Path) -> None:
        self.root, self.faults, self.asked = root, dict[str, Any](), Counter[str]()
        self.answers: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.closing = threading.Event()
        self.url = ""

    def fault(self, path: str) -> Any:
        """What goes wrong with this request, None where nothing does."""
        for suffix, fault in self.faults.items():
            if path.endswith(suffix):
                self.asked[suffix] += 1
                if isinstance(fault, list):
                    return fault.pop(0) if fault else None
                return fault
        return None


@contextmanager
def serve(root: Path) -> Iterator[Site]:
    """Serve a folder (with byte ranges) on a free port of this machine."""
    site = Site(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            fault = site.fault(path)
            if fault == "hang":
                site.closing.wait(30)
                self.close_connection = True
                return
            if fault is not None:
                self.reply(int(fault), b"fault on request")
            elif path in site.answers:
                self.reply(200, json.dumps(site.answers[path]).encode(), kind="application/json")
            elif (file := site.root / path.lstrip("/")).is_file():
                self.whole_or_part(file.read_bytes())
            else:
                self.reply(404, b"not here")

        def whole_or_part(self, body: bytes) -> None:
            match = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if not match:
                self.reply(200, body)
                return
            first, last = int(match[1]), min(int(match[2] or len(body) - 1), len(body) - 1)
            self.reply(206, body[first : last + 1], span=f"bytes {first}-{last}/{len(body)}")

        def reply(self, status: int, body: bytes, span: str = "", kind: str = "application/octet-stream") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            for name, value in site.headers.items():
                self.send_header(name, value)
            if span:
                self.send_header("Content-Range", span)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()


def wait_until(happened: Any, seconds: float = 60.0) -> None:
    """Poll until `happened()`; fails the test after `seconds`."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
