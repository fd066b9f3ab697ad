"""Pictures of several models at once: the curve of label efficiency, and maps of the same blocks side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from casbah.figures.charts import DPI, SIMULATED, bare, credit, png_of, scale_bar
from casbah.figures.colour import CYCLE, FOUND, rgb, split_colours
from casbah.products.comparison import ComparisonFacts

MARKERS = "os^Dvp*X"
STYLES = ("-", "--", ":")

INCHES = 2.1
"""Of one map."""


@dataclass(frozen=True)
class CurvePoint:
    """A model's score at one size of the training set; `low` and `high` where there is an interval."""

    size: float
    value: float
    low: float | None = None
    high: float | None = None


def label_curve(curves: Mapping[str, Sequence[CurvePoint]], unit: str, simulated: bool) -> bytes:
    """`efficiency` as PNG."""
    return png_of(efficiency(curves, unit, simulated))


def efficiency(
    curves: Mapping[str, Sequence[CurvePoint]], unit: str, simulated: bool, attribution: Sequence[str] = ()
) -> Figure:
    """Test IoU of each model against what it learned from (`unit`, on a logarithmic axis), bands where given."""
    figure = Figure(figsize=(9.2, 5.0 + 0.12 * len(curves)), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    colours = list(CYCLE) if len(curves) <= len(CYCLE) else list(split_colours(list(curves)).values())
    for number, (name, points) in enumerate(curves.items()):
        colour = tuple(part / 255 for part in colours[number])
        sizes = [point.size for point in points]
        style, marker = STYLES[number % len(STYLES)], MARKERS[number % len(MARKERS)]
        axis.plot(sizes, [p.value for p in points], marker=marker, ls=style, ms=5, lw=1.6, color=colour, label=name)
        bands = [(p.size, p.low, p.high) for p in points if p.low is not None and p.high is not None]
        if bands:
            where, low, high = zip(*bands, strict=True)
            axis.fill_between(where, low, high, color=colour, alpha=0.13, lw=0)
    axis.set(xscale="log", xlabel=f"learned from: {unit} (logarithmic)", ylabel="building IoU on test blocks")
    ticks = sorted({round(point.size, 6) for points in curves.values() for point in points})
    axis.set_xticks(ticks)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(bottom=0)
    axis.set_title("Label efficiency" + (f" — {SIMULATED}" if simulated else ""), fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
    if attribution:
        credit(figure, attribution)
    return figure


def curves_of(facts: ComparisonFacts) -> tuple[dict[str, list[CurvePoint]], str]:
    """The second table as curves, and the unit of their sizes: labelled km², or tiles where these overlap."""
    by_area = all(one.km2 is not None for one in facts.budgets)
    curves: dict[str, list[CurvePoint]] = {}
    for one in facts.budgets:
        size = one.km2 if by_area and one.km2 is not None else one.tiles
        if one.iou.value is not None:
            point = CurvePoint(size, one.iou.value, one.iou.low, one.iou.high)
            curves.setdefault(one.experiment, []).append(point)
    return curves, "labelled km²" if by_area else "tiles"


def forest(facts: ComparisonFacts) -> Figure:
    """Test IoU of every row with its 95 % interval over blocks, a dot for each seed, best on validation on top."""
    rows = [row for row in facts.rows if row.iou.value is not None]
    figure = Figure(figsize=(7.2, 1.5 + 0.3 * len(rows)), layout="constrained")
    axis = figure.subplots()
    blue, grey = rgb(FOUND), "#777"
    best = next((row.iou.value for row in rows if row.verdict == "best"), None)
    if best is not None:
        axis.axvline(best, color=grey, lw=0.8, ls="--", zorder=1)
    beside = axis.get_yaxis_transform()
    for place, row in enumerate(rows):
        if row.iou.value is None:
            continue
        if row.iou.low is not None and row.iou.high is not None:
            axis.plot([row.iou.low, row.iou.high], [place, place], color=blue, lw=1.6, zorder=2)
        seeds = [draw.iou for draw in row.draws if draw.iou is not None]
        axis.plot(seeds, [place + 0.24] * len(seeds), "|", color=grey, ms=4.5, mew=0.8, zorder=2)
        axis.plot(
            [row.iou.value], [place], "o", color=blue, ms=5, mfc=blue if row.verdict == "best" else "white", zorder=3
        )
        axis.text(1.02, place, f"{row.iou.text()}   {row.verdict}", fontsize=7.5, va="center", transform=beside)
    axis.set_yticks(range(len(rows)), [row.experiment for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel(
        f"building IoU on {facts.blocks} test blocks, 95 % interval over blocks (ticks: seeds; dashed: best on "
        "validation)", fontsize=7.5,
    )  # fmt: skip
    axis.tick_params(axis="x", labelsize=7.5)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25)
    if facts.simulated:
        axis.set_title(SIMULATED, fontsize=9, fontweight="bold", color="#b00020", loc="left")
    credit(figure, facts.attribution)
    return figure


def side_by_side(
    columns: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]],
    models: Mapping[str, Sequence[NDArray[np.floating] | None]],
    resolution: float,
    simulated: bool,
    attribution: Sequence[str],
) -> bytes:
    """One column a block: true colour, truth, and below them the probability that each model gives it.

    `columns` are (title, colour (rows, cols, 3), truth (rows, cols, 4)); `models` name -> one probability (rows, cols)
    a column, NaN where no tile lies, None where there is none.
    """
    lines = 2 + len(models)
    figure = Figure(figsize=(INCHES * len(columns) + 1.6, INCHES * lines + 1.0), dpi=DPI, layout="constrained")
    axes = figure.subplots(lines, len(columns), squeeze=False)
    for number, (title, colour, truth) in enumerate(columns):
        axes[0, number].imshow(colour, interpolation="nearest")
        axes[0, number].set_title(title, fontsize=8.5, color="#444")
        axes[1, number].imshow(truth, interpolation="nearest")
    for line, probabilities in zip(axes[2:], models.values(), strict=True):
        for axis, probability in zip(line, probabilities, strict=True):
            if probability is not None:
                axis.imshow(probability, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    for line, name in zip(axes, ("image", "truth", *models), strict=True):
        for axis in line:
            bare(axis)
            axis.set_facecolor("#f2f2f2")
        line[0].set_ylabel(name, fontsize=8.5, rotation=0, ha="right", va="center")
    for axis, (_, colour, _) in zip(axes[0], columns, strict=True):
        scale_bar(axis, resolution, colour.shape[1])
    if models:
        bar = ScalarMappable(Normalize(0, 1), "cividis")
        figure.colorbar(bar, ax=axes[-1, :], location="bottom", shrink=0.5, pad=0.03, label="P(building)")
    if simulated:
        figure.suptitle(SIMULATED, fontsize=10, fontweight="bold", color="#b00020")
    credit(figure, attribution)
    return png_of(figure)
