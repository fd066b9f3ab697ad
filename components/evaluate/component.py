"""Evaluate: Building IoU, F1, precision and recall with intervals, calibration and a report."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Markdown, Metrics, Model, Output

from components.images import image


@dsl.component(base_image=image("evaluate"), packages_to_install=[], install_kfp_package=False)
def evaluate(
    evaluation: Output[Artifact],
    scores: Output[Metrics],
    confusion: Output[ClassificationMetrics],
    report: Output[HTML],
    summary: Output[Markdown],
    model: Input[Model],
    tiles: Input[Dataset],
    split: str,
    seed: int,
) -> None:
    """Scores a model on blocks that it has not seen, against two baselines that need no model.

    Args:
        evaluation: The evaluation with per-block counts, figures and report.
        scores: Building-class scores with their 95 % intervals.
        confusion: Pixels by truth and prediction.
        report: The report as one page.
        summary: The report as text.
        model: The model bundle.
        tiles: The tile set that it was trained on.
        split: val while experiments are compared, test once for the winner.
        seed: Of the block bootstrap.
    """
    from casbah.pipeline import steps

    steps.evaluate(evaluation, scores, confusion, report, summary, model=model, tiles=tiles, split=split, seed=seed)
