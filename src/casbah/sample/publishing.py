"""Copies the sample to the object store, where a cluster's pods and the demo read it."""

from pathlib import Path

from casbah.publishing import upload
from casbah.sample.town import Town
from casbah.storage import Location, Store


def publish(directory: str | Path, location: Location, *, store: Store | None = None) -> int:
    """Upload the town at `directory` below `location`; returns how many files had to be uploaded.

    Afterwards `<location>/catalog.json` is a static catalogue whose relative links resolve. Files that are there
    already are skipped. The store is that of the environment. Raises `InputError` where `directory` is no finished
    town, `WorldError` where the store fails.
    """
    return upload(Town.open(directory), location, store or Store.from_environment())
