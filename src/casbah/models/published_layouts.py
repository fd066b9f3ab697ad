"""How each published file names its tensors, and how they become those of the network that is built here."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from casbah.errors import InputError
from casbah.models.widening import widen

State = dict[str, Tensor]
Bands = Sequence[object] | Mapping[str, Sequence[object]] | None
"""The channels of the network: a list, or one for each modality (TerraMind); None for those of the file, as there."""


@dataclass
class Converted:
    """A file's tensors under the names of the network, and what was done to them.

    `own` are the network's tensors that come from no file (fixed tables); `adapted` says what was changed, in words.
    """

    state: State
    adapted: list[str] = field(default_factory=list)
    own: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Layout:
    """One family of published files."""

    title: str
    """As people call it."""
    convert: Callable[[State, nn.Module, Bands], Converted]
    core: str
    """Pattern of names that belong to the encoder: one that the network has no place for means another network. What
    does not match (decoders, heads, inputs that are not used) may be left out."""


def recognised(state: Mapping[str, Tensor]) -> str | None:
    """The family whose layout a file has, by its names; None where it is none that Casbah knows."""
    names = set(state)
    patch = next((name for name in state if re.search(r"(^|\.)patch_embed\.proj\.weight$", name)), None)
    if any(name.startswith("encoder_embeddings.") for name in names):
        return "terramind"
    if any(name.startswith("space_time_embed.") for name in names):
        return "galileo"
    if "channel_embed" in names and "patch_embed.0.proj.weight" in names:
        return "satmae"
    if "patch_embed1.proj.weight" in names:
        return "mit"
    if "layer1.0.conv1.weight" in names:
        return "resnet"
    if patch is not None and state[patch].ndim == 5:
        return "prithvi"
    if patch is not None and "blocks.0.attn.qkv.weight" in names:
        return "scalemae"
    return None


def described(state: Mapping[str, Tensor]) -> str:
    """What a file looks like: its family, width and depth."""
    family = recognised(state)
    if family is None:
        return f"nothing that Casbah knows (its first names are {', '.join(list(state)[:3])})"
    blocks = {int(found[1]) for name in state if (found := re.match(r"(?:encoder\.)?(?:blocks\.)?(\d+)\.", name))}
    width = next((value.shape[-1] for name, value in state.items() if name.endswith("norm1.weight")), None)
    size = f" of {len(blocks)} blocks, {width} wide" if blocks and width else ""
    return f"{LAYOUTS[family].title}{size}"


def _prithvi(state: State, module: nn.Module, bands: Bands) -> Converted:
    """Prithvi's autoencoder, or its encoder alone -> TerraTorch's PrithviViT, by TerraTorch's own filter.

    The decoder goes, the kernels of the wanted bands are picked, and the position table, a fixed function of frames and
    image size, stays the network's own.
    """
    from terratorch.models.backbones import prithvi_vit
    from terratorch.models.backbones.prithvi_vit_adapter import PrithviViTAdapter

    there: Any = module
    theirs = list(getattr(there, "pretrained_bands", None) or prithvi_vit.PRETRAINED_BANDS)
    ours = list(_listed(bands) or getattr(there, "model_bands", None) or theirs)
    convert = prithvi_vit.HLSBands.try_convert_to_hls_bands_enum
    theirs, ours = [convert(band) for band in theirs], [convert(band) for band in ours]
    kernel = next(value for name, value in state.items() if name.endswith("patch_embed.proj.weight"))
    target = there.patch_embed.proj.weight
    if kernel.shape[1] != len(theirs):
        raise InputError(
            f"its first kernels take {kernel.shape[1]} bands in place of the published file's {len(theirs)}, and "
            "which is which can't be told"
        )
    if kernel.shape[2:] != target.shape[2:] or len(kernel) != len(target):
        # The filter would leave random numbers there; the comparison of shapes tells the person instead.
        return Converted({name.removeprefix("encoder."): value for name, value in state.items()}, own={"pos_embed"})
    adapter = isinstance(there, PrithviViTAdapter)
    apply = prithvi_vit.checkpoint_filter_fn_vit_adapter if adapter else prithvi_vit.checkpoint_filter_fn_vit
    found = Converted(apply(dict(state), there, theirs, ours), ["pos_embed is the network's own table"], {"pos_embed"})
    started = ("vpt_prompt_embeddings", *(PrithviViTAdapter.extra_layers if adapter else ()))
    found.own |= {name for name in there.state_dict() if name.startswith(started)}
    if ours != theirs:
        found.adapted.append(_picked("patch_embed.proj.weight", ours, theirs))
    return found


def _terramind(state: State, module: nn.Module, bands: Bands) -> Converted:
    """The whole of TerraMind -> the encoder of the wanted modalities, with the kernels of the wanted bands.

    A position table is a fixed function of the image size: one of another size stays the network's own.
    """
    from terratorch.models.backbones.terramind.model.terramind_register import PRETRAINED_BANDS

    there: Any = module
    found, target = Converted(dict(state)), module.state_dict()
    for modality, embedding in there.mod_name_mapping.items():
        name = f"encoder_embeddings.{embedding}.proj.weight"
        ours = bands.get(modality) if isinstance(bands, Mapping) else None
        theirs = PRETRAINED_BANDS.get(embedding)
        if ours is not None and theirs is not None and list(ours) != theirs and name in state:
            found.state[name] = _picked_columns(state[name], target[name], list(ours), theirs)
            found.adapted.append(_picked(name, list(ours), theirs))
    for name, value in target.items():
        if name.endswith(".pos_emb") and name in state and state[name].shape != value.shape:
            found.state.pop(name)
            found.own.add(name)
            found.adapted.append(f"{name} is the network's own table, for {value.shape[1]} tokens")
    return found


def _picked_columns(kernel: Tensor, target: Tensor, ours: list[object], theirs: list[str]) -> Tensor:
    """Columns of a projection of flattened patches, the band running fastest; a band not there stays as it started."""
    if kernel.shape[0] != target.shape[0] or kernel.shape[1] % len(theirs) or target.shape[1] % len(ours):
        return kernel  # a network of another size, which the comparison of shapes will say
    picked = target.clone().view(len(target), -1, len(ours))
    source = kernel.view(len(kernel), -1, len(theirs))
    for place, band in enumerate(ours):
        if band in theirs:
            picked[..., place] = source[..., theirs.index(str(band))]
    return picked.view_as(target)


def _satmae(state: State, module: nn.Module, bands: Bands) -> Converted:
    """SatMAE's autoencoder -> its encoder; a position table of another size is interpolated (bicubic, as upstream)."""
    found, target = Converted(dict(state)), module.state_dict()
    if "channel_cls_embed" in target and "channel_cls_embed" not in state:
        found.state["channel_cls_embed"] = torch.zeros_like(target["channel_cls_embed"])
        found.adapted.append("channel_cls_embed, which the file has not got, is zero")
    table = target.get("pos_embed")
    if table is not None and "pos_embed" in state and table.shape != state["pos_embed"].shape:
        found.state["pos_embed"] = _interpolated(state["pos_embed"], table)
        found.adapted.append(f"pos_embed was interpolated to {table.shape[1] - 1} positions")
    return found


def _interpolated(table: Tensor, target: Tensor) -> Tensor:
    """A table (1, 1 + positions, width) of a square grid, the class token's row first, at another size."""
    old, new = (round((one.shape[1] - 1) ** 0.5) for one in (table, target))
    if table.shape[-1] != target.shape[-1] or old**2 != table.shape[1] - 1 or new**2 != target.shape[1] - 1:
        return table
    grid = table[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1].float(), grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)], dim=1)


def _scalemae(state: State, module: nn.Module, bands: Bands) -> Converted:
    """ScaleMAE's encoder; its position table follows from the resolution in every pass, so the stored one is unused."""
    found = Converted({name: value for name, value in state.items() if name != "pos_embed"})
    if "pos_embed" in module.state_dict():
        found.own.add("pos_embed")
    found.adapted.append("pos_embed is computed from the resolution")
    return found


def _galileo(state: State, module: nn.Module, bands: Bands) -> Converted:
    """Galileo's encoder, name by name; what its other sensors are read by may be left out."""
    return Converted(dict(state))


def _imagenet(first: str) -> Callable[[State, nn.Module, Bands], Converted]:
    """An ImageNet encoder of segmentation_models_pytorch, whose first convolution is widened (see `widen`)."""

    def convert(state: State, module: nn.Module, bands: Bands) -> Converted:
        found, target = Converted(dict(state)), module.state_dict().get(first)
        if bands is None and target is not None and target.shape == state[first].shape:
            return found
        channels = _listed(bands) or ()
        if target is not None and len(channels) != target.shape[1]:
            raise InputError(f"{len(channels)} channels are named, and the network takes {target.shape[1]}")
        found.state[first] = widen(state[first], channels)
        found.adapted.append(f"{first} was widened from red, green and blue to {len(channels)} channels")
        return found

    return convert


def _listed(bands: Bands) -> list[object] | None:
    return None if bands is None or isinstance(bands, Mapping) else list(bands)


def _picked(name: str, ours: Iterable[object], theirs: Iterable[object]) -> str:
    lacking = [str(getattr(band, "value", band)) for band in ours if band not in list(theirs)]
    start = f", and {', '.join(lacking)}, which the file has not got, start at random" if lacking else ""
    return f"{name} holds the kernels of the wanted bands{start}"


LAYOUTS: dict[str, Layout] = {
    "prithvi": Layout("Prithvi", _prithvi, r"(encoder\.)?blocks\."),
    "terramind": Layout("TerraMind", _terramind, r"encoder\.\d|encoder_norm\."),
    "satmae": Layout("SatMAE", _satmae, r"blocks\.|patch_embed\."),
    "scalemae": Layout("ScaleMAE, or a plain vision transformer", _scalemae, r"blocks\.|patch_embed\."),
    "galileo": Layout("Galileo", _galileo, r"blocks\."),
    "resnet": Layout("a ResNet", _imagenet("conv1.weight"), r"(?!fc\.|head\.|classifier\.)"),
    "mit": Layout("a Mix Transformer (SegFormer)", _imagenet("patch_embed1.proj.weight"), r"(?!fc\.|head\.)"),
}
