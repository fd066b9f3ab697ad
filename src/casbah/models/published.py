"""Loads published weights into the backbone that they were made for, and counts what fitted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from casbah import weights
from casbah.errors import InputError
from casbah.models.published_file import read_state
from casbah.models.published_layouts import LAYOUTS, Bands, Converted, described, recognised
from casbah.products.manifest import sha256_of

SHOWN = 3
"""Names that an error lists of those that do not fit."""


@dataclass(frozen=True)
class Match:
    """How many of a network's tensors came from a file, of how many that had to.

    `dropped` are names of the file that the network has no use for; `adapted` says in words what was changed.
    """

    matched: int
    expected: int
    dropped: tuple[str, ...]
    adapted: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.matched} of {self.expected} keys matched"]
        if self.dropped:
            heads = sorted({re.split(r"\.|_embed|_blocks", name)[0] for name in self.dropped})
            parts.append(f"{len(self.dropped)} left out ({', '.join(heads[:4])}{', …' if len(heads) > 4 else ''})")
        return "; ".join([*parts, *self.adapted])


@dataclass(frozen=True)
class Wanted:
    """The published weights that an experiment asks for, and the file in their place where it names one."""

    entry: weights.Published
    file: Path | None
    bands: Bands

    def path(self) -> Path:
        """The file, checked (and fetched where it is not here)."""
        return self.file or weights.path(self.entry.name)


def wanted(model_args: Mapping[str, Any]) -> Wanted | None:
    """What the arguments of a TerraTorch factory ask for; None for no pretraining, or none that the manifest lists.

    `InputError` where they name a file of weights and ask for no pretraining.
    """
    smp, file = "model" in model_args, model_args.get("backbone_ckpt_path")
    asked = weights.asked_for(model_args)
    if file and not asked:
        # Some builders would load it all the same, and leave out what does not fit without a word.
        raise InputError(
            f"model_args.backbone_ckpt_path names {file}, and backbone_pretrained is not true: set it to true, or "
            "leave the file out"
        )
    if not asked or (smp and asked not in (True, "imagenet")):
        return None
    entry = weights.serving(str(model_args.get("backbone")), smp)
    if entry is None:
        return None
    bands = model_args.get("bands" if smp else "backbone_bands")
    return Wanted(entry, Path(file) if file else None, bands)


def origin(wanted: Wanted, file: Path, match: Match) -> str:
    """What a network started from, for people and for its bundle."""
    if wanted.file:
        return f"{file.name} (sha256 {sha256_of(file)[:16]}): {match}"
    facts = weights.LocalStore().facts(wanted.entry)
    assert facts is not None, "a file that the store gave has facts"
    return f"{wanted.entry.source}, {wanted.entry.file} (sha256 {facts.sha256[:16]}): {match}"


def load(module: nn.Module, backbone: str, file: Path, bands: Bands = None) -> Match:
    """Load a published file into a backbone that was built for it, and say how much of it fitted.

    Args:
        module: The backbone, from random weights.
        backbone: Its name as experiments write it, or that of its entry in the manifest.
        file: Published weights; read without running code.
        bands: Names of the channels that the backbone takes, or of those of each modality; None for those of the file
            in their order.

    `InputError` where the file is damaged, holds code or another model, or lacks a tensor that the backbone needs.
    """
    entry, state = weights.find(backbone), read_state(file)
    layout = LAYOUTS[entry.family]
    if recognised(state) != entry.family:
        raise InputError(
            f"{file} looks like {described(state)}; {backbone} wants the published file of {layout.title}: {entry.file}"
        )
    try:
        found = layout.convert(state, module, bands)
    except InputError as error:
        raise InputError(f"{file} can't be loaded into {backbone}: {error}") from None
    target = module.state_dict()
    match = _match(found, target, layout.core, state, f"{file} ({described(state)}) does not fit {backbone}")
    own = {name: value for name, value in target.items() if name in found.own}
    module.load_state_dict({name: found.state[name] for name in target if name not in own} | own)
    return match


def _match(found: Converted, target: Mapping[str, Tensor], core: str, state: Mapping[str, Tensor], what: str) -> Match:
    """Compare a file's tensors with those of a network; `InputError`, saying `what`, where any is lacking or too many.

    A tensor of the encoder that the network has no place for is too many: the file is that of a deeper one.
    """
    expected = [name for name in target if name not in found.own]
    fitting = [name for name in expected if name in found.state and found.state[name].shape == target[name].shape]
    if len(fitting) < len(expected):
        bad = [_complaint(name, found, target[name]) for name in expected if name not in fitting]
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise InputError(
            f"{what}: {len(fitting)} of {len(expected)} keys match; {'; '.join(bad[:SHOWN])}{more}. Nothing was loaded"
        )
    over = [name for name in found.state if name not in target]
    foreign = [name for name in over if re.match(core, name)]
    if foreign:
        raise InputError(
            f"{what}: {len(foreign)} keys of its encoder have no place in the network, as "
            f"{', '.join(foreign[:SHOWN])}. Nothing was loaded"
        )
    kept = {name for name in state if name in found.state or name.removeprefix("encoder.") in found.state}
    dropped = tuple(name for name in state if name not in kept or name in over)
    return Match(len(fitting), len(expected), dropped, tuple(found.adapted))


def _complaint(name: str, found: Converted, target: Tensor) -> str:
    if name not in found.state:
        return f"{name} is lacking"
    return f"{name} is {tuple(found.state[name].shape)} in place of {tuple(target.shape)}"
