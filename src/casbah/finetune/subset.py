"""Fewer labels: the training tiles that a model may learn from, drawn block by block and nested."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from casbah.errors import InputError


def training_rows(blocks: Sequence[str], max_labels: int | None, seed: int) -> NDArray[np.int64]:
    """Rows of the training split to learn from, ascending: all, or `max_labels` of them.

    `blocks` names the block of each tile. Blocks come in the order of a hash of seed and block, so that the draw is the
    same on every machine, whole blocks go in before the next one is opened, and a smaller draw lies within a larger.
    `InputError` where fewer than one, or more tiles than there are, are asked for.
    """
    if max_labels is None:
        return np.arange(len(blocks))
    if not 1 <= max_labels <= len(blocks):
        raise InputError(f"max_labels is {max_labels}; the training split has {len(blocks)} tiles, so take 1 to that")
    order = {block: hashlib.sha256(f"{seed}/{block}".encode()).hexdigest() for block in set(blocks)}
    ranked = sorted(range(len(blocks)), key=lambda row: (order[blocks[row]], row))
    return np.sort(np.array(ranked[:max_labels], np.int64))
