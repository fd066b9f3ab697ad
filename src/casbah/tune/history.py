"""The picture of a study: the score of each trial, and which settings the scores hang on."""

from typing import TYPE_CHECKING

import numpy as np
import optuna
from matplotlib.figure import Figure

from casbah.figures.charts import DPI, SIMULATED, png_of
from casbah.tune import suggestions

if TYPE_CHECKING:
    from casbah.tune.study import Result

ENOUGH = 10
"""Finished trials from which on a share of the variance is worth a look."""

FOUND, STANDS, FAILED = "#0b6e99", "#888888", "#b00020"


def draw(result: "Result") -> bytes:
    """A PNG: validation IoU by trial, and where enough trials finished the importance of each setting."""
    shares = importance(result)
    figure = Figure(figsize=(10.5 if shares else 6.0, 3.8), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, 2 if shares else 1, squeeze=False)[0]
    finished = result.finished
    numbers, scores = [trial.number for trial in finished], [trial.iou or 0.0 for trial in finished]
    axes[0].plot(numbers, scores, "o", color=FOUND, ms=4, label="trial")
    axes[0].step(numbers, np.maximum.accumulate(scores), where="post", color=FOUND, lw=1, label="best so far")
    if result.as_it_stands.iou is not None:
        axes[0].axhline(result.as_it_stands.iou, color=STANDS, ls="--", lw=1, label="as it stands")
    failed = [trial.number for trial in result.trials if trial.iou is None]
    if failed:
        axes[0].plot(failed, [min(scores)] * len(failed), "x", color=FAILED, label="failed")
    axes[0].set(xlabel="trial", ylabel="building IoU on validation")
    simulated = f" — {SIMULATED}" if result.part.tiles.info.simulated else ""
    axes[0].set_title(f"{result.name}{simulated}", fontsize=10, loc="left")
    axes[0].legend(frameon=False, fontsize=8)
    if shares:
        names = [key.rpartition(".")[2] for key in shares][::-1]
        axes[1].barh(names, list(shares.values())[::-1], color=FOUND)
        axes[1].set_title("share of the scores' variance (fANOVA; rough for few trials)", fontsize=9, loc="left")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return png_of(figure)


def importance(result: "Result") -> dict[str, float]:
    """Dotted key -> its share of the variance of the scores (fANOVA; Hutter et al. 2014); empty for few trials."""
    space = result.plan.space
    whole = [trial for trial in result.finished if len(trial.drawn) == len(space.dimensions)]
    if len(whole) < ENOUGH or len({trial.iou for trial in whole}) == 1:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials([suggestions.frozen(space, trial.drawn, value=trial.iou) for trial in whole])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
