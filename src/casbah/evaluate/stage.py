"""The stage itself: open, score, write the numbers and the report."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from casbah.errors import InputError
from casbah.evaluate.cases import Cases, open_cases
from casbah.evaluate.lineage import lineage
from casbah.evaluate.report import write_report
from casbah.evaluate.scored import BACKGROUND, INDEX, MODEL, UNALIGNED, Scored, add_context, score
from casbah.products.evaluation import BlockCounts, Evaluation, EvaluationMetrics, Interval, Scores
from casbah.products.manifest import check_target
from casbah.products.tiles import SPLITS
from casbah.scoring import Counts, block_bootstrap
from casbah.seeds import checked_seed

RESAMPLES = 1000


def evaluate(
    *,
    model: str | Path,
    tiles: str | Path,
    output: str | Path,
    split: str = "test",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Score a model on blocks that it has not seen, against two baselines, and write the report.

    Building IoU, F1, precision and recall are pooled over the blocks of `split`, each with a 95 % interval over
    `resamples` draws of blocks (seeded by `seed`). The threshold is the bundle's, which validation chose; the built-up
    index gets its own from validation too. Where tiles overlap, each pixel is scored once, by the mean of its
    probabilities. With directories of folds for `tiles` and `model` (bundles `fold_0` …) the scores are pooled over the
    folds, each block being tested once. Raises `InputError` where model and tiles do not fit, where the split is empty,
    or where the model has seen blocks of it; nothing is written then.
    """
    output = Path(output)
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; 1 or more is wanted (1000 gives steady 95 % intervals)")
    checked_seed(seed, "--seed")
    check_target(output, Evaluation.schema)
    cases = open_cases(Path(model), Path(tiles), split)
    with tempfile.TemporaryDirectory(prefix="casbah-evaluate-") as scratch:
        scored = score(cases, split, Path(scratch))
        metrics = _metrics(cases, scored, split, resamples, seed)
        _add_other_splits(cases, scored, split, Path(scratch))
        parameters = {"split": split, "resamples": resamples, "seed": seed}
        inputs = {"model": cases.model_digest, "tiles": cases.tiles_digest}
        with Evaluation.write(output, parameters=parameters, inputs=inputs) as draft:
            draft.write_json("metrics.json", metrics.model_dump(mode="json"))
            write_report(draft.directory, metrics, scored, cases)
    return Evaluation.open(output, verify=False)


def _add_other_splits(cases: Cases, scored: Scored, split: str, scratch: Path) -> None:
    if cases.folds:
        return  # every block is in the pictures already, as the test block of its fold
    for other in SPLITS:
        if other != split:
            add_context(cases.cases[0].tiles, other, scored, scratch)


def _metrics(cases: Cases, scored: Scored, split: str, resamples: int, seed: int) -> EvaluationMetrics:
    first = cases.cases[0]
    infos = [case.tiles.info for case in cases.cases]
    trainings = [case.model.training for case in cases.cases]
    said = [line for info in infos for line in info.attribution] + [t for one in trainings for t in one.attribution]

    def scores_of(table: Mapping[str, Counts]) -> Scores:
        found = block_bootstrap(table, resamples=resamples, seed=seed)
        return Scores(**{name: Interval(**estimate._asdict()) for name, estimate in found.items()})

    fold_of = {shot.block: shot.fold for shot in scored.shots}
    return EvaluationMetrics(
        experiment=first.model.training.experiment,
        split=split,
        protocol=_protocol(cases, split),
        threshold=median(training.threshold for training in trainings),
        threshold_source="validation of each fold (the number is their median)" if cases.folds else "validation",
        building=scores_of(scored.tables[MODEL]),
        baselines={name: scores_of(scored.tables[name]) for name in (BACKGROUND, INDEX) if name in scored.tables},
        unaligned=scores_of(scored.tables[UNALIGNED]) if UNALIGNED in scored.tables else None,
        ece=scored.calibration.ece(),
        reliability=tuple(scored.calibration.curve()),
        blocks=tuple(
            BlockCounts(block=block, fold=fold_of[block], **counts._asdict())
            for block, counts in sorted(scored.tables[MODEL].items())
        ),
        tiles=cases.tiles_digest,
        model=cases.model_digest,
        simulated=any(info.simulated for info in infos) or any(training.simulated for training in trainings),
        attribution=tuple(dict.fromkeys(said)),
        extra=_extra(cases, scored, split),
    )


def _protocol(cases: Cases, split: str) -> str:
    tuned = f"; settings too, among {cases.trials} trial{'s' * (cases.trials > 1)}" if cases.trials else ""
    if cases.folds:
        return f"spatial {cases.folds}-fold, pooled; thresholds from each fold's own validation{tuned}"
    return {
        "test": f"hold-out; threshold from validation{tuned}" if tuned else "hold-out",
        "val": "validation: the threshold and the best epoch were chosen on these blocks",
        "train": "training: the model learned from these blocks",
    }[split]


def _extra(cases: Cases, scored: Scored, split: str) -> dict[str, Any]:
    index = [
        {"fold": case.fold, "index": baseline.index.name, "formula": baseline.index.source}
        | {"threshold": baseline.threshold, "validation_iou": baseline.validation_iou}
        for case, baseline in zip(cases.cases, scored.baselines, strict=True)
        if baseline is not None
    ]
    folds = [
        {"fold": case.fold, "model": case.model.digest, "tiles": case.tiles.digest}
        | {"threshold": case.model.training.threshold, "config": case.model.training.config}
        | {"trials": case.model.training.trials, "asked": case.model.asked}
        for case in cases.cases
    ]
    return {
        "built_up_index": index,
        "folds": folds if cases.folds else [],
        "overlap": "each pixel is scored once, by the mean probability of the tiles that hold it",
        "level": cases.cases[0].tiles.info.level,
        "periods": cases.cases[0].tiles.info.periods,
        "resolution": cases.cases[0].tiles.info.resolution,
        "building_cover": cases.cases[0].tiles.info.building_cover,
        "parameters": cases.cases[0].model.training.parameters,
        "lineage": lineage(cases),
    }
