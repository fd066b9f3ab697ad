"""Several computations of torch at the same time on a CPU, each by a share of its cores."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")

_LOCK = threading.Lock()
_KEPT: "dict[tuple[int, int], Cores]" = {}


class Cores:
    """The threads that torch computes with (`torch.get_num_threads`), dealt out to up to `most` computations.

    Take those of `shared`: while one is made, torch computes with fewer threads than it was told.
    """

    def __init__(self, most: int) -> None:
        threads = torch.get_num_threads()
        self.computations = max(1, min(most, threads))
        self._pool = ThreadPoolExecutor(self.computations, "casbah-cores")
        met = threading.Barrier(self.computations)
        share = threads // self.computations

        def begin(_: int) -> None:
            torch.get_num_threads()  # at its first use torch would set what it sets for all threads
            torch.set_num_threads(share)
            met.wait()  # so that every thread is started, and none does this for two

        list(self._pool.map(begin, range(self.computations)))
        torch.set_num_threads(threads)  # of this thread and of new ones; those that have begun keep their share

    def each(self, act: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Do `act` to every item; a fault is raised once those that began are done, and no other begins then."""
        waiting = [self._pool.submit(act, item) for item in items]
        try:
            for one in waiting:
                one.result()
        finally:
            for one in waiting:
                one.cancel()
            wait(waiting)


def shared(most: int) -> Cores:
    """Those of this process, for the threads that torch computes with now: requests that a server answers side by side
    share them, and a forked process makes its own."""
    with _LOCK:
        key = (torch.get_num_threads(), most)
        if key not in _KEPT:
            _KEPT[key] = Cores(most)
        return _KEPT[key]


def _in_child() -> None:
    """Neither the threads live on there, nor one that would release the lock."""
    global _LOCK
    _LOCK = threading.Lock()
    _KEPT.clear()


os.register_at_fork(after_in_child=_in_child)
