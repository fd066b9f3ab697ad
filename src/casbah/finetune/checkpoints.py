"""Where the checkpoints of a run lie while it trains: beside the output, and in the object store where there is one.

A run is named by its configuration, its tiles and the code that trains: another code never goes on from them.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

import casbah
from casbah.errors import CasbahError, InputError, WorldError
from casbah.finetune.experiment import digest
from casbah.progress import say
from casbah.sources import digest_of_sources
from casbah.storage import BUCKET, Location, Store, endpoint

LAST = "last.ckpt"

TRAINS = tuple(Path(casbah.__file__).parent / room for room in ("finetune", "models"))
"""Folders of the code that decides what is learned."""


def run_key(config: str, tiles: str) -> str:
    """Digest of a run from those of its configuration and its tiles, of casbah's version, and of the code that trains.

    A state that another loss or another data module wrote is thus never taken for one of this run.
    """
    return digest([config, tiles, casbah.__version__, code()])


def code() -> str:
    """Digest of the code that trains."""
    return digest_of_sources(TRAINS)


@contextmanager
def written(directory: Path) -> Iterator[None]:
    """`WorldError` naming `directory` where what the block writes there finds no room, or may not be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and "os error" not in str(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("I/O error: ")[2]
        kept = "the last whole epoch is kept: " if (directory / LAST).is_file() else ""
        raise WorldError(
            f"checkpoints could not be written to {directory}: {reason or error}; {kept}free some room there, or name "
            "another --checkpoints, and run with --resume"
        ) from error


class Place:
    """The checkpoints of one run: a local directory, mirrored to `remote` after every epoch where that is set."""

    def __init__(self, directory: Path, remote: Location | None, keep: bool) -> None:
        self.directory, self.remote, self.keep = directory, remote, keep
        self._store = Store.from_environment() if remote else None
        self._wanted: Path | None = None
        self._lock = threading.Condition()
        self._worker: threading.Thread | None = None
        self._closing = False
        self._warned = False
        self._sent: dict[str, tuple[int, int]] = {}
        self._made: list[Path] = []

    @property
    def last(self) -> Path:
        return self.directory / LAST

    def prepare(self, resume: bool) -> bool:
        """Make ready to train; True where an unfinished run lies there and is gone on with.

        Without `resume` what lies there, locally and in the store, is put away. `WorldError` where the store can't be
        reached, or the directory can't be made.
        """
        try:
            going_on = self._prepare(resume)
        except WorldError as error:
            if self.remote is None:
                raise
            raise WorldError(
                f"{error} (`--checkpoints DIRECTORY` keeps the checkpoints on this machine alone)"
            ) from error
        self._made = [folder for folder in (self.directory, *self.directory.parents) if not folder.exists()]
        with written(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        return going_on

    def _prepare(self, resume: bool) -> bool:
        if self._store is not None and self.remote is not None:
            self._store.ensure_bucket(self.remote.bucket)
        if not resume:
            if self._found():
                say(
                    f"the checkpoints of this very run in {self.remote or self.directory} are put away, and it starts "
                    "again; with --resume it would go on from them"
                )
            self._put_away()
            return False
        with written(self.directory):
            for left in (*self.directory.glob(".snapshot-*"), *self.directory.glob(".*.partial-*")):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not self.last.is_file():
            self._fetch()
        return self.last.is_file()

    def _found(self) -> bool:
        if self.last.is_file():
            return True
        return self._store is not None and self.remote is not None and self._store.exists(self.remote / LAST)

    def _put_away(self) -> None:
        """Leave no file of an earlier run that could pass for one of this, the state first, which names the others."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._store is not None and self.remote is not None:
            for found in sorted(self._store.list(self.remote), key=lambda item: not item.key.endswith(LAST)):
                self._store.remove(found)

    def _fetch(self) -> None:
        """Bring the run from the store, the state last, so that a broken download is no checkpoint."""
        if self._store is None or self.remote is None or not self._store.exists(self.remote / LAST):
            return
        for found in sorted(self._store.list(self.remote), key=lambda item: item.key.endswith(LAST)):
            self._store.get(found, self.directory / found.key.rpartition("/")[2])

    def mirror(self, directory: Path) -> None:
        """Send what lies in `directory` now to the store, behind the training; a newer state replaces a waiting one."""
        if self.remote is None:
            return
        # Files are replaced, never rewritten, so that hard links hold this epoch's.
        snapshot = directory / f".snapshot-{uuid4().hex[:8]}"
        with written(directory):
            snapshot.mkdir()
            for file in (*directory.glob("best-*.safetensors"), directory / LAST):
                try:
                    os.link(file, snapshot / file.name)
                except OSError:  # a file system without hard links
                    shutil.copy2(file, snapshot / file.name)
        with self._lock:
            waiting, self._wanted = self._wanted, snapshot
            if self._worker is None:
                self._worker = threading.Thread(target=self._upload_all, daemon=True)
                self._worker.start()
            self._lock.notify()
        if waiting is not None:
            shutil.rmtree(waiting, ignore_errors=True)

    def _upload_all(self) -> None:
        while True:
            with self._lock:
                while self._wanted is None and not self._closing:
                    self._lock.wait()
                snapshot, self._wanted = self._wanted, None
            if snapshot is None:
                return
            try:
                self._upload(snapshot)
            except CasbahError as error:
                if not self._warned:
                    alone = f"its checkpoints lie in {self.directory} alone until it is finished"
                    say(f"{error}; training goes on, and {alone}")
                self._warned = True
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)

    def _upload(self, snapshot: Path) -> None:
        """The best weights first and the state last: a state in the store always finds the weights that it names."""
        store, remote = self._store, self.remote
        if store is None or remote is None:
            raise AssertionError("nothing to mirror to")
        names = sorted((file.name for file in snapshot.iterdir()), key=lambda name: name == LAST)
        present = {found.key.rpartition("/")[2] for found in store.list(remote)}
        for name in names:
            # An object of this name that another process sent may hold what another machine made of that epoch.
            status = (snapshot / name).stat()
            version = (status.st_size, status.st_mtime_ns)
            if name not in present or self._sent.get(name) != version:
                store.put(snapshot / name, remote / name)
                self._sent[name] = version
        for name in present - set(names):
            store.remove(remote / name)

    def close(self, finished: bool) -> None:
        """Wait for the last upload; put local files away where the run is finished and nobody asked to keep them."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        if self._worker is not None:
            self._worker.join()
        if finished and not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        # What holds nothing is not left behind: neither the folder of runs that are all finished, nor one of a run that
        # was refused.
        for folder in (*self._made, *([] if self.keep else [self.directory.parent])):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def mirror() -> Location | None:
    """Where runs mirror their checkpoints by default; None where the environment names no store.

    Keys alone name none: without an endpoint they are Amazon's, where the bucket `casbah` is somebody's.
    """
    return Location(BUCKET, "checkpoints") if Store.configured() and endpoint() is not None else None


def place(checkpoints: str | Path | None, output: Path, key: str) -> Place:
    """Where the run `key` (see `run_key`) keeps its checkpoints.

    By default beside `output`, mirrored to `s3://casbah/checkpoints/<key>/` where the environment names a store (its
    endpoint and credentials); `checkpoints` names another prefix in a store (`s3://…`), or a directory that keeps them
    after the run as well.
    """
    beside = output.parent / f".{output.name}.checkpoints" / key[:16]
    if checkpoints is None:
        shared = mirror()
        return Place(beside, shared / key if shared else None, keep=False)
    if "://" in str(checkpoints):
        return Place(beside, Location.parse(str(checkpoints)) / key, keep=False)
    directory = Path(checkpoints)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file; checkpoints need a directory or an s3:// address")
    return Place(directory / key[:16], None, keep=True)
