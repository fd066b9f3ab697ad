"""Finetune: one experiment trained on the tiles, with the settings that it has or with the best of some trials."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Markdown, Model, Output

from components.images import image


@dsl.component(base_image=image("finetune"), packages_to_install=[], install_kfp_package=False)
def finetune(
    model: Output[Model],
    tuning: Output[Markdown],
    tiles: Input[Dataset],
    experiment: str,
    seed: int,
    trials: int,
    snapshot: str,
) -> None:
    """Trains one experiment; checkpoints go to the object store, and a preempted pod goes on from the last one.

    Args:
        model: The model bundle: weights without pickle, and all that a consumer must know.
        tuning: The best trials and their settings, where there were any.
        tiles: The tile set.
        experiment: Built-in name (unet_scratch, prithvi_tiny_upernet, boosted_pixels …), or the address of a YAML.
        seed: Of weights, sampling and augmentation, and of the search.
        trials: Trainings among which the settings are looked for, on validation; 0 trains the experiment as it stands.
            An ensemble, which has none of its own, is trained as it stands in any case.
        snapshot: Date of reading, ISO; part of the cache key, so that a later date reads the YAML at an address again.
    """
    from casbah.pipeline import steps

    steps.finetune(model, tuning, tiles=tiles, experiment=experiment, seed=seed, trials=trials, snapshot=snapshot)
