"""Sentinel-2 MSI bands: names, wavelengths, native resolutions, and what catalogues call them.

Central wavelengths and widths are those of Sentinel-2A in ESA's Sentinel-2 user handbook (nm, rounded).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from casbah.errors import InputError


@dataclass(frozen=True)
class Band:
    """One spectral band.

    `name` is ESA's (B02), `common_name` the STAC eo extension's (blue), `asset` what Earth Search v1 calls its asset;
    `wavelength` and `width` are in nanometres, `resolution` is the native ground sampling distance in metres.
    """

    name: str
    common_name: str
    asset: str
    wavelength: int
    width: int
    resolution: int


BANDS: tuple[Band, ...] = (
    Band("B01", "coastal", "coastal", 443, 21, 60),
    Band("B02", "blue", "blue", 492, 66, 10),
    Band("B03", "green", "green", 560, 36, 10),
    Band("B04", "red", "red", 665, 31, 10),
    Band("B05", "rededge071", "rededge1", 704, 15, 20),
    Band("B06", "rededge075", "rededge2", 741, 15, 20),
    Band("B07", "rededge078", "rededge3", 783, 20, 20),
    Band("B08", "nir", "nir", 833, 106, 10),
    Band("B8A", "nir08", "nir08", 865, 21, 20),
    Band("B09", "nir09", "nir09", 945, 20, 60),
    Band("B11", "swir16", "swir16", 1614, 91, 20),
    Band("B12", "swir22", "swir22", 2202, 175, 20),
)
"""The twelve bands that L2A and L1C share, in the order of every Casbah array (B10 exists in L1C alone: left out)."""

BAND_NAMES: tuple[str, ...] = tuple(band.name for band in BANDS)

TEN_BANDS: tuple[str, ...] = tuple(band.name for band in BANDS if band.resolution < 60)
"""Those of 10 and 20 m, which SatMAE and Galileo take."""

REFLECTANCE_SCALE = 10_000
"""Stored integers are reflectance x 10000."""

NODATA = 0
"""No observation; the darkest valid value is therefore 1."""

BOA_OFFSET = 1000
"""Added to every digital number from processing baseline 04.00 (2022-01-25) on; a Scene has it taken off again."""

LEVELS: tuple[str, ...] = ("L1C", "L2A")
"""Top-of-atmosphere and surface reflectance; the two are never mixed in one scene."""


def band(name: str) -> Band:
    """Find a band by ESA's name, its common name or its Earth Search asset name; `InputError` names the known ones."""
    wanted = name.strip().lower()
    for known in BANDS:
        if wanted in (known.name.lower(), known.common_name, known.asset):
            return known
    raise InputError(f"band {name!r} is not a Sentinel-2 band that Casbah reads; choose from {', '.join(BAND_NAMES)}")


def select(names: Sequence[str] | None) -> tuple[str, ...]:
    """Names in any spelling -> ESA's names in the order of `BANDS`, each once; all twelve for None."""
    if names is None:
        return BAND_NAMES
    wanted = {band(name).name for name in names}
    if not wanted:
        raise InputError("no band was named; give at least one of " + ", ".join(BAND_NAMES))
    return tuple(name for name in BAND_NAMES if name in wanted)
