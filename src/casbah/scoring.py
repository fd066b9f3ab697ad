"""Scores of the class *building* alone, their intervals over resampled blocks, thresholds and calibration.

Everywhere: a pixel is called building where its probability is **at or above** the threshold; mask value 255 is left
out; counts are (tp, fp, fn, tn) of the class building, so that background is never averaged in. Scores that divide by
nothing are None (NaN inside arrays), never 0 or 1.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casbah.errors import InputError

IGNORE = 255
"""Mask value of a pixel that scores nothing."""

STEPS = 1000
"""Thresholds are multiples of 1 / STEPS: finer than any interval that a few dozen blocks can give."""

BINS = 15
"""Bins of equal width in the reliability curve, as in Guo et al. 2017 (arXiv 1706.04599)."""

LEVEL = 0.95
"""Share of the resamples that an interval holds."""

FEWEST_BLOCKS = 10
"""Over fewer blocks than this an interval is too short to be trusted: percentile intervals of 5 blocks promoted an
equal model 10 % of the time where 2.5 % was meant (`python -m bench.promotion`)."""

SCORES = ("iou", "f1", "precision", "recall")

SCORES_IN_WORDS = {"iou": "IoU", "f1": "F1", "precision": "precision", "recall": "recall"}

EDGES: NDArray[np.float32] = (np.arange(STEPS + 1) / STEPS).astype(np.float32)
"""The candidate thresholds in float32, the type of the probabilities that they are compared with."""


class Counts(NamedTuple):
    """Pixels by outcome, for the class building."""

    tp: int
    fp: int
    fn: int
    tn: int


class Estimate(NamedTuple):
    """A pooled score with its 95 % interval; None where undefined (bounds also with fewer than 2 blocks)."""

    value: float | None
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """Score of a minus score of b with its 95 % interval, and the share of the resamples in which a is the better."""

    value: float | None
    low: float | None
    high: float | None
    probability: float | None
    blocks: tuple[str, ...]


def confusion(predicted: ArrayLike, mask: ArrayLike) -> Counts:
    """Count the pixels of `predicted` (true or 1 = building) against `mask` (0, 1, 255 left out), both of one shape."""
    predicted, mask = _pair(predicted, mask)
    return Counts(*(int(part.sum()) for part in _outcomes(predicted.astype(bool), mask)))


def scores(counts: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """IoU, F1, precision and recall of counts (…, 4) as arrays (…), NaN where undefined.

    IoU = tp / (tp + fp + fn) (Jaccard 1912), F1 = 2 tp / (2 tp + fp + fn) (the Dice coefficient), precision = tp /
    (tp + fp), recall = tp / (tp + fn).
    """
    tp, fp, fn, _ = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "iou": tp / (tp + fp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
        }


def iou(counts: Sequence[int]) -> float | None:
    """Intersection over union of (tp, fp, fn, tn); None where there is neither a building nor a predicted one."""
    return _number(scores(counts)["iou"])


def f1(counts: Sequence[int]) -> float | None:
    """Harmonic mean of precision and recall of (tp, fp, fn, tn); None where no pixel is or was called building."""
    return _number(scores(counts)["f1"])


def precision(counts: Sequence[int]) -> float | None:
    """Share of the predicted building pixels that are building; None where none was predicted."""
    return _number(scores(counts)["precision"])


def recall(counts: Sequence[int]) -> float | None:
    """Share of the building pixels that were found; None where there is none."""
    return _number(scores(counts)["recall"])


class ThresholdSearch:
    """Finds the IoU-maximal threshold over any number of batches in constant memory."""

    def __init__(self) -> None:
        self.building: NDArray[np.int64] = np.zeros(STEPS + 1, np.int64)
        """Building pixels per step of probability: entry k holds those of EDGES[k] <= p < EDGES[k + 1]."""
        self.background: NDArray[np.int64] = np.zeros(STEPS + 1, np.int64)

    def add(self, probabilities: ArrayLike, masks: ArrayLike) -> None:
        """Take in probabilities (0..1, any shape) and masks of the same shape; `InputError` on NaN."""
        values, mask = _pair(probabilities, masks)
        known = mask != IGNORE
        step = _steps(_probabilities(values[known]))
        is_building = mask[known] == 1
        self.building += np.bincount(step[is_building], minlength=STEPS + 1)
        self.background += np.bincount(step[~is_building], minlength=STEPS + 1)

    def counts(self) -> NDArray[np.int64]:
        """(STEPS + 1, 4): tp, fp, fn, tn at each threshold k / STEPS."""
        tp = self.building[::-1].cumsum()[::-1]
        fp = self.background[::-1].cumsum()[::-1]
        return np.stack([tp, fp, self.building.sum() - tp, self.background.sum() - fp], axis=-1)

    def best(self) -> float:
        """The threshold of the highest building IoU; of equal ones the highest, which claims the least.

        Zero, which calls everything building, is not offered. `InputError` where no building pixel was added.
        """
        if not self.building.any():
            raise InputError(
                "no threshold can be chosen: the tiles given hold no building pixel; "
                "choose a larger area or another seed so that the validation split has buildings"
            )
        values = scores(self.counts())["iou"][1:]
        best = np.flatnonzero(values == np.nanmax(values))[-1] + 1
        return float(best) / STEPS


def best_threshold(probabilities: ArrayLike, masks: ArrayLike) -> float:
    """The threshold (a multiple of 1/1000, above 0) with the highest building IoU; ties go to the higher one.

    `probabilities` and `masks` have one shape. For data in batches use `ThresholdSearch`. `InputError` where the masks
    hold no building or a probability is NaN.
    """
    search = ThresholdSearch()
    search.add(probabilities, masks)
    return search.best()


def called_building(probabilities: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Where the probability is at or above the threshold, compared in float32 as `ThresholdSearch` does."""
    return np.asarray(probabilities, np.float32) >= np.float32(threshold)


def block_bootstrap(
    counts: Mapping[str, Sequence[int]], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """IoU, F1, precision and recall pooled over blocks, each with its 95 % interval.

    Blocks are drawn with replacement and their counts pooled, since pixels and tiles of one block are not independent
    (block bootstrap; percentile interval of Efron & Tibshirani 1993, chapter 13). Resamples in which a score is
    undefined are left out of its interval; fewer than two blocks give no interval.
    """
    names = sorted(counts)
    matrix = _matrix(counts, names)
    values = scores(matrix.sum(axis=0))
    drawn = scores(_resample(matrix, resamples, seed)) if len(names) > 1 else None
    return {
        name: Estimate(_number(values[name]), *(_interval(drawn[name]) if drawn else (None, None))) for name in SCORES
    }


def paired_block_bootstrap(
    counts_a: Mapping[str, Sequence[int]],
    counts_b: Mapping[str, Sequence[int]],
    *,
    resamples: int = 1000,
    seed: int = 0,
    score: str = "iou",
    expanded: bool = False,
) -> Difference:
    """Score of a minus score of b on their common blocks, with its 95 % interval and the probability that a is better.

    The same resampled blocks serve both, so that what makes a block hard for both cancels (Efron & Tibshirani 1993).
    With `expanded` the interval is widened for few blocks (`expanded_tail`). The probability is the share of the
    resamples with a positive difference, ties counted half. `InputError` where the two have no block in common.
    """
    common = sorted(set(counts_a) & set(counts_b))
    if not common:
        raise InputError("the two models were scored on no common block, so they can't be compared")
    a, b = _matrix(counts_a, common), _matrix(counts_b, common)
    value = _number(scores(a.sum(axis=0))[score] - scores(b.sum(axis=0))[score])
    if len(common) < 2:
        return Difference(value, None, None, None, tuple(common))
    both = _resample(np.concatenate([a, b], axis=1), resamples, seed)
    drawn = scores(both[:, :4])[score] - scores(both[:, 4:])[score]
    drawn = drawn[~np.isnan(drawn)]
    better = float(np.mean((drawn > 0) + 0.5 * (drawn == 0))) if drawn.size else None
    tail = expanded_tail(len(common)) if expanded else (1 - LEVEL) / 2
    return Difference(value, *_interval(drawn, tail), better, tuple(common))


def expanded_tail(blocks: int) -> float:
    """The share of the resamples to leave out on each side, so that a percentile interval of few blocks is as wide as
    Student's would be: Phi(-sqrt(n / (n - 1)) t) with t the quantile of n - 1 degrees of freedom.

    The expanded percentile interval of Hesterberg 2015 (The American Statistician 69(4), section 5.3): 0.0085 in place
    of 0.025 for 10 blocks, and 0.025 for many.
    """
    from scipy.stats import t

    quantile = float(t.ppf((1 + LEVEL) / 2, blocks - 1))
    return NormalDist().cdf(-math.sqrt(blocks / (blocks - 1)) * quantile)


class Calibration:
    """Reliability of P(building) over any number of batches, in constant memory."""

    def __init__(self, bins: int = BINS) -> None:
        self.pixels: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.building: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.probability: NDArray[np.float64] = np.zeros(bins, np.float64)

    def add(self, probabilities: ArrayLike, masks: ArrayLike) -> None:
        """Take in probabilities (0..1) and masks of the same shape; `InputError` on NaN."""
        values, mask = _pair(probabilities, masks)
        known = mask != IGNORE
        values, bins = _probabilities(values[known]), len(self.pixels)
        upper = np.linspace(0, 1, bins + 1)[1:].astype(np.float32)
        bin_of = np.minimum(np.searchsorted(upper, values, side="left"), bins - 1)
        self.pixels += np.bincount(bin_of, minlength=bins)
        self.building += np.bincount(bin_of[mask[known] == 1], minlength=bins)
        self.probability += np.bincount(bin_of, weights=values, minlength=bins)

    def curve(self) -> list[dict[str, float]]:
        """One entry per bin that holds a pixel: low, high, pixels, mean probability and observed share of building."""
        edges = np.linspace(0, 1, len(self.pixels) + 1)
        return [
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "pixels": int(n),
                "probability": float(self.probability[i] / n),
                "observed": float(self.building[i] / n),
            }
            for i, n in enumerate(self.pixels)
            if n
        ]

    def ece(self) -> float:
        """Expected calibration error: the mean over pixels of |observed share - mean probability| of their bin.

        Guo et al. 2017 (arXiv 1706.04599), equation 3, for P(building) itself in place of the top class's confidence,
        as Naeini et al. 2015 (AAAI) defined it for two classes. Bins are (m - 1) / M < p <= m / M. NaN without pixels.
        """
        total = int(self.pixels.sum())
        return float(np.abs(self.building - self.probability).sum() / total) if total else float("nan")


def _pair(values: ArrayLike, masks: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    values, masks = np.asarray(values), np.asarray(masks)
    if values.shape != masks.shape:
        raise ValueError(f"predictions of shape {values.shape} do not fit masks of shape {masks.shape}")
    return values, masks


def _outcomes(predicted: NDArray[np.bool_], masks: NDArray[Any]) -> tuple[NDArray[np.bool_], ...]:
    building, background = masks == 1, masks == 0
    return predicted & building, predicted & background, ~predicted & building, ~predicted & background


def _probabilities(values: NDArray[Any]) -> NDArray[np.float32]:
    values = values.astype(np.float32, copy=False)
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise InputError(
            f"a probability outside of 0..1 was met (lowest {values.min()}, highest {values.max()}): "
            "the model gave it; look for NaN in its input or its weights, and train it again"
        )
    return values


def _steps(values: NDArray[np.float32]) -> NDArray[np.int64]:
    step = np.floor(values.astype(np.float64) * STEPS).astype(np.int64)
    # The product can fall on the wrong side of an edge by one rounding: compare with the edges themselves.
    step += values >= EDGES[np.minimum(step + 1, STEPS)]
    step = np.minimum(step, STEPS)
    return step - (values < EDGES[step])


def _matrix(counts: Mapping[str, Sequence[int]], names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([counts[name] for name in names], np.int64).reshape(len(names), 4)


def _resample(matrix: NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.int64]:
    drawn = np.random.default_rng(seed).multinomial(len(matrix), np.full(len(matrix), 1 / len(matrix)), size=resamples)
    return drawn @ matrix


def _interval(values: NDArray[np.float64], tail: float = (1 - LEVEL) / 2) -> tuple[float | None, float | None]:
    values = values[~np.isnan(values)]
    if not values.size:
        return None, None
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _number(value: ArrayLike) -> float | None:
    number = float(np.asarray(value))
    return None if np.isnan(number) else number
