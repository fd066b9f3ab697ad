"""The eight symmetries of a square."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)

DIHEDRAL = tuple((turns, flip) for flip in (False, True) for turns in range(4))
"""Quarter turns, then a flip of the columns."""

PYRAMID = 32
"""Image sides that networks of five halvings take whole; others are padded to a multiple by reflection."""


def aligned(images: NDArray[Number]) -> NDArray[Number]:
    """Images (..., rows, cols) with sides that are multiples of `PYRAMID`: what is lacking below and on the right is
    their reflection. Padded before they are turned, all symmetries of an image lie alike on a network's halvings."""
    wider = tuple((0, -side % PYRAMID) for side in images.shape[-2:])
    if wider == ((0, 0), (0, 0)):
        return images
    return np.pad(images, (*((0, 0),) * (images.ndim - 2), *wider), mode="reflect")
