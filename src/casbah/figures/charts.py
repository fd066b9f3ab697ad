"""Charts and picture panels as PNG: drawn on `Figure` objects, so that no display and no global state is needed."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from casbah.figures.colour import FALSE_ALARM, FOUND, MISSED, SPLITS, TRUTH, rgb, split_colours

DPI = 110
SIMULATED = "SIMULATED DATA"

WIDE = 0.5
"""Height to width below which two maps of an area lie one above the other."""

BAR = 8
"""Points between the lower edge of a picture and its scale bar."""


@dataclass(frozen=True)
class Panel:
    """One block: its title, true colour (rows, cols, 3), truth and error (rows, cols, 4), probability (NaN: none)."""

    title: str
    colour: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    probability: NDArray[np.floating]
    error: NDArray[np.uint8]


@dataclass(frozen=True)
class BlockOutline:
    """Where a block's tiles lie, in pixels of its scene, its split or fold, and its score (None: not scored)."""

    name: str
    left: float
    top: float
    cols: float
    rows: float
    split: str
    score: float | None = None


def nice_length(metres: float) -> float:
    """The largest of 1, 2, 5 x 10^n that is at most `metres`: the length of a scale bar."""
    power = 10.0 ** math.floor(math.log10(metres))
    return max(step * power for step in (1, 2, 5) if step * power <= metres * (1 + 1e-9))


def length_text(metres: float) -> str:
    """500 -> `500 m`, 2000 -> `2 km`."""
    return f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"


def panels(rows: Sequence[Panel], resolution: float, simulated: bool, attribution: Sequence[str]) -> bytes:
    """Image, truth, probability and error of a few blocks side by side, a scale bar in each image, and the credit."""
    figure = Figure(figsize=(11.5, 3.05 * len(rows) + 0.55), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for line, panel in zip(axes, rows, strict=True):
        shown = (panel.colour, panel.truth, panel.probability, panel.error)
        for axis, name, picture in zip(line, ("image", "truth", "probability", "error"), shown, strict=True):
            bare(axis)
            axis.set_facecolor("#f2f2f2")
            if picture.ndim == 2:
                axis.imshow(picture, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
            else:
                axis.imshow(picture, interpolation="nearest")
            axis.set_title(name, fontsize=9, color="#444")
        line[0].set_ylabel(panel.title, fontsize=9)
        scale_bar(line[0], resolution, panel.colour.shape[1])
    names = {"building (truth)": TRUTH, "found": FOUND, "false alarm": FALSE_ALARM, "missed": MISSED}
    handles = [Patch(facecolor=rgb(c), edgecolor="#666", label=name) for name, c in names.items()]
    # It lies beside the colour bar, which already makes room for it: the layout need not.
    place = {"loc": "upper left", "bbox_to_anchor": (0, -0.06), "borderaxespad": 0}
    axes[-1, 0].legend(handles=handles, ncols=4, fontsize=9, frameon=False, **place).set_in_layout(False)
    bar = ScalarMappable(Normalize(0, 1), "cividis")
    figure.colorbar(bar, ax=axes[:, 2], location="bottom", shrink=0.8, pad=0.02, label="P(building)")
    if simulated:
        figure.suptitle(SIMULATED, fontsize=10, fontweight="bold", color="#b00020")
    credit(figure, attribution)
    return png_of(figure)


def reliability_chart(curve: Sequence[dict[str, float]], ece: float, simulated: bool) -> bytes:
    """`reliability` as PNG."""
    return png_of(reliability(curve, ece, simulated))


def reliability(
    curve: Sequence[dict[str, float]], ece: float, simulated: bool, attribution: Sequence[str] = ()
) -> Figure:
    """Observed share of building against mean P(building) per bin, over a bar chart of how many pixels each bin has."""
    figure = Figure(figsize=(5.6, 5.4), dpi=DPI, layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color="#888", lw=1, ls="--", label="perfect")
    where = [b["probability"] for b in curve]
    top.plot(where, [b["observed"] for b in curve], "o-", color=rgb(FOUND), ms=4, label=f"model (ECE {ece:.3f})")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is building")
    top.set_title("Reliability" + (f" — {SIMULATED}" if simulated else ""), fontsize=10, loc="left")
    top.legend(frameon=False, fontsize=9, loc="upper left")
    centre = [(b["low"] + b["high"]) / 2 for b in curve]
    width = [0.9 * (b["high"] - b["low"]) for b in curve]
    below.bar(centre, [b["pixels"] for b in curve], width=width, color="#9aa5b1")
    below.set(yscale="log", xlabel="P(building) that the model gives", ylabel="pixels")
    for axis in (top, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    if attribution:
        credit(figure, attribution)
    return figure


def block_map(
    area: str, blocks: Sequence[BlockOutline], resolution: float, simulated: bool, attribution: Sequence[str]
) -> bytes:
    """The blocks of one scene twice: coloured by building IoU, and by split (or fold); with the credit."""
    left, top = min(b.left for b in blocks), min(b.top for b in blocks)
    cols = max(b.left + b.cols for b in blocks) - left
    rows = max(b.top + b.rows for b in blocks) - top
    margin = 0.04 * max(rows, cols)
    shape = (rows + 7 * margin) / (cols + 2 * margin)
    if shape < WIDE:
        figure = Figure(figsize=(11, 2.6 + 2 * 10.5 * shape), dpi=DPI, layout="constrained")
        by_score, by_split = figure.subplots(2, 1)
    else:
        figure = Figure(figsize=(11, min(9.0, 1.6 + 5.0 * shape)), dpi=DPI, layout="constrained")
        by_score, by_split = figure.subplots(1, 2)
    colours = {name: rgb(c) for name, c in split_colours([b.split for b in blocks]).items()}
    highest = max((b.score for b in blocks if b.score), default=1.0)
    scale = ScalarMappable(Normalize(0, highest), "viridis")
    for axis in (by_score, by_split):
        bare(axis)
        axis.set(xlim=(left - margin, left + cols + margin), ylim=(top + rows + 3 * margin, top - 4 * margin))
        axis.set_aspect("equal")
        scale_bar(axis, resolution, cols, dark=True)
        north_arrow(axis)
    for b in blocks:
        face = scale.cmap(b.score / highest) if b.score is not None else "#e6e6e6"
        by_score.add_patch(Rectangle((b.left, b.top), b.cols, b.rows, facecolor=face, edgecolor="white", lw=0.6))
        by_split.add_patch(
            Rectangle((b.left, b.top), b.cols, b.rows, facecolor=colours[b.split], edgecolor="white", lw=0.6)
        )
    mark = f" — {SIMULATED}" if simulated else ""
    figure.suptitle(f"{area}{mark}", fontsize=10, color="#b00020" if simulated else "#222")
    folds = not set(colours) <= set(SPLITS)
    by_score.set_title("building IoU per block (grey: not scored, or no building)", fontsize=10, loc="left")
    by_split.set_title("fold that tests each block" if folds else "split of each block", fontsize=10, loc="left")
    figure.colorbar(scale, ax=by_score, location="bottom", shrink=0.7, pad=0.02, label="building IoU")
    handles = [Patch(facecolor=colour, label=name) for name, colour in colours.items()]
    by_split.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4, frameon=False)
    credit(figure, attribution)
    return png_of(figure)


def scale_bar(axis: Axes, resolution: float, cols: float, dark: bool = False) -> None:
    """A bar of a round length, about a quarter of `cols` pixels wide, in the lower left corner."""
    length = nice_length(max(cols * resolution * 0.3, 1e-9))
    left, right = axis.get_xlim()
    x = left + 0.05 * (right - left)
    # Upright it is placed in points, so that it keeps its distance from the edge however low the picture is.
    place = axis.get_xaxis_transform() + ScaledTranslation(0, BAR / 72, axis.figure.dpi_scale_trans)
    colour, shade = ("#222", "white") if dark else ("white", "black")
    for width, paint in ((4.5, shade), (2.5, colour)):
        ends = [x, x + length / resolution]
        axis.plot(ends, [0, 0], color=paint, lw=width, solid_capstyle="butt", transform=place, scaley=False)
    label = axis.annotate(
        length_text(length), (x, 0), (0, 4), place, textcoords="offset points", fontsize=8, color=colour, va="bottom"
    )
    label.set_path_effects(_outline(shade))


def north_arrow(axis: Axes, dark: bool = True) -> None:
    """An arrow to the north (grids are north-up) in the upper right corner."""
    colour = "#222" if dark else "white"
    text = axis.annotate(
        "N",
        xy=(0.97, 0.995),
        xytext=(0, -20),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=9,
        color=colour,
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0},
    )
    text.set_path_effects(_outline("white" if dark else "black"))


def credit(figure: Figure, attribution: Sequence[str]) -> None:
    """Whose imagery and footprints these are, below the whole picture."""
    lines = [line for said in dict.fromkeys(attribution) for line in wrap(said, round(figure.get_figwidth() * 15))]
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7.5, color="#444")


def _outline(colour: str) -> list[AbstractPathEffect]:
    return [withStroke(linewidth=2, foreground=colour)]


def bare(axis: Axes) -> None:
    """Leave an axis without ticks, in a thin grey frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color("#bbb")


def png_of(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes from run to run."""
    buffer = io.BytesIO()
    # A fixed Software tag keeps the bytes, and with them the digest of the product, the same from run to run.
    figure.savefig(buffer, format="png", metadata={"Software": "casbah"})
    return buffer.getvalue()
