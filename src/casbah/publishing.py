"""Products copied to the object store, file by file, where a cluster's pods and other people read them."""

from casbah.errors import InputError
from casbah.products.manifest import MANIFEST, FileRecord, Manifest, Product
from casbah.progress import task
from casbah.storage import Location, Store


def upload(product: Product, location: Location, store: Store) -> int:
    """Upload a product below `location`; returns how many files had to be uploaded.

    Files that are there already (by the sha256 in the manifest that was published with them) are skipped, and those of
    an older product that this one has not are removed. `WorldError` where the store fails.
    """
    store.ensure_bucket(location.bucket)
    there = _published(store, location)
    wanted = product.manifest.files
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
            store.put(product.path / name, location / name)
            progress.advance()
    store.put(product.path / MANIFEST, location / MANIFEST)
    return len(missing)


def _published(store: Store, location: Location) -> dict[str, FileRecord]:
    """What the manifest at `location` vouches for and the store really holds."""
    try:
        manifest = Manifest.model_validate_json(store.read(location / MANIFEST))
    except (InputError, ValueError):
        return {}
    held = {found.key for found in store.list(location / "")}
    return {name: record for name, record in manifest.files.items() if (location / name).key in held}
