"""UrbanGraphSAGE: an image becomes a graph of superpixels, GraphSAGE reads it, and pixels get their classes from it.

`register()` makes `UrbanGraphSAGEFactory` a model factory of TerraTorch, so that an experiment names it like any other.
"""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

FACTORY = "UrbanGraphSAGEFactory"
"""What an experiment says under `model_factory`."""


def register() -> None:
    """Put the factory into TerraTorch's registry; a second call changes nothing."""
    from terratorch.registry import MODEL_FACTORY_REGISTRY

    from casbah.models.graph.factory import UrbanGraphSAGEFactory

    MODEL_FACTORY_REGISTRY.register(UrbanGraphSAGEFactory)


def arguments_of(bands: Sequence[str], mean: ArrayLike, std: ArrayLike) -> dict[str, Any]:
    """What the data decide of the factory's arguments, as plain values that YAML holds.

    `bands` are ESA's names; `mean` and `std` (periods, bands) are what images are normalised with, reflectance x 10000.
    """
    import numpy as np

    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return {
        "bands": list(bands),
        "periods": len(mean),
        "statistics": {"mean": mean.tolist(), "std": std.tolist()},
    }
