"""One file over HTTP: it goes on where an earlier attempt stopped, and says at once where nobody answers."""

import os
import re
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from pydantic import BaseModel, ValidationError
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

import casbah
from casbah import progress
from casbah.addresses import authorization, shown
from casbah.errors import WorldError
from casbah.weights.local import PIECE, check_space

PATIENCE = 5.0
"""Seconds to wait for a connection; who is offline shall know at once."""
ANSWER = 20.0
"""Seconds to wait for an answer, and then for each further piece (Zenodo takes its time)."""
ATTEMPTS = 4
"""Attempts in a row that bring nothing; one that brings bytes starts the count anew."""
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; doubled for each further one."""
REDIRECTS = 5
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers that another attempt may change."""
STATE = "resume.json"
MEGABYTE = 1_000_000


class UnreachableError(Exception):
    """Nobody answered at all; the text says why in a few words."""


class Origin(BaseModel):
    """What the servers on the way said of a file; kept beside the part that was downloaded."""

    address: str
    """Without secrets."""
    revision: str | None = None
    """The commit of the hub that it comes from."""
    sha256: str | None = None
    bytes: int | None = None
    validator: str | None = None
    """A strong ETag or a date, with which the server knows whether it is still the same file."""


@dataclass
class _Answer:
    response: BaseHTTPResponse
    origin: Origin


def download(address: str, file: Path, title: str) -> Origin:
    """Download to `file`, after the bytes that are there already where the server still has the same file.

    The caller compares digests before the file counts. `UnreachableError` where nobody answers the first time,
    `WorldError` where the server refuses, or brings nothing in `ATTEMPTS` attempts; what has come is kept.
    """
    state = file.parent / STATE
    pause, empty, fault, most = FIRST_PAUSE, 0, "", _size(file)
    while empty < ATTEMPTS:
        if fault:
            time.sleep(pause)
        try:
            return _attempt(address, file, state, title)
        except UnreachableError as error:
            if not fault:
                raise
            fault = str(error)
        except _RetryableError as error:
            fault = str(error)
        except HTTPError as error:
            fault = words(error)
        # More than ever before: a server that begins anew each time, and is cut each time, brings nothing.
        empty, pause = (0, FIRST_PAUSE) if _size(file) > most else (empty + 1, pause * 2)
        most = max(most, _size(file))
    raise WorldError(
        f"{shown(address)} failed {ATTEMPTS} times in a row ({fault}); {_size(file) / 1e6:,.1f} MB of {title} are "
        "kept, and the same command goes on from there"
    )


class _RetryableError(Exception):
    pass


def _attempt(address: str, file: Path, state: Path, title: str) -> Origin:
    kept, have = _kept(state, address), _size(file)
    headers = {}
    if kept is not None and kept.validator and have:
        headers = {"Range": f"bytes={have}-", "If-Range": kept.validator}
    try:
        answer = ask(address, headers)
    except HTTPError as error:
        raise UnreachableError(words(error)) from None
    response, origin = answer.response, answer.origin
    try:
        status = response.status
        if status == 416 and kept is not None and response.headers.get("Content-Range") == f"bytes */{have}":
            return kept
        if status == 416:
            file.unlink(missing_ok=True)
            raise _RetryableError("the part that was kept is of another file")
        if status in AGAIN:
            raise _RetryableError(f"it answered {status}")
        if status not in (200, 206):
            raise WorldError(
                f"{shown(address)} answered {status}: the file is not there, or not for everyone; look at its page, or "
                "let HF_ENDPOINT name a hub that has it"
            )
        start = have if status == 206 else 0
        length = response.headers.get("Content-Length")
        whole = _whole(response, have) if status == 206 else (int(length) if length else None)
        if whole is not None:
            if origin.bytes is not None and whole != origin.bytes:
                raise _RetryableError(f"it has {whole} bytes in place of the {origin.bytes} that the hub names")
            origin = origin.model_copy(update={"bytes": whole})
        check_space(file.parent, int(length) if length else None)
        state.write_text(origin.model_dump_json(), encoding="utf-8")
        _receive(response, file, start, origin.bytes, title)
        if origin.bytes is not None and _size(file) != origin.bytes:
            raise _RetryableError(f"it sent {_size(file)} of {origin.bytes} bytes")
    finally:
        response.release_conn()
        response.close()
    return origin


def _receive(response: BaseHTTPResponse, file: Path, start: int, total: int | None, title: str) -> None:
    """Append what comes; a piece that came before the connection broke is kept."""
    parts = -(-(total or start) // MEGABYTE)
    with (
        open(file, "r+b" if start else "wb") as target,
        progress.task(f"fetch {title} (MB)", max(parts, 1), done=start // MEGABYTE) as bar,
    ):
        target.seek(start)
        done = start
        for piece in response.stream(PIECE, decode_content=False):
            target.write(piece)
            done += len(piece)
            bar.advance(min(done // MEGABYTE, bar.total) - bar.done)
        bar.advance(bar.total - bar.done)


def ask(
    address: str, headers: dict[str, str] | None = None, method: str = "GET", patience: float | None = None
) -> _Answer:
    """The answer of the last server on the way, and what all of them said of the file; `HTTPError` where none came.

    `patience` are the seconds to wait for an answer, `ANSWER` where None.
    """
    timeout = urllib3.Timeout(connect=PATIENCE, read=ANSWER if patience is None else patience)
    origin, place = Origin(address=shown(address)), address
    for _ in range(REDIRECTS + 1):
        sent = {"User-Agent": f"casbah/{casbah.__version__}", "Accept-Encoding": "identity"} | (headers or {})
        sent |= authorization(place)
        response = _pool(place).request(
            method, _bare(place), headers=sent, preload_content=False, redirect=False, retries=False, timeout=timeout
        )
        origin = _noted(origin, response)
        target = response.headers.get("Location")
        if response.status not in (301, 302, 303, 307, 308) or not target:
            return _Answer(response, origin)
        response.release_conn()
        place = urljoin(place, target)
    raise WorldError(f"{shown(address)} was sent on {REDIRECTS} times and more: look at its page")


def _noted(origin: Origin, response: BaseHTTPResponse) -> Origin:
    """Add what the hub tells of a file: its commit, and of a large file sha256 and size (on the way to its store)."""
    said = response.headers
    linked = said.get("X-Linked-Etag", "").strip('"')
    found = {
        "revision": said.get("X-Repo-Commit"),
        "sha256": linked.lower() if len(linked) == 64 else None,
        "bytes": int(said["X-Linked-Size"]) if said.get("X-Linked-Size", "").isdigit() else None,
    }
    tag = said.get("ETag", "")
    # A weak tag says nothing of bytes, so a part can't be continued by it.
    validator = tag if tag and not tag.startswith("W/") else said.get("Last-Modified")
    return origin.model_copy(
        update={key: value for key, value in found.items() if value is not None} | {"validator": validator}
    )


def _pool(address: str) -> urllib3.PoolManager:
    """A client that goes through the proxy that the environment names, and trusts the certificates that it names."""
    parts = urlsplit(address)
    given: dict[str, Any] = {
        "cert_reqs": "CERT_REQUIRED",
        "ca_certs": os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE"),
    }
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        secret = authorization(proxy)
        headers = {"Proxy-Authorization": secret["authorization"]} if secret else None
        return urllib3.ProxyManager(_bare(proxy), proxy_headers=headers, **given)
    return urllib3.PoolManager(**given)


def _bare(address: str) -> str:
    """The address without user and password, which go into a header."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _whole(response: BaseHTTPResponse, have: int) -> int | None:
    """Bytes of the whole file of which a part comes, None where they are not told; the part has to begin at `have`."""
    said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if said is None or int(said[1]) != have:
        raise _RetryableError("it sent another part than the one that was asked for")
    return None if said[2] == "*" else int(said[2])


def _kept(state: Path, address: str) -> Origin | None:
    """What was noted of the part that is there; None where there is none, or it came from another address."""
    try:
        kept = Origin.model_validate_json(state.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError, UnicodeDecodeError):
        return None
    return kept if kept.address == shown(address) else None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def words(error: BaseException) -> str:
    """In a few words why there was no good answer."""
    for kind, text in _FAULTS:
        if isinstance(error, kind):
            return text
    return type(error).__name__


_FAULTS: tuple[tuple[type[BaseException], str], ...] = (
    (urllib3.exceptions.NameResolutionError, "no machine of that name is known"),
    (urllib3.exceptions.SSLError, "its certificate is not one that this machine trusts"),
    (urllib3.exceptions.ProxyError, "the proxy does not answer"),
    (urllib3.exceptions.NewConnectionError, "no connection"),
    (urllib3.exceptions.TimeoutError, "timed out"),
    (urllib3.exceptions.ProtocolError, "the connection was cut"),
    (urllib3.exceptions.LocationValueError, "that is no address"),
)
