"""The store of published weights on this machine: one folder a name, with pins and accepted licences beside them."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from casbah.errors import InputError, WorldError, unwritable
from casbah.weights.manifest import Published

VARIABLE = "CASBAH_WEIGHTS"
DEFAULT = "~/.cache/casbah/weights"
FACTS = "facts.json"
PINS = "pins.json"
LICENCES = "licences.json"
PIECE = 1 << 20


class Facts(BaseModel):
    """What was seen of a file when it came: its digests are those of every later one of this name."""

    model_config = ConfigDict(frozen=True)
    name: str
    file: str
    sha256: str
    md5: str
    bytes: int
    source: str
    """An address without secrets, or the file that was given by hand."""
    revision: str | None = None
    licence: str | None = None
    accepted: bool = False
    """Whether a non-commercial licence was accepted by whoever brought it."""
    fetched: str


class Pin(BaseModel):
    """The sha256 of the first file of a name, which every later one has to have, and the revision to ask for."""

    model_config = ConfigDict(frozen=True)
    sha256: str
    revision: str | None = None


class Digests(BaseModel):
    """sha256 and md5 in hexadecimal, and the size in bytes."""

    model_config = ConfigDict(frozen=True)
    sha256: str
    md5: str
    bytes: int


def digests_of(file: Path) -> Digests:
    """Read a file once."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with open(file, "rb") as source:
        while piece := source.read(PIECE):
            sha256.update(piece)
            md5.update(piece)
            size += len(piece)
    return Digests(sha256=sha256.hexdigest(), md5=md5.hexdigest(), bytes=size)


class LocalStore:
    """`CASBAH_WEIGHTS`, or the default below the home directory."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or Path(os.environ.get(VARIABLE) or DEFAULT).expanduser()

    def folder(self, entry: Published) -> Path:
        return self.root / entry.name

    def file(self, entry: Published) -> Path:
        """Where the file lies once it is whole and checked."""
        return self.folder(entry) / entry.file

    def partial(self, entry: Published) -> Path:
        """Where it grows until then; kept between attempts."""
        return self.root / f".{entry.name}.partial"

    def facts(self, entry: Published) -> Facts | None:
        """What is known of a file that is here; None where it is not, or not whole."""
        try:
            return Facts.model_validate_json((self.folder(entry) / FACTS).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValidationError, UnicodeDecodeError):
            raise InputError(
                f"{self.folder(entry) / FACTS} is damaged: delete {self.folder(entry)} and fetch {entry.name} again"
            ) from None

    def pin(self, entry: Published) -> Pin | None:
        """What was seen first under this name; None where nothing was yet."""
        pin = self._table(PINS).get(entry.name)
        return Pin.model_validate(pin) if pin else None

    def _set_pin(self, entry: Published, pin: Pin) -> None:
        with self._alone(".pins"):
            self._save(PINS, self._table(PINS) | {entry.name: pin.model_dump()})

    def accepted(self, licence: str | None) -> bool:
        return licence in self._table(LICENCES)

    def accept(self, licence: str) -> None:
        """Remember, by its name, a licence that the person has accepted."""
        with self._alone(".licences"):
            if not self.accepted(licence):
                self._save(LICENCES, self._table(LICENCES) | {licence: _now()})

    def install(self, entry: Published, digests: Digests, *, source: str, revision: str | None) -> Path:
        """Let the file in the partial folder become the file of this name, in one rename; returns where it is."""
        partial, folder = self.partial(entry), self.folder(entry)
        facts = Facts(
            name=entry.name,
            file=entry.file,
            **digests.model_dump(),
            source=source,
            revision=revision,
            licence=entry.licence,
            accepted=entry.non_commercial,
            fetched=_now(),
        )
        for other in partial.iterdir():
            if other.name != entry.file:
                other.unlink()
        (partial / FACTS).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if self.pin(entry) is None:  # before the file counts, so that none does without
            self._set_pin(entry, Pin(sha256=digests.sha256, revision=revision))
        old = self.root / f".{entry.name}.old-{uuid4().hex[:8]}"
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        return self.file(entry)

    @contextmanager
    def at_work(self, entry: Published) -> Iterator[None]:
        """One process at a time brings a file; `InputError` or `WorldError` where the store can't be written."""
        try:
            with self._alone(f".{entry.name}"):
                yield
        except OSError as error:
            raise unwritable(error)(
                f"the weights of {entry.name} can't be kept in {self.root}: {error.strerror or error}; make room, or "
                f"let {VARIABLE} name another directory"
            ) from error

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _table(self, name: str) -> dict[str, Any]:
        try:
            table = json.loads((self.root / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (json.JSONDecodeError, UnicodeDecodeError):
            table = None
        if not isinstance(table, dict):
            raise InputError(f"{self.root / name} is damaged: delete it, and fetch what it spoke of again")
        return table

    def _save(self, name: str, table: dict[str, Any]) -> None:
        partial = self.root / f".{name}.partial-{uuid4().hex[:8]}"
        partial.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(self.root / name)


def check_digests(
    entry: Published, found: Digests, pin: Pin | Facts | None, what: str, claimed: str | None = None
) -> None:
    """`InputError` naming both hashes where a file is not the published one, or not the one that was seen first.

    `claimed` is the sha256 that the server gave for what it sent.
    """
    wanted = (
        ("sha256", entry.sha256, found.sha256, "the manifest says"),
        ("sha256", entry.sha256_prefix, found.sha256[: len(entry.sha256_prefix or "")], "its published name says"),
        ("md5", entry.md5, found.md5, "the manifest says"),
        ("sha256", pin.sha256 if pin else None, found.sha256, "the first file of this name had"),
        ("sha256", claimed, found.sha256, "the hub says"),
    )
    for kind, right, here, who in wanted:
        if right is not None and right != here:
            raise InputError(
                f"{what} is not the published file of {entry.name}: its {kind} is {here}, and {who} {right}; it may "
                "have been tampered with, and is not used"
            )
    if entry.bytes is not None and entry.bytes != found.bytes:
        raise InputError(f"{what} has {found.bytes} bytes and the published file of {entry.name} {entry.bytes}")


def check_space(folder: Path, needed: int | None) -> None:
    """`WorldError` where a file of so many bytes won't fit on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise WorldError(
            f"{needed / 1e6:,.0f} MB are to be downloaded and {free / 1e6:,.0f} MB are free at {folder}: make room, or "
            f"let {VARIABLE} name another directory"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
