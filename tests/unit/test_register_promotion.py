"""The champion changes only on evidence from blocks that neither model has seen."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from casbah.products.model import Training
from casbah.register.promotion import decide, seen_blocks, unseen_by_both
from casbah.scoring import FEWEST_BLOCKS, expanded_tail


def training(train: tuple[str, ...], val: tuple[str, ...]) -> Training:
    return Training(
        experiment="e", kind="trees", bands=("B02",), periods=1, level="L2A", resolution=10, tile_size=64,
        building_cover=50, threshold=0.5, blocks={"train": train, "val": val}, tiles="t", config="c", seed=0,
        parameters=1,
    )  # fmt: skip


def counts(iou: float, blocks: int, seed: int) -> dict[str, tuple[int, int, int, int]]:
    """Blocks of about 1000 building pixels, scored with about the given IoU."""
    rng = np.random.default_rng(seed)
    out = {}
    for block in range(blocks):
        truth = int(rng.integers(500, 1500))
        hit = int(truth * np.clip(iou + rng.normal(0, 0.03), 0, 1))
        out[f"b{block}"] = (hit, 10, truth - hit, 5000)
    return out


def test_a_clearly_better_challenger_takes_the_alias_and_says_on_how_many_blocks() -> None:
    decision = decide(counts(0.6, 20, 1), counts(0.4, 20, 2))
    assert decision.promoted
    assert decision.low is not None
    assert decision.low > 0
    assert "20 blocks that neither model has seen" in decision.reason


def test_an_equal_challenger_stays_challenger() -> None:
    decision = decide(counts(0.5, 20, 1), counts(0.5, 20, 2))
    assert not decision.promoted
    assert decision.compared
    assert "stays challenger" in decision.reason


def test_a_better_number_without_enough_blocks_is_not_enough() -> None:
    few = FEWEST_BLOCKS - 1
    decision = decide(counts(0.9, few, 1), counts(0.1, few, 2))
    assert not decision.promoted
    assert not decision.compared
    assert f"only {few} test blocks" in decision.reason


def test_blocks_without_a_building_decide_nothing() -> None:
    empty = {f"b{i}": (0, 0, 0, 100) for i in range(12)}
    assert not decide(empty, empty).promoted


@pytest.mark.parametrize("where", ["train", "val"])
def test_a_block_that_either_model_trained_or_tuned_on_is_not_compared_on(where: str) -> None:
    a, b, c, d = (f"32631_1000_{col}_4064" for col in (500, 501, 502, 503))
    champion = training((a,), ()) if where == "train" else training((), (a,))
    challenger = training((b,), (c,))
    assert seen_blocks(challenger) == {b, c}
    assert unseen_by_both([a, b, c, d], champion, challenger) == [d]


def test_ground_seen_under_another_block_size_is_not_compared_on_either() -> None:
    champion = training(("32631_400_1250_10160",), ())
    assert unseen_by_both(["32631_1000_500_4064", "32631_1000_503_4064"], champion, training((), ())) == [
        "32631_1000_503_4064"
    ]


def test_of_equal_models_hardly_one_in_thirty_is_promoted_even_over_the_fewest_blocks() -> None:
    path = Path(__file__).parents[2] / "bench" / "promotion.py"
    spec = importlib.util.spec_from_file_location("bench_promotion", path)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    plain, widened = bench.promoted(FEWEST_BLOCKS, trials=800, seed=0)
    assert widened < 0.04 < plain


def test_the_interval_that_decides_is_wider_for_few_blocks_and_the_usual_one_for_many() -> None:
    assert expanded_tail(10) == pytest.approx(0.0085, abs=1e-4)
    assert expanded_tail(5) < expanded_tail(10) < expanded_tail(10_000) == pytest.approx(0.025, abs=1e-4)
