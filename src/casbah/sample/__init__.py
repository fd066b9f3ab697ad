"""A simulated coastal town seen by Sentinel-2, for the demo and the tests: nothing in it was ever observed.

`make` writes it (a static STAC catalogue and the town's footprints), `casbah.sample.api` serves it as a STAC API,
`publish` copies it to the object store.
"""

from casbah.sample.catalogue import COLLECTION
from casbah.sample.publishing import publish
from casbah.sample.sky import END, START
from casbah.sample.town import SIZE, Character, Town, make

__all__ = ["COLLECTION", "END", "SIZE", "START", "Character", "Town", "make", "publish"]
