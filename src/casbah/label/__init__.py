"""The label stage: footprints, the cover of every pixel, and the mask that a model learns."""

from casbah.label.stage import label
from casbah.label.summary import describe

__all__ = ["describe", "label"]
