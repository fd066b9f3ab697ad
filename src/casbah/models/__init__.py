"""Trained models, whatever made them: a bundle goes in, probabilities of *building* come out.

predictor = casbah.models.load(ModelBundle.open("runs/unet"))
index = casbah.models.band_index(predictor.training, tiles.info.bands)
probabilities = predictor.probabilities(tiles.split("test").images[:, :, index])
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from casbah.errors import InputError
from casbah.products.model import ModelBundle, Training


class Predictor(Protocol):
    """A loaded model."""

    training: Training

    def probabilities(self, images: NDArray[np.uint16]) -> NDArray[np.float32]:
        """P(building) per pixel, (n, rows, cols) in 0..1, of `images` (n, periods, bands, rows, cols).

        Reflectance x 10000 without offset, 0 = nodata; bands and periods as in `training`, in that order. Any number
        of rows and columns. `InputError` where the shape or the type is another.
        """
        ...


def load(bundle: ModelBundle) -> Predictor:
    """Make a bundle ready to predict; `InputError` where its weights do not fit its own description."""
    if bundle.training.kind == "trees":
        from casbah.models.boosted import load as load_trees

        return load_trees(bundle)
    if bundle.training.kind == "ensemble":
        from casbah.models.ensemble import load as load_ensemble

        return load_ensemble(bundle)
    from casbah.models.network import load as load_network

    return load_network(bundle)


def band_index(training: Training, bands: Sequence[str]) -> list[int]:
    """Where the bands that a model takes stand among `bands` (those of a TileSet or a Scene), in the model's order."""
    lacking = [name for name in training.bands if name not in bands]
    if lacking:
        raise InputError(
            f"{training.experiment} needs the bands {', '.join(training.bands)}, and the images lack "
            f"{', '.join(lacking)}: ingest them too, or take a model of fewer bands"
        )
    return [list(bands).index(name) for name in training.bands]


def check_images(training: Training, images: NDArray[np.uint16]) -> None:
    """`InputError` unless `images` has the type and the shape that the model was trained on."""
    wanted = (training.periods, len(training.bands))
    if images.dtype != np.uint16 or images.ndim != 5 or images.shape[1:3] != wanted:
        raise InputError(
            f"{training.experiment} takes uint16 images of (n, {wanted[0]} periods, {wanted[1]} bands, rows, cols), "
            f"and got {images.dtype} of {images.shape}"
        )
