"""The processes of one training, as torchrun starts them: who is the first, and what they tell each other.

They meet in torchrun's store of keys and values, not in collectives of torch: a process that waits there, for weights
that are fetched or a bundle that is written, waits as long as it takes, and hears at once where another one failed.
"""

import _thread
import atexit
import itertools
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from casbah import journal
from casbah.errors import CasbahError, InputError, WorldError
from casbah.progress import console

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""What torchrun sets in every process that it starts; RANK and WORLD_SIZE alone may be a pod's, not a process's."""

STOPPED = 130
"""The exit code of a process that was asked to end."""

BETWEEN = 0.05
"""Seconds between two looks into the store."""

PATIENCE = 10.0
"""Seconds for the process that failed first to say why, and for another one to end in order."""

PART = 4 * 2**20
"""Bytes of a file in one value: the store takes 8 MiB at most."""

_numbers = itertools.count()


class Ranks:
    """The processes that train together, seen from one of them; without torchrun the only one."""

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._turn = 0
        self._left = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes."""
        return self.rank == 0

    @property
    def failure(self) -> int | None:
        """The exit code that another process failed with, or this one; None while all is well."""
        if self._store is None:
            return None
        try:
            return int(self._store.get("failed").decode().split()[1]) if self._store.check(["failed"]) else None
        except RuntimeError as error:
            raise WorldError(
                f"process {self.rank} of {self.size} lost the first one: its node is gone, or the network; run it "
                "again with --resume"
            ) from error

    def meet(self) -> None:
        """Wait until every process is here."""
        if self._store is not None:
            key = self._key("here")
            self._store.add(key, 1)
            self._wait(lambda: self._store.add(key, 0) >= self.size)

    def told(self, make: Callable[[], Any]) -> Any:
        """What `make` gives in the first process, in every process; a plain value, as JSON holds it."""
        if self._store is None:
            return make()
        key = self._key("told")
        if self.first:
            value = make()
            self._store.set(key, json.dumps(value))
            return value
        self._wait(lambda: self._store.check([key]))
        return json.loads(self._store.get(key))

    def agree(self, value: str) -> None:
        """`InputError` in every process whose `value` is not that of the first; goes on when all agree."""
        if self.told(lambda: value) != value:
            raise InputError(
                f"process {self.rank} of {self.size} has other tiles, another configuration or another Casbah than the "
                "first: give every node the same command, the same tiles and the same image"
            )
        self.meet()

    @contextmanager
    def seen(self, file: Path) -> Iterator[Path]:
        """A file of the first process: the same one where this process sees it too, else a copy for the while."""
        if self._store is None:
            yield file
            return
        stamp = self.told(lambda: _stamp(file))
        lacks, key = _stamp(file) != stamp, self._key("lack")
        if lacks:
            self._store.add(key, 1)
        self.meet()
        lacking = self._store.add(key, 0)
        with tempfile.TemporaryDirectory(prefix="casbah-") as folder:
            copy = Path(folder) / file.name
            if self.first and lacking:
                self._send(file, key, stamp[0], lacking)
            elif lacks:
                self._receive(copy, key, stamp[0])
            yield copy if lacks else file

    def _send(self, file: Path, key: str, size: int, lacking: int) -> None:
        with open(file, "rb") as source:
            for number in range(-(-size // PART)):
                part, got = f"{key}/{number}", f"{key}/{number}/got"
                self._store.set(part, source.read(PART))
                self._wait(partial(self._reached, got, lacking))
                self._store.delete_key(part)

    def _receive(self, file: Path, key: str, size: int) -> None:
        with open(file, "wb") as target:
            for number in range(-(-size // PART)):
                part = f"{key}/{number}"
                self._wait(partial(self._store.check, [part]))
                target.write(self._store.get(part))
                self._store.add(f"{part}/got", 1)

    def _reached(self, key: str, number: int) -> bool:
        return int(self._store.add(key, 0)) >= number

    def _key(self, what: str) -> str:
        """A key of its own for each thing told: all processes tell and hear them in one order."""
        self._turn += 1
        return f"{what}/{self._turn}"

    def _wait(self, done: Callable[[], bool]) -> None:
        while True:
            if (code := self.failure) is not None:
                raise SystemExit(code)
            if done():
                return
            time.sleep(BETWEEN)

    def watch(self) -> None:
        """End this process soon after another one failed, also where it waits in a collective that never ends."""
        self._watcher.start()

    def _watch(self) -> None:
        try:
            while self.failure is None:
                if self._left.wait(2 * BETWEEN):
                    return
            code = self.failure
        except WorldError:
            code = WorldError.exit_code
        if self._left.is_set():
            return
        _thread.interrupt_main()
        if not self._left.wait(PATIENCE):
            os._exit(STOPPED if code is None else code)

    def fail(self, error: BaseException) -> None:
        """Let the others end too. Returns in the process that failed first, which says why; the others end silently."""
        for number in (signal.SIGINT, signal.SIGTERM):  # the second is what torchrun sends when one process has ended
            signal.signal(number, signal.SIG_IGN)
        self._stop_watching()
        mine = f"{self.rank} {_code(error)}"
        try:
            told = self._store.compare_set("failed", "", mine).decode()
        except RuntimeError:  # the store is gone with its node: each says what it knows
            return
        if told == mine and (self.first or not isinstance(error, KeyboardInterrupt)):
            atexit.register(self._say_told)
            return
        if told == mine:
            raise SystemExit(STOPPED)
        if self.first and told.endswith(f" {STOPPED}"):
            return
        self._hear()
        raise SystemExit(int(told.split()[1]))

    def _stop_watching(self) -> None:
        """A thread that is inside the store when Python ends would abort the process."""
        self._left.set()
        self._watcher.join(PATIENCE)

    def _say_told(self) -> None:
        """Once this process has ended its sentence."""
        try:
            self._store.set("said", "")
        except RuntimeError:
            return

    def _hear(self) -> None:
        """Wait, but not for ever, until the process that failed first has said why."""
        start = time.monotonic()
        try:
            while not self._store.check(["said"]) and time.monotonic() - start < PATIENCE:
                time.sleep(BETWEEN)
        except RuntimeError:
            return

    def leave(self) -> None:
        """Part in order: the first goes last, since the store may be its own."""
        self.meet()
        self._stop_watching()
        start = time.monotonic()
        self._store.add("left", 1)
        while self.first and self._store.add("left", 0) < self.size and time.monotonic() - start < PATIENCE:
            time.sleep(BETWEEN)


_here = Ranks()


def current() -> Ranks:
    """The processes that this one trains with."""
    return _here


@contextmanager
def together() -> Iterator[Ranks]:
    """Join the processes that torchrun started, so that what fails in one ends all; alone where it started one.

    In all but the first nothing is shown, and the journal is left alone.
    """
    global _here
    size = int(os.environ["WORLD_SIZE"]) if LAUNCHED in os.environ else 1
    if size == 1:
        yield _here
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each process would be warned that all parameters are used
    before, quiet, account = _here, console.quiet, os.environ.get(journal.VARIABLE)
    _here = found = _joined()
    if not found.first:
        console.quiet = True
        os.environ.pop(journal.VARIABLE, None)
    found.watch()
    try:
        yield found
        found.leave()
    except BaseException as error:
        found.fail(error)
        if _is_of_another(error):
            raise WorldError(
                f"another of the {size} processes that train together ended without a word (killed, or its node is "
                "gone): run it again with --resume"
            ) from error
        raise
    finally:
        _here, console.quiet = before, quiet
        if account is not None:
            os.environ[journal.VARIABLE] = account


def _joined() -> Ranks:
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(rendezvous("env://"))
    except (RuntimeError, ValueError) as error:
        raise WorldError(
            f"the processes that torchrun started do not find each other at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')}: see that nodes reach each other, and run it again"
        ) from error
    return Ranks(rank, size, PrefixStore(f"casbah/{next(_numbers)}", store))


def _stamp(file: Path) -> list[int] | None:
    """What tells a file from another one of its name."""
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _code(error: BaseException) -> int:
    """What a command that ends by an error ends with."""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if _is_of_another(error):
        return WorldError.exit_code
    return error.exit_code if isinstance(error, CasbahError) else 1


def _is_of_another(error: BaseException) -> bool:
    """Whether torch says that a process which others wait for is gone."""
    words = ("Connection closed by peer", "Connection reset by peer", "NCCL", "gloo")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
