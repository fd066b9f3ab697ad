"""What all products share: a directory whose `manifest.json` says what is in it, written whole or not at all."""

import ctypes
import fcntl
import glob
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

import casbah
from casbah.errors import BAD_PATH, InputError, WorldError

MANIFEST = "manifest.json"

ABANDONED = 60.0
"""Seconds without a new file after which a directory that nobody holds is a killed writer's."""

Part = TypeVar("Part", bound="Kind")


class FileRecord(BaseModel):
    """One file of a product: its sha256 and its size in bytes."""

    model_config = ConfigDict(frozen=True)
    sha256: str
    size: int


class Kind(BaseModel):
    """The part of `manifest.json` that keeps its shape in every schema: what the product is, and who wrote it."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)
    product: str
    version: int
    casbah: str


class Manifest(Kind):
    """The contents of `manifest.json`. `inputs` maps a role (`scene`, `labels`, …) to the digest of that product."""

    created: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, FileRecord]

    @property
    def digest(self) -> str:
        """sha256 over schema, inputs and file contents: equal digests mean equal products, whenever they were made."""
        content = {
            "product": self.product,
            "version": self.version,
            "inputs": self.inputs,
            "files": {name: record.sha256 for name, record in self.files.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass
class Draft:
    """A product being written: put the files under `directory`; it becomes the product when the `with` block ends."""

    directory: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as an indented JSON file of the product."""
        text = json.dumps(value, indent=2, sort_keys=False, allow_nan=False)
        (self.directory / name).write_text(text + "\n", encoding="utf-8")


class Product:
    """A finished, checked product on disk. Make one with `write`, get one with `open`; never change one."""

    schema: ClassVar[str]
    version: ClassVar[int] = 1
    required: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Self:
        """Open a finished product and check its schema and files.

        With `verify` (the default) every file's sha256 is compared, so that a flipped byte is found here and not in a
        score. Raises `InputError` where the directory is missing, unfinished, of another kind, of a newer schema, or
        where a file is missing or changed.
        """
        path = Path(path)
        kind = read_kind(path, cls.schema)
        if kind.product != cls.schema:
            raise InputError(f"{path} is a {kind.product}; a {cls.schema} is wanted here")
        if kind.version > cls.version:
            raise InputError(
                f"{path} is a {cls.schema} of schema {kind.version}, written by casbah {kind.casbah}; this "
                f"casbah {casbah.__version__} reads up to schema {cls.version}: upgrade it or make the product again"
            )
        manifest = read_manifest(path, cls.schema)
        for name in cls.required:
            if name not in manifest.files:
                raise InputError(f"{path} is a {cls.schema} without {name}: make the product again")
        for name, record in manifest.files.items():
            _check_file(path, name, record, verify)
        return cls(path, manifest)

    @classmethod
    @contextmanager
    def write(
        cls, path: str | Path, *, parameters: Mapping[str, Any], inputs: Mapping[str, str] | None = None
    ) -> Iterator[Draft]:
        """Build a product beside `path` and rename it into place when the block ends without an error.

        A killed or failed block leaves nothing at `path` that opens; an older product of the same kind at `path` is
        replaced only by a finished one. `InputError` where something else lies at `path`.
        """
        path = Path(path)
        check_target(path, cls.schema)
        partial = path.parent / f"{_partial(path)}{uuid4().hex[:8]}"
        held: int | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _clear_abandoned(path)
            partial.mkdir()
            held = _held(partial)
            draft = Draft(partial, dict(parameters), dict(inputs or {}))
            yield draft
            files = {
                name: FileRecord(sha256=sha256_of(partial / name), size=(partial / name).stat().st_size)
                for name in _names_below(partial)
            }
            missing = [name for name in cls.required if name not in files]
            if missing:
                raise AssertionError(f"a {cls.schema} was finished without {', '.join(missing)}")
            manifest = Manifest(
                product=cls.schema,
                version=cls.version,
                casbah=casbah.__version__,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                parameters=draft.parameters,
                inputs=draft.inputs,
                files=files,
            )
            (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            replace_directory(partial, path)
        except OSError as error:
            if error.errno in BAD_PATH:
                raise InputError(
                    f"{path} can't be written: {error.strerror}; name a directory that can be, nothing was left there"
                ) from error
            # A library that writes through C may know no more than its last complaint, and keep that in the cause.
            fault = error.strerror or error.__cause__ or error
            free = shutil.disk_usage(_existing(path)).free / 1e6
            raise WorldError(
                f"{path} could not be written: {fault}; nothing was left there ({free:,.0f} MB are free on its disk)"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if held is not None:
                os.close(held)

    def copy_to(self, path: str | Path, *, replaced: Mapping[str, Any] | None = None, link: bool = False) -> Self:
        """Write this product to `path` too, its JSON files that `replaced` names with those values.

        With `link` the files take no more room, on file systems that can: for two places that Casbah alone writes.
        `InputError` where a file is not the one that was written, and as for `write`; `WorldError` as for `write`.
        """
        replaced = replaced or {}
        with self.write(path, parameters=self.manifest.parameters, inputs=self.manifest.inputs) as draft:
            for name in self.manifest.files.keys() - replaced.keys():
                _check_file(self.path, name, self.manifest.files[name], verify=True)
                target = draft.directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not (link and _linked(self.path / name, target)):
                    shutil.copyfile(self.path / name, target)
            for name, value in replaced.items():
                draft.write_json(name, value)
        return self.open(path, verify=False)


def _linked(source: Path, target: Path) -> bool:
    """Give a file a second name; False where the file system can't."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def read_kind(path: Path, wanted: str = "product") -> Kind:
    """What a product directory holds, of whichever schema; `InputError` where there is none or it can't be read."""
    return _read(Kind, path, wanted)


def read_manifest(path: Path, wanted: str = "product") -> Manifest:
    """The manifest of a product directory of any kind; `InputError` where there is none or it can't be read."""
    return _read(Manifest, path, wanted)


def _read(part: type[Part], path: Path, wanted: str) -> Part:
    if path.is_file():
        raise InputError(f"{path} is a file; a {wanted} directory is wanted, such as {path.parent}")
    if not path.is_dir():
        older = sorted(path.parent.glob(f"{glob.escape(_put_away(path))}*"))
        if older:
            raise InputError(
                f"{path} does not exist: a run was stopped while it replaced it; rename {older[0]} to it, or make the "
                f"{wanted} again"
            )
        raise InputError(f"{path} does not exist; a {wanted} directory is wanted")
    try:
        return part.model_validate_json((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} has no {MANIFEST}, so it is no finished {wanted}: run the stage that makes it"
        ) from None
    except (ValidationError, UnicodeDecodeError, json.JSONDecodeError):
        raise InputError(f"{path / MANIFEST} is damaged: make the {wanted} again") from None


def check_target(path: Path, schema: str) -> None:
    """`InputError` unless a product of this kind may be written at `path`: nothing is there, or an older one.

    A finished product is moved to its place whole, so that can't be where the process works, nor a link.
    """
    try:
        if path.is_symlink():
            raise InputError(
                f"the output {path} is a link to {path.readlink()}: name a directory itself, which is replaced as a "
                "whole"
            )
        path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(
            f"the output {path} can't be made there: {error.strerror}; name a directory that can be written"
        ) from None
    if path.samefile("."):
        raise InputError(
            f"the output {path} is the directory that you are in, which can't be replaced as a whole: name one in it"
        )
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.is_dir() and (path / MANIFEST).is_file():
        try:
            kind = read_kind(path)
        except InputError:
            raise InputError(
                f"{path} holds a damaged product (its {MANIFEST} can't be read); delete it or name another output"
            ) from None
        if kind.product == schema:
            return
    raise InputError(f"{path} already holds something else than a {schema}; name another output or empty it")


def replace_directory(new: Path, path: Path) -> None:
    """Rename the finished directory `new` to `path`, and delete what was there.

    Where the system can exchange two directories (Linux, on most local file systems), readers see the one or the other
    at every moment. Elsewhere there is none at `path` for an instant; a kill in it leaves the older one beside it under
    the name that the next `open` tells.
    """
    if not path.exists():
        new.rename(path)
        return
    old = new
    if not _exchange(new, path):
        old = path.parent / f"{_put_away(path)}{uuid4().hex[:8]}"
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two directories in one step; False where the system or the file system can't."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    # The constants are those of renameat2(2): relative paths count from the working directory.
    at_fdcwd, rename_exchange = -100, 2
    return renameat2 is not None and not renameat2(
        at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), ctypes.c_uint(rename_exchange)
    )


def _put_away(path: Path) -> str:
    """The beginning of the name under which an older product waits for its successor."""
    return f".{path.name}.partial-old-"


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _partial(path: Path) -> str:
    """How the names of directories begin that a product of this path is built in."""
    return f".{path.name}.partial-"


def _held(directory: Path) -> int | None:
    """A lock on a directory, for as long as the file that is returned stays open; None on a disk that has no locks."""
    file = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _clear_abandoned(path: Path) -> None:
    """Remove what killed writers of this product have left: nobody holds it, and nothing goes on from it."""
    for left in path.parent.glob(f"{glob.escape(_partial(path))}*"):
        with suppress(OSError):
            # One that was made just now may not be held yet.
            held = _held(left) if time.time() - left.stat().st_mtime > ABANDONED else None
            if held is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)


def _names_below(directory: Path) -> list[str]:
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())


def _check_file(path: Path, name: str, record: FileRecord, verify: bool) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError(f"{path / MANIFEST} names {name!r}, a file outside of the product: do not use it")
    file = path / name
    if not file.is_file():
        raise InputError(f"{path} lacks {name}, which its manifest lists: copy the whole directory or make it again")
    if file.stat().st_size != record.size or (verify and sha256_of(file) != record.sha256):
        raise InputError(f"{file} is not the file that was written (size or sha256 differ): make the product again")
