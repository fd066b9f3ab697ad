"""`ModelBundle`: a trained model with everything that a consumer needs to feed it rightly."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from casbah.products.manifest import Product


class Training(BaseModel):
    """`training.json`: what the model takes, what it gives, and what it has seen."""

    model_config = ConfigDict(frozen=True)
    experiment: str
    kind: Literal["network", "trees"]
    bands: tuple[str, ...]
    """In input order, ESA's names."""
    periods: int
    level: str
    units: str = "reflectance x 10000, offset removed, 0 = nodata"
    normalise: str = "none"
    """`scene`: the model takes images that were brought to the same mean and deviation, as `casbah tile --normalise
    scene` does; `none`: reflectance as it is."""
    resolution: float
    tile_size: int
    classes: tuple[str, ...] = ("background", "building")
    building_cover: int
    """Percent of a pixel under buildings from which on it counts as building."""
    threshold: float
    """Probability from which on a pixel is called building; chosen on validation."""
    normalisation: dict[str, Any] = {}
    """`casbah.models.normalisation.Normalisation` as plain values (empty for trees): `mean` and `std` per period and
    band, their `source`, and the stretch before them, where there is one."""
    input_range: dict[str, Any] = {}
    """Per band, low and high (1st and 99th percentile) of the training pixels, in the units above."""
    blocks: dict[str, tuple[str, ...]]
    """`train` and `val`: the block ids that the model learned from and was tuned on."""
    tiles: str
    """Digest of the TileSet."""
    config: str
    """Digest of the resolved configuration."""
    seed: int
    pretrained: str | None = None
    """What the backbone's weights were pretrained on; None where the model started from random weights."""
    parameters: int
    """How many numbers were learned (network weights, or the trees' nodes)."""
    epochs: int | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    peak_memory: int = 0
    """Bytes of resident memory (CPU) or of the device (GPU) at the peak."""
    refit: str | None = None
    """None, or which refit this is of a k-fold protocol (`refit of 4 folds`): its scores are the protocol's."""
    simulated: bool = False
    attribution: tuple[str, ...] = ()

    @property
    def weights_origin(self) -> str:
        """What training started from, for tables: `random weights`, `pretrained: …`, or `trees`."""
        if self.kind == "trees":
            return "trees"
        return f"pretrained: {self.pretrained}" if self.pretrained else "random weights"


class ModelBundle(Product):
    """Files: `config.yaml` (resolved), `weights.safetensors` (networks and trees alike: no pickle), `metrics.json`
    (validation scores and the history), `training.json`."""

    schema = "model"
    required = ("config.yaml", "weights.safetensors", "metrics.json", "training.json")

    @cached_property
    def training(self) -> Training:
        return Training.model_validate(json.loads((self.path / "training.json").read_text(encoding="utf-8")))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))

    @property
    def weights_path(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"
