"""The label stage: footprints, the cover of every pixel, and the mask that a model learns."""

from casbah.label.stage import label as label
from casbah.label.summary import describe as describe
