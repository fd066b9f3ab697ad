"""The account of a local run: one JSON line for each thing that a step starts, ends, says or fails at.

A step writes it where the environment variable `CASBAH_JOURNAL` names a file; the program that started the run reads
it to show progress and to know what came out. In a pod there is no such variable, and nothing is written.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

VARIABLE = "CASBAH_JOURNAL"

CONTAINED = "CASBAH_CONTAINED"
"""Variable that a step of a local run finds set where it runs in a container."""


def record(event: str, **facts: Any) -> None:
    """Append one event; several steps may write at the same time, since a short append is one write."""
    file = os.environ.get(VARIABLE)
    if not file:
        return
    line = json.dumps({"event": event, "time": time.time(), "pid": os.getpid(), **facts}, default=str) + "\n"
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def local_run() -> str | None:
    """Name of the local run that this process is a step of (`20261125-101500-a1b2c3`); None in a pod."""
    file = os.environ.get(VARIABLE)
    return Path(file).parent.name if file else None


class Reader:
    """Reads a journal while it grows."""

    def __init__(self, file: Path) -> None:
        self._file, self._offset = file, 0

    def new(self) -> list[dict[str, Any]]:
        """The events written since the last call; a line still being written waits for the next one."""
        try:
            with open(self._file, "rb") as source:
                source.seek(self._offset)
                content = source.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
