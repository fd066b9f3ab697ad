"""`compare`: train and score what is missing of a study, and report all of it; `report`: of what is there."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from casbah.compare import devices, plan, processes
from casbah.compare.ground import Ground, parse_budgets, split_budgets
from casbah.compare.results import CPU, Measured, Results, check
from casbah.compare.scoring_process import SHOWN, bundles
from casbah.compare.shown import write_probabilities
from casbah.compare.writing import write
from casbah.errors import InputError
from casbah.exclusion import alone
from casbah.interruption import termination_as_interrupt
from casbah.products.comparison import Comparison, Failed
from casbah.products.evaluation import Evaluation
from casbah.products.manifest import check_target
from casbah.progress import say

BUDGETS = "50,100,200,500,2000,all"
SEEDS = 3
REPORT = "report"


def compare(
    *,
    tiles: str | Path,
    output: str | Path,
    experiments: Sequence[str] = (),
    seeds: int = SEEDS,
    budgets: str = BUDGETS,
    small: bool = False,
    trials: int = 0,
    jobs: int | None = None,
    overrides: Sequence[str] = (),
) -> Comparison:
    """Train every row of the study with every seed and budget, score it, and write the comparison.

    Args:
        tiles: A TileSet, or TileFolds: then every row is trained on each fold, and scores are pooled over the folds.
        output: Where `runs/` (models, evaluations, logs) and `report/` (the `Comparison`) go. What lies there of the
            same settings, tiles, seed and budget is not made again.
        experiments: Names or YAML files; all rows of the study without any.
        seeds: Draws: seed 0 to `seeds` - 1 of weights, of sampling, and of which tiles a budget draws.
        budgets: Numbers of training tiles with commas between, and `all`. Those beyond the tiles are left out.
        small: Take each row's variant for a CPU.
        trials: Look for every training's settings among so many trials (`casbah.tune`), on its own validation; 0
            trains each experiment as it stands.
        jobs: Processes at once; by default one a GPU, or one on the CPU.
        overrides: `dotted.key=value` settings for all rows of the kind (networks or trees) that has them.

    Returns:
        The comparison. Rows that failed are in it with why (`facts.failed`).

    Raises:
        InputError: An experiment, the tiles or an option can't be used; nothing was trained.
    """
    output = Path(output)
    check_target(output / REPORT, Comparison.schema)
    rows = plan.read_rows(experiments, small, overrides)
    wanted, places = parse_budgets(budgets), devices.slots(jobs)
    ground = Ground.open(Path(tiles))
    kept, left_out = split_budgets(wanted, ground)
    runs = plan.plan(rows, seeds, kept, ground, output, trials)
    if left_out:
        listed = ", ".join(map(str, left_out))
        say(f"left out: budgets of {listed} tiles, since there are {ground.train_tiles} to learn from")
    with alone(output, "casbah compare"), termination_as_interrupt():
        measured, failed = _run(runs, ground, places)
        return _write(output / REPORT, Results(ground, measured, failed, tuple(left_out)))


def report(
    *,
    models: Sequence[str | Path],
    validations: Sequence[str | Path],
    tests: Sequence[str | Path],
    tiles: str | Path,
    output: str | Path,
) -> Comparison:
    """Write the comparison of models that are there, from their evaluations on validation and on test.

    All three in one order; with TileFolds each model is a directory of `fold_0` …. `InputError` where they do not
    belong together, or were scored on other tiles.
    """
    if not models or not len(models) == len(validations) == len(tests):
        raise InputError(
            f"{len(models)} models, {len(validations)} evaluations on validation and {len(tests)} on test were given; "
            "one of each for every row is wanted"
        )
    check_target(Path(output), Comparison.schema)
    ground = Ground.open(Path(tiles))
    with tempfile.TemporaryDirectory(prefix="casbah-compare-") as scratch:
        measured = [
            Measured(
                bundles(Path(model), ground),
                Evaluation.open(validation),
                Evaluation.open(test),
                Path(scratch) / f"{number}.npz",
            )
            for number, (model, validation, test) in enumerate(zip(models, validations, tests, strict=True))
        ]
        results = Results(ground, tuple(measured))
        check(results)
        for one in measured:
            write_probabilities(one.models, ground, one.shown)
        return _write(Path(output), results)


def _run(
    runs: Sequence[plan.Run], ground: Ground, places: Sequence[devices.Slot]
) -> tuple[tuple[Measured, ...], tuple[Failed, ...]]:
    work = plan.all_jobs(runs, ground)
    outcome = processes.run([job for trainings, scoring in work.values() for job in (*trainings, scoring)], places)
    measured = [_measured(run, ground) for run, (_, scoring) in work.items() if scoring in outcome.done]
    whose = {
        job: (run, part.fold if part else None)
        for run, (trainings, scoring) in work.items()
        for job, part in [*zip(trainings, ground.parts, strict=True), (scoring, None)]
    }
    failed = []
    for job, failure in outcome.failed.items():
        run, fold = whose[job]
        failed.append(
            Failed(
                experiment=run.row.name,
                seed=run.seed,
                budget=run.budget,
                fold=fold,
                why=failure.why,
                exit_code=failure.exit_code,
            )
        )
    return tuple(measured), tuple(failed)


def _measured(run: plan.Run, ground: Ground) -> Measured:
    models = bundles(run.model, ground)
    scores = [Evaluation.open(run.directory / split) for split in ("val", "test")]
    ran_on = CPU if models[0].training.kind == "trees" else plan.device(run, ground)
    return Measured(models, scores[0], scores[1], run.directory / SHOWN, ran_on)


def _write(output: Path, results: Results) -> Comparison:
    check(results)
    inputs = {"tiles": results.ground.digest}
    for one in results.measured:
        name = f"{one.experiment}/{one.seed}/{one.budget or 'all'}"
        inputs |= {f"{name}/model": one.test.metrics.model, f"{name}/test": one.test.digest}
    with Comparison.write(output, parameters={}, inputs=inputs) as draft:
        write(draft, results)
    return Comparison.open(output, verify=False)
