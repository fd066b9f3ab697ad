"""The predict stage: a model's map of a whole scene.

`predict` maps a scene or a raster of any size; `blended` does the same for images in memory; `merge` lays maps that
overlap together.
"""

from casbah.predict.blending import blended
from casbah.predict.merging import merge
from casbah.predict.stage import predict

__all__ = ["blended", "merge", "predict"]
