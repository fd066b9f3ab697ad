"""The tiles of a study: one set or all folds, how many labels a budget draws from them, and what it leaves out."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from casbah.errors import InputError
from casbah.finetune.subset import training_rows
from casbah.products.tiles import TileFolds, TileSet, holds_folds
from casbah.scoring import IGNORE

SQUARE_KM = 1e6
"""Square metres in one."""


class Labels(NamedTuple):
    """What a training learns from."""

    tiles: int
    km2: float | None
    """Labelled area; None where tiles overlap, so that their areas can't be added."""


class Part(NamedTuple):
    """One set of tiles that every row is trained on; `fold` is None outside of k-fold."""

    fold: int | None
    tiles: TileSet


@dataclass(frozen=True)
class Ground:
    """The tiles that all rows share."""

    path: Path
    parts: tuple[Part, ...]
    digest: str

    @classmethod
    def open(cls, path: Path) -> "Ground":
        """Open a TileSet or TileFolds; `InputError` where a split is empty that every row needs."""
        if holds_folds(path):
            folds = TileFolds.open(path)
            found = cls(path, tuple(Part(number, tiles) for number, tiles in enumerate(folds.folds)), folds.digest)
        else:
            tiles = TileSet.open(path)
            found = cls(path, (Part(None, tiles),), tiles.digest)
        for part in found.parts:
            for split in ("train", "val", "test"):
                if not len(part.tiles.split(split)):
                    raise InputError(
                        f"the {split} split of {part.tiles.path} holds no tile, and a comparison needs all three: cut "
                        "tiles with another seed or a larger area"
                    )
        return found

    @property
    def folds(self) -> int:
        """K, or 0 for a hold-out split."""
        return len(self.parts) if self.parts[0].fold is not None else 0

    @cached_property
    def train_tiles(self) -> int:
        """The most tiles that a budget can ask of every part."""
        return min(len(part.tiles.split("train")) for part in self.parts)

    @property
    def overlapping(self) -> bool:
        """Whether one pixel may lie in several tiles."""
        info = self.parts[0].tiles.info
        return info.stride < info.tile_size

    def labels(self, fold: int | None, budget: int | None, seed: int) -> Labels:
        """What the training of one part learns from: the same for every row."""
        tiles = next(part.tiles for part in self.parts if part.fold == fold)
        split = tiles.split("train")
        rows = training_rows(split.blocks, budget, seed)
        if self.overlapping:
            return Labels(len(rows), None)
        known = int(np.count_nonzero(split.masks[rows] != IGNORE))
        return Labels(len(rows), known * tiles.info.resolution**2 / SQUARE_KM)


def parse_budgets(text: str) -> list[int | None]:
    """`50,100,all` as numbers of tiles, None for all of them; `InputError` where it is something else."""
    found: list[int | None] = []
    for word in (part.strip() for part in text.split(",")):
        if word != "all" and not (word.isascii() and word.isdigit() and int(word) > 0):
            raise InputError(f"--budgets has {word!r}; numbers of tiles and all are wanted, such as 50,100,all")
        found.append(None if word == "all" else int(word))
    if len(set(found)) < len(found):
        raise InputError(f"--budgets names one twice: {text}")
    return found


def split_budgets(budgets: list[int | None], ground: Ground) -> tuple[list[int | None], list[int]]:
    """The budgets that the tiles hold, the smallest first and all last; and those that are beyond them.

    `InputError` where none is left, or where tiles overlap and are to be counted.
    """
    numbers = sorted(one for one in budgets if one is not None)
    if numbers and ground.overlapping:
        info = ground.parts[0].tiles.info
        raise InputError(
            f"{ground.path} has tiles that overlap (stride {info.stride} of {info.tile_size} px), and a budget counts "
            "tiles that do not: tile without --stride, or compare with --budgets all"
        )
    # As many as there are is what `all` means already (of folds, of the smallest one's).
    most = ground.train_tiles - (1 if None in budgets else 0)
    kept: list[int | None] = [one for one in numbers if one <= most]
    kept += [None] if None in budgets else []
    if not kept:
        raise InputError(
            f"no budget can be drawn: the smallest of --budgets is {numbers[0]}, and {ground.path} has "
            f"{ground.train_tiles} training tiles"
        )
    return kept, [one for one in numbers if one > most]
