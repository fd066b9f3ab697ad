"""Block by block through a split: tiles laid together, so that each pixel is scored once and memory stays bounded."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casbah.products.labels import IGNORE
from casbah.products.tiles import Split, TileSet

BATCH_PIXELS = 8 * 224 * 224
"""Pixels that go through a model at once: eight tiles of 224 px keep a 300M-parameter network under 6 GB."""

Layer = Callable[[NDArray[np.uint16]], NDArray[np.generic]]
"""Images (n, periods, bands, rows, cols) -> values (n, rows, cols) or (n, channels, rows, cols)."""


@dataclass(frozen=True)
class Mosaic:
    """The tiles of one block of one scene laid together.

    `top`, `left` place its first pixel in the scene; layers are (rows, cols) or (channels, rows, cols) float32, the
    mean of the tiles that overlap there and NaN where no tile lies; `mask` is 255 there.
    """

    block: str
    scene: str
    top: int
    left: int
    layers: dict[str, NDArray[np.float32]]
    mask: NDArray[np.uint8]
    unaligned: NDArray[np.uint8] | None
    tiles: int
    """How many tiles went into it."""


def mosaics(
    tiles: TileSet, split: str, layers: Mapping[str, Layer], blocks: Iterable[str] | None = None
) -> Iterator[Mosaic]:
    """Each (scene, block) of the split (only of `blocks`, where given) with the wanted layers, in a steady order."""
    part = tiles.split(split)
    table = part.table if blocks is None else part.table[part.table["block"].isin(list(blocks))]
    for (scene, block), rows in table.groupby(["scene", "block"], sort=True):
        order = rows.sort_values("row")
        yield _lay(
            part,
            layers,
            (str(scene), str(block)),
            order["row"].to_numpy(),
            order["tile_row"].to_numpy(),
            order["tile_col"].to_numpy(),
        )


def _lay(
    part: Split,
    layers: Mapping[str, Layer],
    name: tuple[str, str],
    rows: NDArray[np.int64],
    tops: NDArray[np.int64],
    lefts: NDArray[np.int64],
) -> Mosaic:
    size = part.masks.shape[-1]
    top, left = int(tops.min()), int(lefts.min())
    shape = (int(tops.max()) + size - top, int(lefts.max()) + size - left)
    weight = np.zeros(shape, np.float32)
    sums: dict[str, NDArray[np.float32]] = {}
    mask = np.full(shape, IGNORE, np.uint8)
    unaligned = None if part.masks_unaligned is None else np.full(shape, IGNORE, np.uint8)
    batch = max(1, BATCH_PIXELS // (size * size))
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        images = np.ascontiguousarray(part.images[chosen])
        values = {layer: act(images) for layer, act in layers.items()}
        for n, row in enumerate(chosen):
            r, c = int(tops[start + n]) - top, int(lefts[start + n]) - left
            place = (..., slice(r, r + size), slice(c, c + size))
            weight[place] += 1
            for layer, value in values.items():
                whole = sums.setdefault(layer, np.zeros((*value.shape[1:-2], *shape), np.float32))
                whole[place] += value[n]
            mask[place] = np.minimum(mask[place], part.masks[row])
            if unaligned is not None and part.masks_unaligned is not None:
                unaligned[place] = np.minimum(unaligned[place], part.masks_unaligned[row])
    with np.errstate(invalid="ignore"):
        means = {layer: np.where(weight > 0, total / weight, np.nan) for layer, total in sums.items()}
    return Mosaic(name[1], name[0], top, left, means, mask, unaligned, len(rows))
