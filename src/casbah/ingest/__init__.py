"""Ingest: from a STAC search to a `Scene`, cloud-free composites of Sentinel-2 on one grid."""

from casbah.ingest.network import Patience
from casbah.ingest.stage import ingest

__all__ = ["Patience", "ingest"]
