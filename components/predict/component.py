"""Predict: a model's map of a whole scene."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.images import image


@dsl.component(base_image=image("predict"), packages_to_install=[], install_kfp_package=False)
def predict(
    prediction: Output[Artifact],
    model: Input[Model],
    scene: Input[Dataset],
    window: int = 0,
    overlap: int = -1,
    values: str = "uint8",
    threshold: float = 0.0,
    flips: bool = False,
    uncertainty: bool = False,
) -> None:
    """Maps a whole scene, in windows that are blended without seams and memory that does not grow with it.

    Args:
        prediction: Probability, mask and where the imagery looks unlike the training data, as COGs with a STAC item.
        model: A model of this run, or a registered one that `fetch` has brought.
        scene: The scene.
        window: Pixels across the windows; 0 takes as many of the model's tiles as fit in 256 (512 for a U-Net).
        overlap: Pixels that windows share; below 0 a quarter of the window, at least 64 (64 for a U-Net).
        values: uint8 (steps of 1/200) or uint16 (of 1/10000).
        threshold: Probability that makes a building; 0 takes the model's own.
        flips: Average over the eight flips and turns of each window.
        uncertainty: Also write how far an ensemble's members, or the flips, disagree.
    """
    from casbah.pipeline import steps

    steps.predict(
        prediction,
        model=model,
        scene=scene,
        window=window,
        overlap=overlap,
        values=values,
        threshold=threshold,
        flips=flips,
        uncertainty=uncertainty,
    )
