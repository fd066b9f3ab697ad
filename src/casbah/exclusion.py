"""One process at a time in a directory that long work goes on in."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from casbah.errors import InputError, unwritable

LOCK = ".lock"
"""The file whose lock says that a process is at work; the lock ends with the process, however that ends."""


@contextmanager
def alone(directory: Path, work: str) -> Iterator[None]:
    """Make a directory and keep it for this process; `InputError` where another process does such `work` in it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / LOCK, os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(error)(f"{directory} can't be written: {error.strerror}; name another --output") from None
    try:
        _take(handle, directory, work)
        yield
    finally:
        os.close(handle)


def _take(handle: int, directory: Path, work: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another {work} is at work in {directory}: wait for it, or name another --output") from None
