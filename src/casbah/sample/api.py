"""Serves the sample town as a STAC API (1.0.0), so that `pystac-client` and `casbah ingest` search it as they would a
real catalogue. Listens on this machine alone."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from casbah.errors import InputError, WorldError
from casbah.sample.catalogue import COLLECTION
from casbah.sample.search import BadSearch, Search, find
from casbah.sample.town import Town

CONFORMANCE = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#query",
    "https://api.stacspec.org/v1.0.0/item-search#filter",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
    "http://www.opengis.net/spec/cql2/1.0/conf/basic-cql2",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
]

GEOJSON = "application/geo+json"
ASSETS = "/assets"
START_LIMIT = 60.0
"""Seconds to wait for the server to answer before giving up: imports alone take ten on a busy machine."""

STOP_LIMIT = 5.0
"""Seconds that the server has to finish its answers before it is killed."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def create(town: Town, asset_base: str | None = None) -> FastAPI:
    """The API over a town. Hrefs of assets begin with `asset_base` (a directory, http(s):// or s3://… to which the town
    was copied); without it the API serves the files itself, with ranges."""
    collection = json.loads((town.path / COLLECTION / "collection.json").read_text(encoding="utf-8"))
    items = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(town.path.glob(f"{COLLECTION}/*/*.json"))]
    if asset_base and "://" not in asset_base:
        asset_base = str(Path(asset_base).resolve())
    app = FastAPI(title="Casbah sample: SIMULATED Sentinel-2 L2A", docs_url=None, redoc_url=None)

    def base(request: Request) -> str:
        return str(request.base_url).rstrip("/")

    def placed(item: Mapping[str, Any], root: str) -> dict[str, Any]:
        files = f"{asset_base.rstrip('/') if asset_base else root + ASSETS}/{COLLECTION}/{item['id']}"
        assets = {
            name: asset | {"href": f"{files}/{asset['href'].removeprefix('./')}"}
            for name, asset in item["assets"].items()
        }
        return {**item, "assets": assets, "links": _item_links(root, item["id"])}

    def answer(search: Search, root: str, next_link: Any) -> JSONResponse:
        page, matched, token = find(items, search)
        links = [_link("root", root), *([next_link(token)] if token is not None else [])]
        return JSONResponse(
            {
                "type": "FeatureCollection",
                "features": [placed(item, root) for item in page],
                "links": links,
                "numberMatched": matched,
                "numberReturned": len(page),
            },
            media_type=GEOJSON,
        )

    def answer_get(request: Request, fixed: Mapping[str, Any]) -> JSONResponse:
        given = {**_parameters(request), **fixed}

        def next_link(token: int) -> dict[str, Any]:
            return _link("next", str(request.url.include_query_params(token=token)), GEOJSON) | {"method": "GET"}

        return answer(Search.of(given), base(request), next_link)

    @app.exception_handler(BadSearch)
    async def refuse(_: Request, error: BadSearch) -> JSONResponse:
        return JSONResponse({"code": "BadRequest", "description": str(error)}, status_code=400)

    @app.get("/")
    def landing(request: Request) -> dict[str, Any]:
        root = base(request)
        about = {name: collection[name] for name in ("title", "description", "casbah:simulated", "attribution")}
        links = [
            _link("self", f"{root}/"),
            _link("root", f"{root}/"),
            _link("conformance", f"{root}/conformance"),
            _link("data", f"{root}/collections"),
            _link("child", f"{root}/collections/{COLLECTION}"),
            _link("service-desc", f"{root}/openapi.json", "application/vnd.oai.openapi+json;version=3.1"),
            *(_link("search", f"{root}/search", GEOJSON) | {"method": method} for method in ("GET", "POST")),
        ]
        kind = {"type": "Catalog", "stac_version": collection["stac_version"], "id": "casbah-sample"}
        return {**kind, **about, "conformsTo": CONFORMANCE, "links": links}

    @app.get("/conformance")
    def conformance() -> dict[str, Any]:
        return {"conformsTo": CONFORMANCE}

    @app.get("/collections")
    def collections(request: Request) -> dict[str, Any]:
        root = base(request)
        links = [_link("self", f"{root}/collections"), _link("root", f"{root}/")]
        return {"collections": [{**collection, "links": _collection_links(root)}], "links": links}

    @app.get("/collections/{name}", response_model=None)
    def one_collection(name: str, request: Request) -> dict[str, Any] | JSONResponse:
        if name != COLLECTION:
            return _absent(f"collection {name!r}")
        return {**collection, "links": _collection_links(base(request))}

    @app.get("/collections/{name}/items")
    def items_of(name: str, request: Request) -> JSONResponse:
        return answer_get(request, {"collections": [name]}) if name == COLLECTION else _absent(f"collection {name!r}")

    @app.get("/collections/{name}/items/{item_id}")
    def one_item(name: str, item_id: str, request: Request) -> JSONResponse:
        found = [item for item in items if name == COLLECTION and item["id"] == item_id]
        if not found:
            return _absent(f"item {item_id!r} of collection {name!r}")
        return JSONResponse(placed(found[0], base(request)), media_type=GEOJSON)

    @app.get("/search")
    def search_get(request: Request) -> JSONResponse:
        return answer_get(request, {})

    @app.post("/search")
    async def search_post(request: Request) -> JSONResponse:
        try:
            body = await request.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise BadSearch("the body is not JSON") from None
        if not isinstance(body, dict):
            raise BadSearch("the body must be a JSON object")

        def next_link(token: int) -> dict[str, Any]:
            link = _link("next", f"{base(request)}/search", GEOJSON)
            return link | {"method": "POST", "body": {**body, "token": str(token)}}

        return answer(Search.of(body), base(request), next_link)

    app.mount(ASSETS, StaticFiles(directory=town.path), name="assets")
    return app


@contextmanager
def serve(
    directory: str | Path, *, host: str = "127.0.0.1", port: int = 0, asset_base: str | None = None
) -> Iterator[str]:
    """Serve the town at `directory` while the block runs; yields the address of the API (`http://127.0.0.1:…`).

    The server is a process of its own (GDAL holds the interpreter while it opens an address, so that a server in the
    same process could never answer it), and ends with this one however this one ends. Port 0 takes a free one;
    `asset_base` as in `create`. Raises `InputError` where `directory` is no town, for a host that others could reach
    or a port in use, `WorldError` where the server does not come up.
    """
    if host not in LOOPBACK:
        raise InputError(f"host {host!r} could be reached from outside; the sample is served on {LOOPBACK[0]} only")
    town = Town.open(directory, verify=False)
    # Bound here, so that a free port stays ours until the server has it.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InputError(f"port {port} of {host} can't be used ({error.strerror}); name another or 0") from None
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listener.getsockname()[1]}"
    with listener:
        command = [sys.executable, "-m", __name__, str(listener.fileno()), str(town.path.resolve()), asset_base or ""]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    try:
        _await(server, address)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(timeout=STOP_LIMIT)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.stdin:
            server.stdin.close()


def _await(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_LIMIT
    with urllib3.PoolManager(retries=False, timeout=2.0) as pool:
        while server.poll() is None and time.monotonic() < deadline:
            try:
                if pool.request("GET", f"{address}/conformance").status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                time.sleep(0.05)
    raise WorldError(f"the sample's STAC API at {address} did not start within {START_LIMIT:.0f} s; try again")


def _run(descriptor: int, directory: str, asset_base: str) -> None:
    """The serving process: answers on an inherited socket until it is told to stop or its parent is gone."""
    app = create(Town.open(directory, verify=False), asset_base or None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))

    def follow_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=follow_parent, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])


def _parameters(request: Request) -> dict[str, Any]:
    """The query string of a GET in the form of a POST body."""
    given: dict[str, Any] = dict(request.query_params)
    for name in ("ids", "collections", "bbox"):
        if name in given:
            given[name] = given[name].split(",")
    for name in ("intersects", "query", "filter"):
        if name in given:
            try:
                given[name] = json.loads(given[name])
            except json.JSONDecodeError:
                raise BadSearch(f"{name} is not JSON") from None
    return given


def _absent(what: str) -> JSONResponse:
    return JSONResponse({"code": "NotFound", "description": f"there is no {what} here"}, status_code=404)


def _collection_links(root: str) -> list[dict[str, Any]]:
    place = f"{root}/collections/{COLLECTION}"
    return [
        _link("self", place),
        _link("root", f"{root}/"),
        _link("parent", f"{root}/"),
        _link("items", f"{place}/items", GEOJSON),
    ]


def _item_links(root: str, item_id: str) -> list[dict[str, Any]]:
    place = f"{root}/collections/{COLLECTION}"
    return [
        _link("self", f"{place}/items/{item_id}", GEOJSON),
        _link("root", f"{root}/"),
        _link("parent", place),
        _link("collection", place),
    ]


def _link(rel: str, href: str, kind: str = "application/json") -> dict[str, Any]:
    return {"rel": rel, "href": href, "type": kind}


if __name__ == "__main__":
    _run(int(sys.argv[1]), sys.argv[2], sys.argv[3])
