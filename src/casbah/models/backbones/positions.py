"""Sine and cosine tables that tell a transformer where a patch lies."""

import torch
from torch import Tensor

BASE = 10_000.0
"""Of the frequencies (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""


def sin_cos(coordinates: Tensor, width: int, span: float | None = None) -> Tensor:
    """Encode numbers (n) as (n, width): the sines of c w_i, then the cosines, w_i = 10000 ** -(i / span).

    `span` is width / 2 where None, as in the transformer's paper. In float64, since coordinates in metres make angles
    of hundreds of radians.
    """
    steps = torch.arange(width // 2, dtype=torch.float64, device=coordinates.device)
    angles = torch.outer(coordinates.double(), BASE ** -(steps / (span or width / 2)))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def on_grid(
    rows: int,
    cols: int,
    width: int,
    *,
    step: float = 1.0,
    span: float | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Encode the places of a grid as (rows, cols, width) float32: half of `width` for the column, half for the row.

    `step` is the distance between neighbours; `span` as in `sin_cos`.
    """
    across = sin_cos(torch.arange(cols, device=device) * step, width // 2, span)
    down = sin_cos(torch.arange(rows, device=device) * step, width // 2, span)
    halves = [across.expand(rows, -1, -1), down[:, None].expand(-1, cols, -1)]
    return torch.cat(halves, dim=2).float()
