"""`UrbanGraphSAGEFactory`: builds UrbanGraphSAGE where a TerraTorch experiment names it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from terratorch.models.model import Model, ModelFactory

from casbah.bands import band
from casbah.errors import InputError
from casbah.models.graph.graphsage import UrbanGraphSAGE


class UrbanGraphSAGEFactory(ModelFactory):
    """A model factory of TerraTorch."""

    def build_model(
        self,
        task: str,
        bands: Sequence[str],
        periods: int,
        statistics: Mapping[str, Sequence[Sequence[float]]],
        num_classes: int = 2,
        pixels_per_segment: int = 4,
        compactness: float = 0.1,
        hidden: int = 64,
        layers: int = 3,
        dropout: float = 0.1,
        pixel_head: bool = True,
    ) -> Model:
        """An untrained UrbanGraphSAGE.

        Args:
            task: `segmentation`, the only one there is.
            bands: ESA's names of the bands, in the order of the channels of a period; filled in from the data.
            periods: How many times the bands are repeated; filled in from the data.
            statistics: `mean` and `std` (periods, bands) that images are normalised with, reflectance x 10000, for the
                spectral indices; filled in from the data.
            num_classes: 2: background and building.
            pixels_per_segment: About so many pixels a superpixel, in steps of squares (4, 9, 16 …).
            compactness: SLIC's: higher means squarer superpixels.
            hidden: Numbers in the embedding of a superpixel.
            layers: Rounds of GraphSAGE: how many superpixels far a superpixel sees.
            dropout: Share of numbers dropped after each layer while training.
            pixel_head: Let each pixel's own bands speak beside its superpixel.

        Raises:
            InputError: An argument is out of its range, or the statistics are not of these bands and periods.
        """
        if task != "segmentation":
            raise InputError(f"UrbanGraphSAGE knows the task segmentation, not {task}")
        _check("pixels_per_segment", pixels_per_segment, whole=True, least=1)
        _check("compactness", compactness, above=0)
        _check("hidden", hidden, whole=True, least=1)
        _check("layers", layers, whole=True, least=0)
        _check("dropout", dropout, least=0, most=0.95)
        _check("num_classes", num_classes, whole=True, least=2)
        names = tuple(band(name).name for name in bands)
        mean, std = (_statistic(statistics, name, periods, len(names)) for name in ("mean", "std"))
        return UrbanGraphSAGE(
            names,
            mean,
            std,
            classes=num_classes,
            pixels_per_segment=pixels_per_segment,
            compactness=compactness,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            pixel_head=bool(pixel_head),
        )


def _check(
    name: str, value: Any, *, whole: bool = False, least: float = -math.inf, above: float = -math.inf, most: float = 1e6
) -> None:
    """`InputError` where an argument is no (whole) number in its range."""
    kind = int if whole else int | float
    if isinstance(value, kind) and not isinstance(value, bool) and least <= value <= most and value > above:
        return
    lower = f"above {above:g}" if math.isfinite(above) else f"from {least:g} on"
    wanted = lower if most == 1e6 else f"from {least:g} to {most:g}"
    raise InputError(f"{name} is {value!r}; a {'whole ' if whole else ''}number {wanted} is wanted")


def _statistic(statistics: Any, name: str, periods: int, bands: int) -> torch.Tensor:
    """(periods, bands) of one statistic."""
    try:
        found = torch.tensor(statistics[name], dtype=torch.float32)
    except (KeyError, TypeError, ValueError):
        found = torch.empty(0)
    if found.shape != (periods, bands) or not found.isfinite().all():
        raise InputError(
            f"statistics.{name} is not a finite number for each of {periods} periods and {bands} bands: leave out "
            "bands, periods and statistics, they are filled in from the data"
        )
    return found
