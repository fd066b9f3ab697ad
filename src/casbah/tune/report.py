"""What a study leaves for people: `best.yaml`, `trials.csv`, `study.json`, `history.png`, and a table."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import optuna
import yaml

import casbah
from casbah.errors import unwritable
from casbah.finetune.experiment import read
from casbah.tune import suggestions
from casbah.tune.record import Trial
from casbah.tune.space import Space, overrides_of

if TYPE_CHECKING:
    from casbah.tune.study import Result

SHOWN = 5
"""Trials in the table."""


def write(result: "Result") -> None:
    """Write all files of a finished study, each whole or not at all."""
    from casbah.tune import history

    place = result.part.directory
    write_trials(place / "trials.csv", result.plan.space, result.trials)
    _write(place / "study.json", json.dumps(_numbers(result), indent=2, allow_nan=False) + "\n")
    _write(place / "history.png", history.draw(result))
    _write(place / "best.yaml", experiment_of(result))


def write_trials(path: Path, space: Space, trials: Sequence[Trial]) -> None:
    """One row a trial, one column a setting that was tried."""
    columns = [dimension.key for dimension in space.dimensions]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["trial", "validation_iou", "seconds", "epochs", "failed_because", *columns])
    for trial in trials:
        cells = ["" if (value := trial.settings.get(key)) is None else _cell(value) for key in columns]
        rows.writerow([trial.number, trial.iou, trial.seconds, trial.epochs, trial.reason, *cells])
    _write(path, text.getvalue())


def experiment_of(result: "Result") -> str:
    """The best trial as an experiment that `casbah finetune` takes, with a comment that says where it comes from."""
    plan, best, first = result.plan, result.best, result.as_it_stands
    overrides = [*plan.overrides, *(overrides_of(best.settings) if best.number else ())]
    settings = read(plan.config, overrides).settings
    stands = "it failed as it stands" if first.iou is None else f"{first.iou:.4f} as it stands"
    fewer = "" if plan.max_labels is None else f" --max-labels {plan.max_labels}"
    lines = [
        f"{plan.experiment.name}, tuned by casbah {casbah.__version__}: trial {best.number} of {len(result.trials)} "
        f"({len(result.finished)} finished), seed {plan.seed}, {plan.space.source}.",
        f"Validation building IoU {best.iou:.4f} ({stands}): the best of {len(result.finished)}, so optimistic.",
        f"Tuned on tiles {result.part.tiles.digest}{f' ({result.part.name})' if result.part.name else ''}; the test "
        "split was not read.",
        *(["SIMULATED imagery and footprints."] if result.part.tiles.info.simulated else []),
        f"  casbah finetune --config best.yaml --tiles TILES --output MODEL{fewer}",
    ]
    comment = "".join(f"# {line}\n" for line in lines)
    return comment + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def table(result: "Result") -> str:
    """The best trials with what they changed, what that gained, and how far the gain is to be trusted."""
    simulated = "SIMULATED  " if result.part.tiles.info.simulated else ""
    ranked = sorted(result.finished, key=lambda trial: (-(trial.iou or 0.0), trial.number))[:SHOWN]
    lines = [f"{simulated}{result.name}, validation, class building, {len(result.trials)} trials"]
    lines.append(f"{'trial':>5}  {'IoU':>6}  {'seconds':>8}  settings")
    for trial in ranked:
        changed = _short(trial) if trial.number else "(as it stands)"
        lines.append(f"{trial.number:>5}  {trial.iou:>6.4f}  {trial.seconds:>8.1f}  {changed}")
    return "\n".join([*lines, _gain(result)])


def _gain(result: "Result") -> str:
    best, first, count = result.best, result.as_it_stands, len(result.finished)
    failed = len(result.trials) - count
    words = [f"{failed} of {len(result.trials)} trials failed"] if failed else []
    if best.number == 0:
        words.append(f"nothing beat the experiment as it stands ({best.iou:.4f})")
    elif first.iou is None:
        words.append(f"the experiment as it stands failed ({first.reason})")
    else:
        words.append(f"{(best.iou or 0.0) - first.iou:+.4f} against the experiment as it stands ({first.iou:.4f})")
    words.append(
        f"the winning score is the best of {count} on the same validation blocks, so it is optimistic: only the test "
        "blocks say what was gained"
    )
    return "; ".join(words)


def _short(trial: Trial) -> str:
    """Settings by the last part of their key."""
    return ", ".join(f"{key.rpartition('.')[2]}={_cell(value)}" for key, value in trial.settings.items())


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _numbers(result: "Result") -> dict[str, Any]:
    plan = result.plan
    return {
        "experiment": plan.experiment.name,
        "part": result.part.name,
        "casbah": casbah.__version__,
        "simulated": result.part.tiles.info.simulated,
        "objective": "building IoU on validation, at the threshold chosen there",
        "tiles": result.part.tiles.digest,
        "max_labels": plan.max_labels,
        "overrides": list(plan.overrides),
        "sampler": f"TPE of Optuna {optuna.__version__}, the first {suggestions.STARTUP} trials at random",
        "seed": plan.seed,
        "jobs": plan.jobs,
        "space": {"source": plan.space.source, "settings": plan.space.described()},
        "budget": {
            "trials": len(result.trials),
            "finished": len(result.finished),
            "failed": len(result.trials) - len(result.finished),
            "seconds": round(sum(trial.seconds for trial in result.trials), 3),
            "epochs": sum(trial.epochs or 0 for trial in result.trials),
        },
        "as_it_stands": {"iou": result.as_it_stands.iou, "seconds": result.as_it_stands.seconds},
        "best": {"trial": result.best.number, "iou": result.best.iou, "settings": result.best.settings},
        "trials": [
            {
                "trial": trial.number,
                "iou": trial.iou,
                "seconds": trial.seconds,
                "epochs": trial.epochs,
                "failed_because": trial.reason,
                "settings": trial.settings,
                "config": trial.config,
                "code": trial.code,
            }
            for trial in result.trials
        ],
    }


def _write(path: Path, content: str | bytes) -> None:
    partial = path.with_name(f".{path.name}.partial-{uuid4().hex[:8]}")
    try:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())
        partial.replace(path)
    except OSError as error:
        raise unwritable(error)(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
