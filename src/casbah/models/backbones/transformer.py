"""What the encoders share: pre-norm blocks of timm, their output as feature maps, and the check of what comes in."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn
from torch.nn import functional

from casbah import bands as sentinel
from casbah.errors import InputError


class SeparateAttention(nn.Module):
    """Attention of several heads whose queries, keys and values come from three layers, where timm has one.

    Takes what timm's `Block` gives its attention.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, **_: object) -> None:
        super().__init__()
        self.heads = num_heads
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=qkv_bias) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(batch, tokens, width) -> the same shape; `attn_mask` is true where a query may see a key."""
        q, k, v = (self._split(layer(x)) for layer in (self.q, self.k, self.v))
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        mixed: Tensor = self.proj(found.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, heads, tokens, width / heads)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


def blocks(width: int, depth: int, heads: int, epsilon: float, attention: type[nn.Module] = Attention) -> nn.ModuleList:
    """Pre-norm transformer blocks with biases everywhere, exact GELU and a hidden layer four times as wide."""
    norm: Any = partial(nn.LayerNorm, eps=epsilon)
    return nn.ModuleList(
        Block(width, heads, mlp_ratio=4, qkv_bias=True, norm_layer=norm, attn_layer=attention) for _ in range(depth)
    )


def initialise(encoder: nn.Module) -> None:
    """Start linear layers as vision transformers do (normal of 0.02, no bias); other layers keep torch's start."""
    encoder.apply(partial(init_weights_vit_timm, needs_reset=False))


def through(stack: nn.ModuleList, norm: nn.Module, tokens: Tensor, mask: Tensor | None = None) -> Iterator[Tensor]:
    """What each block makes of tokens (batch, tokens, width), the last one's normalised."""
    for number, block in enumerate(stack, start=1):
        tokens = block(tokens, attn_mask=mask)
        yield norm(tokens) if number == len(stack) else tokens


def last(steps: Iterator[Tensor]) -> Tensor:
    """The final one of `through`."""
    *_, final = steps
    return final


def as_map(grid: Tensor) -> Tensor:
    """(batch, rows, cols, channels) -> (batch, channels, rows, cols)."""
    return grid.permute(0, 3, 1, 2).contiguous()


def grid_of(image: Tensor, backbone: str, channels: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in an image (…, rows, cols) whose second axis is bands.

    `InputError` where it has another number of bands, or a side that is no multiple of the patch.
    """
    if image.shape[1] != channels:
        raise InputError(f"{backbone} takes images of {channels} bands, and got {image.shape[1]}")
    rows, cols = image.shape[-2:]
    if rows % patch or cols % patch or not rows or not cols:
        raise InputError(
            f"{backbone} takes images whose sides are multiples of its patch of {patch} px, and got {rows} x {cols} px"
        )
    return rows // patch, cols // patch


def check_bands(backbone: str, found: Sequence[str] | None, wanted: Sequence[str]) -> None:
    """`InputError` unless `found` (any spelling that Casbah reads; None says nothing) are `wanted`, in that order."""
    if found is not None and [sentinel.band(str(name)).name for name in found] != list(wanted):
        raise InputError(
            f"{backbone} takes the bands {', '.join(wanted)} in this order, and got {', '.join(map(str, found))}"
        )


def refuse_weights(backbone: str, pretrained: bool, ckpt_path: str | None) -> None:
    """`InputError` where a builder is asked for published weights, which it would leave out without a word."""
    if pretrained or ckpt_path:
        raise InputError(
            f"{backbone} is built untrained here, and published weights are loaded into it by casbah finetune and "
            "casbah.models.network.build: train it with these, or set backbone_pretrained to false"
        )


def zeros(*shape: int) -> nn.Parameter:
    """A learned table, before anything is learned."""
    return nn.Parameter(torch.zeros(shape))
