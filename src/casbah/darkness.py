"""Whether pixels carry the +1000 of processing baseline 04.00: the darkest ones tell."""

import numpy as np
from numpy.typing import NDArray

from casbah.bands import BOA_OFFSET, NODATA

DARK_PERCENTILES = (1.0, 0.05)
"""Percent of the pixels: one in a hundred, which noise does not reach, and the very darkest, which the offset lifts."""

SURELY_ABSENT = (800.0, 500.0)
"""Where one pixel in a hundred is darker than the first in some band, or the very darkest than the second, no offset is
inside: with it that would be reflectance -0.02 and -0.05."""

SURELY_PRESENT = (900.0, 1150.0)
"""Where the very darkest pixels lie with the offset inside. Of eight real images without it none had its very darkest
pixels above 850, bright ones of Abu Dhabi and Valencia among them, though their hundredth was at 901 to 1428."""

DARK_GROUND = 1500.0
"""Bright desert has one band near 1000 without any offset; real shadow and water darken most bands below this."""

CHECKED_BANDS = ("B02", "B04", "B8A", "B12")
"""Read for the check: the visible ones are dark over vegetation, the infrared ones over water and in shadow."""


def read_pixels(dark: NDArray[np.float64] | None) -> tuple[int | None, str]:
    """The offset that dark percentiles (bands, 2) show (None: unclear), and the percentiles in words."""
    if dark is None or not len(dark):
        return None, "no clear pixel"
    hundredth, darkest = (float(value) for value in dark.min(axis=0))
    shown = f"darkest hundredth below {hundredth:.0f}, darkest of all {darkest:.0f}"
    if hundredth < SURELY_ABSENT[0] or darkest < SURELY_ABSENT[1]:
        return 0, shown
    if SURELY_PRESENT[0] <= darkest <= SURELY_PRESENT[1] and float(np.median(dark[:, 1])) <= DARK_GROUND:
        return BOA_OFFSET, shown
    return None, shown


def dark_percentiles(values: NDArray[np.uint16], usable: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """`DARK_PERCENTILES` of one band's sample (rows, cols); None below 100 usable pixels, which prove nothing."""
    kept = values[usable & (values != NODATA)]
    return np.percentile(kept, DARK_PERCENTILES) if kept.size >= 100 else None
