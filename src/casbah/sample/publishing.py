"""Copies the sample to the object store, where a cluster's pods and the demo read it."""

from pathlib import Path

from casbah.errors import InputError
from casbah.products.manifest import MANIFEST, FileRecord, Manifest
from casbah.progress import task
from casbah.sample.town import Town
from casbah.storage import Location, Store


def publish(directory: str | Path, location: Location, *, store: Store | None = None) -> int:
    """Upload the town at `directory` below `location`; returns how many files had to be uploaded.

    Afterwards `<location>/catalog.json` is a static catalogue whose relative links resolve. Files that are there
    already (by the sha256 in the manifest that was published with them) are skipped. The store is that of the
    environment. Raises `InputError` where `directory` is no finished town, `WorldError` where the store fails.
    """
    town = Town.open(directory)
    store = store or Store.from_environment()
    store.ensure_bucket(location.bucket)
    there = _published(store, location)
    wanted = town.manifest.files
    missing = [name for name, record in wanted.items() if there.get(name) != record]
    if not missing and there.keys() == wanted.keys():
        return 0
    # The manifest vouches for the objects beside it, so it goes first and comes back last: an upload that is cut off
    # leaves objects that nobody vouches for, and the next one starts anew.
    store.remove(location / MANIFEST)
    for name in there.keys() - wanted.keys():
        store.remove(location / name)
    with task("publish", len(missing)) as progress:
        for name in missing:
            store.put(town.path / name, location / name)
            progress.advance()
    store.put(town.path / MANIFEST, location / MANIFEST)
    return len(missing)


def _published(store: Store, location: Location) -> dict[str, FileRecord]:
    """What the manifest at `location` vouches for and the store really holds."""
    try:
        manifest = Manifest.model_validate_json(store.read(location / MANIFEST))
    except (InputError, ValueError):
        return {}
    held = {found.key for found in store.list(location / "")}
    return {name: record for name, record in manifest.files.items() if (location / name).key in held}
