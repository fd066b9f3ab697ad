"""A hub of published weights on this machine, which answers as the real one does at the wire, and can misbehave."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`files` by path; `faults` are taken in turn, one for each GET: a status, or `cut`, `slow`;
    `short` and `elsewhere` answer for a part with less of it, or with another part."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Any] = field(default_factory=list)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range of each request."""
    etag: str = '"first"'
    large: bool = True
    """Whether a file is sent on to a store, as those of Git LFS are, with its sha256 on the way."""

    @property
    def ranges(self) -> list[str | None]:
        """The Range of every request for bytes themselves."""
        return [ranged for method, path, ranged in self.asked if method == "GET" and path.startswith("/store/")]


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub; its address is `url`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    hub = server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        assert isinstance(self.server, _Server)
        hub = self.server.hub
        hub.asked.append((self.command, self.path, self.headers.get("Range")))
        fault = hub.faults.pop(0) if body and hub.faults and hub.faults[0] is not None else None
        if isinstance(fault, int):
            self._send(fault, {})
            return
        stored = self.path.startswith("/store/")
        content = hub.files.get(self.path.removeprefix("/store") if stored else self.path)
        if content is None:
            self._send(200 if self.path == "/" else 404, {})
            return
        if hub.large and not stored:
            linked = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
            self._send(302, {"Location": f"/store{self.path}", "X-Repo-Commit": COMMIT, **linked})
            return
        self._bytes(hub, content, fault, body)

    def _bytes(self, hub: Hub, content: bytes, fault: Any, body: bool) -> None:
        start, status, headers = 0, 200, {"ETag": hub.etag}
        ranged = self.headers.get("Range")
        if ranged and self.headers.get("If-Range") == hub.etag:
            start = int(ranged.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self._send(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
        if fault == "slow":
            time.sleep(1.0)
        if fault == "elsewhere" and start:
            start, headers["Content-Range"] = 0, f"bytes 0-{len(content) - 1}/{len(content)}"
        part = content[start:]
        if fault == "short" and start:
            part = part[:100]
            headers["Content-Range"] = f"bytes {start}-{start + 99}/{len(content)}"
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(part))}).items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if fault == "cut":
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        else:
            self.wfile.write(part)

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""
