"""tile: cuts scenes and labels into tiles whose splits are spatially apart."""

from casbah.tile.stage import tile

__all__ = ["tile"]
