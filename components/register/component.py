"""Register: the winner as a version in MLflow, champion only on evidence."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from components.images import image


@dsl.component(base_image=image("register"), packages_to_install=[], install_kfp_package=False)
def register(
    registration: Output[Markdown],
    versions: Output[Metrics],
    model: Input[Model],
    evaluation: Input[Artifact],
    tiles: Input[Dataset],
    name: str,
    run: str,
) -> None:
    """Logs the model as a version of `name`; it becomes champion only if unseen blocks say that it is better.

    Args:
        registration: What became of the model and why.
        versions: The number of the version.
        model: The model bundle.
        evaluation: Its evaluation on the test split.
        tiles: The tile set of the evaluation, on which an older champion can be scored anew.
        name: Name of the registered model.
        run: Id of the pipeline run, which the version names.
    """
    from casbah.pipeline import steps

    steps.register(registration, versions, model=model, evaluation=evaluation, tiles=tiles, name=name, run=run)
