"""A scene, its labels and its tiles as one picture to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import rasterio
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from rasterio.enums import Resampling

from casbah.bands import band
from casbah.errors import InputError, WorldError
from casbah.figures.charts import DPI, SIMULATED, BlockOutline, north_arrow, png_of, scale_bar
from casbah.figures.colour import SPLITS, TRUE_COLOUR, TRUTH, stretch_limits, stretched
from casbah.grid import Grid
from casbah.products.labels import IGNORE, LabelSet
from casbah.products.scene import Scene
from casbah.products.tiles import TileSet, holds_folds

if TYPE_CHECKING:
    import geopandas

LONGEST = 1600
"""Pixels of the longer side of a picture: a larger scene is read through its overviews, so memory stays bounded."""


def visualize(
    *,
    output: str | Path,
    scene: str | Path | None = None,
    labels: str | Path | None = None,
    tiles: str | Path | None = None,
    period: int = 0,
    bands: Sequence[str] | None = None,
) -> Path:
    """Write a PNG of a scene in three bands (true colour unless said otherwise), with labels and splits on request.

    Each band is stretched between its 2nd and 98th percentile. With `labels` the share of each pixel under buildings
    lies over it in yellow; with `tiles` the blocks in the colours of their splits (without a scene, the blocks alone).
    A scale bar, a north arrow and the attribution are in the picture, and the word SIMULATED where it is. Raises
    `InputError` where nothing to draw was named, a band or period is missing, or labels lie on another grid.
    """
    output = Path(output)
    if output.suffix.lower() != ".png":
        raise InputError(f"{output} is no PNG file name; give an --output that ends in .png")
    if scene is None and tiles is None:
        raise InputError("there is nothing to draw: name a scene, or tiles, or both")
    if scene is None and labels is not None:
        raise InputError(f"{labels} can only be drawn over its scene: name the scene too")
    cut = None if tiles is None else _tiles(Path(tiles))
    if scene is not None:
        labelled = None if labels is None else LabelSet.open(labels)
        figure = _scene_figure(Scene.open(scene), labelled, cut, period, bands)
    else:
        assert cut is not None
        figure = _splits_figure(cut)
    _write(output, png_of(figure))
    return output


def _tiles(path: Path) -> TileSet:
    """A TileSet to draw; `InputError` where several lie there."""
    if holds_folds(path):
        raise InputError(f"{path} holds one tile set a fold: name one of them, as {path / 'fold_0'}")
    return TileSet.open(path)


def read_picture(scene: Scene, period: int, bands: Sequence[str]) -> tuple[NDArray[np.uint16], int]:
    """Three bands of a period as (3, rows, cols) at most `LONGEST` long, and how many source pixels one is."""
    if not 0 <= period < scene.periods:
        raise InputError(f"{scene.path} has periods 0 to {scene.periods - 1}, not {period}")
    names = [band(name).name for name in bands]
    missing = [name for name in names if name not in scene.bands]
    if len(names) != 3 or missing:
        found = f"lacks {', '.join(missing)}" if missing else f"cannot be drawn from {len(names)} bands"
        raise InputError(f"{scene.path} {found}; give three of its bands ({', '.join(scene.bands)}) as red,green,blue")
    indexes = [scene.bands.index(name) + 1 for name in names]
    return _decimated(scene.reflectance_path(period), indexes)


def _decimated(path: Path, indexes: Sequence[int]) -> tuple[NDArray[np.uint16], int]:
    with rasterio.open(path) as dataset:
        step = max(1, -(-max(dataset.shape) // LONGEST))
        shape = (len(indexes), -(-dataset.height // step), -(-dataset.width // step))
        return dataset.read(list(indexes), out_shape=shape, resampling=Resampling.average), step


def _scene_figure(
    scene: Scene, labels: LabelSet | None, tiles: TileSet | None, period: int, bands: Sequence[str] | None
) -> Figure:
    names = list(TRUE_COLOUR if bands is None else bands)
    picture, step = read_picture(scene, period, names)
    simulated, said = scene.info.simulated, [scene.info.attribution]
    figure, axis = _canvas(picture.shape[1], picture.shape[2])
    axis.imshow(stretched(picture, stretch_limits(picture.reshape(3, -1))), interpolation="nearest")
    handles = []
    if labels is not None:
        _overlay_cover(axis, scene, labels)
        handles.append(Patch(facecolor=_unit(TRUTH), edgecolor="#555", label="building cover"))
        simulated, said = simulated or labels.info.simulated, [*said, labels.info.credit]
    if tiles is not None:
        outlines = _outlines(tiles.table.to_crs(scene.grid.crs), scene.grid, step)
        handles += _draw_blocks(axis, outlines, filled=False)
        said += tiles.info.attribution
    axis.set_xlim(-0.5, picture.shape[2] - 0.5)
    axis.set_ylim(picture.shape[1] - 0.5, -0.5)
    when = scene.info.periods[period]
    span = when.start if when.start == when.end else f"{when.start} to {when.end}"
    title = f"{scene.path.name}, {span}, {' '.join(band(name).name for name in names)}, {scene.info.level}"
    _finish(axis, title, said, simulated, scene.grid.resolution * step, picture.shape[2])
    _legend(figure, handles)
    return figure


def _splits_figure(tiles: TileSet) -> Figure:
    table, info = tiles.table, tiles.info
    areas = {}
    for name, rows in table.groupby("scene"):
        outlines = _grouped(rows, rows["tile_col"], rows["tile_row"], info.tile_size)
        left, top = min(b.left for b in outlines), min(b.top for b in outlines)
        right, bottom = max(b.left + b.cols for b in outlines), max(b.top + b.rows for b in outlines)
        margin = 0.08 * max(right - left, bottom - top)
        areas[str(name)] = outlines, (left - margin, right + margin), (bottom + margin, top - margin)
    heights = [min(7.5, 0.8 + 8.0 * (low - high) / (east - west)) for _, (west, east), (low, high) in areas.values()]
    figure = Figure(figsize=(8.5, 0.4 + sum(heights)), dpi=DPI, layout="constrained")
    handles: list[Patch] = []
    axes = figure.subplots(len(areas), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, (outlines, xlim, ylim)) in zip(axes, areas.items(), strict=True):
        axis.set(xlim=xlim, ylim=ylim, aspect="equal")
        handles += _draw_blocks(axis, outlines, filled=True)
        _finish(axis, f"{name}: blocks by split", [*info.attribution], info.simulated,
                info.resolution, round(xlim[1] - xlim[0]), dark=True)  # fmt: skip
    _legend(figure, handles)
    return figure


def _canvas(rows: int, cols: int) -> tuple[Figure, Axes]:
    longest = LONGEST / 1.15 / DPI
    scale = longest / max(rows, cols)
    figure = Figure(figsize=(max(cols * scale, 4.5) + 0.3, rows * scale + 1.1), dpi=DPI, layout="constrained")
    return figure, figure.subplots()


def _overlay_cover(axis: Axes, scene: Scene, labels: LabelSet) -> None:
    if labels.grid != scene.grid:
        raise InputError(
            f"{labels.path} lies on another grid than {scene.path}: make the labels for this scene with "
            f"`casbah label --scene {scene.path}`"
        )
    cover, _ = _decimated(labels.coverage_path, [1])
    painted = np.zeros((*cover.shape[1:], 4))
    painted[..., :3] = _unit(TRUTH)
    painted[..., 3] = np.where(cover[0] == IGNORE, 0, np.minimum(cover[0], 100) / 100 * 0.85)
    axis.imshow(painted, interpolation="nearest")


def _outlines(table: "geopandas.GeoDataFrame", grid: Grid, step: int) -> list[BlockOutline]:
    bounds = table.geometry.bounds
    west, south, east, north = grid.bounds
    inside = (bounds.minx < east) & (bounds.maxx > west) & (bounds.miny < north) & (bounds.maxy > south)
    size = grid.resolution * step
    table, bounds = table[inside], bounds[inside]
    side = (bounds.maxx - bounds.minx).median() / size
    return _grouped(table, (bounds.minx - west) / size - 0.5, (north - bounds.maxy) / size - 0.5, side)


def _grouped(
    table: "geopandas.GeoDataFrame", lefts: "geopandas.GeoSeries", tops: "geopandas.GeoSeries", side: float
) -> list[BlockOutline]:
    found = []
    for (block, split), rows in table.groupby(["block", "split"]):
        left, top = lefts[rows.index].min(), tops[rows.index].min()
        cols, height = lefts[rows.index].max() + side - left, tops[rows.index].max() + side - top
        found.append(BlockOutline(str(block), left, top, cols, height, str(split)))
    if not found:
        raise InputError("none of the tiles lies in the scene: name the scene that they were cut from")
    return found


def _draw_blocks(axis: Axes, outlines: Sequence[BlockOutline], filled: bool) -> list[Patch]:
    for b in outlines:
        colour = _unit(SPLITS[b.split])
        face, edge = (colour, "white") if filled else ("none", colour)
        patch = axis.add_patch(Rectangle((b.left, b.top), b.cols, b.rows, facecolor=face, edgecolor=edge, lw=2))
        if not filled:
            patch.set_path_effects([withStroke(linewidth=3.6, foreground="white")])
    used = {b.split for b in outlines}
    return [Patch(facecolor=_unit(SPLITS[name]), label=name) for name in SPLITS if name in used]


def _finish(
    axis: Axes,
    title: str,
    attribution: Sequence[str],
    simulated: bool,
    resolution: float,
    cols: int,
    dark: bool = False,
) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(f"{SIMULATED} — {title}" if simulated else title, fontsize=10, loc="left",
                   color="#b00020" if simulated else "#222")  # fmt: skip
    axis.set_xlabel("\n".join(dict.fromkeys(attribution)), fontsize=8, loc="left", color="#444", wrap=True)
    scale_bar(axis, resolution, cols, dark=dark)
    north_arrow(axis, dark=dark)


def _legend(figure: Figure, handles: Sequence[Patch]) -> None:
    """What the colours mean, once, below all pictures: nothing of them lies under it."""
    if once := {str(handle.get_label()): handle for handle in handles}:
        figure.legend(handles=list(once.values()), loc="outside lower right", ncols=4, fontsize=9, frameon=False)


def _unit(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def _write(output: Path, content: bytes) -> None:
    partial = output.with_name(f".{output.name}.partial-{uuid4().hex[:8]}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(output)
    except OSError as error:
        raise WorldError(f"{output} could not be written: {error.strerror or error}; nothing was left there") from error
    finally:
        partial.unlink(missing_ok=True)
