"""`tune`: the best settings of one experiment for one TileSet, or for every fold of a k-fold by itself."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from casbah.errors import InputError
from casbah.finetune.experiment import read
from casbah.products.manifest import check_target
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileFolds, TileSet, holds_folds
from casbah.seeds import checked_seed
from casbah.tune import record
from casbah.tune import space as spaces
from casbah.tune.mirror import Mirror
from casbah.tune.study import Part, Plan, Result, run
from casbah.tune.training import Trainer


def tune(
    *,
    config: str | Path,
    tiles: str | Path,
    output: str | Path,
    trials: int = 20,
    space: str | Path | None = None,
    seed: int = 0,
    max_labels: int | None = None,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    checkpoints: str | None = None,
) -> tuple[Result, ...]:
    """Train an experiment with other settings `trials` times, and keep the best by building IoU on validation.

    The first trial is the experiment as it stands. A trial that fails (the loss became NaN, memory ran out) counts
    against the budget, which so is the same for every experiment. The test split is never read. What was finished is
    kept when this is stopped, at whatever moment, and run again: with the same `jobs` and threads it becomes the study
    that a run never stopped would have made.

    Args:
        config: YAML of the experiment, or the name of a built-in one.
        tiles: A TileSet; or TileFolds, whose every fold and refit are then tuned by themselves, since validation blocks
            of one fold are test blocks of another.
        output: Where the study goes; `fold_0` … and `refit` below it for folds, the models then in `model/fold_0` ….
        trials: How many trainings, for each fold.
        space: YAML of the search space; the built-in one for the kind of experiment where None.
        seed: Of the search. Every trial trains with the experiment's own seed.
        max_labels: As for `casbah.finetune.finetune`.
        overrides: `dotted.key=value` settings that all trials share.
        jobs: Trainings at the same time. Trial n is drawn knowing trials 0 to n - `jobs`.
        checkpoints: `s3://…` prefix that keeps the study and the checkpoints of its networks too, so that the same call
            goes on where nothing of `output` is left, as on another machine.

    Returns:
        One result for each study, in the order of the folds.

    Raises:
        InputError: The experiment, the space, the tiles or the output can't be used; nothing was written.
        WorldError: A store, a disk or the source of pretrained weights failed; run it again.
        CasbahError: Not one trial finished.
    """
    for name, number in (("--trials", trials), ("--jobs", jobs)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{name} is {number!r}; a whole number of 1 or more is wanted")
    experiment = read(config, overrides)
    among = spaces.of(experiment, space)
    plan = Plan(
        config=str(config),
        overrides=tuple(overrides),
        experiment=experiment,
        space=among,
        trials=trials,
        seed=checked_seed(seed, "--seed"),
        max_labels=max_labels,
        jobs=jobs,
    )
    parts = _parts(Path(tiles), Path(output))
    for part in parts:  # before what a store knows takes the place of something else
        _left(plan, part)
    parts = [_mirrored(part, plan, checkpoints) for part in parts]
    left = [_left(plan, part) for part in parts]
    with ThreadPoolExecutor(jobs) as threads, Trainer() as trainer:
        if any(left):
            trainer.check(
                plan.config,
                [part.tiles.path for part in parts],
                overrides=plan.overrides,
                max_labels=max_labels,
                variants=plan.variants,
            )
        return tuple(run(plan, part, trainer, threads) for part in parts)


def _parts(tiles: Path, output: Path) -> list[Part]:
    """What is tuned by itself: the TileSet, or each fold and the refit."""
    if not holds_folds(tiles):
        return [Part(None, TileSet.open(tiles), output, output / "model")]
    folds = TileFolds.open(tiles)
    if (output / record.JOURNAL).exists():
        raise InputError(f"{output} already holds the study of a single TileSet; name another output for folds")
    named = {f"fold_{number}": fold for number, fold in enumerate(folds.folds)} | {"refit": folds.refit}
    return [Part(name, fold, output / name, output / "model" / name) for name, fold in named.items()]


def _mirrored(part: Part, plan: Plan, checkpoints: str | None) -> Part:
    """The part with what keeps it at `checkpoints`, and with what is known there."""
    if checkpoints is None:
        return part
    mirror = Mirror(checkpoints, part.directory, plan.begun(part.tiles), plan.trials)
    mirror.fetch()
    return replace(part, mirror=mirror)


def _left(plan: Plan, part: Part) -> int:
    """How many trials of a study are still to be made; `InputError` where its place holds something else."""
    before = record.earlier(part.directory)
    check_target(part.model, ModelBundle.schema)
    if before is None:
        return plan.trials
    record.check_same(part.directory, before.user_attrs.get("begun", {}), plan.begun(part.tiles))
    done = len(before.trials)
    if done > plan.trials:
        raise InputError(
            f"{part.directory} holds {done} trials already, and --trials is {plan.trials}: the best would be that of a "
            f"larger budget; give --trials {done}, or name another output"
        )
    return plan.trials - done
