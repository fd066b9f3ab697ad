"""How a network's input is made of reflectance: stretched where its pretraining saw 8-bit images, then standardised.

A bundle carries the numbers that its network was trained with; where they come from is `casbah.finetune.inputs`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casbah.bands import NODATA


@dataclass(frozen=True)
class Normalisation:
    """Per period and band, arrays (periods, bands): what a network takes in place of reflectance x 10000.

    First the stretch, for bands with finite `low` and `high` (reflectance x 10000): (x - low) / (high - low), cut off
    at 0 and 1, and rounded down to a multiple of 1 / `levels` where that is not 0 (an 8-bit image has 255). Then
    (x - `mean`) / `std`, in the units of what is left. `fill` stands where a band was not observed.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    source: str
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    levels: int = 0
    fill: float = 0.0

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Normalisation":
        """What a bundle's `training.json` holds under `normalisation`."""
        low, high = (np.array(stored[end], np.float64) if end in stored else None for end in ("low", "high"))
        return cls(
            np.asarray(stored["mean"], np.float32),
            np.asarray(stored["std"], np.float32),
            str(stored.get("source", "")),
            low,
            high,
            int(stored.get("levels", 0)),
            float(stored.get("fill", 0)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not there is left out."""
        found: dict[str, Any] = {"mean": self.mean.tolist(), "std": self.std.tolist(), "source": self.source}
        if self.low is not None and self.high is not None:
            found |= {"low": _plain(self.low), "high": _plain(self.high), "levels": self.levels}
        return found | ({"fill": self.fill} if self.fill else {})

    def apply(self, images: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
        """Fill `out` with the normalised `images` (n, periods, bands, rows, cols) of reflectance x 10000, 0 = nodata.

        One tile at a time, so that every pass stays within the processor's cache.
        """
        mean, scale = self.mean[:, :, None, None], (1 / self.std)[:, :, None, None]
        for image, target in zip(images, out, strict=True):
            if self.low is None or self.high is None:
                np.subtract(image, mean, out=target, dtype=np.float32)
            else:
                stretched = self._stretched(image, self.low, self.high)
                np.subtract(stretched, mean, out=target, dtype=np.float32, casting="same_kind")
            target *= scale
            target[image == NODATA] = self.fill

    def _stretched(
        self, image: NDArray[np.uint16], lows: NDArray[np.float64], highs: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """In float64: near the edge between two levels, float32 falls on the wrong side."""
        found = image.astype(np.float64)
        stretched = ~np.isnan(lows)
        low, span = (part[stretched][:, None, None] for part in (lows, highs - lows))
        part = np.clip((found[stretched] - low) / span, 0, 1)
        found[stretched] = np.floor(part * self.levels) / self.levels if self.levels else part
        return found


def _plain(values: NDArray[np.float64]) -> list[list[float | None]]:
    """JSON has no NaN: None stands for it."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]
