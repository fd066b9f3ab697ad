"""Pretrained weights: whether an experiment asks for them, and whether they can be had, within seconds."""

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from casbah.errors import InputError, WorldError
from casbah.products.manifest import sha256_of

PATIENCE = 5
"""Seconds to wait for the hub's first answer; its own client waits 23-46 s before it gives up."""

OFFLINE = ("1", "ON", "YES", "TRUE")
"""Values of HF_HUB_OFFLINE that huggingface_hub reads as true."""


class HubFile(NamedTuple):
    """Weights in a repository of the Hugging Face hub, under the first of these names that is there."""

    repository: str
    names: tuple[str, ...]
    revision: str | None = None

    @property
    def cached(self) -> bool:
        """Whether this machine has them."""
        from huggingface_hub import try_to_load_from_cache

        found = (try_to_load_from_cache(self.repository, name, revision=self.revision) for name in self.names)
        return any(isinstance(path, str) for path in found)


def pretraining(model_args: Mapping[str, Any]) -> str | None:
    """What the backbone starts from, for the bundle; None for random weights."""
    wanted = _wanted(model_args)
    if not wanted:
        return None
    file = model_args.get("backbone_ckpt_path")
    if file:
        return f"{Path(file).name} (sha256 {sha256_of(Path(file))[:16]})"
    found = _hub_file(model_args)
    if found:
        return found.repository
    return f"{model_args.get('backbone')}, {wanted if isinstance(wanted, str) else 'its own pretraining'}"


def check(model_args: Mapping[str, Any], where: str) -> None:
    """Fail at once where weights are asked for and can't be had: `InputError` (a file), `WorldError` (the hub)."""
    file = model_args.get("backbone_ckpt_path")
    if file is not None and not Path(file).is_file():
        raise InputError(f"{where}: model_args.backbone_ckpt_path names {file}, which is no file")
    if pretraining(model_args) is None or file is not None:
        return
    found = _hub_file(model_args)
    if found and found.cached:
        return
    wanted = f"the pretrained weights of {model_args.get('backbone')}" + (f" ({found.repository})" if found else "")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in OFFLINE:
        if found:
            raise WorldError(f"{wanted} are not in the local cache, and HF_HUB_OFFLINE is set: {_remedy(model_args)}")
        return  # which file another hub model needs is known to its builder alone, and it fails at once when offline
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not _answers(endpoint):
        raise WorldError(f"{wanted} are not in the local cache, and {endpoint} does not answer: {_remedy(model_args)}")


def _wanted(model_args: Mapping[str, Any]) -> Any:
    """What the experiment says about pretraining; SMPModelFactory, which alone takes a `model`, does it by default."""
    return model_args.get("backbone_pretrained", model_args.get("pretrained", "model" in model_args))


def _remedy(model_args: Mapping[str, Any]) -> str:
    """What can be done without the hub: Prithvi alone takes a file."""
    prithvi = str(model_args.get("backbone")).removeprefix("terratorch_").startswith("prithvi")
    copy = "or give a local copy as model_args.backbone_ckpt_path, " if prithvi else ""
    switch = "pretrained" if "model" in model_args else "backbone_pretrained"
    return (
        "run once with the internet, or copy a cache that has them (HF_HOME) to this machine, "
        f"{copy}or set model_args.{switch} to false"
    )


def _hub_file(model_args: Mapping[str, Any]) -> HubFile | None:
    """Where the weights of a backbone of Prithvi, timm or segmentation_models_pytorch come from; None for others."""
    import timm
    from segmentation_models_pytorch.encoders import encoders
    from terratorch.models.backbones.prithvi_vit import pretrained_weights
    from terratorch.registry import BACKBONE_REGISTRY

    backbone, wanted = str(model_args.get("backbone")), _wanted(model_args)
    entry = pretrained_weights.get(backbone.removeprefix("terratorch_"))
    if entry:
        return HubFile(entry["hf_hub_id"], (entry["hf_hub_filename"],))
    if "model" in model_args and not backbone.startswith("tu-"):
        kinds = encoders.get(backbone, {}).get("pretrained_settings", {})
        kind = kinds.get(wanted if isinstance(wanted, str) else "imagenet")
        return HubFile(kind["repo_id"], ("model.safetensors",), kind["revision"]) if kind else None
    if backbone in BACKBONE_REGISTRY["terratorch"]:
        return None
    config = timm.get_pretrained_cfg(backbone.removeprefix("tu-").removeprefix("timm_"), allow_unregistered=True)
    if config is None or not config.hf_hub_id:
        return None
    named = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    return HubFile(config.hf_hub_id, named)


def _answers(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the hub's own address
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False
    return True
