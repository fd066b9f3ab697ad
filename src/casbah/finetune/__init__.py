"""Trains a model on a TileSet: `casbah.finetune.finetune(config=…, tiles=…, output=…)`.

What an experiment's YAML names by class path (`casbah.finetune.TileDataModule` and the others below) needs torch, and
is imported only when it is asked for, after the cure of torchvision. So take these classes from here, not from their
modules.
"""

from importlib import import_module
from typing import Any

from casbah.finetune.run import finetune
from casbah.models import torchvision_cure

CLASSES = {
    "TileDataModule": "datamodule",
    "BuildingSegmentationTask": "task",
    "ReleaseBackbone": "callbacks",
    "EpochModelCheckpoint": "callbacks",
    "StopOnNaN": "callbacks",
}
"""What an experiment's YAML may name, and the module that each lies in."""

__all__ = ["finetune", *CLASSES]


def __getattr__(name: str) -> Any:
    if name in CLASSES:
        torchvision_cure.apply()
        return getattr(import_module(f"casbah.finetune.{CLASSES[name]}"), name)
    raise AttributeError(f"module 'casbah.finetune' has no attribute {name!r}")
