"""From numbers to colours: a steady true-colour stretch, and palettes that colour-blind eyes can tell apart."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from casbah.bands import NODATA, band

TRUE_COLOUR = ("B04", "B03", "B02")
STRETCH = (2.0, 98.0)
"""Percentiles of the observed pixels that become black and white."""

FOUND, FALSE_ALARM, MISSED = (0, 114, 178), (230, 159, 0), (204, 121, 167)
"""Blue, orange and reddish purple of Okabe & Ito's colour-blind safe palette (2008): tp, fp, fn."""

TRUTH = (240, 228, 66)
"""Their yellow: it stands out against vegetation, soil and water alike."""

SPLITS = {"train": (86, 180, 233), "val": (0, 158, 115), "test": (213, 94, 0)}
"""Their sky blue, bluish green and vermillion: none of the colours above, since both lie in one map."""

CYCLE = ((86, 180, 233), (213, 94, 0), (51, 34, 136), (0, 158, 115), (136, 34, 85), (153, 153, 51), (0, 0, 0))
"""For folds: what is left of Okabe & Ito's colours, and indigo, wine and olive of Tol's palette *muted* (2021); a
viridis scale, but for its yellow end, takes over where there are more."""

UNKNOWN = (120, 120, 120)

OUTLINE = (0, 255, 170)
"""Of footprints, in a dark casing: aquamarine, which no ground has, and which every kind of colour-blind eyes tells
from outcomes and splits."""


def rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour of 0 to 255 as matplotlib takes it."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def display_bands(available: Sequence[str], wanted: Sequence[str] = TRUE_COLOUR) -> tuple[str, str, str]:
    """The three bands to show as red, green, blue: `wanted` where all are there, else the first band in grey."""
    names = [band(name).name for name in wanted]
    if len(names) == 3 and set(names) <= set(available):
        return names[0], names[1], names[2]
    first = available[0]
    return first, first, first


def stretch_limits(pixels: NDArray[np.uint16]) -> NDArray[np.float64]:
    """(low, high) of each channel of pixels (channels, n): percentiles 2 and 98 of what was observed; (channels, 2)."""
    limits = []
    for channel in pixels:
        seen = channel[channel != NODATA]
        low, high = np.percentile(seen, STRETCH) if seen.size else (0.0, 1.0)
        limits.append((low, max(high, low + 1)))
    return np.array(limits, np.float64)


def stretched(image: NDArray[np.generic], limits: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Image (3, rows, cols) as (rows, cols, 3) bytes between `limits`; nodata is mid grey."""
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    # Gamma 1/1.4 lifts the dark end, where most of a town's contrast lies.
    scaled = np.clip((image.astype(np.float64) - low) / (high - low), 0, 1) ** (1 / 1.4)
    colours = np.moveaxis((scaled * 255).round().astype(np.uint8), 0, -1)
    colours[(image == NODATA).all(axis=0)] = UNKNOWN
    return colours


def backdrop(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (rows, cols, 3) in pale greys: what lies over it keeps its colour."""
    grey = picture.astype(np.float64) @ (0.299, 0.587, 0.114)
    return np.repeat((170 + grey * 85 / 255).round().astype(np.uint8)[..., None], 3, axis=2)


def truth_colours(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA of a mask (rows, cols): yellow building, clear background, grey where unknown (255)."""
    return _painted(mask.shape, {TRUTH: mask == 1}, unknown=mask == 255)


def error_colours(predicted: NDArray[np.bool_], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA of a prediction against a mask: found blue, false alarm orange, missed purple, unknown grey."""
    outcomes = {FOUND: predicted & (mask == 1), FALSE_ALARM: predicted & (mask == 0), MISSED: ~predicted & (mask == 1)}
    return _painted(mask.shape, outcomes, unknown=mask == 255)


def probability_colours(probability: NDArray[np.floating]) -> NDArray[np.uint8]:
    """RGBA of probabilities (rows, cols) in cividis, which colour-blind eyes read alike; clear where NaN."""
    from matplotlib import colormaps

    colours = (colormaps["cividis"](np.nan_to_num(probability)) * 255).round().astype(np.uint8)
    colours[np.isnan(probability), 3] = 0
    return colours


def split_colours(names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Train, val and test in their own colours; other names (folds) in a colour-blind safe cycle."""
    if set(names) <= set(SPLITS):
        return {name: colour for name, colour in SPLITS.items() if name in names}
    ordered = sorted(set(names), key=lambda name: (len(name), name))
    if len(ordered) <= len(CYCLE):
        return dict(zip(ordered, CYCLE, strict=False))
    from matplotlib import colormaps

    shades = (colormaps["viridis"](np.linspace(0, 0.85, len(ordered)))[:, :3] * 255).round().astype(int)
    return {name: (int(r), int(g), int(b)) for name, (r, g, b) in zip(ordered, shades, strict=True)}


def png(colours: NDArray[np.uint8]) -> bytes:
    """RGB or RGBA bytes (rows, cols, 3 or 4) as PNG, with a palette where at most 256 colours are in it."""
    buffer = io.BytesIO()
    channels = colours.shape[-1]
    flat = np.ascontiguousarray(colours).reshape(-1, channels)
    packed = sum(flat[:, c].astype(np.uint32) << (8 * c) for c in range(channels))
    used, index = np.unique(packed, return_inverse=True)
    if len(used) > 256:
        Image.fromarray(colours).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()
    table = np.stack([(used >> (8 * c)).astype(np.uint8) for c in range(channels)], axis=1)
    image = Image.fromarray(index.reshape(colours.shape[:2]).astype(np.uint8), "P")
    image.putpalette(table[:, :3].tobytes())
    clear = {"transparency": table[:, 3].tobytes()} if channels == 4 else {}
    image.save(buffer, "PNG", optimize=True, **clear)
    return buffer.getvalue()


def jpeg(colours: NDArray[np.uint8]) -> bytes:
    """RGB bytes (rows, cols, 3) as JPEG without chroma subsampling, which would smear 10 m roofs."""
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of an image (`png`, `jpeg`) as a `data:` URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _painted(
    shape: tuple[int, ...], colours: dict[tuple[int, int, int], NDArray[np.bool_]], unknown: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    painted = np.zeros((*shape, 4), np.uint8)
    for colour, where in colours.items():
        painted[where] = (*colour, 255)
    painted[unknown] = (*UNKNOWN, 90)
    return painted
