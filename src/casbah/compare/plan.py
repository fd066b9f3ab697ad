"""What a study has to do: rows, their trainings as cells with keys, and the jobs that make what is missing."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from casbah.compare.ground import Ground, Part
from casbah.compare.processes import Job
from casbah.compare.rows import study
from casbah.compare.scoring_process import SHOWN, SPLITS, bundles
from casbah.errors import InputError
from casbah.finetune.checkpoints import code
from casbah.finetune.experiment import (
    ENSEMBLE,
    NETWORK,
    TOP_LEVEL,
    Experiment,
    digest,
    names_model,
    read,
    without_places,
)
from casbah.products.evaluation import Evaluation
from casbah.products.manifest import sha256_of
from casbah.products.model import ModelBundle
from casbah.tune import space as spaces

CASBAH = "from casbah.interruption import end_with_parent; end_with_parent(); from casbah.cli import main; main()"


@dataclass(frozen=True)
class Row:
    """One experiment of the study; `config` is what `casbah finetune --config` gets."""

    experiment: Experiment
    config: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.experiment.name


@dataclass(frozen=True, eq=False)
class Run:
    """One row with one seed and one budget: a training on each part of the ground, and its scores."""

    row: Row
    seed: int
    budget: int | None
    directory: Path
    model: Path
    """The bundle, or the directory of `fold_0` …"""
    trials: int = 0
    """Trainings among which `casbah tune` looks for each part's settings; 0 trains the experiment as it stands."""

    @property
    def members(self) -> tuple[str, ...]:
        """What an ensemble is made of, as its YAML says; empty for every other row."""
        settings = self.row.experiment.settings
        return tuple(map(str, settings.get("members", ()))) if self.row.experiment.kind == ENSEMBLE else ()

    @property
    def tuned(self) -> bool:
        """Whether its own settings are looked for (an ensemble's members' are)."""
        return self.trials > 0 and not self.members

    @property
    def words(self) -> str:
        return f"{self.row.name}, seed {self.seed}, {self.budget or 'all'} tiles"


def read_rows(names: Sequence[str], small: bool, overrides: Sequence[str]) -> list[Row]:
    """The experiments as rows: those named, or all of the study. `InputError` for one that can't be read.

    An override of a network's settings is given to networks alone, and likewise for trees and ensembles.
    """
    if names and small:
        raise InputError("--small takes the small variants of all rows: leave it out, or name no experiment")
    rows, used = [], set()
    for name in names or study(small):
        kind = read(name).kind
        own = tuple(one for one in overrides if _takes(kind, one.partition("=")[0].partition(".")[0]))
        used |= set(own)
        rows.append(Row(read(name, own), str(Path(name).resolve()) if Path(name).is_file() else name, own))
    if idle := [one for one in overrides if one not in used]:
        raise InputError(f"--set {idle[0]} is a setting of none of {', '.join(row.name for row in rows)}")
    called = [row.name for row in rows]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise InputError(f"two experiments are called {twice[0]}: rename one of the files")
    return rows


def _takes(kind: str, key: str) -> bool:
    """Whether experiments of a kind have settings under a first key; trees get what nobody knows, and refuse it."""
    if kind == NETWORK:
        return key in TOP_LEVEL
    of_blends = key in ("members", "weights")
    return key == "seed" or of_blends if kind == ENSEMBLE else key not in TOP_LEVEL and not of_blends


def plan(
    rows: Sequence[Row], seeds: int, budgets: Sequence[int | None], ground: Ground, output: Path, trials: int = 0
) -> list[Run]:
    """Every run, those of the first table first: a study that is broken off has whole seeds of it."""
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}; 1 or more is wanted")
    if trials < 0:
        raise InputError(f"--trials is {trials}; 0 (nothing is tuned) or more is wanted")
    found = []
    for budget in reversed(budgets):
        for seed in range(seeds):
            for row in rows:
                place = output / "runs" / row.name / f"seed_{seed}-{budget or 'all'}"
                found.append(Run(row, seed, budget, place, place / ("models" if ground.folds else "model"), trials))
    return found


def key(run: Run, part: Part) -> str:
    """What a training depends on: the experiment's settings, the weights that it names, tiles, seed and budget; where
    and in how many trials its settings are looked for, if they are; and the code that trains."""
    return digest([*_asked(run, part), *([run.trials] if run.trials else []), code()])


def _asked(run: Run, part: Part) -> list[Any]:
    """All that a training depends on but the number of trials, which may grow in one study.

    The settings are the YAML's. What it leaves open is the code's to say, whose digest is that of `key`: where it
    changed, the stage is asked again, and keeps a model whose resolved configuration is the same.
    """
    settings = without_places(run.row.experiment.settings)
    space = _space(run.row.experiment) if run.tuned else []
    return [settings, _weights(settings), part.tiles.digest, run.seed, run.budget, *space]


def _space(experiment: Experiment) -> list[Any]:
    """Where `casbah tune` looks for its settings; nothing where it will refuse to, which loses this row alone."""
    with suppress(InputError):
        return [spaces.of(experiment).described()]
    return []


def all_jobs(runs: Sequence[Run], ground: Ground) -> dict[Run, tuple[list[Job], Job]]:
    """The trainings of each run, one for each part of the ground, and its scoring, which needs them all.

    An ensemble takes its members' models from the rows of the same seed and budget, and trains those that are no rows.
    """
    of = {(run.row.name, run.seed, run.budget): run for run in runs}
    found: dict[Run, tuple[list[Job], Job]] = {}
    for run in sorted(runs, key=lambda run: bool(run.members)):  # members first
        rows = [_row_of(name, of.get((Path(name).stem, run.seed, run.budget))) for name in run.members]
        trainings = []
        for number, part in enumerate(ground.parts):
            needs = tuple(found[row][0][number] for row in rows if row is not None)
            trainings.append(_training(run, part, rows, needs))
        found[run] = trainings, _scoring(run, ground, tuple(trainings))
    return {run: found[run] for run in runs}


def device(run: Run, ground: Ground) -> str:
    """What the trainings of a finished run ran on."""
    notes = [_note(run.directory / f"{_part_name(part)}.json") for part in ground.parts]
    return ", ".join(sorted({str(note["device"]) for note in notes}))


def _part_name(part: Part) -> str:
    return "model" if part.fold is None else f"fold_{part.fold}"


def _training(run: Run, part: Part, members: Sequence[Run | None], needs: tuple[Job, ...]) -> Job:
    name = _part_name(part)
    output = _bundle(run, part)
    note = run.directory / f"{name}.json"
    # Of its own for each that is asked for: a changed experiment is another study, more trials go on with the same.
    place = run.directory / "tuning" / f"{name}-{digest(_asked(run, part))[:12]}"

    def wanted() -> list[str | None]:
        named = zip(run.members, members, strict=True) if members else ()
        return [key(run, part), *(_member(name, row, part) for name, row in named)]

    def finished() -> bool:
        found = _note(note)
        return found.get("key") == wanted() and found.get("model") == _digest(output)

    def keep(device: str) -> None:
        if run.tuned:
            shutil.rmtree(output, ignore_errors=True)
            # It stays in its study too, which more trials go on with.
            ModelBundle.open(place / "model", verify=False).copy_to(output, link=True)
        _write_note(note, {"key": wanted(), "model": _digest(output), "device": device})

    suffix = "" if part.fold is None else f", fold {part.fold}"
    words = _tune_words(run, part, place) if run.tuned else _finetune_words(run, part, output, members)
    command = (sys.executable, "-c", CASBAH, *words)
    return Job(f"{run.words}{suffix}", command, note.with_suffix(".log"), finished, keep, needs)


def _bundle(run: Run, part: Part) -> Path:
    return run.model if part.fold is None else run.model / _part_name(part)


def _row_of(name: str, run: Run | None) -> Run | None:
    """The run whose models an ensemble's member is, where the member names that very experiment."""
    if run is None or run.row.config not in (name, str(Path(name).resolve())):
        return None
    return run


def _member(name: str, run: Run | None, part: Part) -> str | None:
    """What an ensemble depends on of a member: the model of a row, a model at a path, or an experiment's settings."""
    if run is not None:
        return _digest(_bundle(run, part))
    if names_model(name):
        place = Path(name)
        return _digest(place) or digest([_digest(inner) for inner in sorted(place.glob("fold_*"))])
    settings = without_places(read(name).settings)
    return digest([settings, _weights(settings)])


def _finetune_words(run: Run, part: Part, output: Path, members: Sequence[Run | None]) -> list[str]:
    words = ["finetune", "--config", run.row.config, "--tiles", str(part.tiles.path), "--output", str(output)]
    words += ["--seed", str(run.seed), "--resume"]
    words += ["--max-labels", str(run.budget)] if run.budget is not None else []
    words += [word for one in run.row.overrides for word in ("--set", one)]
    if any(row is not None for row in members):
        models = [
            name if row is None else str(_bundle(row, part).resolve())
            for name, row in zip(run.members, members, strict=True)
        ]
        words += ["--set", f"members={json.dumps(models)}"]
    return words


def _tune_words(run: Run, part: Part, place: Path) -> list[str]:
    words = ["tune", "--config", run.row.config, "--tiles", str(part.tiles.path), "--output", str(place)]
    words += ["--trials", str(run.trials), "--seed", str(run.seed)]
    words += ["--max-labels", str(run.budget)] if run.budget is not None else []
    seed = f"{run.row.experiment.seed_key}={run.seed}"
    return words + [word for one in (*run.row.overrides, seed) for word in ("--set", one)]


def _scoring(run: Run, ground: Ground, needs: tuple[Job, ...]) -> Job:
    note = run.directory / "scores.json"

    def wanted() -> str:
        return digest([ground.digest, [model.digest for model in bundles(run.model, ground)]])

    def finished() -> bool:
        found = _note(note)
        there = [_digest(run.directory / split, Evaluation) for split in SPLITS]
        return found.get("key") == wanted() and found.get("evaluations") == there and (run.directory / SHOWN).is_file()

    def keep(device: str) -> None:
        there = [_digest(run.directory / split, Evaluation) for split in SPLITS]
        _write_note(note, {"key": wanted(), "evaluations": there, "device": device})

    command = (sys.executable, "-m", "casbah.compare.scoring_process")
    words = (str(run.model), str(ground.path), str(run.directory))
    return Job(f"{run.words}, scores", (*command, *words), note.with_suffix(".log"), finished, keep, needs)


def _digest(path: Path, kind: type[ModelBundle] | type[Evaluation] = ModelBundle) -> str | None:
    """Of a finished product; None where there is none."""
    try:
        return kind.open(path, verify=False).digest
    except InputError:
        return None


def _note(file: Path) -> dict[str, Any]:
    """What was noted of a finished job; empty where nothing was, or only a part of it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_note(file: Path, note: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _weights(value: Any) -> list[str]:
    """sha256 of the files of weights that an experiment names: another file at the same place is another training."""
    if isinstance(value, Mapping):
        named = [inner for name, inner in value.items() if str(name).endswith("ckpt_path") and isinstance(inner, str)]
        own = [_sha256(Path(file).resolve()) for file in named if Path(file).is_file()]
        return own + [found for inner in value.values() for found in _weights(inner)]
    return [found for inner in value for found in _weights(inner)] if isinstance(value, list) else []


_sha256 = cache(sha256_of)
