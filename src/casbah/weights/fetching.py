"""Brings published weights to this machine: from its store, the mirror or the hub, checked before they count."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import urllib3

from casbah import progress
from casbah.addresses import shown
from casbah.errors import InputError, WorldError, unwritable
from casbah.storage import Location
from casbah.weights import download, mirror
from casbah.weights.local import VARIABLE, Facts, LocalStore, check_digests, check_space, digests_of
from casbah.weights.manifest import Published, entries, find

OFFLINE = ("1", "ON", "YES", "TRUE")
"""Values of HF_HUB_OFFLINE that huggingface_hub reads as true."""

Source = Literal["hub", "mirror"]


def path(name: str) -> Path:
    """The checked file of published weights, or of a backbone that they serve; fetched where it is not here."""
    return fetch(name)


def fetch(name: str, *, source: Source | None = None, accept: Iterable[str] = ()) -> Path:
    """The file of published weights on this machine.

    Looked for in the local store, then in the mirror where AWS_ENDPOINT_URL names a store, then at the hub; `source`
    leaves one of the latter two alone. Whatever comes is hashed before it counts, and compared with the manifest, with
    the sha256 that was first seen under this name (here and in the mirror) and with what the hub says; the first one
    seen is pinned.

    Args:
        name: An entry of the manifest, or a backbone that it serves.
        source: `hub` or `mirror`, in place of the mirror first. The pin of a mirror that answers holds for a file from
            the hub too.
        accept: Non-commercial licences that the person accepts, by name; remembered beside the store.

    Raises:
        InputError: The name is unknown, a licence was not accepted, or a file is not the published one.
        WorldError: Neither the mirror nor the hub can be reached, or the disk is full.
    """
    entry, store = find(name), LocalStore()
    accepted = _licences(entry, store, accept)
    if (here := _here(entry, store, accepted)) is not None:  # without a lock: the store may be read-only
        return here
    with store.at_work(entry):
        if (here := _here(entry, store, accepted)) is not None:  # another process brought it meanwhile
            return here
        far = mirror.Mirror() if source == "mirror" or mirror.named() else None
        there = _facts_there(entry, far, source) if far else None
        if far and there and source != "hub":
            return _from_mirror(entry, store, far, there, accepted)
        if far and source == "mirror":
            raise InputError(
                f"the mirror {far.where} has no {entry.name}: run `casbah weights mirror {entry.name}` where there is "
                "a network"
            )
        _check_accepted(entry, accepted)
        return _from_hub(entry, store, there)


def _facts_there(entry: Published, far: mirror.Mirror, source: Source | None) -> Facts | None:
    """What the mirror knows of an entry; None where that is nothing, or it is down and `source` is the hub."""
    try:
        return far.facts(entry)
    except WorldError as error:
        if source == "hub":
            progress.say(f"{error}; what comes from the hub is not compared with what the mirror has")
            return None
        hint = "" if source else f" (`casbah weights fetch {entry.name} --from hub` does without the mirror)"
        raise WorldError(f"{error}{hint}") from error


def add(name: str, file: Path, *, accept: Iterable[str] = ()) -> Path:
    """Take a file that was brought by hand (a USB stick) into the local store, checked as a download is."""
    entry, store = find(name), LocalStore()
    if not file.is_file():
        raise InputError(f"{file} is no file; the published {entry.file} is wanted")
    _check_accepted(entry, _licences(entry, store, accept))
    try:
        found = digests_of(file)
    except OSError as error:
        raise unwritable(error)(f"{file} can't be read: {error.strerror or error}") from None
    with store.at_work(entry):
        check_digests(entry, found, store.pin(entry), str(file))
        partial = _empty_partial(entry, store)
        check_space(partial, found.bytes)
        shutil.copyfile(file, partial / entry.file)
        return _installed(entry, store, source=str(file), revision=None)


def copy_to_mirror(name: str, *, accept: Iterable[str] = ()) -> tuple[Location, bool]:
    """Put published weights into the mirror, fetched first where they are not here; where, and whether it was new."""
    entry, store = find(name), LocalStore()
    file = fetch(name, accept=accept)
    facts = store.facts(entry)
    if facts is None:
        raise AssertionError("fetch leaves facts")
    new = mirror.Mirror().put(entry, file, facts)
    return mirror.PLACE / entry.name / entry.file, new


def check_available(name: str) -> None:
    """Say within seconds whether weights can be had; the errors of `fetch`, before anything is downloaded."""
    entry, store = find(name), LocalStore()
    if store.facts(entry) is not None:
        _check_accepted(entry, store.accepted(entry.licence))
        return
    if mirror.named():
        there = mirror.Mirror().facts(entry)
        if there is not None:
            _check_accepted(entry, there.accepted or store.accepted(entry.licence))
            return
    _check_accepted(entry, store.accepted(entry.licence))
    if offline():
        raise _out_of_reach(entry, "HF_HUB_OFFLINE is set")
    if fault := unanswered(entry.host):
        raise _out_of_reach(entry, f"{shown(entry.host)} does not answer ({fault})")


def offline() -> bool:
    """Whether the environment forbids the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in OFFLINE


def unanswered(address: str) -> str | None:
    """Why a server does not answer, within `download.PATIENCE` seconds; None where it does."""
    try:
        answer = download.ask(address, method="HEAD", patience=download.PATIENCE).response
    except urllib3.exceptions.HTTPError as error:
        return download.words(error)
    answer.release_conn()
    return None if answer.status < 500 else f"it answered {answer.status}"


def _licences(entry: Published, store: LocalStore, accept: Iterable[str]) -> bool:
    """Remember what is accepted; whether this entry may be used."""
    named = {known.licence for known in entries().values() if known.non_commercial}
    for licence in accept:
        if licence not in named:
            raise InputError(
                f"{licence!r} is the name of no licence to be accepted here; "
                + (f"{entry.name} is under {entry.licence!r}" if entry.non_commercial else "leave it out")
            )
        with store.at_work(entry):
            store.accept(licence)
    return store.accepted(entry.licence)


def _check_accepted(entry: Published, accepted: bool) -> None:
    if entry.non_commercial and not accepted:
        note = f" ({entry.note})" if entry.note else ""
        raise InputError(
            f"{entry.name} is under the non-commercial licence {entry.licence}{note}: read {entry.page}, and if you "
            f"accept it, run `casbah weights fetch {entry.name} --accept-licence {entry.licence}`"
        )


def _here(entry: Published, store: LocalStore, accepted: bool) -> Path | None:
    """The file that is here; None where there is none, `InputError` where it is not the one that came."""
    facts = store.facts(entry)
    if facts is None:
        return None
    _check_accepted(entry, accepted)
    file = store.file(entry)
    if not file.is_file():
        raise InputError(f"{file} is gone: delete {file.parent} and fetch {entry.name} again")
    found = digests_of(file)
    check_digests(entry, found, facts, str(file))
    check_digests(entry, found, store.pin(entry), str(file))
    return file


def _from_mirror(entry: Published, store: LocalStore, far: mirror.Mirror, there: Facts, accepted: bool) -> Path:
    if there.accepted and not accepted and entry.non_commercial and entry.licence:
        progress.say(f"{entry.name}: its licence {entry.licence} was accepted by whoever put it into the mirror")
        store.accept(entry.licence)
    else:
        _check_accepted(entry, accepted)
    progress.say(f"{entry.name}: {there.bytes / 1e6:,.1f} MB from the mirror {far.where}, {entry.stated_licence}")
    partial = _empty_partial(entry, store)
    check_space(partial, there.bytes)
    far.get(entry, partial / entry.file)
    return _installed(entry, store, source=there.source, revision=there.revision, pin=there)


def _from_hub(entry: Published, store: LocalStore, there: Facts | None) -> Path:
    if offline():
        raise _out_of_reach(entry, "HF_HUB_OFFLINE is set")
    progress.say(f"{entry.name}: from {entry.source}, licence {entry.stated_licence}, see {entry.page}")
    partial = store.partial(entry)
    partial.mkdir(parents=True, exist_ok=True)
    pin = there or store.pin(entry)
    address = entry.address(pin.revision if pin else None)
    try:
        origin = download.download(address, partial / entry.file, entry.name)
    except download.UnreachableError as error:
        raise _out_of_reach(entry, f"{shown(entry.host)} does not answer ({error})") from None
    return _installed(
        entry,
        store,
        source=origin.address,
        revision=entry.revision or origin.revision,
        pin=there,
        claimed=origin.sha256,
    )


def _installed(
    entry: Published,
    store: LocalStore,
    *,
    source: str,
    revision: str | None,
    pin: Facts | None = None,
    claimed: str | None = None,
) -> Path:
    """Hash what lies in the partial folder and let it count; a file that is not the right one is thrown away."""
    file = store.partial(entry) / entry.file
    found = digests_of(file)
    try:
        check_digests(entry, found, pin, shown(source), claimed)
        check_digests(entry, found, store.pin(entry), shown(source))
    except InputError:
        shutil.rmtree(store.partial(entry), ignore_errors=True)
        raise
    known = entry.sha256 or entry.sha256_prefix or entry.md5 or pin or store.pin(entry)
    where = store.install(entry, found, source=source, revision=revision)
    if not known:
        progress.say(f"{entry.name}: no hash was known; sha256 {found.sha256} is pinned from now on")
    return where


def _empty_partial(entry: Published, store: LocalStore) -> Path:
    partial = store.partial(entry)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _out_of_reach(entry: Published, why: str) -> WorldError:
    """The one sentence for who is offline, with the two commands that help."""
    kept = "the mirror has no copy" if mirror.named() else "no mirror is named (AWS_ENDPOINT_URL)"
    return WorldError(
        f"{entry.name} ({entry.source}) is not in {LocalStore().root} ({VARIABLE}), {kept}, and {why}. Where there is "
        f"a network run `casbah weights mirror {entry.name}` into a store that this machine reaches, or bring "
        f"{entry.file} here and run `casbah weights add {entry.name} FILE`"
    )
