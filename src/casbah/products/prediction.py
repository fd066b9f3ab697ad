"""`Prediction`: what a model says of a whole scene, as rasters that a GIS opens."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rasterio.windows import Window

from casbah.grid import Grid
from casbah.products.manifest import Product
from casbah.products.scene import Period

Values = Literal["uint8", "uint16"]
"""The types that probabilities are stored as."""

NODATA: dict[str, int] = {"uint8": 255, "uint16": 65535}
"""Value of a pixel that was observed in no period."""

STEPS: dict[str, int] = {"uint8": 200, "uint16": 10000}
"""Value of the probability 1: probability = value / steps."""


class Predictor(BaseModel):
    """Which model predicted."""

    model_config = ConfigDict(frozen=True)
    digest: str
    """Of its `ModelBundle`."""
    experiment: str
    registered: str | None = None
    """`casbah-buildings version 3`, where it came from a registry; None for a bundle on disk."""
    blocks: dict[str, tuple[str, ...]] = {}
    """`train` and `val`: the blocks that it learned from and was tuned on. A map of these says nothing of its skill."""

    @property
    def name(self) -> str:
        """For people: the registered version, or the experiment with the beginning of its digest."""
        return self.registered or f"{self.experiment} {self.digest[:12]}"


class PredictionInfo(BaseModel):
    """`prediction.json`."""

    model_config = ConfigDict(frozen=True)
    model: Predictor
    scene: str
    """Id of the scene's STAC item, or the name of the raster."""
    periods: tuple[Period, ...]
    """The dates of the imagery; empty where a raster does not say them."""
    level: str
    bands: tuple[str, ...]
    threshold: float
    """Probability from which on `mask.tif` is building: the model's own, unless another was asked for."""
    building_cover: int
    """Percent of a pixel under buildings from which on the model calls it building."""
    values: Values = "uint8"
    window: int
    """Side of the windows that went through the model, in pixels."""
    overlap: int
    """Pixels that neighbouring windows share."""
    flips: bool = False
    """Whether the probability is the mean over the eight symmetries of each window."""
    uncertainty: str | None = None
    """What `uncertainty.tif` is the standard deviation over (`flips`, `members`); None where there is none."""
    unlike: dict[str, Any] = {}
    """How far the imagery lies outside of what the model was trained on: `share` (0-1, of the observed pixels that lie
    in a cell flagged in `unlike.tif`), `bands` (band -> share of its values outside of the training range)."""
    attribution: tuple[str, ...] = ()
    """Sentences that every map made from this must print: of the imagery and of the labels behind the model."""
    simulated: bool = False

    @property
    def steps(self) -> int:
        """probability = value / steps."""
        return STEPS[self.values]

    @property
    def nodata(self) -> int:
        return NODATA[self.values]

    def probability_of(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """What stored values stand for; NaN for nodata."""
        found = values.astype(np.float32)
        found /= self.steps
        found[values == self.nodata] = np.nan
        return found


class Prediction(Product):
    """Files, all Cloud-Optimized GeoTIFFs on the scene's grid with overviews: `probability.tif` (uint8 or uint16,
    `info.steps` is probability 1, `info.nodata` was not observed), `mask.tif` (uint8: 0 background, 1 building, 255
    nodata), where asked for `uncertainty.tif` (as probability: a standard deviation), `unlike.tif` (uint8: 1 in cells
    that look unlike the training data, 0 else, 255 nodata); and `prediction.json`, `item.json` (a STAC item)."""

    schema = "prediction"
    required = ("probability.tif", "mask.tif", "unlike.tif", "prediction.json", "item.json")

    @cached_property
    def info(self) -> PredictionInfo:
        return PredictionInfo.model_validate_json((self.path / "prediction.json").read_text(encoding="utf-8"))

    @cached_property
    def item(self) -> dict[str, Any]:
        """The STAC item."""
        return json.loads((self.path / "item.json").read_text(encoding="utf-8"))

    @cached_property
    def grid(self) -> Grid:
        with rasterio.open(self.probability_path) as dataset:
            return Grid.of(dataset)

    @property
    def probability_path(self) -> Path:
        return self.path / "probability.tif"

    @property
    def mask_path(self) -> Path:
        return self.path / "mask.tif"

    def probability(self, window: Window | None = None) -> NDArray[np.float32]:
        """P(building) as (rows, cols) of the window (of all without one); NaN where nothing was observed."""
        with rasterio.open(self.probability_path) as dataset:
            return self.info.probability_of(dataset.read(1, window=window))

    def mask(self, window: Window | None = None) -> NDArray[np.uint8]:
        """0 background, 1 building, 255 nodata, as (rows, cols)."""
        with rasterio.open(self.mask_path) as dataset:
            return dataset.read(1, window=window)
