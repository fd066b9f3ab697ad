"""The numbers of a comparison: the two tables of the study, and one line a training."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from casbah.compare.intervals import averaged, difference, over_draws
from casbah.compare.results import Measured, Results, convergence, seconds
from casbah.compare.rows import origin
from casbah.products.comparison import ComparedRow, ComparisonFacts, Draw, LabelBudget, Verdict
from casbah.products.evaluation import Interval

HOUR = 3600

Group = list[Measured]
"""One row with one budget: a draw each."""


def facts(results: Results) -> ComparisonFacts:
    """All numbers of the report. Rows are ranked, and the best one is chosen, by validation IoU alone."""
    groups = _groups(results.measured)
    budgets = {budget for _, budget in groups}
    headline = None if None in budgets or not budgets else max(one for one in budgets if one is not None)
    ranked = _ranked({name: group for (name, budget), group in groups.items() if budget == headline})
    best = next((name for name, group in ranked.items() if _validation(group) is not None), None)
    info = results.ground.parts[0].tiles.info
    said = [line for one in results.measured for line in one.test.metrics.attribution]
    return ComparisonFacts(
        best=best,
        protocol=_protocol(results.measured),
        tiles=results.ground.digest,
        blocks=len(results.measured[0].counts) if results.measured else 0,
        headline=headline,
        rows=tuple(_row(name, group, best, ranked) for name, group in ranked.items()),
        budgets=tuple(
            _budget(group, results)
            for (name, budget), group in sorted(groups.items(), key=lambda item: _place(item[0], list(ranked)))
        ),
        failed=results.failed,
        left_out=results.left_out,
        simulated=any(part.tiles.info.simulated for part in results.ground.parts)
        or any(one.test.metrics.simulated for one in results.measured),
        attribution=tuple(dict.fromkeys([*info.attribution, *said])),
        extra={
            "resolution": info.resolution,
            "building_cover": info.building_cover,
            "tile_size": info.tile_size,
            "periods": info.periods,
            "level": info.level,
            "folds": results.ground.folds,
            "train_tiles": results.ground.train_tiles,
        },
    )


def _protocol(measured: Sequence[Measured]) -> str:
    """That of all rows; where they differ (an untuned ensemble beside rows that were tuned), each with its rows."""
    rows: dict[str, list[str]] = {}
    for one in measured:
        names = rows.setdefault(one.test.metrics.protocol, [])
        names += [one.experiment] if one.experiment not in names else []
    if len(rows) < 2:
        return next(iter(rows), "")
    return "; ".join(f"{', '.join(names)}: {protocol}" for protocol, names in rows.items())


def cells(results: Results) -> list[dict[str, Any]]:
    """One line a training, and one each for what failed."""
    found = [_cell(one, number, results) for one in results.measured for number in range(len(one.models))]
    for failed in results.failed:
        budget = failed.budget or "all"
        found.append(failed.model_dump(include={"experiment", "seed", "fold", "why"}) | {"budget": budget})
    return found


COLUMNS = (
    "experiment", "seed", "budget", "fold", "tiles", "km2", "starts_from", "parameters", "epochs", "best_epoch",
    "convergence", "seconds", "device", "precision", "tiles_per_second", "peak_memory", "threshold", "validation_iou",
    "run_validation_iou", "run_test_iou", "run_test_f1", "model", "why",
)  # fmt: skip
"""Of `cells`; those that begin with `run_` are of all folds together."""


def _cell(one: Measured, number: int, results: Results) -> dict[str, Any]:
    model, part = one.models[number], results.ground.parts[number]
    training, labels = model.training, results.ground.labels(part.fold, one.budget, one.seed)
    scores = one.test.metrics.building
    return {
        "experiment": one.experiment,
        "seed": one.seed,
        "budget": one.budget or "all",
        "fold": part.fold,
        "tiles": labels.tiles,
        "km2": labels.km2,
        "starts_from": training.weights_origin,
        "parameters": training.parameters,
        "epochs": training.epochs,
        "best_epoch": training.best_epoch,
        "convergence": convergence(model),
        "seconds": training.seconds,
        "device": one.device,
        "precision": training.precision,
        "tiles_per_second": training.tiles_per_second,
        "peak_memory": training.peak_memory,
        "threshold": training.threshold,
        "validation_iou": (model.metrics.get("validation") or {}).get("iou"),
        "run_validation_iou": one.validation_iou,
        "run_test_iou": scores.iou.value,
        "run_test_f1": scores.f1.value,
        "model": model.digest,
    }


def _groups(measured: Sequence[Measured]) -> dict[tuple[str, int | None], Group]:
    def row(one: Measured) -> tuple[str, int]:
        return one.experiment, one.budget or 0

    ordered = sorted(measured, key=lambda one: (*row(one), one.seed))
    return {(name, budget or None): list(group) for (name, budget), group in groupby(ordered, row)}


def _validation(group: Group) -> float | None:
    return over_draws([one.validation_iou for one in group]).value


def _ranked(groups: dict[str, Group]) -> dict[str, Group]:
    """Best on validation first; of equals the one with fewer parameters, as `casbah select` takes it."""

    def place(item: tuple[str, Group]) -> tuple[float, int, str]:
        value = _validation(item[1])
        return (-value if value is not None else 1.0), _parameters(item[1]), item[0]

    return dict(sorted(groups.items(), key=place))


def _parameters(group: Group) -> int:
    return max(model.training.parameters for one in group for model in one.models)


def _place(key: tuple[str, int | None], names: list[str]) -> tuple[int, str, float]:
    name, budget = key
    return (names.index(name) if name in names else len(names)), name, (float("inf") if budget is None else budget)


def _row(name: str, group: Group, best: str | None, ranked: dict[str, Group]) -> ComparedRow:
    tables = [one.counts for one in group]
    scores = averaged(tables)
    gap = difference(tables, [one.counts for one in ranked[best]]) if best else Interval(value=None)
    said = origin(group[0].models[0])
    iou = [one.test.metrics.building.iou.value for one in group]
    spread = float(np.std([value for value in iou if value is not None], ddof=1)) if _several(iou) else None
    return ComparedRow(
        experiment=name,
        **said._asdict(),
        parameters=_parameters(group),
        validation_iou=_validation(group),
        iou=scores["iou"],
        f1=scores["f1"],
        draws=tuple(
            Draw(
                seed=one.seed,
                validation_iou=one.validation_iou,
                iou=one.test.metrics.building.iou.value,
                f1=one.test.metrics.building.f1.value,
            )
            for one in group
        ),
        spread=spread,
        difference=gap,
        verdict="best" if name == best else verdict(gap),
    )


def _several(values: Sequence[float | None]) -> bool:
    return sum(value is not None for value in values) > 1


def verdict(gap: Interval) -> Verdict:
    """What an interval of the difference to the best row says."""
    if gap.low is None or gap.high is None:
        return "undefined"
    if gap.low <= 0 <= gap.high:
        return "within noise"
    return "better" if gap.low > 0 else "worse"


def _budget(group: Group, results: Results) -> LabelBudget:
    first = group[0]
    labels = [results.ground.labels(part.fold, one.budget, one.seed) for one in group for part in results.ground.parts]
    areas = [one.km2 for one in labels]
    found = [convergence(model) for one in group for model in one.models]
    epochs = [value for value in found if value is not None]
    return LabelBudget(
        experiment=first.experiment,
        budget=first.budget,
        tiles=float(np.mean([one.tiles for one in labels])),
        km2=None if None in areas else float(np.mean([area for area in areas if area is not None])),
        draws=len(group),
        iou=over_draws([one.test.metrics.building.iou.value for one in group]),
        convergence=float(np.mean(epochs)) if epochs else None,
        convergence_unit="rounds" if first.models[0].training.kind == "trees" else "epochs",
        device_hours=float(np.mean([seconds(one.models) for one in group])) / HOUR,
        device=", ".join(sorted({one.device for one in group})),
        peak_memory=max(model.training.peak_memory for one in group for model in one.models),
    )
