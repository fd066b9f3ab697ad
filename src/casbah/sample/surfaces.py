"""The pieces of ground that the truth raster is painted with, and what each one reflects on a given day."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casbah.bands import BANDS
from casbah.sample import spectra

SEASON_WIDTH = 32.0
"""Days: standard deviation of the Gaussian by which seasonal plants come and go around their peak."""

_TILT_AXIS = np.log(np.array([band.wavelength for band in BANDS]) / 860.0)


@dataclass
class Surfaces:
    """A growing table of surfaces (a roof, a parcel, a street net), one row each; the truth raster stores row numbers.

    `ground` and `plant` are rows of `spectra.TABLE`; the plant covers the share `always` of the surface, plus
    `season` at its `peak` (day of year). `bright` multiplies the spectrum, `tilt` bends it from blue to infrared,
    `rough` is the relative spread of its pixels, `height` is in metres.
    """

    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    count: int = 0

    def add(
        self,
        rng: np.random.Generator,
        count: int,
        ground: ArrayLike,
        *,
        plant: ArrayLike = 0,
        always: ArrayLike = 0.0,
        season: ArrayLike = 0.0,
        peak: ArrayLike = 150.0,
        spread: float = 0.08,
        rough: ArrayLike = 0.06,
        height: ArrayLike = 0.0,
    ) -> NDArray[np.int32]:
        """Append `count` surfaces whose brightness scatters by `spread` (relative); returns their row numbers."""
        row = {
            "ground": ground,
            "plant": plant,
            "always": always,
            "season": season,
            "peak": peak,
            "rough": rough,
            "height": height,
            "bright": np.exp(rng.normal(0, spread, count)),
            "tilt": rng.normal(0, spread / 2.5, count),
        }
        for name, value in row.items():
            self.columns.setdefault(name, []).append(np.broadcast_to(np.asarray(value), (count,)))
        first, self.count = self.count, self.count + count
        return np.arange(first, self.count, dtype=np.int32)

    def column(self, name: str) -> NDArray[Any]:
        """One property of all surfaces, (count,)."""
        return np.concatenate(self.columns[name])

    def brighten(self, grounds: Sequence[str], factor: float) -> None:
        """Multiply the spectra of all surfaces of some materials."""
        chosen = np.isin(self.column("ground"), spectra.indices(grounds))
        self.columns["bright"] = [self.column("bright") * np.where(chosen, factor, 1.0)]

    def water(self) -> NDArray[np.bool_]:
        """(count,): which surfaces are water."""
        return np.isin(self.column("ground"), spectra.indices(sorted(spectra.WATER)))

    def plants(self, day: datetime) -> NDArray[np.float64]:
        """(count,): share of each surface under living plants on that day."""
        lag = (day.timetuple().tm_yday - self.column("peak")) / SEASON_WIDTH
        return np.clip(self.column("always") + self.column("season") * np.exp(-0.5 * lag**2), 0, 1)

    def reflectance(self, day: datetime) -> NDArray[np.float32]:
        """(count, 12): surface reflectance, 0-1, on that day."""
        share = self.plants(day)[:, None]
        mixed = spectra.TABLE[self.column("ground")] * (1 - share) + spectra.TABLE[self.column("plant")] * share
        bent = 1 + self.column("tilt")[:, None] * _TILT_AXIS
        return np.clip(mixed * bent * self.column("bright")[:, None], 0.001, 0.98).astype(np.float32)
