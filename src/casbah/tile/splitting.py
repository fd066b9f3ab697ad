"""Which split a block is in: a function of its place, the seed and nothing else.

A block's split may not depend on which other blocks exist today: ranking the blocks at hand by their hash, or shuffling
them, gives exact shares, but one more block would then move others from test to train, and a model registered last
year would be scored on what it had learned. Hashing each block by itself is stable, but leaves a split of a small area
empty too often (a 4 x 4 area at 20 % test and 10 % val: one time in five).

So blocks are hashed within fixed groups of 3 x 3 of the lattice. In a group the nine places are ranked by the sha256 of
their names and the seed (all nine, whether or not there is a scene below them); block i of the ranking stands at
(i + jitter) / 9, with one jitter per group, also from its hash. Each block's position is then uniform on [0, 1), as a
plain hash is, but a group's nine positions are evenly spread: it has floor or ceil of 9 x the fraction in each split
(systematic sampling). The same 4 x 4 area is short of a split one time in twelve, a 6 x 6 area hardly ever.
"""

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache

from casbah.tile.lattice import Block, Lattice

GROUP = 3
"""Blocks on a side of a group: of 1 to 5, the side that left a split empty least often in areas of 3 x 3 to 6 x 6."""

Assignment = Callable[[Block], str]
"""Block -> train, val or test."""


def hold_out(lattice: Lattice, *, seed: int, test_fraction: float, val_fraction: float) -> Assignment:
    """Test, val and train as shares of all blocks."""

    def assign(block: Block) -> str:
        position = _positions(lattice, _group(block), seed, "")[block]
        if position < test_fraction:
            return "test"
        return "val" if position < test_fraction + val_fraction else "train"

    return assign


def fold(lattice: Lattice, *, seed: int, folds: int, number: int, val_fraction: float) -> Assignment:
    """Fold `number` of `folds` is test, `val_fraction` of all blocks (from the other folds) val, the rest train."""

    def assign(block: Block) -> str:
        places = _positions(lattice, _group(block), seed, "")
        if int(places[block] * folds) == number:
            return "test"
        others = tuple(place for place, position in places.items() if int(position * folds) != number)
        share = val_fraction * folds / (folds - 1)
        return "val" if _spread(lattice, others, seed, f"val of fold {number}")[block] < share else "train"

    return assign


def refit(lattice: Lattice, *, seed: int, val_fraction: float) -> Assignment:
    """No test: `val_fraction` of the blocks is val, to stop early and to choose the threshold on, the rest train."""

    def assign(block: Block) -> str:
        position = _positions(lattice, _group(block), seed, "refit")[block]
        return "val" if position < val_fraction else "train"

    return assign


def few(lattice: Lattice, *, seed: int, share: float) -> Assignment:
    """All of it test, but for a `share` of the blocks: the few labels of a new city that a model may learn from."""

    def assign(block: Block) -> str:
        return "train" if _positions(lattice, _group(block), seed, "few")[block] < share else "test"

    return assign


def _group(block: Block) -> tuple[int, int]:
    return block.col // GROUP, block.row // GROUP


@lru_cache(maxsize=4096)
def _positions(lattice: Lattice, group: tuple[int, int], seed: int, salt: str) -> dict[Block, float]:
    members = tuple(
        Block(group[0] * GROUP + col, group[1] * GROUP + row) for row in range(GROUP) for col in range(GROUP)
    )
    return _spread(lattice, members, seed, salt)


@lru_cache(maxsize=4096)
def _spread(lattice: Lattice, members: tuple[Block, ...], seed: int, salt: str) -> dict[Block, float]:
    ranked = sorted(members, key=lambda block: _digest(lattice.name(block), seed, salt))
    jitter = _unit(_digest(lattice.key, seed, salt, *_group(members[0])))
    return {block: (rank + jitter) / len(ranked) for rank, block in enumerate(ranked)}


def _unit(digest: str) -> float:
    """The first 52 bits of a digest as a number of [0, 1): all of them would round up to 1 now and then."""
    return int(digest[:13], 16) / 16**13


def _digest(*parts: object) -> str:
    return hashlib.sha256("/".join(str(part) for part in parts).encode()).hexdigest()


def count(assign: Assignment, blocks: Iterable[Block]) -> dict[str, int]:
    """How many of the blocks are in each split."""
    counted = {"train": 0, "val": 0, "test": 0}
    for block in blocks:
        counted[assign(block)] += 1
    return counted
