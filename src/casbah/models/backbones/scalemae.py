"""Scale-MAE's encoder (Reed et al. 2023, arXiv:2212.14532): positions in metres on the ground."""

import math
from collections.abc import Iterator, Sequence

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from casbah.errors import InputError
from casbah.models.backbones import positions, transformer

BANDS = ("B04", "B03", "B02")
PATCH, SIDE = 16, 14
"""Pixels of a patch's side, and patches of an image's side, in pretraining (224 px)."""

EPSILON = 1e-6


class ScaleMAE(nn.Module):
    """A vision transformer over red, green and blue whose positions grow with the size of a pixel.

    Takes (batch, 3 bands, rows, cols) with the bands in the order of `BANDS`. TerraTorch's own class leaves out the
    final normalisation, takes square images alone, and gives tokens in place of maps.

    Args:
        width: Of a token.
        depth: Number of blocks.
        heads: Of each block's attention.
        resolution: Metres on the ground that a pixel of the input has on a side.
    """

    pos_embed: Tensor

    def __init__(self, width: int, depth: int, heads: int, resolution: float = 10.0) -> None:
        super().__init__()
        if not (math.isfinite(resolution) and resolution > 0):
            raise InputError(f"the resolution of ScaleMAE is {resolution}; metres per pixel above 0 are wanted")
        self.patch_size, self.out_channels, self.resolution = PATCH, [width] * depth, resolution
        self.patch_embed = PatchEmbed(None, PATCH, len(BANDS), width)
        self.cls_token = transformer.zeros(1, 1, width)
        # Published files hold it, and nothing reads it: positions follow from the resolution.
        self.register_buffer("pos_embed", torch.zeros(1, 1 + SIDE * SIDE, width))
        self.blocks, self.norm = transformer.blocks(width, depth, heads, EPSILON), nn.LayerNorm(width, eps=EPSILON)
        transformer.initialise(self)
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps (batch, width, rows / 16, cols / 16), one per block; `InputError` for another shape."""
        shape = (len(image), *self._grid(image), -1)
        return [transformer.as_map(step[:, 1:].reshape(shape)) for step in self._steps(image)]

    def tokens(self, image: Tensor) -> Tensor:
        """The normalised output (batch, 1 + patches, width): cls, then row by row."""
        return transformer.last(self._steps(image))

    def _grid(self, image: Tensor) -> tuple[int, int]:
        if image.ndim != 4:
            raise InputError(f"ScaleMAE takes images of (batch, bands, rows, cols), and got {tuple(image.shape)}")
        return transformer.grid_of(image, "ScaleMAE", len(BANDS), PATCH)

    def _steps(self, image: Tensor) -> Iterator[Tensor]:
        rows, cols = self._grid(image)
        # As published, neighbouring patches are one resolution apart, and not one patch.
        place = positions.on_grid(rows, cols, self.norm.weight.numel(), step=self.resolution, device=image.device)
        patches = self.patch_embed(image) + place.flatten(0, 1)
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], dim=1)
        return transformer.through(self.blocks, self.norm, tokens)


def scalemae_vit_large(
    *,
    pretrained: bool = False,
    ckpt_path: str | None = None,
    bands: Sequence[str] | None = None,
    resolution: float = 10.0,
) -> ScaleMAE:
    """Scale-MAE's ViT-L of 24 blocks, untrained; `InputError` where `bands` are not red, green and blue."""
    transformer.refuse_weights("scalemae_vit_large", pretrained, ckpt_path)
    transformer.check_bands("scalemae_vit_large", bands, BANDS)
    return ScaleMAE(width=1024, depth=24, heads=16, resolution=resolution)


def scalemae_vit_tiny(
    *,
    pretrained: bool = False,
    ckpt_path: str | None = None,
    bands: Sequence[str] | None = None,
    resolution: float = 10.0,
) -> ScaleMAE:
    """The same in four small blocks, to try an experiment on a CPU: nobody published weights for it."""
    transformer.refuse_weights("scalemae_vit_tiny", pretrained, ckpt_path)
    transformer.check_bands("scalemae_vit_tiny", bands, BANDS)
    return ScaleMAE(width=64, depth=4, heads=4, resolution=resolution)
