"""What every kind of model looks up in its tiles, and what each of their bundles says."""

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casbah import models, scoring
from casbah.errors import InputError
from casbah.models import Predictor
from casbah.products.model import ModelBundle, Training
from casbah.products.tiles import Split, TileSet


def check_split(tiles: TileSet, split: Split) -> None:
    """`InputError` where a split holds no tile, no building, or pixels that are no reflectance."""
    where = tiles.path / split.name
    if len(split) == 0:
        raise InputError(f"{where} holds no tile: tile again with another seed, more area, or smaller blocks")
    split.check_images()
    if not (split.masks == 1).any():
        raise InputError(f"{where} holds no building pixel, so nothing can be learned or chosen from it: label more")


def check_draw(tiles: TileSet, rows: NDArray[np.int64]) -> None:
    """`InputError` where the training tiles that are learned from hold no building."""
    if not (tiles.split("train").masks[rows] == 1).any():
        raise InputError(f"the {len(rows)} tiles to learn from hold no building pixel: raise max_labels")


def band_index(tiles: TileSet, wanted: Sequence[str], setting: str) -> list[int]:
    """Where the bands that an experiment names stand in the tiles.

    `InputError` naming those that are lacking, and the `setting` that names them.
    """
    here = tiles.info.bands
    lacking = [name for name in wanted if name not in here]
    if lacking:
        raise InputError(
            f"the experiment needs {', '.join(lacking)}, and {tiles.path} has only {', '.join(here)}: "
            f"ingest and tile them too, or name others under {setting}"
        )
    return [here.index(name) for name in wanted]


def input_range(tiles: TileSet, bands: Sequence[str]) -> dict[str, Any]:
    """1st and 99th percentile per band over the training tiles, the widest of its periods."""
    statistics, here = tiles.statistics, tiles.info.bands
    low, high = np.asarray(statistics["low"], float), np.asarray(statistics["high"], float)
    index = {name: here.index(name) for name in bands}
    return {name: [float(low[:, i].min()), float(high[:, i].max())] for name, i in index.items()}


def facts_of(tiles: TileSet) -> dict[str, Any]:
    """What `Training` takes over from the tiles as it stands there."""
    info = tiles.info
    return {
        "periods": info.periods,
        "level": info.level,
        "normalise": info.normalise,
        "resolution": info.resolution,
        "tile_size": info.tile_size,
        "building_cover": info.building_cover,
        "tiles": tiles.digest,
        "refit": f"refit of {info.folds} folds" if info.refit else None,
        "simulated": info.simulated,
        "attribution": info.attribution,
    }


def choose_threshold(predictor: Predictor, tiles: TileSet) -> tuple[float, dict[str, Any]]:
    """The IoU-maximal threshold on validation, and what the model scores there."""
    return threshold_of(predictor.probabilities(validation_images(predictor.training, tiles)), tiles)


def validation_images(training: Training, tiles: TileSet, most: int | None = None) -> NDArray[np.uint16]:
    """Validation tiles (n, periods, bands, rows, cols) in a model's bands: all, or `most` of them spread evenly."""
    images = np.asarray(tiles.split("val").images)
    if most is not None and most < len(images):
        images = images[np.linspace(0, len(images) - 1, most).astype(int)]
    return np.ascontiguousarray(images[:, :, models.band_index(training, tiles.info.bands)])


def threshold_of(found: NDArray[np.float32], tiles: TileSet) -> tuple[float, dict[str, Any]]:
    """The same for probabilities (tiles, rows, cols) of the validation tiles."""
    masks = np.asarray(tiles.split("val").masks)
    threshold = scoring.best_threshold(found, masks)
    counts = scoring.confusion(scoring.called_building(found, threshold), masks)
    scores = {key: finite(float(value)) for key, value in scoring.scores(counts).items()}
    return threshold, {**scores, "threshold": threshold, "tiles": len(masks), "counts": list(counts)}


def finite(value: float) -> float | None:
    """A number as JSON can hold it."""
    return float(value) if np.isfinite(value) else None


def peak_memory() -> int:
    """Bytes of resident memory at the peak of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def finished(output: Path, config: str, tiles: TileSet) -> ModelBundle | None:
    """The bundle at `output` where it came from this very configuration and these very tiles.

    `config` is the digest of the resolved configuration, which holds the seed and `max_labels` too.
    """
    try:
        bundle = ModelBundle.open(output)
    except InputError:
        return None
    return bundle if (bundle.training.config, bundle.training.tiles) == (config, tiles.digest) else None
