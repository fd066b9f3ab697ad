"""Maps side by side: which test blocks a report shows, and what each model makes of them.

The blocks are chosen by their share of building alone, before any model is asked: no score decides what is shown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from casbah.compare.ground import Ground
from casbah.errors import InputError
from casbah.figures.colour import display_bands, stretch_limits, stretched, truth_colours
from casbah.models.mosaics import Mosaic, mosaics
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet

BLOCKS = 4

ENOUGH = 30
"""Building pixels that a block needs to be shown: fewer show nothing."""

SIDE = 256
"""Pixels of a block that a figure shows; of a larger one its middle."""

PROBABILITY, COLOUR = "probability", "colour"


class Place(NamedTuple):
    """A test block of one scene; `part` counts the study's sets of tiles."""

    part: int
    scene: str
    block: str
    share: float
    """Of its labelled pixels, that are building."""

    @property
    def key(self) -> str:
        return f"{self.scene}/{self.block}"


class Picture(NamedTuple):
    """A place as bytes to draw: `colour` (rows, cols, 3), `truth` (rows, cols, 4)."""

    place: Place
    colour: NDArray[np.uint8]
    truth: NDArray[np.uint8]


def chosen(ground: Ground) -> list[Place]:
    """Up to `BLOCKS` test blocks at even ranks of their building share, the most built-up one first."""
    found = []
    for number, part in enumerate(ground.parts):
        split = part.tiles.split("test")
        for (scene, block), rows in split.table.groupby(["scene", "block"], sort=True):
            masks = split.masks[np.sort(rows["row"].to_numpy())]
            building, known = int((masks == 1).sum()), int((masks <= 1).sum())
            if building >= ENOUGH:
                found.append(Place(number, str(scene), str(block), building / known))
    ranked = sorted(found, key=lambda place: (-place.share, place.key))
    if len(ranked) <= BLOCKS:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (BLOCKS - 1))] for i in range(BLOCKS)]


def write_probabilities(models: Sequence[ModelBundle], ground: Ground, file: Path) -> None:
    """Let the models (one a part) draw the chosen blocks, and keep that: key -> (rows, cols) float16, NaN: no tile."""
    from casbah.models.on_tiles import model_layer

    places = chosen(ground)
    found: dict[str, Any] = {}
    for number, (model, part) in enumerate(zip(models, ground.parts, strict=True)):
        wanted = [place for place in places if place.part == number]
        if wanted:
            layers = {PROBABILITY: model_layer(model, part.tiles)}
            for place, mosaic in _mosaics(part.tiles, wanted, layers):
                found[place.key] = mosaic.layers[PROBABILITY].astype(np.float16)
    np.savez(file, allow_pickle=False, **found)


def read_probabilities(file: Path) -> dict[str, NDArray[np.float32]]:
    """What `write_probabilities` kept, cropped as the pictures are; `InputError` where the file is damaged."""
    try:
        with np.load(file, allow_pickle=False) as content:
            return {key: middle(content[key].astype(np.float32)) for key in content.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"{file} can't be read ({type(error).__name__}): delete it, and compare again") from None


def pictures(ground: Ground) -> list[Picture]:
    """The chosen blocks in true colour and with their truth, all stretched alike."""
    found: list[tuple[Place, Mosaic]] = []
    places = chosen(ground)
    for number, part in enumerate(ground.parts):
        bands = part.tiles.info.bands
        index = [bands.index(name) for name in display_bands(bands)]

        def colour(images: NDArray[np.uint16], index: list[int] = index) -> NDArray[np.float32]:
            return images[:, 0, index].astype(np.float32)

        wanted = [place for place in places if place.part == number]
        found += _mosaics(part.tiles, wanted, {COLOUR: colour})
    if not found:
        return []
    images = {place: middle(np.nan_to_num(mosaic.layers[COLOUR])).astype(np.uint16) for place, mosaic in found}
    limits = stretch_limits(np.concatenate([image.reshape(3, -1) for image in images.values()], axis=1))
    drawn = {
        place: Picture(place, stretched(images[place], limits), truth_colours(middle(mosaic.mask)))
        for place, mosaic in found
    }
    return [drawn[place] for place in places]


def middle(array: NDArray[Any]) -> NDArray[Any]:
    """The middle `SIDE` pixels of (…, rows, cols)."""
    top, left = (max(0, (length - SIDE) // 2) for length in array.shape[-2:])
    return array[..., top : top + SIDE, left : left + SIDE]


def _mosaics(tiles: TileSet, places: Sequence[Place], layers: dict[str, Any]) -> list[tuple[Place, Mosaic]]:
    of = {(place.scene, place.block): place for place in places}
    if not of:
        return []
    laid = mosaics(tiles, "test", layers, {place.block for place in places})
    return [(of[mosaic.scene, mosaic.block], mosaic) for mosaic in laid if (mosaic.scene, mosaic.block) in of]
