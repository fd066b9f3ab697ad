"""UrbanGraphSAGE: an image becomes a graph of superpixels, GraphSAGE reads it, and pixels get their classes from it.

`register()` makes `UrbanGraphSAGEFactory` a model factory of TerraTorch, so that an experiment names it like any other.
"""

from collections.abc import Sequence
from typing import Any

from casbah.errors import InputError
from casbah.models.normalisation import Normalisation

FACTORY = "UrbanGraphSAGEFactory"
"""What an experiment says under `model_factory`."""


def register() -> None:
    """Put the factory into TerraTorch's registry; a second call changes nothing."""
    from terratorch.registry import MODEL_FACTORY_REGISTRY

    from casbah.models.graph.factory import UrbanGraphSAGEFactory

    MODEL_FACTORY_REGISTRY.register(UrbanGraphSAGEFactory)


def arguments_of(bands: Sequence[str], normalisation: Normalisation) -> dict[str, Any]:
    """What the data decide of the factory's arguments, as plain values that YAML holds.

    `bands` are ESA's names. `InputError` where images are stretched before they are standardised: indices are made of
    reflectance, which mean and deviation alone do not give back then.
    """
    if normalisation.low is not None:
        raise InputError(
            f"{FACTORY} makes indices of reflectance, and the normalisation ({normalisation.source}) cuts it off: set "
            "data.init_args.normalisation to train"
        )
    mean, std = normalisation.mean, normalisation.std
    return {
        "bands": list(bands),
        "periods": len(mean),
        "statistics": {"mean": mean.tolist(), "std": std.tolist()},
    }
