"""Scores are of the class building alone, undefined is never a number, and intervals come from whole blocks."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from casbah import scoring
from casbah.errors import InputError


def town(seed: int = 0, tiles: int = 12, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right on average, and masks with some unknown pixels."""
    rng = np.random.default_rng(seed)
    probabilities = rng.random((tiles, side, side), dtype=np.float32)
    masks = (rng.random(probabilities.shape) < probabilities).astype(np.uint8)
    masks[rng.random(masks.shape) < 0.1] = scoring.IGNORE
    return probabilities, masks


def test_scores_are_those_of_scikit_learn_on_the_known_pixels() -> None:
    probabilities, masks = town()
    predicted, known = probabilities >= 0.6, masks != scoring.IGNORE
    counts = scoring.confusion(predicted, masks)
    truth, called = masks[known], predicted[known]
    assert sum(counts) == known.sum()
    assert scoring.iou(counts) == pytest.approx(jaccard_score(truth, called))
    assert scoring.f1(counts) == pytest.approx(f1_score(truth, called))
    assert scoring.precision(counts) == pytest.approx(precision_score(truth, called))
    assert scoring.recall(counts) == pytest.approx(recall_score(truth, called))


def test_background_never_lifts_a_score() -> None:
    assert scoring.iou((10, 5, 5, 0)) == scoring.iou((10, 5, 5, 10**9)) == 0.5


def test_a_score_that_divides_by_nothing_is_none() -> None:
    assert scoring.iou((0, 0, 0, 9)) is None
    assert scoring.precision((0, 0, 4, 9)) is None
    assert scoring.recall((0, 3, 0, 9)) is None
    assert scoring.f1((0, 0, 0, 9)) is None
    assert scoring.iou((0, 0, 4, 9)) == 0.0


def test_the_best_threshold_is_the_one_that_trying_all_would_find() -> None:
    probabilities, masks = town()
    tried = {k / 1000: scoring.confusion(probabilities >= np.float32(k / 1000), masks) for k in range(1, 1001)}
    best = max(tried, key=lambda t: (scoring.iou(tried[t]), t))
    assert scoring.best_threshold(probabilities, masks) == best


def test_counts_on_the_very_edge_of_a_step_are_those_of_the_comparison() -> None:
    probabilities = np.repeat((np.arange(1001) / 1000).astype(np.float32), 2)
    probabilities[1::2] = np.nextafter(probabilities[1::2], np.float32(0))
    masks = np.arange(2002) % 3 % 2
    search = scoring.ThresholdSearch()
    search.add(probabilities, masks)
    for k, counts in enumerate(search.counts()):
        assert tuple(counts) == scoring.confusion(scoring.called_building(probabilities, k / 1000), masks)


def test_of_equal_thresholds_the_highest_is_taken() -> None:
    assert scoring.best_threshold([0.2, 0.8], [0, 1]) == 0.8


def test_batches_give_the_threshold_of_the_whole() -> None:
    probabilities, masks = town()
    search = scoring.ThresholdSearch()
    for part in range(0, 12, 5):
        search.add(probabilities[part : part + 5], masks[part : part + 5])
    assert search.best() == scoring.best_threshold(probabilities, masks)


def test_no_building_on_validation_is_said_not_guessed() -> None:
    with pytest.raises(InputError, match="no building pixel; choose a larger area or another seed"):
        scoring.best_threshold(np.full((2, 2), 0.5), np.zeros((2, 2)))


def test_nan_among_probabilities_is_refused() -> None:
    with pytest.raises(InputError, match=r"outside of 0\.\.1 .*look for NaN"):
        scoring.best_threshold([np.nan, 0.5], [1, 0])
    with pytest.raises(InputError, match=r"outside of 0\.\.1"):
        calibrated([0.1, 1.5], [1, 0])


def test_equal_blocks_have_an_interval_of_no_width() -> None:
    result = scoring.block_bootstrap({f"b{i}": (30, 10, 10, 50) for i in range(8)})
    assert result["iou"] == pytest.approx((0.6, 0.6, 0.6))


def test_a_difference_between_blocks_shows_in_the_interval_and_a_seed_repeats_it() -> None:
    counts = {f"b{i}": (10 + 8 * i, 40, 40, 500) for i in range(8)}
    result = scoring.block_bootstrap(counts, seed=3)
    value, low, high = result["iou"]
    assert low is not None
    assert high is not None
    assert low < value < high
    assert high - low > 0.1
    assert scoring.block_bootstrap(counts, seed=3) == result
    assert scoring.block_bootstrap(counts, seed=4) != result


def test_ninety_five_intervals_in_a_hundred_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth, held = 0.5, 0
    for draw in range(200):
        share = np.clip(rng.normal(truth, 0.1, 30), 0, 1)
        counts = {f"b{i}": (round(1000 * s), 1000 - round(1000 * s), 0, 0) for i, s in enumerate(share)}
        _, low, high = scoring.block_bootstrap(counts, resamples=400, seed=draw)["precision"]
        held += low <= truth <= high
    assert 0.88 <= held / 200 <= 0.99


def test_one_block_gives_a_score_but_no_interval() -> None:
    assert scoring.block_bootstrap({"b": (1, 1, 0, 0)})["iou"] == (0.5, None, None)


def test_resamples_without_any_building_are_left_out_of_the_interval() -> None:
    _, low, high = scoring.block_bootstrap({"empty": (0, 0, 0, 9), "full": (9, 1, 0, 0)})["iou"]
    assert (low, high) == (0.9, 0.9)


def test_a_model_against_itself_is_a_tie() -> None:
    counts = {f"b{i}": (i, 3, 4, 5) for i in range(9)}
    result = scoring.paired_block_bootstrap(counts, counts)
    assert result[:4] == (0.0, 0.0, 0.0, 0.5)


def test_pairing_sees_a_small_edge_that_holds_in_every_block() -> None:
    hard = {f"b{i}": 5 + 10 * i for i in range(10)}
    a = {block: (tp + 3, 40, 40, 0) for block, tp in hard.items()}
    b = {block: (tp, 40, 43, 0) for block, tp in hard.items()}
    alone = scoring.block_bootstrap(a)["iou"], scoring.block_bootstrap(b)["iou"]
    assert alone[0].low < alone[1].high, "unpaired intervals overlap"
    result = scoring.paired_block_bootstrap(a, b)
    assert result.low > 0
    assert result.probability == 1.0


def test_only_common_blocks_are_compared_and_none_is_an_error() -> None:
    a = {"x": (9, 1, 0, 0), "y": (5, 5, 0, 0), "z": (1, 0, 0, 0)}
    b = {"x": (8, 2, 0, 0), "y": (4, 6, 0, 0), "q": (0, 9, 9, 0)}
    result = scoring.paired_block_bootstrap(a, b)
    assert result.blocks == ("x", "y")
    assert result.value == pytest.approx(14 / 20 - 12 / 20)
    with pytest.raises(InputError, match="no common block"):
        scoring.paired_block_bootstrap({"x": (1, 0, 0, 0)}, {"y": (1, 0, 0, 0)})


def calibrated(probabilities: Any, masks: Any) -> scoring.Calibration:
    calibration = scoring.Calibration()
    calibration.add(probabilities, masks)
    return calibration


def test_a_model_that_is_right_on_average_has_no_calibration_error_and_a_sure_one_has() -> None:
    probabilities, masks = town(tiles=60)
    assert calibrated(probabilities, masks).ece() < 0.01
    assert calibrated(np.full(100, 0.9), np.repeat([1, 0], 50)).ece() == pytest.approx(0.4)


def test_the_reliability_curve_holds_every_known_pixel_once_and_bins_as_guo_et_al_do() -> None:
    probabilities, masks = town()
    curve = calibrated(probabilities, masks).curve()
    assert len(curve) == 15
    assert sum(b["pixels"] for b in curve) == (masks != scoring.IGNORE).sum()
    assert all(b["low"] < b["probability"] <= b["high"] for b in curve)
    edge = calibrated([0.2], [1]).curve()
    assert edge[0]["high"] == pytest.approx(0.2), "a bin holds its upper edge"
