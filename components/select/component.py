"""Select: the best experiment by validation building IoU."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Markdown, Model, Output

from components.images import image


@dsl.component(base_image=image("select"), packages_to_install=[], install_kfp_package=False)
def select(
    model: Output[Model],
    comparison: Output[Markdown],
    models: Input[list[Model]],
    evaluations: Input[list[Artifact]],
) -> None:
    """Chooses the experiment with the best validation building IoU; the test split plays no part.

    Args:
        model: The winner.
        comparison: All experiments in one table.
        models: The model bundles.
        evaluations: Their evaluations on the validation split, in the same order.
    """
    from casbah.pipeline import steps

    steps.select(model, comparison, models=models, evaluations=evaluations)
