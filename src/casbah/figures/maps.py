"""Maps for a paper: a scene, its labels and splits, what a model says of it, where it errs, and its footprints."""

from collections.abc import Callable, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation, Transform

from casbah.bands import band
from casbah.figures.charts import SIMULATED, BlockOutline, bare, credit, north_arrow, scale_bar
from casbah.figures.colour import (
    FALSE_ALARM,
    FOUND,
    MISSED,
    OUTLINE,
    SPLITS,
    TRUE_COLOUR,
    TRUTH,
    UNKNOWN,
    backdrop,
    error_colours,
    rgb,
)
from casbah.figures.given import (
    Given,
    View,
    dates_of,
    lattice_outlines,
    polygons_on,
    tile_outlines,
)
from casbah.products.labels import IGNORE

WIDTH = 7.2
"""Inches: two columns of a journal (183 mm)."""

PAGE = 9.3
"""Inches: the height of a journal's page (237 mm)."""

NARROWEST = {1: 4.0, 2: 2.1, 4: 1.6}
"""Inches of a map by how many stand beside each other: narrower ones leave no room for keys."""

ABREAST = 2.2
"""Inches of a map from which on its key stands beside the colour bar, not below it."""

MARGIN, GAP = 0.1, 0.2
"""Inches around the maps and between them."""

LINE = 0.145
"""Inches of a line of text."""

CHARACTERS = 14
"""Of a line, by the inch."""

SMALL = 7.5
"""Points of keys and titles."""

EMPTY = "#eceff1"
"""Behind what nothing is known of."""

FADED = 0.62
"""How far errors in blocks that the model has seen are washed out: they say nothing of its skill."""

SEEN = {"train": "learned from", "val": "tuned on"}

Handles = list[Patch | Line2D]

Drawing = Callable[[Axes, Given, View], Handles]
"""Draws one layer and says what its colours mean."""


def scene_map(given: Given, view: View) -> Figure:
    """A scene in three bands, with the blocks of its tiles."""
    assert given.scene is not None
    return _sheet(given, view, [_scene_title(given)], [[_draw_scene]])


def labels_map(given: Given, view: View) -> Figure:
    """A scene with the share of each pixel that buildings cover."""
    return _sheet(given, view, [f"building cover, {_scene_title(given)}"], [[_draw_scene, _draw_cover]])


def footprints_map(given: Given, view: View) -> Figure:
    """Outlines of footprints, over the scene (and cover) where it is given."""
    assert given.footprints is not None
    info = given.footprints.info
    when = dates_of(info.periods)
    title = f"footprints of {info.model.name}, threshold {info.threshold:.2f}" + (f", {when}" if when else "")
    parts: list[Drawing] = [_draw_scene] if given.scene else []
    return _sheet(given, view, [title], [[*parts, *([_draw_cover] if given.labels else [])]])


def prediction_map(given: Given, view: View) -> Figure:
    """P(building), with a line where it crosses the threshold; over the scene in grey where it is given."""
    return _sheet(given, view, [_prediction_title(given)], [[_draw_backdrop, _draw_probability]])


def error_map(given: Given, view: View) -> Figure:
    """Found, missed and false alarm against labels; blocks that the model has seen are washed out and outlined."""
    assert given.prediction is not None
    info = given.prediction.info
    title = f"errors of {info.model.name}, threshold {info.threshold:.2f}"
    return _sheet(given, view, [title], [[_draw_backdrop, _draw_errors]])


def panels_map(given: Given, view: View) -> Figure:
    """Scene, labels, prediction and errors of one area, lettered (a) to (d)."""
    assert given.prediction is not None
    shape = given.grid.rows / given.grid.cols
    columns = 4 if shape > 2 else 1 if shape < 0.4 else 2
    names = [_scene_title(given), "labels", f"P(building), {given.prediction.info.model.name}", "errors"]
    parts: list[list[Drawing]] = [
        [_draw_scene],
        [_draw_backdrop, _draw_truth],
        [_draw_backdrop, _draw_probability],
        [_draw_backdrop, _draw_errors],
    ]
    titles = [f"({letter}) {name}" for letter, name in zip("abcd", names, strict=True)]
    return _sheet(given, view, titles, parts, columns)


def splits_map(given: Given) -> Figure:
    """The blocks of tiles alone, scene by scene, in the colours of their splits."""
    assert given.tiles is not None
    info = given.tiles.info
    areas = {}
    for name, rows in given.tiles.table.groupby("scene"):
        outlines = []
        for (block, split), tiles in rows.groupby(["block", "split"]):
            left, top = tiles["tile_col"].min(), tiles["tile_row"].min()
            cols, height = tiles["tile_col"].max() - left, tiles["tile_row"].max() - top
            size = info.tile_size
            outlines.append(BlockOutline(str(block), left, top, cols + size, height + size, str(split)))
        left, top = min(b.left for b in outlines), min(b.top for b in outlines)
        right, bottom = max(b.left + b.cols for b in outlines), max(b.top + b.rows for b in outlines)
        margin = 0.08 * max(right - left, bottom - top)
        areas[str(name)] = outlines, (left - margin, right + margin), (bottom + margin, top - margin)
    heights = [
        min(PAGE - 1, 0.4 + WIDTH * (low - high) / (east - west)) for _, (west, east), (low, high) in areas.values()
    ]
    figure = Figure(figsize=(WIDTH, 0.7 + sum(heights)), layout="constrained")
    handles: Handles = []
    axes = figure.subplots(len(areas), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, (outlines, xlim, ylim)) in zip(axes, areas.items(), strict=True):
        bare(axis)
        axis.set(xlim=xlim, ylim=ylim, aspect="equal")
        for b in outlines:
            face = rgb(SPLITS[b.split])
            axis.add_patch(Rectangle((b.left, b.top), b.cols, b.rows, facecolor=face, edgecolor="white", lw=1.5))
        handles = _split_handles({b.split for b in outlines} | {str(one.get_label()) for one in handles}, filled=True)
        _title(axis, f"{name}: blocks by split", info.simulated)
        scale_bar(axis, info.resolution, xlim[1] - xlim[0], dark=True)
        north_arrow(axis)
    _key(axes[-1], handles, WIDTH, 4)
    credit(figure, info.attribution)
    return figure


def _sheet(
    given: Given, view: View, titles: Sequence[str], parts: Sequence[Sequence[Drawing]], columns: int = 1
) -> Figure:
    """Maps of one area in `columns`, each with its title and key; all sizes in inches, so that nothing overlaps."""
    figure = Figure()
    shape, lines = given.grid.rows / given.grid.cols, len(parts) // columns
    axes = [figure.add_axes((0, 0, 1, 1)) for _ in parts]
    handles = [
        _draw(axis, given, view, drawings, overlays=_draw_scene in drawings or len(parts) == 1)
        for axis, drawings in zip(axes, parts, strict=True)
    ]
    side = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) / columns
    tallest = (PAGE - 1.0 - 0.75 * lines) / lines
    side = max(min(side, tallest / shape), NARROWEST[columns])
    height = min(side * shape, tallest)
    width = 2 * MARGIN + columns * side + (columns - 1) * GAP
    wrapped = [wrap(title, max(12, int(side * CHARACTERS))) for title in titles]
    across = [max(1, int(side / 1.1)) for _ in parts]
    keys = [_key(axis, key, side, number) for axis, key, number in zip(axes, handles, across, strict=True)]
    said = _wrapped(given.attribution, width)
    rows = [range(line * columns, (line + 1) * columns) for line in range(lines)]
    above = [max(len(wrapped[i]) for i in row) * LINE + 0.07 for row in rows]
    below = [max(keys[i] for i in row) + 0.1 for row in rows]
    top = 0.26 if given.simulated else 0.06
    total = top + sum(above) + sum(below) + lines * height + len(said) * LINE + 0.08
    figure.set_size_inches(width, total)
    upper = total - top
    for line, row in enumerate(rows):
        upper -= above[line] + height
        for column, number in enumerate(row):
            left = MARGIN + column * (side + GAP)
            axes[number].set_position((left / width, upper / total, side / width, height / total))
            axes[number].set_title("\n".join(wrapped[number]), fontsize=SMALL + 0.5, loc="left", color="#222", pad=3.5)
        upper -= below[line]
    if given.simulated:
        figure.text(
            MARGIN / width, 1 - 0.06 / total, SIMULATED, fontsize=9, fontweight="bold", color="#b00020", va="top"
        )
    figure.text(MARGIN / width, 0.06 / total, "\n".join(said), fontsize=SMALL - 0.5, color="#444", va="bottom")
    for number, (axis, drawings) in enumerate(zip(axes, parts, strict=True)):
        dark = not {_draw_scene, _draw_probability} & set(drawings)
        scale_bar(axis, given.grid.resolution, given.grid.cols, dark=dark)
        if number == 0:
            north_arrow(axis, dark=dark)
    return figure


def _wrapped(attribution: Sequence[str], width: float) -> list[str]:
    return [line for said in attribution for line in wrap(said, max(20, int(width * CHARACTERS)))]


def _draw(
    axis: Axes,
    given: Given,
    view: View,
    drawings: Sequence[Drawing],
    overlays: bool,
) -> Handles:
    bare(axis)
    axis.set_facecolor(EMPTY)
    handles: Handles = []
    for draw in drawings:
        handles += draw(axis, given, view)
    if overlays and given.tiles is not None:
        outlines = tile_outlines(given.tiles, given.grid)
        _draw_outlines(axis, outlines)
        handles += _split_handles({b.split for b in outlines})
    if overlays and given.footprints is not None:
        handles += _draw_polygons(axis, given)
    west, east, south, north = view.extent
    axis.set(xlim=(west, east), ylim=(south, north), aspect="equal", anchor="NW")
    return handles


def _draw_scene(axis: Axes, given: Given, view: View) -> Handles:
    axis.imshow(view.picture(given), extent=view.extent, interpolation="nearest")
    return []


def _draw_backdrop(axis: Axes, given: Given, view: View) -> Handles:
    if given.scene is not None:
        axis.imshow(backdrop(view.picture(given)), extent=view.extent, interpolation="nearest")
    return []


def _draw_cover(axis: Axes, given: Given, view: View) -> Handles:
    assert given.labels is not None
    cover = view.cover(given.labels)
    painted = np.zeros((*cover.shape, 4))
    painted[..., :3] = rgb(TRUTH)
    painted[..., 3] = np.where(cover == IGNORE, 0, np.minimum(cover, 100) / 100 * 0.85)
    axis.imshow(painted, extent=view.extent, interpolation="nearest")
    return [Patch(facecolor=rgb(TRUTH), edgecolor="#555", label="building cover")]


def _draw_truth(axis: Axes, given: Given, view: View) -> Handles:
    assert given.labels is not None
    truth = view.truth(given.labels)
    painted = np.zeros((*truth.shape, 4), np.uint8)
    painted[truth == 1] = (*BUILDING, 255)
    painted[truth == IGNORE] = (*UNKNOWN, 90)
    axis.imshow(painted, extent=view.extent, interpolation="nearest")
    cover = given.labels.info.building_cover
    handles: Handles = [Patch(facecolor=rgb(BUILDING), label=f"buildings cover ≥ {cover} %")]
    return handles + _unknown_handle(truth == IGNORE)


BUILDING = (40, 40, 40)
"""Of labels beside errors: neutral, since every hue there means an outcome."""


def _draw_probability(axis: Axes, given: Given, view: View) -> Handles:
    assert given.prediction is not None
    probability = view.probability(given.prediction)
    level = given.prediction.info.threshold
    axis.imshow(probability, cmap="cividis", vmin=0, vmax=1, extent=view.extent, interpolation="nearest",
                alpha=0.88 if given.scene is not None else 1.0)  # fmt: skip
    handles: Handles = []
    known = probability[~np.isnan(probability)]
    if known.size and known.min() < level <= known.max():
        rows, cols = view.shape
        x = (np.arange(cols) + 0.5) * given.grid.cols / cols
        y = (np.arange(rows) + 0.5) * given.grid.rows / rows
        if min(rows, cols) > 1:
            axis.contour(x, y, probability, levels=[level], colors="white", linewidths=0.35)
        line = Line2D([], [], color="white", lw=1, label=f"threshold {level:.2f}")
        line.set_path_effects([withStroke(linewidth=2.2, foreground="#333")])
        handles.append(line)
    bar = axis.inset_axes((0.02, -0.16, 1.1, 0.09), transform=_inches(axis))
    made = axis.figure.colorbar(ScalarMappable(Normalize(0, 1), "cividis"), cax=bar, orientation="horizontal")
    made.ax.tick_params(labelsize=6.5, length=2, pad=1.5)
    made.set_ticks([0, 0.5, 1], labels=["0", "P(building)", "1"])
    made.outline.set_linewidth(0.4)
    return handles


def _draw_errors(axis: Axes, given: Given, view: View) -> Handles:
    assert given.prediction is not None
    assert given.labels is not None
    called, truth = view.outcomes(given.prediction, given.labels)
    painted = error_colours(called, truth)
    outlines = lattice_outlines(given.seen, given.grid)
    axis.imshow(painted, extent=view.extent, interpolation="nearest")
    if outlines:
        veil = np.zeros((*view.shape, 4))
        veil[view.inside(outlines)] = (1, 1, 1, FADED)
        axis.imshow(veil, extent=view.extent, interpolation="nearest")
        if given.tiles is None:
            _draw_outlines(axis, outlines, thin=True)
    names = {"found": FOUND, "missed": MISSED, "false alarm": FALSE_ALARM}
    handles: Handles = [Patch(facecolor=rgb(colour), label=name) for name, colour in names.items()]
    handles += _unknown_handle(truth == IGNORE)
    seen = [split for split in SEEN if any(b.split == split for b in outlines)]
    if given.tiles is not None and seen:  # their blocks are outlined, and none of those that were seen
        return [*handles, Patch(facecolor="white", edgecolor="#bbb", label="pale: model has seen", lw=1.2)]
    return handles + [
        Patch(facecolor="white", edgecolor=rgb(SPLITS[split]), label=f"pale: {SEEN[split]}", lw=1.2) for split in seen
    ]


def _draw_outlines(axis: Axes, outlines: Sequence[BlockOutline], thin: bool = False) -> None:
    for b in outlines:
        edge = rgb(SPLITS[b.split])
        patch = axis.add_patch(
            Rectangle((b.left, b.top), b.cols, b.rows, facecolor="none", edgecolor=edge, lw=0.7 if thin else 1.5)
        )
        if not thin:
            patch.set_path_effects([withStroke(linewidth=2.6, foreground="white")])


def _draw_polygons(axis: Axes, given: Given) -> Handles:
    import shapely

    grid = given.grid
    table = polygons_on(given, grid)
    rings = shapely.get_parts(shapely.get_rings(shapely.get_parts(table.geometry.to_numpy())))
    lines = []
    for ring in rings:
        points = shapely.get_coordinates(ring)
        lines.append((points - (grid.west, grid.north)) / (grid.resolution, -grid.resolution))
    drawn = LineCollection(lines, colors=[rgb(OUTLINE)], linewidths=0.45)
    key = Line2D([], [], color=rgb(OUTLINE), lw=1.2, label=f"{len(table):,} footprints")
    for one, width in ((drawn, 0.95), (key, 2.4)):
        one.set_path_effects([withStroke(linewidth=width, foreground="#1d2733")])
    axis.add_collection(drawn, autolim=False)
    return [key]


def _split_handles(splits: set[str], filled: bool = False) -> Handles:
    found: Handles = []
    for name in (name for name in SPLITS if name in splits):
        colour = rgb(SPLITS[name])
        found.append(Patch(label=name, facecolor=colour if filled else "none", edgecolor=colour, lw=1.5))
    return found


def _unknown_handle(unknown: np.ndarray) -> Handles:
    return [Patch(facecolor=(*rgb(UNKNOWN), 90 / 255), label="unknown")] if unknown.any() else []


def _key(axis: Axes, handles: Handles, side: float, columns: int) -> float:
    """What the colours mean, below a map `side` inches wide (and its colour bar); how many inches that takes."""
    bar = 0.36 if axis.child_axes else 0.0
    if not handles:
        return bar
    beside = bool(bar) and side >= ABREAST
    columns = 1 if beside else min(columns, len(handles))
    axis.legend(
        handles=handles, loc="upper right" if beside else "upper left", borderaxespad=0.4, ncols=columns,
        bbox_to_anchor=(side if beside else 0, 0 if beside else -bar), bbox_transform=_inches(axis),
        fontsize=SMALL - 0.5, frameon=False, handlelength=1.3, columnspacing=1.1, handletextpad=0.5, borderpad=0.1,
    )  # fmt: skip
    lines = 0.08 + LINE * -(-len(handles) // columns)
    return max(bar, lines) if beside else bar + lines


def _inches(axis: Axes) -> Transform:
    """Inches from the lower left corner of an axis."""
    return axis.figure.dpi_scale_trans + ScaledTranslation(0, 0, axis.transAxes)  # type: ignore[arg-type]


def _title(axis: Axes, title: str, simulated: bool) -> None:
    said = f"{SIMULATED} — {title}" if simulated else title
    axis.set_title(said, fontsize=SMALL + 0.5, loc="left", color="#b00020" if simulated else "#222", wrap=True)


def _scene_title(given: Given) -> str:
    assert given.scene is not None
    info = given.scene.info
    names = [band(name).name for name in given.bands]
    shown = "true colour" if names == list(TRUE_COLOUR) else " ".join(names)
    when = dates_of(info.periods[given.period :][:1])
    return ", ".join(part for part in (f"Sentinel-2 {info.level}".strip(), when, shown) if part)


def _prediction_title(given: Given) -> str:
    assert given.prediction is not None
    info = given.prediction.info
    when = dates_of(info.periods)
    return f"P(building) of {info.model.name}" + (f", {when}" if when else "")
