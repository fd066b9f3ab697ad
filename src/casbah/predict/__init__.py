"""The predict stage: a model's map of a whole scene."""

from casbah.predict.blending import blended

__all__ = ["blended"]
