"""Which of several models is the best one: by building IoU on validation, never on test."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casbah.errors import InputError, WorldError
from casbah.products.evaluation import Evaluation, EvaluationMetrics
from casbah.products.manifest import check_target
from casbah.products.model import ModelBundle
from casbah.scoring import Counts, paired_block_bootstrap


@dataclass(frozen=True)
class Candidate:
    """A model and its evaluation on validation."""

    model: ModelBundle
    evaluation: Evaluation

    @property
    def metrics(self) -> EvaluationMetrics:
        return self.evaluation.metrics

    @property
    def iou(self) -> float:
        """Building IoU on validation; -1 where it is undefined, so that such a model never wins."""
        value = self.metrics.building.iou.value
        return -1.0 if value is None else value

    @property
    def counts(self) -> Mapping[str, Counts]:
        return {b.block: Counts(b.tp, b.fp, b.fn, b.tn) for b in self.metrics.blocks}


def select(
    *,
    models: Sequence[str | Path],
    evaluations: Sequence[str | Path],
    output: str | Path,
    table: str | Path | None = None,
) -> ModelBundle:
    """Copy the model with the highest validation building IoU to `output`; of equals the one with fewer parameters.

    Models and their evaluations (made with `split="val"`, all on the same tiles) may come in any order. `table` is
    where the comparison goes as Markdown, with a JSON file of the same name beside it. Raises `InputError` where an
    evaluation was made on the test split, where tiles differ, or where model and evaluation do not match.
    """
    output = Path(output)
    if table is not None and Path(table).suffix.lower() == ".json":
        raise InputError(f"{table} would be overwritten by the JSON file beside the table: give a name like table.md")
    check_target(output, ModelBundle.schema)
    candidates = _matched([ModelBundle.open(m) for m in models], [Evaluation.open(e) for e in evaluations])
    ranked = sorted(
        candidates, key=lambda c: (-c.iou, c.model.training.parameters, c.model.training.experiment, c.model.digest)
    )
    if ranked[0].iou < 0:
        raise InputError(
            "no model can be selected: none has a defined building IoU on validation; is it all unlabelled?"
        )
    best = ranked[0].model.copy_to(output)
    if table is not None:
        _write_table(Path(table), ranked)
    return best


def _matched(models: Sequence[ModelBundle], evaluations: Sequence[Evaluation]) -> list[Candidate]:
    if not models:
        raise InputError("no model was given; give at least one --model with its --evaluation")
    for evaluation in evaluations:
        if evaluation.metrics.split != "val":
            raise InputError(
                f"{evaluation.path} was made on the {evaluation.metrics.split} split; a model is selected on "
                "validation alone, so that the test split stays unseen: run `casbah evaluate --split val`"
            )
    _check_same_tiles(evaluations)
    of = {evaluation.metrics.model: evaluation for evaluation in evaluations}
    candidates = []
    for model in models:
        if model.digest not in of:
            raise InputError(
                f"{model.path} has no evaluation among those given: run `casbah evaluate --split val` on it"
            )
        candidates.append(Candidate(model, of.pop(model.digest)))
    if of:
        extra = ", ".join(str(evaluation.path) for evaluation in of.values())
        raise InputError(f"{extra} scores a model that was not given: give it with --model, or leave this out")
    return candidates


def _check_same_tiles(evaluations: Sequence[Evaluation]) -> None:
    first = evaluations[0] if evaluations else None
    for evaluation in evaluations:
        if first is not None and evaluation.metrics.tiles != first.metrics.tiles:
            raise InputError(
                f"{first.path} and {evaluation.path} were made on different tiles ({first.metrics.tiles[:12]} and "
                f"{evaluation.metrics.tiles[:12]}): evaluate all models on the same TileSet"
            )


def _write_table(path: Path, ranked: Sequence[Candidate]) -> None:
    rows = [_row(candidate, ranked[0]) for candidate in ranked]
    simulated = any(candidate.metrics.simulated for candidate in ranked)
    lines = ["> **SIMULATED DATA**: no number here says anything about a real town.", ""] if simulated else []
    lines += [
        "| experiment | validation building IoU | 95 % interval | behind the best | parameters | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        behind = "" if row["selected"] else _behind(row)
        lines.append(
            f"| {row['experiment'].replace('|', '/')} | {_text(row['iou'])} | {_text(row['iou_low'])} to "
            f"{_text(row['iou_high'])} | {behind} | {row['parameters']:,} | {'selected' if row['selected'] else ''} |"
        )
    content = {"split": "val", "tiles": ranked[0].metrics.tiles, "simulated": simulated, "models": rows}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise WorldError(f"{path} could not be written: {error.strerror or error}") from error


def _row(candidate: Candidate, best: Candidate) -> dict[str, Any]:
    iou = candidate.metrics.building.iou
    difference = paired_block_bootstrap(candidate.counts, best.counts)
    return {
        "experiment": candidate.model.training.experiment,
        "model": candidate.model.digest,
        "selected": candidate is best,
        "iou": iou.value,
        "iou_low": iou.low,
        "iou_high": iou.high,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "parameters": candidate.model.training.parameters,
    }


def _behind(row: Mapping[str, Any]) -> str:
    """How far a model is behind the best one, with the interval; dashes where it is undefined (a single block)."""
    value, low, high = (None if row[key] is None else -row[key] for key in ("difference", "high", "low"))
    return f"{_text(value)} ({_text(low)} to {_text(high)})"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
