"""Whether an array is what a model takes, told from its shape and its values: bands, unit, scale.

The offset's threshold was looked for on eight real Sentinel-2 images of four cities, each under the training range of
every other (`tests/real/test_reflectance_real.py`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casbah.bands import BOA_OFFSET, NODATA, band
from casbah.errors import InputError
from casbah.models import band_index
from casbah.products.model import Training

WANTED = "reflectance x 10000 without the +1000 offset, 0 for nodata"

HIGHEST = 65_535
"""The highest value that Sentinel-2's 16 bits hold."""

BRIGHTEST = 15_000
"""Half of an image's values can't lie above: fresh snow is about 10000."""

UNITY = 2.0
"""Reflectance as a fraction, of a mirror too."""

PERCENT = 100.0
"""And a hundredth of reflectance x 10000, which the clearest sea has more of in blue."""

EIGHT_BITS = (128, 255)
"""Where the brightest pixel of every band lies in an 8-bit image. Water ends below 255 as well, but not in each."""

DIM = 600.0
"""Darker than that at every wavelength is no ground but water and shade. Of 734 places of 640 m on those eight images
the least bright has 1554 in its brightest band (its median), and the brightest 538 once divided by ten."""

GREEN = "B03"

INFRARED = ("B11", "B12", "B8A", "B08")
"""At the first of these that a model takes water is darker than in green: the sign of MNDWI (Xu, 2006,
doi:10.1080/01431160600589179) and of NDWI (McFeeters, 1996, doi:10.1080/01431169608948714)."""

LIFTED = 800.0
"""Where in every band even the darkest pixels lie that much above the training data's, the offset is inside. Of tiles
of 128 pixels with the offset 67 % (12 bands) and 75 % (6 bands) do; without it none on ground like the training data,
and 1 to 3 % under the model of another city: bright desert, which `offset_removed` is for. `casbah.predict.unlike`
flags the rest."""

DARK_PERCENTILE = 1.0

FEWEST = 64 * 64 // 2
"""Observed pixels of a period, over all images given together, below which the darkest ones prove nothing."""


def as_reflectance(
    images: NDArray[Any], training: Training, *, bands: Sequence[str] = (), offset_removed: bool = False
) -> NDArray[np.uint16]:
    """`images` (n, periods, bands, rows, cols) of any number type as a model takes them, its bands in its order.

    `bands` names those of `images`, where they are others or stand in another order; `offset_removed` says that dark
    pixels need not be looked at. `InputError` with what was found and what is wanted for another shape, and for values
    that are another unit, scale or nodata.
    """
    _check_shape(images, training, tuple(bands))
    if bands:
        images = images[:, :, band_index(training, [band(name).name for name in bands])]
    for number, image in enumerate(images):
        _check_values(image, f"image {number}" if len(images) > 1 else "the input", training)
    if not offset_removed:
        _check_offset(images, training)
    return np.rint(images).astype(np.uint16)


def _check_shape(images: NDArray[Any], training: Training, bands: tuple[str, ...]) -> None:
    count = len(bands) or len(training.bands)
    if images.ndim != 5 or images.shape[1:3] != (training.periods, count):
        named = ", ".join(bands or training.bands)
        raise InputError(
            f"the input has the shape {images.shape}; (n, {training.periods} period{'s' * (training.periods > 1)}, "
            f"{count} bands, rows, cols) is wanted, the bands being {named}"
        )
    if images.dtype.kind not in "uif":
        raise InputError(f"the input is an array of {images.dtype}; numbers are wanted ({WANTED})")


def _check_values(image: NDArray[Any], what: str, training: Training) -> None:
    """`InputError` for one image (periods, bands, rows, cols) whose values are no reflectance x 10000."""
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InputError(f"{what} holds NaN or infinity; {WANTED} is wanted")
    seen = image[image != NODATA]
    if not seen.size:
        return
    lowest, highest, middle = (float(value) for value in (seen.min(), seen.max(), np.median(seen)))
    if lowest < 0:
        raise InputError(f"{what} holds negative values (down to {lowest:g}); {WANTED} is wanted")
    if highest <= UNITY:
        raise InputError(
            f"{what} holds no value above {highest:g}, as reflectance of 0 to 1 does; {WANTED} is wanted: multiply "
            "by 10000"
        )
    if highest <= PERCENT and np.count_nonzero(seen % 1) > seen.size / 2:
        raise InputError(
            f"{what} holds fractions up to {highest:g}, as reflectance in percent does; {WANTED} is wanted: multiply "
            "by 100"
        )
    if highest <= PERCENT and seen.size >= FEWEST * image.shape[0] * image.shape[1]:
        raise InputError(
            f"{what} holds no value above {highest:g} in any band, as reflectance in percent does; {WANTED} is wanted: "
            "multiply by 100"
        )
    brightest = image.max(axis=(0, 2, 3))
    if EIGHT_BITS[0] <= brightest.min() and brightest.max() <= EIGHT_BITS[1]:
        raise InputError(
            f"{what} ends at {brightest.min():g} to {brightest.max():g} in every band, as 8-bit pictures do; {WANTED} "
            "is wanted"
        )
    if found := too_dim(image, training.bands):
        raise InputError(f"{what} {found}; {WANTED} is wanted")
    if middle > BRIGHTEST or highest > HIGHEST:
        raise InputError(
            f"{what} holds values up to {highest:g}, half of them above {middle:g}, and snow is about 10000; {WANTED} "
            "is wanted"
        )


def water_bands(bands: Sequence[str]) -> tuple[str, str] | None:
    """Green and the infrared band by which water is told from ground; None where `bands` lack either."""
    infrared = next((name for name in INFRARED if name in bands), None)
    return (GREEN, infrared) if infrared and GREEN in bands else None


def too_dim(image: NDArray[Any], bands: Sequence[str]) -> str | None:
    """What is wrong with (periods, bands, ...) where in a period it is darker than any ground and yet no water, as
    reflectance x 1000 and dark 8-bit pictures are; None where that is not so, or can't be told by these bands or so few
    pixels.
    """
    told = water_bands(bands)
    if told is None:
        return None
    places = [bands.index(name) for name in told]
    for period in image:
        observed = [values[values != NODATA] for values in period]
        if min(values.size for values in observed) < FEWEST:
            continue
        green, infrared = (float(np.median(observed[place])) for place in places)
        if green < infrared < DIM and all(np.median(values) < DIM for values in observed):
            return (
                f"holds {green:.0f} in {told[0]} and {infrared:.0f} in {told[1]} at its median pixels and less than "
                f"{DIM:.0f} in every band, which is too dark for ground and no water, as reflectance x 1000 and dark "
                "8-bit pictures are"
            )
    return None


def _check_offset(images: NDArray[Any], training: Training) -> None:
    """`InputError` where the images, taken together, are lifted above the training data in every band of a period."""
    if any(name not in training.input_range for name in training.bands):
        return
    for period in range(training.periods):
        lifts = []
        for place, name in enumerate(training.bands):
            values = images[:, period, place]
            seen = values[values != NODATA]
            if seen.size < FEWEST:
                break
            lifts.append(float(np.percentile(seen, DARK_PERCENTILE)) - training.input_range[name][0])
        else:
            if min(lifts) >= LIFTED:
                raise InputError(
                    f"the darkest pixels of period {period + 1} lie {min(lifts):.0f} to {max(lifts):.0f} above those "
                    f"that {training.experiment} was trained on, in every band, as if the +{BOA_OFFSET} of processing "
                    f'baseline 04.00 were still inside: take it off; where that was done, say "offset_removed": true'
                )
