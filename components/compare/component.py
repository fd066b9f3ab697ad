"""Compare: every model of a study on the same tiles, in tables, figures and one report."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Model, Output

from components.images import image


@dsl.component(base_image=image("compare"), packages_to_install=[], install_kfp_package=False)
def compare(
    comparison: Output[Artifact],
    report: Output[HTML],
    summary: Output[Markdown],
    models: Input[list[Model]],
    validations: Input[list[Artifact]],
    tests: Input[list[Artifact]],
    tiles: Input[Dataset],
) -> None:
    """Reports all models side by side; they are ranked by validation, and their test scores decide nothing.

    Args:
        comparison: The comparison with all numbers, figures and report.
        report: The report as one page.
        summary: The report as text.
        models: The model bundles.
        validations: Their evaluations on the validation split, in the same order.
        tests: Their evaluations on the test split, in the same order.
        tiles: The tile set that all of them were trained on.
    """
    from casbah.pipeline import steps

    steps.compare(comparison, report, summary, models=models, validations=validations, tests=tests, tiles=tiles)
