"""What a raster says of itself: band descriptions and tags, in any spelling."""

from collections.abc import Mapping, Sequence

from casbah.bands import LEVELS, band
from casbah.errors import InputError

LEVEL_TAGS = ("level", "processing_level", "processing:level")
"""Tags of a raster, in lower case, that may say its level."""


def lower_case(tags: Mapping[str, str]) -> dict[str, str]:
    """The same tags, named in lower case."""
    return {key.lower(): value for key, value in tags.items()}


def band_name(text: str) -> str:
    """ESA's name of a band in any spelling; what is no band of Sentinel-2 stays, so that it may stand between them."""
    try:
        return band(text).name
    except InputError:
        return text


def whole_periods(names: Sequence[str]) -> tuple[list[str], int] | None:
    """The bands of one period and the number of periods, where the same bands come in the same order for each."""
    own = list(dict.fromkeys(names))
    periods, rest = divmod(len(names), len(own))
    return None if rest or list(names) != own * periods else (own, periods)


def told_level(tags: Mapping[str, str]) -> str | None:
    """The level that tags (in lower case) tell, as they say it where it is none of Sentinel-2's; None for none."""
    for name in LEVEL_TAGS:
        if said := tags.get(name):
            return next((level for level in LEVELS if level in said.upper()), said)
    return None


def told_simulated(tags: Mapping[str, str]) -> bool:
    """Whether tags (in lower case) say that the pixels are simulated."""
    return tags.get("simulated", "").lower() in ("true", "yes", "1")
