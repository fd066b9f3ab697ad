"""Intervals of scores that are averaged over several trainings of one row: over blocks, and over draws.

`tables` holds the counts by block of each training (one a seed). With one training the numbers are those of
`casbah.scoring`.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from casbah.errors import InputError
from casbah.products.evaluation import Interval
from casbah.scoring import LEVEL, SCORES, Counts, expanded_tail, scores

RESAMPLES = 1000

Tables = Sequence[Mapping[str, Counts]]


def averaged(tables: Tables, *, seed: int = 0) -> dict[str, Interval]:
    """IoU, F1, precision and recall, each the mean over the trainings, with its 95 % interval over resampled blocks.

    The same drawn blocks serve all trainings. None where a training's score is undefined.
    """
    names = _common([tables])
    matrix = _matrix(tables, names)
    values = scores(matrix.sum(axis=0))
    drawn = scores(_resampled(matrix, seed)) if len(names) > 1 else None
    found = {}
    for name in SCORES:
        bounds = _bounds(drawn[name].mean(axis=1), (1 - LEVEL) / 2) if drawn else (None, None)
        found[name] = _interval(float(values[name].mean()), *bounds)
    return found


def difference(tables: Tables, others: Tables, *, seed: int = 0) -> Interval:
    """Mean IoU of `tables` minus that of `others` on the same resampled blocks.

    The interval is widened for few blocks (`casbah.scoring.expanded_tail`), as where a champion is challenged.
    """
    names = _common([tables, others])
    matrix = _matrix([*tables, *others], names)
    value = _gap(matrix.sum(axis=0)[None], len(tables))[0]
    if len(names) < 2:
        return _interval(float(value), None, None)
    drawn = _gap(_resampled(matrix, seed), len(tables))
    return _interval(float(value), *_bounds(drawn, expanded_tail(len(names))))


def over_draws(values: Sequence[float | None]) -> Interval:
    """The mean of one score over draws, with Student's 95 % interval of that mean; no bounds with fewer than two.

    Where the interval leaves 0 to 1, which no score can, it is cut there.
    """
    defined = [value for value in values if value is not None]
    if not defined or len(defined) < len(values):
        return Interval(value=None)
    mean = float(np.mean(defined))
    if len(defined) < 2:
        return Interval(value=mean)
    from scipy.stats import t

    quantile = float(t.ppf((1 + LEVEL) / 2, len(defined) - 1))
    half = quantile * float(np.std(defined, ddof=1)) / math.sqrt(len(defined))
    return Interval(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half))


def _common(groups: Sequence[Tables]) -> list[str]:
    """The blocks of all tables; `InputError` where they differ: then the rows were not scored on the same ground."""
    found = [set(table) for tables in groups for table in tables]
    if any(blocks != found[0] for blocks in found):
        raise InputError("the models were scored on different blocks: evaluate all of them on the same tiles")
    return sorted(found[0])


def _matrix(tables: Tables, names: Sequence[str]) -> NDArray[np.int64]:
    """(blocks, trainings, 4)."""
    return np.array([[table[name] for table in tables] for name in names], np.int64).reshape(len(names), -1, 4)


def _resampled(matrix: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """(resamples, trainings, 4): blocks drawn with replacement, and their counts pooled."""
    blocks = len(matrix)
    drawn = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)
    return np.tensordot(drawn, matrix, axes=1)


def _gap(counts: NDArray[np.int64], first: int) -> NDArray[np.float64]:
    iou = scores(counts)["iou"]
    return iou[:, :first].mean(axis=1) - iou[:, first:].mean(axis=1)


def _bounds(values: NDArray[np.float64], tail: float) -> tuple[float | None, float | None]:
    values = values[~np.isnan(values)]
    if not values.size:
        return None, None
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _interval(value: float, low: float | None, high: float | None) -> Interval:
    return Interval(value=None) if math.isnan(value) else Interval(value=value, low=low, high=high)
