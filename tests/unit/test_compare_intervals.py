"""Scores of several trainings: over blocks as those of one are, and over draws as a mean is."""

import numpy as np
import pytest

from casbah import scoring
from casbah.compare.intervals import averaged, difference, over_draws
from casbah.compare.tables import verdict
from casbah.errors import InputError
from casbah.products.evaluation import Interval
from casbah.scoring import Counts


def table(seed: int, blocks: int = 12, shift: int = 0) -> dict[str, Counts]:
    rng = np.random.default_rng(seed)
    return {
        f"block {i}": Counts(*(int(n) for n in rng.integers(20, 100, 4) + np.array([shift, 0, 0, 0])))
        for i in range(blocks)
    }


def test_one_training_has_the_interval_that_its_evaluation_has() -> None:
    one = table(0)
    expected = {name: tuple(estimate) for name, estimate in scoring.block_bootstrap(one).items()}
    found = {name: (score.value, score.low, score.high) for name, score in averaged([one]).items()}
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name


def test_the_score_of_several_is_the_mean_of_their_scores() -> None:
    tables = [table(seed) for seed in range(3)]
    found = averaged(tables)["iou"]
    assert found.value == pytest.approx(np.mean([scoring.block_bootstrap(one)["iou"].value for one in tables]))
    assert found.low < found.value < found.high


def test_the_difference_of_two_is_that_of_the_paired_bootstrap() -> None:
    a, b = table(0), table(1, shift=10)
    expected = scoring.paired_block_bootstrap(a, b, expanded=True)
    found = difference([a], [b])
    assert (found.value, found.low, found.high) == pytest.approx(expected[:3])


def test_a_row_does_not_differ_from_itself() -> None:
    tables = [table(0), table(1)]
    found = difference(tables, tables)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert verdict(found) == "within noise"


def test_rows_scored_on_different_blocks_are_refused() -> None:
    with pytest.raises(InputError, match="scored on different blocks"):
        difference([table(0)], [table(0, blocks=11)])


def test_a_single_block_gives_no_interval_and_no_verdict() -> None:
    assert averaged([table(0, blocks=1)])["iou"].low is None
    assert verdict(difference([table(0, blocks=1)], [table(1, blocks=1)])) == "undefined"


def test_the_interval_over_draws_is_students() -> None:
    found = over_draws([0.40, 0.44, 0.48])
    assert found.value == pytest.approx(0.44)
    assert found.high - found.value == pytest.approx(4.302653 * 0.04 / np.sqrt(3), rel=1e-5)
    assert over_draws([0.4]) == Interval(value=0.4)
    assert over_draws([0.4, None]).value is None
    assert over_draws([0.1, 0.9]) == Interval(value=0.5, low=0.0, high=1.0), "no score leaves 0 to 1"


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(-0.2, -0.1, "worse"), (-0.1, 0.1, "within noise"), (0.1, 0.2, "better")]
)
def test_the_verdict_follows_the_interval(low: float, high: float, expected: str) -> None:
    assert verdict(Interval(value=(low + high) / 2, low=low, high=high)) == expected
