"""Pretrained weights: whether an experiment asks for them, and whether they can be had, within seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from casbah import weights
from casbah.addresses import shown
from casbah.errors import CasbahError, InputError, WorldError
from casbah.models import published
from casbah.products.manifest import sha256_of


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
    """What a backbone starts from, for the bundle, where nothing better is known; None for random weights.

    What a listed one starts from is known when it is loaded (`starts_from` of the network).
    """
    wanted = weights.asked_for(model_args)
    if not wanted:
        return None
    file = model_args.get("backbone_ckpt_path")
    if file:
        return f"{Path(file).name} (sha256 {sha256_of(Path(file))[:16]})"
    listed = published.wanted(model_args)
    if listed:
        return listed.entry.source
    found = _hub_file(model_args)
    if found:
        return found.repository
    return f"{model_args.get('backbone')}, {wanted if isinstance(wanted, str) else 'its own pretraining'}"


def check(model_args: Mapping[str, Any], where: str) -> None:
    """Fail at once where weights are asked for and can't be had: `InputError` (a file), `WorldError` (the hub)."""
    file = model_args.get("backbone_ckpt_path")
    if file is not None and not Path(file).is_file():
        raise InputError(f"{where}: model_args.backbone_ckpt_path names {file}, which is no file")
    listed = published.wanted(model_args)
    if not weights.asked_for(model_args) or file is not None:
        return
    if listed is not None:
        _check_listed(listed.entry, model_args, where)
        return
    found = _hub_file(model_args)
    if found and found.cached:
        return
    wanted = f"the pretrained weights of {model_args.get('backbone')}" + (f" ({found.repository})" if found else "")
    if weights.offline():
        if found:
            raise WorldError(f"{wanted} are not in the local cache, and HF_HUB_OFFLINE is set: {_remedy(model_args)}")
        return  # which file another hub model needs is known to its builder alone, and it fails at once when offline
    endpoint = weights.hub_endpoint()
    if fault := weights.unanswered(endpoint):
        away = f"{shown(endpoint)} does not answer ({fault})"
        raise WorldError(f"{wanted} are not in the local cache, and {away}: {_remedy(model_args)}")


def _check_listed(entry: weights.Published, model_args: Mapping[str, Any], where: str) -> None:
    """The same for weights that the manifest lists: here, in the mirror, or at a hub that answers."""
    try:
        weights.check_available(entry.name)
    except CasbahError as error:
        raise type(error)(f"{where}: {error}; or set model_args.{_switch(model_args)} to false") from None


def _switch(model_args: Mapping[str, Any]) -> str:
    return "pretrained" if "model" in model_args else "backbone_pretrained"


def _remedy(model_args: Mapping[str, Any]) -> str:
    """What can be done without the hub: of those that the manifest does not list, Prithvi alone takes a file."""
    prithvi = str(model_args.get("backbone")).removeprefix("terratorch_").startswith("prithvi")
    copy = "or give a local copy as model_args.backbone_ckpt_path, " if prithvi else ""
    return (
        "run once with the internet, or copy a cache that has them (HF_HOME) to this machine, "
        f"{copy}or set model_args.{_switch(model_args)} to false"
    )


def _hub_file(model_args: Mapping[str, Any]) -> HubFile | None:
    """Where the weights of a backbone of Prithvi, timm or segmentation_models_pytorch come from; None for others."""
    import timm
    from segmentation_models_pytorch.encoders import encoders
    from terratorch.models.backbones.prithvi_vit import pretrained_weights
    from terratorch.registry import BACKBONE_REGISTRY

    backbone, wanted = str(model_args.get("backbone")), weights.asked_for(model_args)
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
