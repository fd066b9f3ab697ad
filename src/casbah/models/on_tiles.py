"""A model on a TileSet: whether it fits, and its counts of each block with every pixel scored once."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from casbah import models
from casbah.errors import InputError
from casbah.models.mosaics import Layer, mosaics
from casbah.products.model import ModelBundle, Training
from casbah.products.tiles import TileInfo, TileSet
from casbah.scoring import Counts, called_building, confusion

PROBABILITY = "probability"


def differences(wanted: Training, given: TileInfo) -> dict[str, str]:
    """What a model was trained on and tiles have not: the fact -> `periods 2 where the tiles have 1`.

    The facts are `bands` (`band B10, which the tiles have not`), `periods`, `level`, `normalise`, `resolution`,
    `building cover`.
    """
    missing = [name for name in wanted.bands if name not in given.bands]
    found = {"bands": f"band {', '.join(missing)}, which the tiles have not"} if missing else {}
    facts: dict[str, tuple[object, object]] = {
        "periods": (wanted.periods, given.periods),
        "level": (wanted.level, given.level),
        "normalise": (wanted.normalise, given.normalise),
        "resolution": (f"{wanted.resolution:g} m", f"{given.resolution:g} m"),
        "building cover": (f"{wanted.building_cover} %", f"{given.building_cover} %"),
    }
    return found | {
        name: f"{name} {there} where the tiles have {here}" for name, (there, here) in facts.items() if there != here
    }


def check_fit(model: ModelBundle, tiles: TileSet) -> None:
    """`InputError` unless the tiles hold what the model takes: bands, and every fact of `differences`."""
    missing = [name for name in model.training.bands if name not in tiles.info.bands]
    if missing:
        raise InputError(
            f"{model.path} takes band {', '.join(missing)}, which {tiles.path} does not hold (it has "
            f"{', '.join(tiles.info.bands)}): make tiles with it, or evaluate a model of these bands"
        )
    if found := differences(model.training, tiles.info):
        raise InputError(
            f"{model.path} does not fit {tiles.path}: the model was trained on {'; '.join(found.values())}; "
            "evaluate it on tiles like those it was trained on"
        )


def model_layer(model: ModelBundle, tiles: TileSet) -> Layer:
    """The model's P(building) as a layer; `InputError` where the model gives NaN or another shape."""
    predictor = models.load(model)
    index = models.band_index(model.training, tiles.info.bands)

    def of(images: NDArray[np.uint16]) -> NDArray[np.float32]:
        probability = predictor.probabilities(np.ascontiguousarray(images[:, :, index]))
        if probability.shape != (len(images), *images.shape[-2:]) or np.isnan(probability).any():
            raise InputError(
                f"{model.path} gave NaN or a wrong shape ({probability.shape}) for tiles of {tiles.path}: "
                "its weights are not sound; train it again"
            )
        return probability

    return of


def block_counts(model: ModelBundle, tiles: TileSet, split: str, blocks: Iterable[str]) -> dict[str, Counts]:
    """The counts of those of `blocks` that lie in a split, at the model's threshold, one block in memory at a time.

    Each pixel is scored once, by the mean probability of the tiles that hold it: the counts that `evaluate` writes.
    """
    found: dict[str, Counts] = {}
    for mosaic in mosaics(tiles, split, {PROBABILITY: model_layer(model, tiles)}, blocks):
        probability = mosaic.layers[PROBABILITY]
        known = ~np.isnan(probability)
        called = called_building(probability[known], model.training.threshold)
        found[mosaic.block] = added(found.get(mosaic.block), confusion(called, mosaic.mask[known]))
    return found


def added(before: Counts | None, counts: Counts) -> Counts:
    """Counts of a block and of another part of it: several scenes may hold parts of one block."""
    return counts if before is None else Counts(*(a + b for a, b in zip(before, counts, strict=True)))
