"""Ingest: from a STAC search to a `Scene`, cloud-free composites of Sentinel-2 on one grid."""

from casbah.ingest.stage import ingest
from casbah.patience import Patience

__all__ = ["Patience", "ingest"]
