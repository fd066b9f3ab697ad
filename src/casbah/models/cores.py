"""Several computations of torch at the same time on a CPU, each by a share of its cores."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


class Cores:
    """The threads that torch computes with (`torch.get_num_threads`), dealt out to up to `most` computations."""

    def __init__(self, most: int) -> None:
        self.threads = torch.get_num_threads()
        self.computations = max(1, min(most, self.threads))
        self._pool = ThreadPoolExecutor(self.computations, "casbah-cores")
        met = threading.Barrier(self.computations)
        share = self.threads // self.computations

        def begin(_: int) -> None:
            torch.get_num_threads()  # at its first use torch would set what it sets for all threads
            torch.set_num_threads(share)
            met.wait()  # so that every thread is started, and none does this for two

        list(self._pool.map(begin, range(self.computations)))
        torch.set_num_threads(self.threads)  # of this thread and of new ones; those that have begun keep their share

    def each(self, act: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Do `act` to every item; a fault is raised once those that began are done, and no other begins then."""
        waiting = [self._pool.submit(act, item) for item in items]
        try:
            for one in waiting:
                one.result()
        finally:
            for one in waiting:
                one.cancel()
            for one in waiting:
                if not one.cancelled():
                    one.exception()
