"""SatMAE's encoder of Sentinel-2 (Cong et al. 2022, arXiv:2207.08051): one token per patch and group of bands."""

from collections.abc import Iterator, Sequence

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from casbah.bands import TEN_BANDS
from casbah.errors import InputError
from casbah.models.backbones import positions, transformer

BANDS = TEN_BANDS
GROUPS = (("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A"), ("B11", "B12"))
"""Bands of 10 m, bands of 20 m at the red edge, and short-wave infrared, as the paper's fMoW-Sentinel models."""

PATCH, SIDE = 8, 12
"""Pixels of a patch's side, and patches of an image's side, in pretraining (96 px)."""

EPSILON = 1e-6


class SatMAE(nn.Module):
    """A vision transformer over the tokens of all groups of bands together.

    Takes (batch, 10 bands, rows, cols) with the bands in the order of `BANDS`. A feature map is the mean over the
    groups of a patch, as the published classifier averages all patch tokens: the groups have attended to each other in
    every block, and side by side they would treble the decoder's input. Positions of other sizes than 96 px are
    interpolated.

    Args:
        width: Of a token.
        channel_width: The part of it that says the group; the rest says the position.
        depth: Number of blocks.
        heads: Of each block's attention.
    """

    def __init__(self, width: int, channel_width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_size, self.out_channels = PATCH, [width] * depth
        self.patch_embed = nn.ModuleList(PatchEmbed(None, PATCH, len(group), width) for group in GROUPS)
        self.cls_token, self.channel_cls_embed = transformer.zeros(1, 1, width), transformer.zeros(1, 1, channel_width)
        table = positions.on_grid(SIDE, SIDE, width - channel_width).flatten(0, 1)
        self.pos_embed = nn.Parameter(torch.cat([torch.zeros_like(table[:1]), table])[None])
        self.channel_embed = nn.Parameter(positions.sin_cos(torch.arange(len(GROUPS)), channel_width).float()[None])
        self.blocks, self.norm = transformer.blocks(width, depth, heads, EPSILON), nn.LayerNorm(width, eps=EPSILON)
        transformer.initialise(self)
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps (batch, width, rows / 8, cols / 8), one per block; `InputError` for another shape."""
        rows, cols = self._grid(image)
        shape = (len(image), len(GROUPS), rows, cols, -1)
        return [transformer.as_map(step[:, 1:].reshape(shape).mean(1)) for step in self._steps(image)]

    def tokens(self, image: Tensor) -> Tensor:
        """The normalised output (batch, 1 + 3 x patches, width): cls, then group by group, row by row."""
        return transformer.last(self._steps(image))

    def _grid(self, image: Tensor) -> tuple[int, int]:
        if image.ndim != 4:
            raise InputError(f"SatMAE takes images of (batch, bands, rows, cols), and got {tuple(image.shape)}")
        return transformer.grid_of(image, "SatMAE", len(BANDS), PATCH)

    def _steps(self, image: Tensor) -> Iterator[Tensor]:
        place = resample_abs_pos_embed(self.pos_embed, list(self._grid(image)), antialias=False)
        patches = []
        for group, bands in enumerate(GROUPS):
            found = self.patch_embed[group](image[:, [BANDS.index(band) for band in bands]])
            patches.append(found + _side_by_side(place[:, 1:], self.channel_embed[:, group : group + 1]))
        cls = self.cls_token + _side_by_side(place[:, :1], self.channel_cls_embed)
        tokens = torch.cat([cls.expand(len(image), -1, -1), *patches], dim=1)
        return transformer.through(self.blocks, self.norm, tokens)


def _side_by_side(place: Tensor, group: Tensor) -> Tensor:
    """Positions (1, n, …) and one group (1, 1, …) as one table (1, n, width)."""
    return torch.cat([place, group.expand(-1, place.shape[1], -1)], dim=2)


def satmae_vit_large(
    *, pretrained: bool = False, ckpt_path: str | None = None, bands: Sequence[str] | None = None
) -> SatMAE:
    """SatMAE's ViT-L of 24 blocks, untrained; `InputError` where `bands` are not its ten in its order."""
    transformer.refuse_weights("satmae_vit_large", pretrained, ckpt_path)
    transformer.check_bands("satmae_vit_large", bands, BANDS)
    return SatMAE(width=1024, channel_width=256, depth=24, heads=16)


def satmae_vit_tiny(
    *, pretrained: bool = False, ckpt_path: str | None = None, bands: Sequence[str] | None = None
) -> SatMAE:
    """The same in four small blocks, to try an experiment on a CPU: nobody published weights for it."""
    transformer.refuse_weights("satmae_vit_tiny", pretrained, ckpt_path)
    transformer.check_bands("satmae_vit_tiny", bands, BANDS)
    return SatMAE(width=64, channel_width=16, depth=4, heads=4)
