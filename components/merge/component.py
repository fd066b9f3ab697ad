"""Merge: the predictions of all grid cells become one map."""

from typing import List  # noqa: UP035 - KFP reads this form alone as a list of artifacts

from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from components.images import image


@dsl.component(base_image=image("merge"), packages_to_install=[], install_kfp_package=False)
def merge(
    prediction: Output[Artifact],
    predictions: Input[List[Artifact]],  # noqa: UP006
) -> None:
    """Lays overlapping predictions together without seams.

    Args:
        prediction: One map: probability, mask, what looks unlike the training data.
        predictions: Predictions of one model on one grid lattice.
    """
    from casbah.pipeline import steps

    steps.merge(prediction, predictions=predictions)
