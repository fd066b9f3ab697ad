"""What is kept of a window's passes through a model: the probability, and how far opinions on it differ."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from casbah.errors import InputError
from casbah.models import Predictor
from casbah.models.symmetries import DIHEDRAL, aligned
from casbah.predict.blending import Layers, checked, probability_layer

Opinions = Literal["flips", "members"]


class Passes:
    """What a window gives: `layers`, of which there are `count`, whether they are means over `flips`, and what the
    second one is the standard deviation `of`."""

    def __init__(self, predictor: Any, *, flips: bool, uncertainty: bool) -> None:
        self.of: Opinions | None = None
        members = hasattr(predictor, "opinions")
        if uncertainty:
            self.of = "members" if members else "flips"
        self.flips = flips or self.of == "flips" or bool(getattr(predictor, "flips", False))
        if self.flips:
            # A network that its experiment turns and flips is not turned and flipped twice, nor is one of several.
            for one in _every(predictor):
                if hasattr(one, "flips"):
                    one.flips = False
        self.count = 2 if self.of else 1
        self._predictor = predictor
        self._has_networks = bool(_networks(predictor))
        self.layers: Layers = probability_layer(predictor) if not self.flips and not self.of else self._several

    def _several(self, images: NDArray[np.uint16]) -> NDArray[np.float32]:
        """(1 or 2, n, rows, cols): the mean, and the standard deviation where it is wanted."""
        symmetries = DIHEDRAL if self.flips else DIHEDRAL[:1]
        by_member = self.of == "members"
        rows, cols = images.shape[-2:]
        if self._has_networks:
            images = aligned(images)
        weights = self._predictor.weights if by_member else np.ones(1)
        total: NDArray[np.float64] = np.zeros((len(images), *images.shape[-2:]))
        squares, opinions = np.zeros_like(total), np.zeros((len(weights), *total.shape))
        for turns, flip in symmetries:
            turned = np.ascontiguousarray(_turned(images, turns, flip))
            found = self._predictor.opinions(turned) if by_member else [self._predictor.probabilities(turned)]
            for place, one in enumerate(found):
                back = _turned(checked(self._predictor, one, turned), turns, flip, inverse=True)
                opinions[place] += back / len(symmetries)
                if not by_member:
                    squares += back.astype(np.float64) ** 2 / len(symmetries)
        for weight, opinion in zip(weights, opinions, strict=True):
            total += weight * opinion
            if by_member:
                squares += weight * opinion**2
        if self.of is None:
            return total[None, :, :rows, :cols].astype(np.float32)
        deviation = np.sqrt(np.maximum(squares - total**2, 0))
        return np.stack([total, deviation])[..., :rows, :cols].astype(np.float32)


def _every(predictor: Any) -> tuple[Any, ...]:
    """A model, and those that it is the mean of."""
    return (predictor, *getattr(predictor, "members", ()))


def _networks(predictor: Any) -> list[Any]:
    """Those of them that are networks: they have a device."""
    return [one for one in _every(predictor) if hasattr(one, "device")]


def _turned(images: NDArray[Any], turns: int, flip: bool, inverse: bool = False) -> NDArray[Any]:
    """Turn the last two axes by quarter turns, then flip; with `inverse`, undo it."""
    if inverse:
        return np.rot90(images[..., ::-1] if flip else images, -turns, (-2, -1))
    turned = np.rot90(images, turns, (-2, -1))
    return turned[..., ::-1] if flip else turned


def made_ready(predictor: Predictor, device: str) -> None:
    """Move a model's networks to `auto`, `cpu` or `cuda` and fold what can be folded; `InputError` where there is no
    such device."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {device!r}; auto, cpu or cuda is wanted")
    networks = _networks(predictor)
    if device == "cuda" and not networks:
        raise InputError(f"device is 'cuda', and {predictor.training.experiment} has no network; take auto or cpu")
    for one in networks:
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("device is 'cuda', and torch finds no GPU here; take auto or cpu")
        if device != "auto":
            one.device = torch.device(device)
            one.model = one.model.to(one.device)
        one.fold()
