"""What a study measured: each row's models with their evaluations, and those that gave nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from casbah.compare.ground import Ground
from casbah.errors import InputError
from casbah.evaluate.cases import joined_digest
from casbah.products.comparison import Failed
from casbah.products.evaluation import Evaluation
from casbah.products.model import ModelBundle
from casbah.scoring import Counts

VALIDATION_IOU = "val/IoU_building_best"
"""The score of an epoch on validation, in the history of networks."""

WITHIN = 0.01
"""A training has converged at the first epoch whose score is within this share of the best one."""

CPU = "CPU"


@dataclass(frozen=True)
class Measured:
    """One row trained with one seed and one budget (one model, or one a fold), and scored.

    `shown` holds its probabilities of the blocks that the report shows (`casbah.compare.shown`).
    """

    models: tuple[ModelBundle, ...]
    validation: Evaluation
    test: Evaluation
    shown: Path
    device: str = CPU

    @property
    def experiment(self) -> str:
        return self.models[0].training.experiment

    @property
    def seed(self) -> int:
        return self.models[0].training.seed

    @property
    def budget(self) -> int | None:
        """Tiles that were asked for; None for all of them."""
        return self.models[0].manifest.parameters.get("max_labels")

    @property
    def validation_iou(self) -> float | None:
        return self.validation.metrics.building.iou.value

    @property
    def counts(self) -> dict[str, Counts]:
        """Of the test blocks."""
        return {b.block: Counts(b.tp, b.fp, b.fn, b.tn) for b in self.test.metrics.blocks}


@dataclass(frozen=True)
class Results:
    """All that a report is made of."""

    ground: Ground
    measured: tuple[Measured, ...]
    failed: tuple[Failed, ...] = ()
    left_out: tuple[int, ...] = ()


def check(results: Results) -> None:
    """`InputError` where models and evaluations do not belong together, or were made on other tiles."""
    seen: set[tuple[str, int, int | None]] = set()
    for one in results.measured:
        _check_one(one, results.ground)
        key = (one.experiment, one.seed, one.budget)
        if key in seen:
            raise InputError(f"{one.experiment} (seed {one.seed}) is given twice: give each model once")
        seen.add(key)


def _check_one(one: Measured, ground: Ground) -> None:
    digest = one.models[0].digest if not ground.folds else joined_digest(one.models)
    for split, evaluation in (("val", one.validation), ("test", one.test)):
        metrics = evaluation.metrics
        if metrics.split != split:
            raise InputError(f"{evaluation.path} was made on the {metrics.split} split; that on {split} is wanted here")
        if metrics.tiles != ground.digest:
            raise InputError(
                f"{evaluation.path} was made on other tiles ({metrics.tiles[:12]}) than {ground.path} "
                f"({ground.digest[:12]}): all rows are compared on the same tiles"
            )
        if metrics.model != digest:
            raise InputError(f"{evaluation.path} scores another model than {one.models[0].path}: evaluate it anew")


def convergence(model: ModelBundle) -> int | None:
    """The first epoch, counted from 1, that comes within 1 % of the best; for trees the first number of rounds.

    Networks by the building IoU on validation; where a history has none (trees) by the score that the best epoch was
    chosen by, the validation loss. None where no history was kept.
    """
    history = model.metrics.get("history") or []
    monitor = VALIDATION_IOU if any(VALIDATION_IOU in row for row in history) else model.metrics.get("monitor")
    scored = [(row, row[monitor]) for row in history if monitor is not None and row.get(monitor) is not None]
    if not scored:
        return None
    values = [value for _, value in scored]
    if str(monitor).endswith("loss"):
        best = min(values)
        first = next(row for row, value in scored if value <= best + WITHIN * abs(best))
    else:
        best = max(values)
        first = next(row for row, value in scored if value >= best - WITHIN * abs(best))
    return int(first["round"]) if "round" in first else int(first["epoch"]) + 1


def seconds(models: Sequence[ModelBundle]) -> float:
    """Of training, all folds together."""
    return sum(model.training.seconds for model in models)
