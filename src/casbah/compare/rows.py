"""The rows of the study: which experiments they are, and what a trained one says of its backbone."""

from typing import Any, NamedTuple

import yaml

from casbah import experiments
from casbah.products.model import ModelBundle

SMALL = "_small"
"""End of the name of a row's variant for a CPU."""

RANDOM = "random weights"

NONE = "–"
"""Printed where there is nothing to name."""


class Pretraining(NamedTuple):
    """How a backbone is called in print (empty: as it is registered), and what its published weights have seen."""

    title: str
    data: str


BACKBONES = {
    "prithvi_eo_v1_100": Pretraining("Prithvi-EO-1.0 ViT-B", "HLS, contiguous United States"),
    "prithvi_eo_v2_tiny": Pretraining("Prithvi-EO-2.0 tiny", "HLS time series, global"),
    "prithvi_eo_v2_100": Pretraining("Prithvi-EO-2.0 ViT-B", "HLS time series, global"),
    "prithvi_eo_v2_300": Pretraining("Prithvi-EO-2.0 ViT-L", "HLS time series, global"),
    "prithvi_eo_v2_600": Pretraining("Prithvi-EO-2.0 ViT-H", "HLS time series, global"),
    "terramind_v1_tiny": Pretraining("TerraMind tiny", "TerraMesh, global, nine modalities"),
    "terramind_v1_base": Pretraining("TerraMind base", "TerraMesh, global, nine modalities"),
    "terramind_v1_large": Pretraining("TerraMind large", "TerraMesh, global, nine modalities"),
    "satmae_vit_large": Pretraining("SatMAE ViT-L", "fMoW-Sentinel"),
    "satmae_vit_tiny": Pretraining("SatMAE tiny", "fMoW-Sentinel"),
    "scalemae_vit_large": Pretraining("Scale-MAE ViT-L", "fMoW RGB"),
    "scalemae_vit_tiny": Pretraining("Scale-MAE tiny", "fMoW RGB"),
    "galileo_nano": Pretraining("Galileo nano", "Sentinel-1 and -2, weather, terrain and maps, global"),
    "tu-resnet": Pretraining("", "ImageNet-1k"),
    "resnet": Pretraining("", "ImageNet-1k"),
    "mit_b": Pretraining("", "ImageNet-1k"),
}
"""Beginning of a backbone's registered name -> what is known of it. The published descriptions: Jakubik et al. 2023
(arXiv 2310.18660), Szwarcman et al. 2024 (2412.02732), Jakubik et al. 2025 (2504.11171), Cong et al. 2022 (2207.08051),
Reed et al. 2023 (2212.14532), Tseng et al. 2025 (2502.09356), Russakovsky et al. 2015 (1409.0575)."""


class Origin(NamedTuple):
    """The columns Backbone, Pretrained on and Starts from of a trained model."""

    backbone: str
    pretrained_on: str
    starts_from: str


def study(small: bool = False) -> list[str]:
    """The experiments that are the rows of the study; with `small` each row's variant for a CPU, where it has one."""
    names = experiments.names()
    rows = [name for name in names if name.removesuffix(SMALL) not in names or not name.endswith(SMALL)]
    # Rows without one (trees, a U-Net that is small by its name) are small themselves.
    return [name + SMALL if small and name + SMALL in names else name for name in rows]


def origin(model: ModelBundle) -> Origin:
    """What a model is built on and started from, by its own bundle: the experiment's intention counts for nothing."""
    training = model.training
    if training.kind == "trees":
        return Origin(NONE, NONE, training.weights_origin)
    if training.kind == "ensemble":
        seen = dict.fromkeys(origin(member).pretrained_on for member in model.members.values())
        data = [one for one in seen if one not in (RANDOM, NONE)]
        return Origin(NONE, "; ".join(data) or (RANDOM if RANDOM in seen else NONE), training.weights_origin)
    arguments = _model_args(model)
    backbone = str(arguments.get("backbone") or NONE).removeprefix("terratorch_")
    known = next((facts for name, facts in BACKBONES.items() if backbone.startswith(name)), None)
    title = ((known.title if known else "") or backbone) + _cut(arguments)
    if training.pretrained is None:
        return Origin(title, RANDOM, training.weights_origin)
    return Origin(title, known.data if known else training.pretrained, training.weights_origin)


def _cut(arguments: dict[str, Any]) -> str:
    """What an experiment changed of the published size, so that a small variant is not called by the name alone."""
    named = {"backbone_depth": "{} blocks", "backbone_embed_dim": "width {}"}
    changed = [words.format(arguments[key]) for key, words in named.items() if key in arguments]
    return f", cut to {', '.join(changed)}" if changed else ""


def _model_args(model: ModelBundle) -> dict[str, Any]:
    config = yaml.safe_load(model.config_path.read_text(encoding="utf-8"))
    found: Any = config
    for key in ("model", "init_args", "model_args"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
