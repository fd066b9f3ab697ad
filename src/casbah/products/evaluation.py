"""`Evaluation`: what a model scores on blocks it has not seen, with intervals, per block, and the report."""

import json
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from casbah.products.manifest import Product


class Interval(BaseModel):
    """A score with its 95 % interval over resampled blocks; None where it is undefined (nothing to score)."""

    model_config = ConfigDict(frozen=True)
    value: float | None
    low: float | None = None
    high: float | None = None

    def text(self) -> str:
        """`0.431 (0.402–0.460)`; without an interval the value alone; a dash where the score is undefined."""
        if self.value is None:
            return "–"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


class Scores(BaseModel):
    """Scores of the class *building* alone: background is never averaged in."""

    model_config = ConfigDict(frozen=True)
    iou: Interval
    f1: Interval
    precision: Interval
    recall: Interval


class BlockCounts(BaseModel):
    """The pixels of one block by outcome; every score is made of these."""

    model_config = ConfigDict(frozen=True)
    block: str
    tp: int
    fp: int
    fn: int
    tn: int
    fold: int | None = None
    """The fold that tested it; None outside of k-fold."""


class EvaluationMetrics(BaseModel):
    """`metrics.json`."""

    model_config = ConfigDict(frozen=True)
    experiment: str
    split: str
    protocol: str
    """`hold-out`, `spatial 4-fold, pooled; …`, or a sentence that says what else (validation, training)."""
    threshold: float
    """Of k-fold models the median: `extra["folds"]` holds each fold's own."""
    threshold_source: str
    building: Scores
    baselines: dict[str, Scores]
    """`all background`, and `built-up index` where the bands suffice for one."""
    unaligned: Scores | None = None
    """Against the footprints as published, where the tiles were aligned."""
    ece: float
    """Expected calibration error, 15 bins of equal width (Guo et al. 2017)."""
    reliability: tuple[dict[str, float], ...]
    blocks: tuple[BlockCounts, ...]
    tiles: str
    """Digest of the TileSet (of the TileFolds)."""
    model: str
    """Digest of the ModelBundle (of k-fold models: of the directory's manifest, else the sha256 of the folds' digests,
    one a line, in order)."""
    simulated: bool = False
    attribution: tuple[str, ...] = ()
    extra: dict[str, Any] = {}
    """`built_up_index` and `folds` (one entry a fold), `lineage`, `level`, `periods`, `resolution`, `building_cover`,
    `parameters`, and in words how overlapping tiles are counted (`overlap`)."""


class Evaluation(Product):
    """Files: `metrics.json`, `report.html` (one file, opens offline), `report.md`, `figures/`, and
    `map.html` (one file, opens offline)."""

    schema = "evaluation"
    required = ("metrics.json", "report.html", "report.md")

    @cached_property
    def metrics(self) -> EvaluationMetrics:
        return EvaluationMetrics.model_validate(json.loads((self.path / "metrics.json").read_text(encoding="utf-8")))
