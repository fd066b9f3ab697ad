"""How long ingest waits for the world, and how often it asks again."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from urllib3 import Retry

from casbah.storage import gdal_options

Result = TypeVar("Result")


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

    def gdal(self) -> dict[str, Any]:
        """The same as GDAL understands it. GDAL asks only once: `insist` does the asking again."""
        return gdal_options() | {
            "GDAL_HTTP_CONNECTTIMEOUT": self.connect,
            "GDAL_HTTP_TIMEOUT": self.read,
            "GDAL_HTTP_MAX_RETRY": 0,
            # 25 MB for each of hundreds of open files, of bytes that GDAL's cache already holds decoded.
            "VSI_CACHE": False,
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
