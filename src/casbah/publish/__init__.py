"""Publishing: a map and its footprints as a STAC collection, in the object store or a folder."""

from casbah.publish.stage import publish

__all__ = ["publish"]
