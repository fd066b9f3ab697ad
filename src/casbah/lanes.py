"""Reading ahead and writing behind: threads beside the one that computes, with bounded queues between them."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")

WAIT = 0.1
"""Seconds after which a thread that waits for room looks whether it is still wanted."""


class _End:
    """The last thing in a queue, with the fault that ended it."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.fault = fault


@contextmanager
def ahead(items: Iterator[Item], depth: int) -> Iterator[Iterator[Item]]:
    """Let a thread make up to `depth` items before they are asked for; its fault is raised where they are."""
    waiting: queue.Queue[Any] = queue.Queue(depth)
    unwanted = threading.Event()

    def put(item: Any) -> bool:
        while not unwanted.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=WAIT)
                return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_End())
        except BaseException as fault:  # noqa: BLE001 - it is raised in the thread that asks
            put(_End(fault))
        finally:
            if hasattr(items, "close"):
                items.close()

    def taken() -> Iterator[Item]:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.fault is not None:
            raise item.fault

    thread = threading.Thread(target=run, name="casbah-reader", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        unwanted.set()
        thread.join()


@contextmanager
def behind(act: Callable[[Item], None], depth: int) -> Iterator[Callable[[Item], None]]:
    """Let a thread do `act` to each item that is handed over, up to `depth` of which wait.

    Its fault is raised at the next item, or at the end, which waits for all that was handed over. After a fault in the
    block itself what waits is still done.
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    faults: list[BaseException] = []

    def run() -> None:
        while not isinstance(item := waiting.get(), _End):
            if faults:
                continue  # so that nobody waits for room for ever
            try:
                act(item)
            except BaseException as fault:  # noqa: BLE001 - it is raised in the thread that hands over
                faults.append(fault)

    def hand_over(item: Item) -> None:
        if faults:
            raise faults[0]
        waiting.put(item)

    thread = threading.Thread(target=run, name="casbah-writer", daemon=True)
    thread.start()
    try:
        yield hand_over
    finally:
        waiting.put(_End())
        thread.join()
    if faults:
        raise faults[0]
