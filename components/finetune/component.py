"""Finetune: one experiment trained on the tiles."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.images import image


@dsl.component(base_image=image("finetune"), packages_to_install=[], install_kfp_package=False)
def finetune(model: Output[Model], tiles: Input[Dataset], experiment: str, seed: int, snapshot: str) -> None:
    """Trains one experiment; checkpoints go to the object store, and a preempted pod goes on from the last one.

    Args:
        model: The model bundle: weights without pickle, and all that a consumer must know.
        tiles: The tile set.
        experiment: Built-in name (unet_scratch, prithvi_tiny_upernet, boosted_pixels …), or the address of a YAML.
        seed: Of weights, sampling and augmentation.
        snapshot: Date of reading, ISO; part of the cache key, so that a later date reads the YAML at an address again.
    """
    from casbah.pipeline import steps

    steps.finetune(model, tiles=tiles, experiment=experiment, seed=seed, snapshot=snapshot)
