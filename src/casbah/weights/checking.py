"""Looks at every file of published weights on this machine: what is right, partial, tampered with, or unknown."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from casbah.errors import InputError
from casbah.weights.local import LocalStore, check_digests, digests_of
from casbah.weights.manifest import Published, entries

State = Literal["good", "pinned", "absent", "partial", "tampered", "unknown"]
"""`good`: as published. `pinned`: as it first came, and no published hash is known. `unknown`: not in the manifest."""


@dataclass(frozen=True)
class Verdict:
    """What was found of one name."""

    name: str
    state: State
    text: str


def verify() -> Iterator[Verdict]:
    """Hash every file in the local store again; one verdict for each name, first those of the manifest."""
    store = LocalStore()
    for entry in entries().values():
        yield _verdict(entry, store)
    folders = sorted(store.root.iterdir()) if store.root.is_dir() else []
    for folder in folders:
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in entries():
            yield Verdict(folder.name, "unknown", f"{folder} is not in the manifest, and nothing of Casbah's uses it")


def state_of(entry: Published) -> tuple[State, int]:
    """Whether a file is here, and its bytes so far; hashes nothing, so that `good` and `pinned` are claims of old."""
    store = LocalStore()
    facts = store.facts(entry)
    if facts is not None:
        return ("good" if entry.sha256 or entry.md5 or entry.sha256_prefix else "pinned"), facts.bytes
    part = store.partial(entry) / entry.file
    return ("partial", part.stat().st_size) if part.is_file() else ("absent", 0)


def _verdict(entry: Published, store: LocalStore) -> Verdict:
    try:
        facts = store.facts(entry)
        if facts is None:
            return _without_facts(entry, store)
        file = store.file(entry)
        if not file.is_file():
            return Verdict(entry.name, "tampered", f"{file} is gone: delete {file.parent} and fetch it again")
        found = digests_of(file)
        check_digests(entry, found, facts, str(file))
        check_digests(entry, found, store.pin(entry), str(file))
    except InputError as error:
        return Verdict(entry.name, "tampered", str(error))
    if entry.sha256 or entry.md5 or entry.sha256_prefix:
        return Verdict(entry.name, "good", f"sha256 {found.sha256}")
    return Verdict(entry.name, "pinned", f"sha256 {found.sha256}, as it first came; no published hash is known")


def _without_facts(entry: Published, store: LocalStore) -> Verdict:
    part = store.partial(entry) / entry.file
    if part.is_file():
        return Verdict(
            entry.name,
            "partial",
            f"{part.stat().st_size / 1e6:,.1f} MB came; `casbah weights fetch {entry.name}` goes on",
        )
    if store.folder(entry).exists():
        return Verdict(entry.name, "tampered", f"{store.folder(entry)} has no facts: delete it and fetch it again")
    return Verdict(entry.name, "absent", "not here")
