"""The pass over a split that counts: the model, the baselines, calibration, and what the pictures will need."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casbah.errors import InputError, WorldError
from casbah.evaluate.baselines import Baseline, tuned_index
from casbah.evaluate.cases import Case, Cases
from casbah.figures.colour import display_bands
from casbah.models.mosaics import Layer, Mosaic, mosaics
from casbah.models.on_tiles import PROBABILITY, added, model_layer
from casbah.products.tiles import TileSet
from casbah.progress import Task, task
from casbah.scoring import Calibration, Counts, called_building, confusion

MODEL, UNALIGNED, BACKGROUND, INDEX = "model", "unaligned", "all background", "built-up index"
COLOUR, BUILT = "colour", "built"

BlockTable = dict[str, Counts]
"""Block -> its counts."""


@dataclass(frozen=True)
class Shot:
    """What pictures need of one block of one scene; kept on disk, not in memory."""

    block: str
    scene: str
    split: str
    fold: int | None
    top: int
    left: int
    rows: int
    cols: int
    path: Path
    scored: bool = True
    """False: there is no probability, the block only shows where the others lie."""

    def load(self) -> dict[str, NDArray[Any]]:
        """`colour` (3, rows, cols) uint16, `mask` uint8; where scored `predicted` and `probability` (NaN: no tile)."""
        with np.load(self.path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


@dataclass
class Scored:
    """The counts of every scheme, and the calibration of the model."""

    tables: dict[str, BlockTable] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    baselines: list[Baseline | None] = field(default_factory=list)
    """One a case, in their order."""
    shots: list[Shot] = field(default_factory=list)

    def count(self, scheme: str, block: str, counts: Counts) -> None:
        """Add to the counts of a block: several scenes may hold parts of it."""
        table = self.tables.setdefault(scheme, {})
        table[block] = added(table.get(block), counts)


def score(cases: Cases, split: str, scratch: Path) -> Scored:
    """Score every case, one block in memory at a time; `scratch` takes what the pictures need."""
    scored = Scored()
    total = sum(len(case.tiles.split(split)) for case in cases.cases)
    with task(f"scoring {split}", total) as progress:
        for case in cases.cases:
            baseline = tuned_index(case.tiles)
            scored.baselines.append(baseline)
            _score_case(case, split, baseline, scored, scratch, progress)
    if not any(sum(counts) for counts in scored.tables[MODEL].values()):
        raise InputError(
            f"the {split} split of {cases.cases[0].tiles.path} has no labelled pixel: nothing can be scored there"
        )
    return scored


def add_context(tiles: TileSet, split: str, scored: Scored, scratch: Path) -> None:
    """Take the blocks of a split that is not scored into the pictures: image, truth and split."""
    for mosaic in mosaics(tiles, split, {COLOUR: _colour_layer(tiles)}):
        scored.shots.append(_shot(mosaic, split, None, scratch))


def _score_case(
    case: Case, split: str, baseline: Baseline | None, scored: Scored, scratch: Path, progress: Task
) -> None:
    threshold = case.model.training.threshold
    layers: dict[str, Layer] = {PROBABILITY: model_layer(case.model, case.tiles), COLOUR: _colour_layer(case.tiles)}
    if baseline is not None:
        layers[BUILT] = baseline.index.layer(case.tiles.info.bands)
    for mosaic in mosaics(case.tiles, split, layers):
        probability = mosaic.layers[PROBABILITY]
        known = ~np.isnan(probability)
        mask = mosaic.mask[known]
        called = called_building(probability, threshold)
        predicted = called[known]
        scored.count(MODEL, mosaic.block, confusion(predicted, mask))
        scored.count(BACKGROUND, mosaic.block, confusion(np.zeros_like(predicted), mask))
        scored.calibration.add(probability[known], mask)
        if baseline is not None:
            built = called_building(mosaic.layers[BUILT][known], baseline.threshold)
            scored.count(INDEX, mosaic.block, confusion(built, mask))
        if mosaic.unaligned is not None:
            scored.count(UNALIGNED, mosaic.block, confusion(predicted, mosaic.unaligned[known]))
        scored.shots.append(_shot(mosaic, split, case.fold, scratch, called))
        progress.advance(mosaic.tiles)


def _colour_layer(tiles: TileSet) -> Layer:
    index = [tiles.info.bands.index(name) for name in display_bands(tiles.info.bands)]
    return lambda images: images[:, 0, index].astype(np.float32)


def _shot(
    mosaic: Mosaic, split: str, fold: int | None, scratch: Path, predicted: NDArray[np.bool_] | None = None
) -> Shot:
    arrays: dict[str, NDArray[Any]] = {
        "colour": np.nan_to_num(mosaic.layers[COLOUR]).astype(np.uint16),
        "mask": mosaic.mask,
    }
    if predicted is not None:
        arrays |= {"probability": mosaic.layers[PROBABILITY].astype(np.float16), "predicted": predicted}
    name = hashlib.sha256(f"{mosaic.scene}/{mosaic.block}/{split}/{fold}".encode()).hexdigest()[:24]
    path = scratch / f"{name}.npz"
    try:
        np.savez(path, allow_pickle=False, **arrays)
    except OSError as error:
        raise WorldError(
            f"{scratch} has no room for the pictures ({error.strerror or error}); nothing was written: "
            "free some, or point TMPDIR to a larger disk, and run it again"
        ) from error
    rows, cols = mosaic.mask.shape
    return Shot(
        mosaic.block, mosaic.scene, split, fold, mosaic.top, mosaic.left, rows, cols, path, predicted is not None
    )


def areas(shots: Sequence[Shot]) -> Iterator[tuple[str, list[Shot]]]:
    """The shots of each scene."""
    for scene in sorted({shot.scene for shot in shots}):
        yield scene, [shot for shot in shots if shot.scene == scene]
