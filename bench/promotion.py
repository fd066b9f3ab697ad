"""How often a challenger that is no better than the champion is promoted by chance, by how many blocks decide."""

import sys

import numpy as np

from casbah.register.promotion import decide
from casbah.scoring import FEWEST_BLOCKS, Counts, paired_block_bootstrap

TRIALS = 2000
BLOCKS = (5, 10, 20, 40)


def equal_models(blocks: int, rng: np.random.Generator) -> tuple[dict[str, Counts], dict[str, Counts]]:
    """The counts of two models that are equally good: on each block their errors differ by chance alone.

    Blocks hold 150 to 6000 building pixels (log-normal, as towns do), both models are at IoU about 0.45 with a spread
    of 0.08 from block to block that they share, and each has a spread of 0.04 of its own.
    """
    building = np.clip(rng.lognormal(7, 0.8, blocks), 150, 6000).astype(int)
    hard = rng.normal(0, 0.08, blocks)
    return _counts(building, hard, rng), _counts(building, hard, rng)


def promoted(blocks: int, trials: int, seed: int) -> tuple[float, float]:
    """The share of the trials in which the plain percentile interval, and the one `decide` takes, promote."""
    rng = np.random.default_rng(seed)
    plain = widened = 0
    for _ in range(trials):
        challenger, champion = equal_models(blocks, rng)
        difference = paired_block_bootstrap(challenger, champion, resamples=1000)
        plain += difference.low is not None and difference.low > 0
        widened += decide(challenger, champion, resamples=1000).promoted
    return plain / trials, widened / trials


def main() -> None:
    """Print a row per number of blocks; 2.5 % is what a 95 % interval means to allow."""
    print(f"equal models, {TRIALS} trials a row; meant: 2.5 %")
    print(f"{'blocks':>8} {'plain percentile':>18} {'decide':>10}")
    for blocks in BLOCKS:
        plain, widened = promoted(blocks, TRIALS, seed=0)
        note = f"  (never: {FEWEST_BLOCKS} blocks are asked for)" if blocks < FEWEST_BLOCKS else ""
        print(f"{blocks:>8} {plain:>18.1%} {widened:>10.1%}{note}")


def _counts(building: np.ndarray, hard: np.ndarray, rng: np.random.Generator) -> dict[str, Counts]:
    share = np.clip(0.62 + hard + rng.normal(0, 0.04, len(building)), 0, 1)
    found = (building * share).astype(int)
    alarms = (building * np.clip(0.38 - hard + rng.normal(0, 0.04, len(building)), 0, 2)).astype(int)
    return {
        f"block {n}": Counts(int(tp), int(fp), int(total - tp), 100_000)
        for n, (tp, fp, total) in enumerate(zip(found, alarms, building, strict=True))
    }


if __name__ == "__main__":
    sys.exit(main())
