"""How long a stage waits for the world and how often it asks again, and how faults are put into words."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from casbah.addresses import scrubbed
from casbah.storage import gdal_options

Result = TypeVar("Result")

REMOTE = ("http://", "https://", "s3://", "/vsicurl/", "/vsis3/")

REFUSED = (401, 403, 409)
"""What a server answers that wants credentials; Azure's says 409 where nobody may read without a signature."""


@dataclass(frozen=True)
class Patience:
    """Seconds to wait for a connection and an answer, how many attempts, and the first pause (doubled each time)."""

    connect: float = 10.0
    read: float = 60.0
    attempts: int = 4
    pause: float = 0.5

    def retry(self) -> Retry:
        """The same as urllib3 understands it, for requests and pystac-client."""
        return Retry(
            total=self.attempts - 1,
            backoff_factor=self.pause,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,
            # A server may ask for an hour; a person is told instead that it did not answer.
            respect_retry_after_header=False,
        )

    def session(self) -> requests.Session:
        """A session for plain requests that asks again as often; its timeout is `(connect, read)`."""
        session = requests.Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=self.retry()))
        return session

    def gdal(self) -> dict[str, Any]:
        """The same as GDAL understands it. GDAL asks only once: `insist` does the asking again."""
        return gdal_options() | {
            "GDAL_HTTP_CONNECTTIMEOUT": self.connect,
            "GDAL_HTTP_TIMEOUT": self.read,
            "GDAL_HTTP_MAX_RETRY": 0,
            # 25 MB for each of hundreds of open files, of bytes that GDAL's cache already holds decoded.
            "VSI_CACHE": False,
            # With several threads GDAL (3.10) hands out tiles that it could not read as if it had read them.
            "GDAL_NUM_THREADS": 1,
        }

    def insist(self, act: Callable[[], Result], fault: type[Exception] | tuple[type[Exception], ...]) -> Result:
        """Call `act` until it does not raise `fault`, at most `attempts` times; the last fault is raised."""
        pause = self.pause
        for left in range(self.attempts - 1, -1, -1):
            try:
                return act()
            except fault:
                if not left:
                    raise
                time.sleep(pause)
                pause *= 2
        raise AssertionError("attempts is at least one")


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception of requests or pystac-client carries, None where there was no answer."""
    answer = getattr(error, "response", None)
    return getattr(error, "status_code", None) or getattr(answer, "status_code", None)


def why(error: BaseException) -> str:
    """In a few words why a request got no good answer; never the address, which the sentence around it names."""
    causes = causes_of(error)
    for cause in causes:
        if (status := status_of(cause)) is not None:
            return f"answered {status}"
    for kind, words in _FAULTS:
        if any(isinstance(cause, kind) for cause in causes):
            return words
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.ResponseError):
            return str(cause)
    return scrubbed(str(error)) or type(error).__name__


_FAULTS: tuple[tuple[type[BaseException], str], ...] = (
    (urllib3.exceptions.NameResolutionError, "no machine of that name is known"),
    (requests.exceptions.SSLError, "its certificate is not one that this machine trusts"),
    (ConnectionRefusedError, "connection refused"),
    (urllib3.exceptions.NewConnectionError, "no connection"),
    (urllib3.exceptions.TimeoutError, "timed out"),
    (requests.exceptions.Timeout, "timed out"),
    (urllib3.exceptions.ProtocolError, "the connection was cut"),
)
"""What lies under a failed request, in words; the more particular first."""


def causes_of(error: BaseException) -> list[BaseException]:
    """An exception and all that lies under it, as cause, context, reason or argument; the outermost first."""
    causes = [error]
    for cause in causes:
        for inner in (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args):
            if isinstance(inner, BaseException) and all(inner is not one for one in causes):
                causes.append(inner)
    return causes


def gdal_status(error: BaseException) -> int | None:
    """The HTTP status in an error of GDAL's, None where it names none."""
    match = re.search(r"response code:? (\d{3})", f"{error} {error.__cause__ or error.__context__ or ''}")
    return int(match[1]) if match else None


def complaint(error: BaseException) -> str:
    """What GDAL complains of, in its own words and without a secret."""
    cause = str(error.__cause__ or error.__context__ or "")
    text = str(error) if cause in str(error) else f"{error}: {cause}"
    # It names a file by the end of its address alone, a signature included.
    return scrubbed(_QUERY.sub("", text))


_QUERY = re.compile(r"(?<=\S)\?[^\s,;'\")]+")


def _scrub(record: logging.LogRecord) -> bool:
    record.msg, record.args = scrubbed(record.getMessage()), ()
    return True


# What is logged reaches the person's screen. These hold whole addresses, urllib3's without what makes one recognisable.
logging.getLogger("rasterio._env").addFilter(_scrub)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
