"""The footprints stage: what a model calls building, as polygons that a GIS opens."""

from casbah.footprints.describe import describe
from casbah.footprints.stage import footprints

__all__ = ["describe", "footprints"]
