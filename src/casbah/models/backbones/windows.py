"""A grid of tokens cut into windows that a transformer looks at one by one, and put together again."""

import torch
from torch import Tensor


def starts(length: int, window: int) -> list[int]:
    """Where windows begin that cover `length`; the last one lies inside, so that it may overlap the one before."""
    return [*range(0, length - window, window), length - window]


def split(grid: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut (batch, rows, cols, …) into (windows x batch, *window, …), window by window, row by row."""
    height, width = window
    parts = [
        grid[:, row : row + height, col : col + width]
        for row in starts(grid.shape[1], height)
        for col in starts(grid.shape[2], width)
    ]
    return torch.cat(parts)


def join(parts: Tensor, rows: int, cols: int) -> Tensor:
    """Undo `split` for a grid of `rows` x `cols`; where two windows overlap, the first one's values stay."""
    height, width = parts.shape[1:3]
    down, across = starts(rows, height), starts(cols, width)
    of_rows = iter(parts.reshape(len(down), len(across), -1, *parts.shape[1:]))
    strips = [torch.cat(_fresh(list(next(of_rows)), across, 2), dim=2) for _ in down]
    return torch.cat(_fresh(strips, down, 1), dim=1)


def _fresh(parts: list[Tensor], begins: list[int], axis: int) -> list[Tensor]:
    """Each part without what the one before it has already covered."""
    fresh, covered = [], 0
    for part, begin in zip(parts, begins, strict=True):
        fresh.append(part.narrow(axis, covered - begin, part.shape[axis] - (covered - begin)))
        covered = begin + part.shape[axis]
    return fresh
