"""Ctrl-C, SIGTERM and a closed terminal end a command in one and the same way; a child ends with its parent."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ORPHANED = 129
"""Exit code of a process whose parent is gone."""


def end_with_parent() -> None:
    """Let this process end as soon as its parent is gone, however that ended. Its standard input is a pipe that the
    parent alone holds.

    A training whose parent was killed would go on beside the one that repeats it, and both write the same bundle.
    """
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    # Not sys.stdin, whose lock a thread that still waits would hold when Python ends.
    while os.read(0, 1024):
        pass
    os._exit(ORPHANED)


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal raise `KeyboardInterrupt` as Ctrl-C does, so that what was started is stopped.

    To be used in the main thread, which alone may say what a signal does.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    # Under nohup a closed terminal is to be ignored, and stays so.
    mine = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in mine:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
