"""Which published weights there are: where each file comes from, what is known of it, and which backbones it serves."""

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from casbah.errors import InputError

HUB = "https://huggingface.co"
"""The hub where HF_ENDPOINT names no other."""

SMP_FAMILIES = ("resnet", "mit")
"""Layouts of segmentation_models_pytorch, whose backbones SMPModelFactory alone takes; all others are TerraTorch's."""


class Published(BaseModel):
    """One published file; None stands for what nobody has said or seen yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    family: str
    """The layout of its keys (see `casbah.models.published_layouts`)."""
    backbones: tuple[str, ...]
    """Backbones that it serves, as experiments write them."""
    hub: str | None = None
    """A repository of the Hugging Face hub; `url` where the file lies elsewhere."""
    url: str | None = None
    file: str
    revision: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    md5: str | None = None
    bytes: int | None = None
    licence: str | None = None
    non_commercial: bool = False
    page: str
    note: str = ""

    @property
    def source(self) -> str:
        """Where it comes from, in a few words: the hub's repository, or the page."""
        return self.hub or self.page

    def address(self, revision: str | None = None) -> str:
        """Where to download it: a hub's at `revision`, else at the manifest's, else at `main`."""
        if self.url:
            return self.url
        return f"{hub_endpoint()}/{self.hub}/resolve/{self.revision or revision or 'main'}/{self.file}"

    @property
    def host(self) -> str:
        """The address that has to answer before this can be downloaded."""
        return "/".join(self.url.split("/")[:3]) if self.url else hub_endpoint()

    @property
    def stated_licence(self) -> str:
        """The licence as people read it."""
        if self.licence is None:
            return "not stated"
        return f"{self.licence} (non-commercial)" if self.non_commercial else self.licence


def hub_endpoint() -> str:
    """The hub's address, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


@cache
def entries() -> dict[str, Published]:
    """Every published file that Casbah knows, by name."""
    listed = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    return {name: Published(name=name, **facts) for name, facts in listed.items()}


def find(name: str) -> Published:
    """The entry of a name, or of a backbone that it serves; `InputError` with the nearest where there is none."""
    known = entries()
    if name in known:
        return known[name]
    for entry in known.values():
        if name in entry.backbones:
            return entry
    near = get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
    raise InputError(f"there are no published weights of the name {name!r}; did you mean {', '.join(near)}?")


def asked_for(model_args: Mapping[str, Any]) -> Any:
    """What an experiment says about pretraining: false, true, or on what.

    SMPModelFactory, which alone takes a `model`, pretrains unless it is told not to, and on ImageNet unless it is told
    on what.
    """
    return model_args.get("pretrained", True) if "model" in model_args else model_args.get("backbone_pretrained", False)


def serving(backbone: str, smp: bool) -> Published | None:
    """The weights of a backbone as an experiment writes it; `smp` where SMPModelFactory builds it. None: not listed."""
    bare = backbone if smp else backbone.removeprefix("terratorch_")
    for entry in entries().values():
        if bare in entry.backbones and (entry.family in SMP_FAMILIES) == smp:
            return entry
    return None
