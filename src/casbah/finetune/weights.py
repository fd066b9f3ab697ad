"""Pretrained weights: whether an experiment asks for them, and whether they can be had, within seconds."""

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from casbah.errors import InputError, WorldError
from casbah.products.manifest import sha256_of

PATIENCE = 5
"""Seconds to wait for the hub's first answer; its own client waits 23-46 s before it gives up."""

OFFLINE = ("1", "ON", "YES", "TRUE")
"""Values of HF_HUB_OFFLINE that huggingface_hub reads as true."""


def pretraining(model_args: Mapping[str, Any]) -> str | None:
    """What the backbone starts from, for the bundle; None for random weights."""
    wanted = model_args.get("backbone_pretrained", model_args.get("pretrained", False))
    if not wanted:
        return None
    file = model_args.get("backbone_ckpt_path")
    if file:
        return f"{Path(file).name} (sha256 {sha256_of(Path(file))[:16]})"
    repository, _ = _hub_file(str(model_args.get("backbone")))
    return repository or f"{model_args.get('backbone')}, {wanted if isinstance(wanted, str) else 'its own pretraining'}"


def check(model_args: Mapping[str, Any], where: str) -> None:
    """Fail at once where weights are asked for and can't be had: `InputError` (a file), `WorldError` (the hub)."""
    file = model_args.get("backbone_ckpt_path")
    if file is not None and not Path(file).is_file():
        raise InputError(f"{where}: model_args.backbone_ckpt_path names {file}, which is no file")
    if pretraining(model_args) is None or file is not None:
        return
    repository, name = _hub_file(str(model_args.get("backbone")))
    if repository and _cached(repository, name):
        return
    wanted = f"the pretrained weights of {model_args.get('backbone')}" + (f" ({repository})" if repository else "")
    remedy = (
        "run once with the internet, or give a local copy as model_args.backbone_ckpt_path, or set "
        f"model_args.{'backbone_pretrained' if 'backbone_pretrained' in model_args else 'pretrained'} to false"
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in OFFLINE:
        if repository:
            raise WorldError(f"{wanted} are not in the local cache, and HF_HUB_OFFLINE is set: {remedy}")
        return  # which file another hub model needs is known to its builder alone, and it fails at once when offline
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not _answers(endpoint):
        raise WorldError(f"{wanted} are not in the local cache, and {endpoint} does not answer: {remedy}")


def _hub_file(backbone: str) -> tuple[str | None, str]:
    from terratorch.models.backbones.prithvi_vit import pretrained_weights

    entry = pretrained_weights.get(backbone.removeprefix("terratorch_"))
    return (entry["hf_hub_id"], entry["hf_hub_filename"]) if entry else (None, "")


def _cached(repository: str, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, name), str)


def _answers(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the hub's own address
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False
    return True
