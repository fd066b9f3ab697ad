"""One study: draws settings, lets them be trained, records what came of it, and keeps the best model."""

import json
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from casbah.errors import CasbahError, InputError, WorldError, unwritable
from casbah.exclusion import alone
from casbah.finetune import checkpoints
from casbah.finetune.experiment import Experiment, digest
from casbah.products.manifest import replace_directory
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet
from casbah.progress import Task, say, task
from casbah.tune import report, suggestions
from casbah.tune.mirror import Mirror
from casbah.tune.record import Record, Trial
from casbah.tune.space import Space, overrides_of, setting
from casbah.tune.training import DEFECT, Outcome, Request, Trainer


@dataclass(frozen=True)
class Plan:
    """What is asked for, the same for every part."""

    config: str
    overrides: tuple[str, ...]
    experiment: Experiment
    space: Space
    trials: int
    seed: int
    max_labels: int | None
    jobs: int

    @property
    def variants(self) -> list[tuple[str, list[str]]]:
        """For every dimension the values whose check covers all, each with the words that a refusal begins with."""
        found = []
        middle = {dimension.key: dimension.ends()[-1] for dimension in self.space.dimensions}
        for dimension in self.space.dimensions:
            for value in dimension.ends():
                drawn = {dimension.key: value}
                if dimension.times in middle:
                    drawn[dimension.times] = middle[dimension.times]
                settings = self.space.settings(drawn, self.experiment.settings)
                tried = json.dumps(settings[dimension.key])
                found.append((f"{self.space.source}, {dimension.key} as {tried}", overrides_of(settings)))
        return found

    def begun(self, tiles: TileSet) -> dict[str, Any]:
        """What a study on these tiles is begun with: see `casbah.tune.record.WORDS`."""
        return {
            "experiment": digest(self.experiment.settings),
            "tiles": tiles.digest,
            "max_labels": self.max_labels,
            "seed": self.seed,
            "space": digest(self.space.described()),
        }


@dataclass(frozen=True)
class Part:
    """A TileSet that is tuned by itself: the name of the fold (None for a hold-out split), and where all goes."""

    name: str | None
    tiles: TileSet
    directory: Path
    model: Path
    mirror: Mirror | None = None
    """What keeps the study for another machine too."""


@dataclass(frozen=True)
class Result:
    """A finished study: its trials in order, the best of them, and where its model and its files lie."""

    plan: Plan
    part: Part
    trials: tuple[Trial, ...]

    @property
    def name(self) -> str:
        """The experiment, and the fold where there are folds."""
        return called(self.plan, self.part)

    @property
    def best(self) -> Trial:
        """The trial with the highest validation IoU; of equals the earliest."""
        found = best_of(self.trials)
        if found is None:
            raise AssertionError("a study without a finished trial has no result")
        return found

    @property
    def as_it_stands(self) -> Trial:
        """The first trial: the experiment without any change."""
        return self.trials[0]

    @property
    def finished(self) -> list[Trial]:
        """Trials with a score."""
        return [trial for trial in self.trials if trial.iou is not None]


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest validation IoU, of equals the earliest; None where none finished."""
    scored = [trial for trial in trials if trial.iou is not None]
    return max(scored, key=lambda trial: (trial.iou or 0.0, -trial.number), default=None)


def called(plan: Plan, part: Part) -> str:
    """What a study is called in all that is told of it."""
    return plan.experiment.name if part.name is None else f"{plan.experiment.name}/{part.name}"


def run(plan: Plan, part: Part, trainer: Trainer, threads: ThreadPoolExecutor) -> Result:
    """Make the trials that a study still lacks, and write what came of all of them."""
    try:
        with alone(part.directory, "casbah tune"):
            study = _Study(plan, part, trainer)
            study.make(threads)
            study.finish()
            result = Result(plan, part, tuple(study.record.trials))
            report.write(result)
    except FileNotFoundError:  # a defect, or somebody who deletes what is in use
        raise
    except OSError as error:
        place = error.filename or part.directory
        raise unwritable(error)(
            f"{called(plan, part)}: {place}: {error.strerror or error}; what is recorded is kept, and the same command "
            "goes on from there"
        ) from None
    return result


@dataclass(frozen=True)
class _Running:
    number: int
    drawn: dict[str, Any]
    settings: dict[str, Any]
    outcome: "Future[Outcome]"


class _Study:
    def __init__(self, plan: Plan, part: Part, trainer: Trainer) -> None:
        self.plan, self.part, self.trainer = plan, part, trainer
        self.name = called(plan, part)
        self.record = Record(part.directory, plan.space, plan.begun(part.tiles))
        self.code = checkpoints.code()
        self.place = part.directory / "trials"
        self.place.mkdir(exist_ok=True)

    def make(self, threads: ThreadPoolExecutor) -> None:
        """Train until the budget is spent. Trials are recorded in their order, which those that follow depend on."""
        done = len(self.record.trials)
        if done:
            say(f"{self.name}: {done} of {self.plan.trials} trials were made before, and are kept")
            self._compare_code()
        running: deque[_Running] = deque()
        with task(f"tune {self.name}", self.plan.trials, done=done) as progress:
            for number in range(done, self.plan.trials):
                if len(running) == self.plan.jobs:
                    self._take(running.popleft(), progress)
                drawn = self._draw(number, [trial.drawn for trial in running])
                settings = self.plan.space.settings(drawn, self.plan.experiment.settings)
                request = self._request(number, settings)
                running.append(_Running(number, drawn, settings, threads.submit(self.trainer.train, request)))
            while running:
                self._take(running.popleft(), progress)

    def _draw(self, number: int, running: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What a trial draws: nothing for the first, the experiment as it stands.

        It knows trials 0 to `number` - jobs, and of those between only the draws, whether or not they are recorded
        already: so a resumed study draws the same.
        """
        if number == 0:
            return {}
        known = self.record.frozen[: max(0, number - self.plan.jobs + 1)]
        between = [dict(trial.params) for trial in self.record.frozen[len(known) :]]
        drawn = [*between, *running]
        if not known:
            drawn[0] = {}  # what the first drew is only known when it has ended
        return suggestions.suggest(self.plan.space, known, drawn, seed=self.plan.seed, number=number)

    def _request(self, number: int, settings: Mapping[str, Any]) -> Request:
        return Request(
            name=f"trial {number}",
            config=self.plan.config,
            tiles=self.part.tiles.path,
            output=self.place / str(number),
            log=self.place / f"{number}.log",
            overrides=(*self.plan.overrides, *overrides_of(settings)),
            max_labels=self.plan.max_labels,
            checkpoints=self._checkpoints(number) if self.plan.experiment.is_network else None,
        )

    def _checkpoints(self, number: int) -> str | Path:
        """Where a network's trial keeps them; those of a mirrored study lie at that path too while it trains."""
        if self.part.mirror is not None and not self.part.mirror.lost:
            return self.part.mirror.checkpoints(number)
        return self.place / f".{number}.checkpoints"

    def _take(self, running: _Running, progress: Task) -> None:
        """Record what came of a trial, and keep its model if it is the best so far."""
        outcome, number = running.outcome.result(), running.number
        if outcome.bundle is None:
            self._refuse(number, outcome)
        trial = self._trial(running, outcome)
        self.record.add(trial)
        trials = self.record.trials
        self._keep_or_remove(trial, best_of(trials))
        shutil.rmtree(self.place / f".{number}.checkpoints", ignore_errors=True)
        report.write_trials(self.part.directory / "trials.csv", self.plan.space, trials)
        best = best_of(trials)
        if self.part.mirror is not None:
            self.part.mirror.keep(None if best is None else best.number, number)
        if trial.reason is not None:
            say(f"{self.name}: trial {number} failed, and counts against the budget: {trial.reason}")
        progress.advance(1, "no score yet" if best is None else f"best IoU {best.iou:.3f} (trial {best.number})")

    def _refuse(self, number: int, outcome: Outcome) -> None:
        """Raise where a failure is not that of one trial's settings."""
        reason = outcome.reason or ""
        if outcome.fault is WorldError:
            raise WorldError(f"{self.name}, trial {number}: {reason} (the same command goes on from there)")
        if number == 0 and (outcome.fault is InputError or reason.startswith(DEFECT)):
            raise (outcome.fault or CasbahError)(reason)

    def _trial(self, running: _Running, outcome: Outcome) -> Trial:
        bundle, drawn, settings = outcome.bundle, running.drawn, running.settings
        iou = None if bundle is None else bundle.metrics["validation"]["iou"]
        reason = outcome.reason if bundle is None else None if iou is not None else "validation has nothing to score"
        if running.number == 0:
            stated = self.plan.experiment.settings if bundle is None else _resolved(bundle)
            drawn = self.plan.space.drawn(stated)
            settings = {dimension.key: setting(stated, dimension.key) for dimension in self.plan.space.dimensions}
        return Trial(
            number=running.number,
            drawn=drawn,
            settings=settings,
            iou=iou,
            reason=reason,
            seconds=round(outcome.seconds if bundle is None else bundle.training.seconds, 3),
            epochs=None if bundle is None else bundle.training.epochs,
            config=None if bundle is None else bundle.training.config,
            code=self.code,
        )

    def _keep_or_remove(self, trial: Trial, best: Trial | None) -> None:
        """The best model so far lies at `part.model`; every other one has done its work."""
        bundle = self.place / str(trial.number)
        if best is not None and trial.number == best.number:
            self.part.model.parent.mkdir(parents=True, exist_ok=True)
            ModelBundle.open(bundle, verify=False).tuned_among(len(self.record.trials))
            replace_directory(bundle, self.part.model)
        else:
            shutil.rmtree(bundle, ignore_errors=True)

    def finish(self) -> None:
        """See that the best model lies where it belongs, whenever an earlier run was killed."""
        trials = self.record.trials
        best = best_of(trials)
        if best is None:
            raise CasbahError(
                f"{self.name}: none of {len(trials)} trials finished; the last one failed because {trials[-1].reason}"
            )
        if _config_of(self.part.model) != best.config:
            self._bring(best)
        ModelBundle.open(self.part.model, verify=False).tuned_among(len(trials))
        if self.part.mirror is not None:
            self.part.mirror.keep(best.number, len(trials) - 1)
        for left in self.place.iterdir():
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)

    def _bring(self, best: Trial) -> None:
        """Move the best model to its place, trained again where it is no longer there."""
        bundle = self.place / str(best.number)
        if _config_of(bundle) != best.config:
            say(f"{self.name}: the model of trial {best.number} is gone, and is made again")
            settings = self.plan.space.settings(best.drawn, self.plan.experiment.settings) if best.number else {}
            outcome = self.trainer.train(self._request(best.number, settings))
            if outcome.bundle is None:
                raise (outcome.fault or CasbahError)(f"{self.name}, trial {best.number}: {outcome.reason}")
        self._keep_or_remove(best, best)

    def _compare_code(self) -> None:
        if other := [trial.number for trial in self.record.trials if trial.code != self.code]:
            say(
                f"{self.name}: trials {', '.join(map(str, other))} were trained by an older version of the code that "
                "trains; for scores that compare in every detail name another output, and begin again"
            )


def _config_of(bundle: Path) -> str | None:
    """Digest of the configuration of the model at a path; None where no whole model lies there."""
    try:
        return ModelBundle.open(bundle, verify=False).training.config
    except InputError:
        return None


def _resolved(bundle: ModelBundle) -> dict[str, Any]:
    """A bundle's configuration, with every default."""
    return yaml.safe_load(bundle.config_path.read_text(encoding="utf-8"))
