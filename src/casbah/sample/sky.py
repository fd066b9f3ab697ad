"""When the simulated satellite passes, and what stands between it and the town: sun, air and clouds."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from casbah.bands import BANDS

Array = NDArray[np.float32]

START, END = "2021-06-01", "2021-09-15"
"""The dates that hold every acquisition, both inclusive."""

CLOUD_HEIGHT = 1200.0
"""Metres of the cumulus base above the town: what sets a cloud's distance from its shadow."""

SHADOW_DEPTH = 0.62
"""Share of the light that the densest cloud takes from the ground under its shadow."""

FAINTEST = 0.04
"""Opacity below which a cloud's edge is taken for clear air and left out."""


@dataclass(frozen=True)
class Acquisition:
    """One pass over the town.

    `time` is UTC; `gain` multiplies all reflectances and `haze` is added to B01 (less at longer wavelengths):
    what atmospheric correction leaves behind. `shift` (metres east, north) is the misregistration of the image against
    the ground. `clouds` and `cirrus` are the shares of the image to cover. `baseline` is the processing baseline by
    MGRS tile; `applied` tells what the catalogue's `earthsearch:boa_offset_applied` says, and is true of the pixels.
    `swath_edge` names the tile that the edge of the swath cuts, if one does.
    """

    time: datetime
    platform: str
    gain: float
    haze: float
    shift: tuple[float, float]
    clouds: float
    cirrus: float
    baseline: dict[str, str]
    applied: bool
    swath_edge: str | None = None

    def offset(self, tile: str) -> int:
        """What was added to the digital numbers of a tile: 1000 from baseline 04.00 on unless it was taken off."""
        return 1000 if self.baseline[tile] >= "04.00" and not self.applied else 0


def _pass(month: int, day: int, platform: str, **facts: object) -> Acquisition:
    time = datetime(2021, month, day, 10, 36, 29, 24000, tzinfo=UTC)
    return Acquisition(time=time, platform=platform, **facts)  # type: ignore[arg-type]


ACQUISITIONS: tuple[Acquisition, ...] = (
    _pass(6, 4, "sentinel-2b", gain=1.00, haze=0.006, shift=(0.0, 0.0), clouds=0.04, cirrus=0.0,
          baseline={"31SDA": "03.00", "31SEA": "03.00"}, applied=False),
    _pass(6, 24, "sentinel-2b", gain=1.04, haze=0.002, shift=(2.5, -2.5), clouds=0.0, cirrus=0.0,
          baseline={"31SDA": "05.00", "31SEA": "05.00"}, applied=False),
    _pass(7, 14, "sentinel-2b", gain=0.96, haze=0.011, shift=(-2.5, 0.0), clouds=0.11, cirrus=0.0,
          baseline={"31SDA": "03.01", "31SEA": "05.00"}, applied=False),
    _pass(8, 3, "sentinel-2b", gain=0.98, haze=0.004, shift=(0.0, 5.0), clouds=0.0, cirrus=0.0,
          baseline={"31SDA": "03.01", "31SEA": "03.01"}, applied=False, swath_edge="31SEA"),
    _pass(8, 23, "sentinel-2a", gain=0.92, haze=0.014, shift=(2.5, 2.5), clouds=0.48, cirrus=0.0,
          baseline={"31SDA": "03.01", "31SEA": "03.01"}, applied=False),
    _pass(9, 12, "sentinel-2a", gain=1.02, haze=0.003, shift=(-2.5, -2.5), clouds=0.05, cirrus=0.06,
          baseline={"31SDA": "05.00", "31SEA": "05.00"}, applied=True),
)  # fmt: skip
"""One summer. It has every case that ingest must tell apart: old baselines without the offset, reprocessed items with
it, one date on which only one of two tiles has it, and one whose catalogue took it off; a date too cloudy to use; a
date on which the swath's edge leaves one tile incomplete, so that the town is whole only after mosaicking."""


def sun(time: datetime, longitude: float, latitude: float) -> tuple[float, float]:
    """(azimuth from north, elevation) in degrees, within about half a degree (Cooper 1969 declination, no equation of
    time)."""
    day = time.timetuple().tm_yday
    declination = math.radians(23.45 * math.sin(math.radians(360 * (284 + day) / 365)))
    hour = math.radians(15 * (time.hour + time.minute / 60 + longitude / 15 - 12))
    phi = math.radians(latitude)
    sine = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(hour)
    elevation = math.asin(sine)
    cosine = (math.sin(declination) - sine * math.sin(phi)) / (math.cos(elevation) * math.cos(phi))
    azimuth = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
    return (360 - azimuth if hour > 0 else azimuth), math.degrees(elevation)


def haze_of(acquisition: Acquisition) -> NDArray[np.float64]:
    """What is added per band: Rayleigh-like, falling with the fourth power of the wavelength beyond B01's."""
    wavelengths = np.array([band.wavelength for band in BANDS])
    return acquisition.haze * (BANDS[0].wavelength / wavelengths) ** 4


@dataclass(frozen=True)
class Sky:
    """Clouds over a 10 m grid, each (rows, cols): `cloud` and `cirrus` opacity, `shadow` share of light taken; 0-1."""

    cloud: Array
    cirrus: Array
    shadow: Array


def sky(acquisition: Acquisition, shape: tuple[int, int], sun_position: tuple[float, float], seed: int) -> Sky:
    """The clouds of one pass over a grid of 10 m pixels, and the shadows that they cast away from the sun."""
    rng = np.random.default_rng([seed, 31, acquisition.time.timetuple().tm_yday])
    azimuth, elevation = (math.radians(angle) for angle in sun_position)
    reach = math.ceil(CLOUD_HEIGHT / math.tan(elevation) / 10)
    wide = (shape[0] + 2 * reach, shape[1] + 2 * reach)
    rows, cols = shape
    here = np.s_[reach : reach + rows, reach : reach + cols]
    cumulus = _field(rng, wide, here, (45.0, 14.0, 5.0), acquisition.clouds)
    cirrus = 0.35 * _field(rng, wide, here, (70.0, 30.0), acquisition.cirrus)
    # A shadow lies where the sun's ray through the cloud meets the ground: away from the sun, so the cloud of a
    # shaded pixel stands towards it.
    east = round(math.sin(azimuth) * reach)
    north = round(math.cos(azimuth) * reach)
    sunward = np.s_[reach - north : reach - north + rows, reach + east : reach + east + cols]
    return Sky(cumulus[here], cirrus[here], SHADOW_DEPTH * cumulus[sunward])


def _field(
    rng: np.random.Generator,
    shape: tuple[int, int],
    seen: tuple[slice, slice],
    scales: tuple[float, ...],
    share: float,
) -> Array:
    """Opacity 0-1 of ragged patches that cover `share` of what is `seen`; `scales` are in pixels, coarse to fine."""
    noise = np.zeros(shape, dtype=np.float32)
    for weight, scale in zip((1.0, 0.45, 0.2), scales, strict=False):
        part = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), scale, mode="wrap")
        noise += weight * part / part.std()
    if share <= 0:
        return np.zeros(shape, dtype=np.float32)
    edge = np.quantile(noise[seen], 1 - share)
    opacity = np.clip((noise - edge) / 0.45, 0, 1) ** 0.8
    opacity[opacity < FAINTEST] = 0
    return opacity.astype(np.float32)
