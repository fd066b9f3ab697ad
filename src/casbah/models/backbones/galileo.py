"""Galileo's encoder (Tseng et al. 2025, arXiv:2502.09356), given Sentinel-2 alone, at any patch size."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.layers.patch_embed import PatchEmbedResamplerFixedOrigSize
from torch import Tensor, nn
from torch.nn import functional

from casbah.bands import TEN_BANDS
from casbah.errors import InputError
from casbah.models.backbones import positions, transformer, windows

BANDS = TEN_BANDS
NDVI = "NDVI"

GROUPS = {
    "S2_RGB": ("B02", "B03", "B04"),
    "S2_Red_Edge": ("B05", "B06", "B07"),
    "S2_NIR_10m": ("B08",),
    "S2_NIR_20m": ("B8A",),
    "S2_SWIR": ("B11", "B12"),
    "NDVI": (NDVI,),
}
"""Groups that come from Sentinel-2: each is one token of a patch and date."""

SPACE_TIME = {"S1": 2} | {group: len(bands) for group, bands in GROUPS.items()}
SPACE = {"SRTM": 2, "DW": 9, "WC": 5}
TIME = {"ERA5": 2, "TC": 3, "VIIRS": 1}
STATIC = {"LS": 1, "location": 3, "DW_static": 9, "WC_static": 5}
"""All groups of the pretraining in their order, and the channels of each."""

KERNEL = 8
"""Pixels of a patch's side that kernels are stored for; smaller ones are resized from it."""

DATES, MONTHS = 24, 12
"""Rows of the stored tables: dates of one image at most, and months of the year."""

EPSILON = 1e-5


class Galileo(nn.Module):
    """A transformer over the tokens of all patches, dates and groups of bands of a window.

    Takes (batch, bands, rows, cols), or (batch, bands, dates, rows, cols), with the bands in the order of `BANDS` and
    NDVI (not normalised) behind them where `ndvi`. A feature map is the mean over the groups of a patch, as published,
    and the dates side by side: a mean over them would hide which of them shows a building.

    The whole published encoder is here, so that every key of its file has a place; the layers for radar, relief,
    weather and place are never used.

    Args:
        width: Of a token; a quarter each says group, date, month and place.
        depth: Number of blocks.
        heads: Of each block's attention.
        months: The calendar month, 1 to 12, of each date.
        patch_size: Pixels of a patch's side, 1 to 8.
        resolution: Metres on the ground that a pixel of the input has on a side.
        window: Pixels of the side of the windows that are encoded one by one, as images of their own; the whole image
            where None. Attention costs the square of (window / patch_size)², and pretraining saw images of 4 to 12
            patches a side.
        ndvi: Take NDVI as one more band.
    """

    pos_embed: Tensor

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        months: Sequence[int],
        patch_size: int = 4,
        resolution: float = 10.0,
        window: int | None = None,
        ndvi: bool = False,
    ) -> None:
        super().__init__()
        _check(months, patch_size, resolution, window)
        self.patch_size, self.resolution, self.window = patch_size, resolution, window
        self.months, self.bands = tuple(months), (*BANDS, NDVI) if ndvi else BANDS
        self.groups = tuple(name for name, bands in GROUPS.items() if set(bands) <= set(self.bands))
        self.out_channels = [width * len(self.months)] * depth
        self.space_time_embed, self.space_embed = _convolutions(SPACE_TIME, width), _convolutions(SPACE, width)
        self.time_embed, self.static_embed = _layers(TIME, width), _layers(STATIC, width)
        self.resized = PatchEmbedResamplerFixedOrigSize((KERNEL, KERNEL))
        part = width // 4
        self.s_t_channel_embed = nn.Parameter(0.02 * torch.randn(len(SPACE_TIME), part))
        self.sp_channel_embed = nn.Parameter(0.02 * torch.randn(len(SPACE), part))
        self.t_channel_embed = nn.Parameter(0.02 * torch.randn(len(TIME), part))
        self.st_channel_embed = nn.Parameter(0.02 * torch.randn(len(STATIC), part))
        # As published: twice the table's own width, where other encoders have half of it.
        self.register_buffer("pos_embed", positions.sin_cos(torch.arange(DATES), part, span=2 * part).float())
        self.month_embed = _Months(part)
        self.blocks = transformer.blocks(width, depth, heads, EPSILON, transformer.SeparateAttention)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        transformer.initialise(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps (batch, dates x width, rows / patch, cols / patch), one per block; `InputError` for another
        shape."""
        image = self._with_dates(image)
        rows, cols = transformer.grid_of(image, "Galileo", len(self.bands), self.patch_size)
        patches = self._patches(image)
        side = max(rows, cols) if self.window is None else self.window // self.patch_size
        parts = windows.split(patches, (min(side, rows), min(side, cols)))
        months = torch.tensor(self.months, device=image.device).expand(len(parts), -1)
        return [
            transformer.as_map(windows.join(step.reshape(parts.shape).mean(4).flatten(3), rows, cols))
            for step in self._steps(parts, months)
        ]

    def tokens(self, image: Tensor, months: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """The normalised output (batch, rows / patch, cols / patch, dates, groups, width) of the image as one window.

        `months` (batch, dates), 1 to 12, where images differ in them. `hidden` (batch, rows / patch, cols / patch,
        dates, groups) is true for tokens that the others must not see; they come out as the bias of the normalisation.
        One token of an image at least must be seen.
        """
        image = self._with_dates(image)
        transformer.grid_of(image, "Galileo", len(self.bands), self.patch_size)
        patches = self._patches(image)
        if months is None:
            months = torch.tensor(self.months, device=image.device).expand(len(image), -1)
        seen = None if hidden is None else ~hidden.flatten(1)[:, None, None]
        found = transformer.last(self._steps(patches, months, seen)).reshape(patches.shape)
        return found if hidden is None else torch.where(hidden[..., None], self.norm.bias, found)

    def _with_dates(self, image: Tensor) -> Tensor:
        image = image[:, :, None] if image.ndim == 4 else image
        if image.ndim != 5 or image.shape[2] != len(self.months):
            raise InputError(
                f"Galileo takes images of (batch, bands, dates, rows, cols), with the {len(self.months)} date(s) that "
                f"its months name, and got {tuple(image.shape)}"
            )
        return image

    def _patches(self, image: Tensor) -> Tensor:
        """One token per patch, date and group, (batch, rows, cols, dates, groups, width), without its place."""
        dates = image.transpose(1, 2).flatten(0, 1)
        found = []
        for group in self.groups:
            conv: Any = self.space_time_embed[group].proj
            # A product of two small matrices: a kernel kept from the step before would be one of other weights.
            kernel = self.resized(conv.weight, [self.patch_size, self.patch_size])
            image_of = dates[:, [self.bands.index(band) for band in GROUPS[group]]]
            found.append(functional.conv2d(image_of, kernel, conv.bias, stride=self.patch_size))
        stacked = torch.stack(found)
        return stacked.reshape(len(found), len(image), -1, *stacked.shape[2:]).permute(1, 4, 5, 2, 0, 3)

    def _steps(self, patches: Tensor, months: Tensor, seen: Tensor | None = None) -> Iterator[Tensor]:
        """What each block makes of windows (n, rows, cols, dates, groups, width), as (n, tokens, width)."""
        tokens = (patches + self._encodings(patches, months)).flatten(1, 4)
        return transformer.through(self.blocks, self.norm, tokens, seen)

    def _encodings(self, patches: Tensor, months: Tensor) -> Tensor:
        """What is added to tokens: which group, date and month, and where in the window."""
        shape, part = patches.shape[:-1], patches.shape[-1] // 4
        _, rows, cols, dates, _ = shape
        group = self.s_t_channel_embed[[list(SPACE_TIME).index(name) for name in self.groups]]
        # In units of 10 m, whatever the patch: the same place has the same position at every patch size.
        step = self.resolution * self.patch_size / 10
        place = positions.on_grid(rows, cols, part, step=step, span=part, device=patches.device)
        parts = (
            group,
            self.pos_embed[:dates, None],
            self.month_embed.weight[months - 1][:, None, None, :, None],
            place[:, :, None, None],
        )
        return torch.cat([values.expand(*shape, part) for values in parts], dim=-1)


class _Months(nn.Module):
    """The fixed place of each month on the circle of the year, (12, width): half sine, half cosine."""

    weight: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        angles = torch.arange(MONTHS, dtype=torch.float64)[:, None] * (2 * math.pi / MONTHS)
        table = torch.cat([angles.sin().expand(-1, width // 2), angles.cos().expand(-1, width // 2)], dim=1)
        self.register_buffer("weight", table.float())


class _Patch(nn.Module):
    """The kernel of a group, for patches of 8 x 8 px."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, KERNEL, KERNEL)


def _convolutions(groups: dict[str, int], width: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: _Patch(channels, width) for name, channels in groups.items()})


def _layers(groups: dict[str, int], width: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(channels, width) for name, channels in groups.items()})


def _check(months: Sequence[int], patch_size: int, resolution: float, window: int | None) -> None:
    """`InputError` where the encoder can't work so."""
    if not 1 <= len(months) <= DATES or any(month not in range(1, MONTHS + 1) for month in months):
        raise InputError(
            f"the months of Galileo are {list(months)}; one month of 1 to {MONTHS} for each of 1 to {DATES} dates is "
            "wanted"
        )
    if patch_size not in range(1, KERNEL + 1):
        raise InputError(f"the patch_size of Galileo is {patch_size}; a whole number of 1 to {KERNEL} px is wanted")
    if not (math.isfinite(resolution) and resolution > 0):
        raise InputError(f"the resolution of Galileo is {resolution}; metres per pixel above 0 are wanted")
    if window is not None and (window < patch_size or window % patch_size):
        raise InputError(f"the window of Galileo is {window} px; a multiple of its patch of {patch_size} px is wanted")


def galileo_nano(
    *,
    months: Sequence[int],
    pretrained: bool = False,
    ckpt_path: str | None = None,
    bands: Sequence[str] | None = None,
    patch_size: int = 4,
    resolution: float = 10.0,
    window: int | None = None,
    ndvi: bool = False,
) -> Galileo:
    """The smallest published Galileo, of 4 blocks and 0.8 million parameters that Sentinel-2 uses, untrained.

    `InputError` where `bands` are not its ten in its order, or another argument is out of its range.
    """
    transformer.refuse_weights("galileo_nano", pretrained, ckpt_path)
    transformer.check_bands("galileo_nano", bands, BANDS)
    return Galileo(
        width=128,
        depth=4,
        heads=8,
        months=months,
        patch_size=patch_size,
        resolution=resolution,
        window=window,
        ndvi=ndvi,
    )
