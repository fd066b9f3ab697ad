"""`ModelBundle`: a trained model with everything that a consumer needs to feed it rightly."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from casbah.errors import InputError
from casbah.products.manifest import Product

MEMBERS = "members"
"""The folder of an ensemble's bundle that holds the bundles of its members."""


class Training(BaseModel):
    """`training.json`: what the model takes, what it gives, and what it has seen."""

    model_config = ConfigDict(frozen=True)
    experiment: str
    kind: Literal["network", "trees", "ensemble"]
    members: tuple[str, ...] = ()
    """Of an ensemble: the names of its members, in the order of their weights."""
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
    """`casbah.models.normalisation.Normalisation` as plain values (empty for trees and ensembles): `mean` and `std` per
    period and band, their `source`, and the stretch before them, where there is one."""
    input_range: dict[str, Any] = {}
    """Per band, low and high (1st and 99th percentile) of the training pixels, in the units above."""
    blocks: dict[str, tuple[str, ...]]
    """`train` and `val`: the block ids that the model learned from and was tuned on."""
    tiles: str
    """Digest of the TileSet."""
    config: str
    """Digest of the resolved configuration."""
    seed: int
    trials: int = 0
    """Among how many trials the settings were looked for on the model's own validation (`casbah.tune`), or those of an
    ensemble's members; 0 where they were given."""
    pretrained: str | None = None
    """What the backbone's weights were pretrained on (of an ensemble: which members' on what); None where the model
    started from random weights."""
    parameters: int
    """How many numbers were learned (network weights, or the trees' nodes)."""
    epochs: int | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    peak_memory: int = 0
    """Bytes of resident memory (CPU) or of the device (GPU) at the peak."""
    device: str | None = None
    """What a network trained on: `cpu`, or the name of the GPU."""
    precision: str | None = None
    """Of a network's products of matrices: `float32`, `bfloat16`, or what its trainer was told."""
    rounding: float | None = None
    """Of a network that may compute in bfloat16: by how much that moved the probability of a pixel of its validation
    tiles at the most; it predicts in float32 if that is more than 0.01 (`casbah.models.network.AGREES`), or None:
    never measured."""
    tiles_per_second: float | None = None
    """Training tiles that a network learned from in a second, time for validation counted in."""
    refit: str | None = None
    """None, or which refit this is of a k-fold protocol (`refit of 4 folds`): its scores are the protocol's."""
    simulated: bool = False
    attribution: tuple[str, ...] = ()

    @property
    def weights_origin(self) -> str:
        """What training started from, for tables: `random weights`, `pretrained: …`, `trees`, or `ensemble of …`."""
        if self.kind == "trees":
            return "trees"
        if self.kind == "ensemble":
            return f"ensemble of {', '.join(self.members)}"
        return f"pretrained: {self.pretrained}" if self.pretrained else "random weights"


class ModelBundle(Product):
    """Files: `config.yaml` (resolved), `weights.safetensors` (networks and trees alike: no pickle), `metrics.json`
    (validation scores and the history), `training.json`; of an ensemble also `members/<name>/`, whole bundles, and
    `weights.safetensors` then holds their shares of the blend."""

    schema = "model"
    required = ("config.yaml", "weights.safetensors", "metrics.json", "training.json")

    @cached_property
    def training(self) -> Training:
        """`InputError` where the file describes no training."""
        file = self.path / "training.json"
        try:
            return Training.model_validate(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:  # of JSON, of UTF-8 and of pydantic
            first = str(error).splitlines()[0]
            raise InputError(f"{file} describes no training ({first}): make or fetch the model again") from None

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))

    @property
    def weights_path(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @cached_property
    def members(self) -> dict[str, "ModelBundle"]:
        """The members of an ensemble by name, none of another model; their files were checked with the bundle's.

        `InputError` where one is missing.
        """
        found = {}
        for name in self.training.members:
            if f"{MEMBERS}/{name}/manifest.json" not in self.manifest.files or Path(name).name != name:
                raise InputError(f"{self.path} lacks its member {name}: copy the whole directory or train it again")
            found[name] = ModelBundle.open(self.path / MEMBERS / name, verify=False)
        return found

    @property
    def asked(self) -> dict[str, Any]:
        """What a search for settings leaves as it was asked for: experiment, seed, and how many labels at the most."""
        given = {"experiment": self.training.experiment, "seed": self.training.seed}
        return given | {"max_labels": self.manifest.parameters.get("max_labels")}

    def tuned_among(self, trials: int) -> Self:
        """This bundle, its `Training.trials` said: replaced on disk where it said another number.

        `WorldError` where it can't be written.
        """
        if self.training.trials == trials:
            return self
        training = self.training.model_copy(update={"trials": trials})
        return self.copy_to(self.path, replaced={"training.json": training.model_dump(mode="json")}, link=True)
