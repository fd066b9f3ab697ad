"""Steps of a network made one: the same answer with fewer passes over memory.

In evaluation a batch normalisation multiplies and adds constants, which the convolution before it can do by itself
(`torch.nn.utils.fusion`). On a CPU that computes in bfloat16 oneDNN, PyTorch's library for that, adds the constants in
float32, and sets what is negative to 0 (ReLU), while the result of a convolution is still in its hands. Which step
comes after which is seen while an example goes through the network, so that any network will do, whatever wrote it.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLOSE = 1e-4
"""Of the largest answer: how far a folded network's may lie off in float32, by the order in which it multiplies."""


class Convolution(nn.Module):
    """A convolution as oneDNN does it: weights in the type and order that it takes, a bias in float32, and ReLU at once
    where wanted.

    PyTorch's own convolution in bfloat16 rounds the bias as well, which moves all pixels of a channel the same way: a
    U-Net's probabilities then lay up to 0.019 off, and 0.009 without.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool, dtype: torch.dtype) -> None:
        super().__init__()
        weight = conv.weight.detach().to(dtype, memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().float(), requires_grad=False)
        self.places = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.then = "relu" if relu else "none"

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, rows, cols)."""
        images = images.to(self.weight.dtype)
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, self.weight, self.bias, *self.places, self.then, [], ""
        )
        return found


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a network in evaluation with its batch normalisations folded away; the network itself where it has none
    that can be, or where its answer to `example` would be another one.

    `model(example)` must give an object with an `output`, as TerraTorch's do.
    """
    if not any(type(module) is nn.BatchNorm2d for module in model.modules()):
        return model
    pairs = _pairs(model, example, nn.BatchNorm2d)
    if not pairs:
        return model
    made = _copy(model)
    for conv, norm in pairs:
        first: Any = made.get_submodule(conv)
        second: Any = made.get_submodule(norm)
        _replace(made, conv, fuse_conv_bn_eval(first, second))
        _replace(made, norm, nn.Identity())
    return made if _same(model, made, example) else model


def in_bfloat16(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a network on a CPU whose convolutions compute in bfloat16, with float32 biases and the ReLU after them;
    the network itself where it has none, or where its answer to `example` in float32 would be another one.
    """
    able = hasattr(torch.ops.mkldnn, "_convolution_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not able:
        return model
    convs = [name for name, module in model.named_modules() if type(module) is nn.Conv2d and _is_plain(module)]
    if not convs:
        return model
    pairs = dict(_pairs(model, example, nn.ReLU))

    def made(dtype: torch.dtype) -> nn.Module:
        new = _copy(model)
        for name in convs:
            conv: Any = new.get_submodule(name)
            _replace(new, name, Convolution(conv, name in pairs, dtype))
            if name in pairs:
                _replace(new, pairs[name], nn.Identity())
        return new

    return made(torch.bfloat16) if _same(model, made(torch.float32), example) else model


def _copy(model: nn.Module) -> nn.Module:
    """Other modules with the same tensors, so that a large network does not lie in memory twice."""
    kept = {id(tensor): tensor for tensors in (model.parameters(), model.buffers()) for tensor in tensors}
    return copy.deepcopy(model, memo=kept)


def _is_plain(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _same(model: nn.Module, made: nn.Module, example: Tensor) -> bool:
    """Whether both give the same answer but for rounding: where something else listens to a convolution as well, the
    answer of one that does its neighbour's work differs by far."""
    with torch.inference_mode():
        wanted, found = model(example).output, made(example).output
    return bool((found - wanted).abs().max() <= CLOSE * wanted.abs().max())


def _pairs(model: nn.Module, example: Tensor, after: type[nn.Module]) -> list[tuple[str, str]]:
    """Names of convolutions and of the modules of a type that take what they give as it is, each passed once."""
    outputs: dict[int, tuple[str, Tensor]] = {}
    found: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()
    hooks = []

    def convolved(name: str) -> None:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            outputs[id(output)] = (name, output)  # kept, so that no other tensor gets its id

        hooks.append(model.get_submodule(name).register_forward_hook(hook))

    def followed(name: str) -> None:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            # What was added to in place has another version.
            if id(given[0]) in outputs and given[0]._version == 0:
                found.append((outputs[id(given[0])][0], name))

        hooks.append(model.get_submodule(name).register_forward_pre_hook(hook))

    for name, module in model.named_modules():
        if type(module) is nn.Conv2d:
            convolved(name)
        elif type(module) is after and getattr(module, "track_running_stats", True):
            followed(name)
    try:
        with torch.no_grad():  # in which tensors have versions, as they have none in inference_mode
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, other) for conv, other in found if calls[conv] == calls[other] == 1]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
