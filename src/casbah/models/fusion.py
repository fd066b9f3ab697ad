"""Batch normalisation folded into the convolutions before it: the same answer with fewer passes over memory.

In evaluation a batch normalisation multiplies and adds constants, which the convolution before it can do by itself
(`torch.nn.utils.fusion`). Which one comes before which is seen while an example goes through the network, so that any
network can be folded, whatever wrote it.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLOSE = 1e-4
"""Of the largest answer: how far a folded network's may lie off in float32, by the order in which it multiplies."""


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a network in evaluation with its batch normalisations folded away; the network itself where it has none
    that can be, or where its answer to `example` would be another one.

    `model(example)` must give an object with an `output`, as TerraTorch's do.
    """
    if not any(type(module) is nn.BatchNorm2d for module in model.modules()):
        return model
    with torch.inference_mode():
        pairs = _pairs(model, example)
        if not pairs:
            return model
        made = copy.deepcopy(model)
        for conv, norm in pairs:
            first: Any = made.get_submodule(conv)
            second: Any = made.get_submodule(norm)
            together: nn.Module = fuse_conv_bn_eval(first, second)
            _replace(made, conv, together)
            _replace(made, norm, nn.Identity())
        wanted, found = model(example).output, made(example).output
    # A convolution that something else listens to as well must not be folded; then the answers differ by far.
    near = (found - wanted).abs().max() <= CLOSE * wanted.abs().max()
    return made if bool(near) else model


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch normalisations that take what they give, each passed once."""
    outputs: dict[int, tuple[str, Tensor]] = {}
    found: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()
    hooks = []

    def convolved(name: str) -> None:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            outputs[id(output)] = (name, output)  # kept, so that no other tensor gets its id

        hooks.append(model.get_submodule(name).register_forward_hook(hook))

    def normalised(name: str) -> None:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            if id(given[0]) in outputs:
                found.append((outputs[id(given[0])][0], name))

        hooks.append(model.get_submodule(name).register_forward_pre_hook(hook))

    for name, module in model.named_modules():
        if type(module) is nn.Conv2d:
            convolved(name)
        elif type(module) is nn.BatchNorm2d and module.track_running_stats:
            normalised(name)
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm in found if calls[conv] == calls[norm] == 1]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
