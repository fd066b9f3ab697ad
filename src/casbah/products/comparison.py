"""`Comparison`: every model of a study on the same tiles, in tables, figures and one report."""

import json
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from casbah.products.evaluation import Interval
from casbah.products.manifest import Product

Verdict = Literal["best", "within noise", "worse", "better", "undefined"]
"""Of a row's difference to the best row on test blocks; `undefined` where too few blocks give no interval."""


class Draw(BaseModel):
    """One training of a row, scored: the scores of one seed with one budget."""

    model_config = ConfigDict(frozen=True)
    seed: int
    validation_iou: float | None
    iou: float | None
    f1: float | None


class ComparedRow(BaseModel):
    """A row of the first table: one experiment with the largest budget, averaged over its seeds."""

    model_config = ConfigDict(frozen=True)
    experiment: str
    backbone: str
    pretrained_on: str
    """`random weights` where nothing was loaded, whatever the experiment is called."""
    starts_from: str
    """As `Training.weights_origin` has it."""
    parameters: int
    validation_iou: float | None
    """What rows are ranked by."""
    iou: Interval
    """On test, with the interval over resampled blocks."""
    f1: Interval
    draws: tuple[Draw, ...]
    spread: float | None
    """Standard deviation of the test IoU over seeds; None with fewer than two."""
    difference: Interval
    """Test IoU of this row minus that of the best row, paired over blocks."""
    verdict: Verdict


class LabelBudget(BaseModel):
    """A row of the second table and a point of the curve: one experiment with one budget."""

    model_config = ConfigDict(frozen=True)
    experiment: str
    budget: int | None
    """Tiles that were asked for; None for all."""
    tiles: float
    """Tiles learned from (of folds the mean)."""
    km2: float | None
    """Labelled area of these tiles (mean over folds and draws); None where tiles overlap."""
    draws: int
    iou: Interval
    """Mean on test over draws, with Student's 95 % interval of that mean; no bounds with one draw."""
    convergence: float | None
    """Epochs (rounds, for trees) to the first that is within 1 % of the best: the mean over folds and draws."""
    convergence_unit: str
    device_hours: float
    """Of one draw, all its folds together: the mean over draws."""
    device: str
    peak_memory: int
    """Bytes; the highest of all folds and draws."""


class Failed(BaseModel):
    """A training or scoring that gave nothing."""

    model_config = ConfigDict(frozen=True)
    experiment: str
    seed: int
    budget: int | None
    fold: int | None
    """None for a hold-out split, and where scoring failed."""
    why: str
    exit_code: int
    """2 bad input, 3 a fault of the world (a killed process too), 1 training itself failed."""


class ComparisonFacts(BaseModel):
    """`comparison.json`."""

    model_config = ConfigDict(frozen=True)
    best: str | None
    """The row with the highest IoU on validation; None where no row has one."""
    protocol: str
    tiles: str
    """Digest of the TileSet (of the TileFolds)."""
    blocks: int
    """Test blocks that every score is pooled over."""
    headline: int | None
    """The budget of the first table; None for all tiles."""
    rows: tuple[ComparedRow, ...]
    """Best on validation first."""
    budgets: tuple[LabelBudget, ...]
    failed: tuple[Failed, ...] = ()
    left_out: tuple[int, ...] = ()
    """Budgets that were asked for and are beyond the training tiles."""
    simulated: bool = False
    attribution: tuple[str, ...] = ()
    extra: dict[str, Any] = {}
    """`resolution`, `building_cover`, `tile_size`, `periods`, `level`, `folds`, `train_tiles`."""


class Comparison(Product):
    """Files: `comparison.html` (one file, opens offline), `comparison.md`, `comparison.json`, `cells.csv` (one line a
    training), and `figures/`."""

    schema = "comparison"
    required = ("comparison.json", "comparison.html", "comparison.md", "cells.csv")

    @cached_property
    def facts(self) -> ComparisonFacts:
        return ComparisonFacts.model_validate(json.loads((self.path / "comparison.json").read_text(encoding="utf-8")))
