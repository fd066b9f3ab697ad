"""An ensemble: the weighted mean of what its members say, each of which sees its own bands."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from casbah.errors import InputError
from casbah.models import Predictor, band_index, check_images
from casbah.models import load as load_any
from casbah.products.model import ModelBundle, Training


def blend(found: Sequence[NDArray[np.float32]], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """The mean of the members' probabilities under weights that sum to 1."""
    total = np.zeros(found[0].shape, np.float64)
    for chance, weight in zip(found, weights, strict=True):
        total += weight * chance
    return total.astype(np.float32)


class EnsemblePredictor:
    """`casbah.models.Predictor` of several members."""

    def __init__(self, training: Training, members: Sequence[Predictor], weights: NDArray[np.float64]) -> None:
        self.training = training
        self.members = tuple(members)
        self.weights = weights
        self._bands = [band_index(member.training, training.bands) for member in self.members]

    def probabilities(self, images: NDArray[np.uint16]) -> NDArray[np.float32]:
        """See `casbah.models.Predictor`."""
        return blend(self.opinions(images), self.weights)

    def opinions(self, images: NDArray[np.uint16]) -> list[NDArray[np.float32]]:
        """What each member says of the same images, (n, rows, cols) each."""
        check_images(self.training, images)
        return [
            member.probabilities(np.ascontiguousarray(images[:, :, index]))
            for member, index in zip(self.members, self._bands, strict=True)
        ]


def load(bundle: ModelBundle) -> EnsemblePredictor:
    """Every member of a bundle, with its weight in the blend.

    `InputError` where one is missing or an ensemble itself, or the weights are no shares of a whole.
    """
    members = bundle.members
    if nested := [name for name, member in members.items() if member.training.kind == "ensemble"]:
        raise InputError(f"{bundle.path} holds the ensemble {nested[0]}; members are single models: train it again")
    return EnsemblePredictor(
        bundle.training, [load_any(member) for member in members.values()], _weights(bundle, len(members))
    )


def _weights(bundle: ModelBundle, count: int) -> NDArray[np.float64]:
    try:
        arrays = load_file(bundle.weights_path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{bundle.weights_path} can't be read as weights ({error}): train the model again") from None
    found = arrays.get("weights", np.empty(0))
    sound = found.shape == (count,) and found.dtype == np.float64 and bool((found >= 0).all())
    if set(arrays) != {"weights"} or not sound or abs(found.sum() - 1) > 1e-9:
        raise InputError(f"{bundle.weights_path} does not hold the shares of {count} members: train the model again")
    return found
