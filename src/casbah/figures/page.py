"""Prediction, footprints and what they are held against as one interactive page."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from casbah.figures.charts import BlockOutline
from casbah.figures.colour import UNKNOWN, error_colours, probability_colours, truth_colours
from casbah.figures.given import Given, View, dates_of, lattice_outlines, polygons_on, tile_outlines
from casbah.figures.webmap import Canvas, render_map
from casbah.grid import Grid
from casbah.scoring import iou

POLYGONS = 50_000
"""More make a page that a phone can't hold: the largest are kept."""

VERTICES = 400_000
"""Corners of all outlines together; more are simplified away, as little as it takes."""

TOLERANCES = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
"""How far an outline may move, in pixels of the grid."""

UNITS = 10
"""Steps of a pixel that corners are rounded to: a metre, at 10 m."""

CLEAR = 0.25
"""Probability below which the picture under it shows through, the more the lower."""

NODES = 5_000.0
"""Metres between points whose longitude and latitude the page knows; between them it is off by less than a metre."""


def page(given: Given) -> str:
    """An HTML page that needs nothing but itself; what was thinned for it is said in its footer."""
    grid = given.grid
    canvas = Canvas("area", 0, 0, grid.cols, grid.rows, grid.resolution, _blocks(given, grid))
    view = View(grid, canvas.step)
    notes = [f"pictures are thinned to {view.step * grid.resolution:g} m" if view.step > 1 else ""]
    _paint(canvas, given, view)
    canvas.geo = places(grid)
    if given.footprints is not None:
        canvas.footprints, said = _outlines(given, grid)
        notes += said
    first = given.prediction or given.footprints
    named = given.scene or given.labels
    title = first.info.model.name if first else named.path.name if named else "map"
    when = dates_of(first.info.periods) if first else ""
    if given.prediction is not None:
        notes.insert(0, f"threshold {given.prediction.info.threshold:.2f}")
    if given.seen:
        notes.append("in train and val blocks the model shows what it has learned, not its skill")
    return render_map(
        [canvas],
        title=f"{title}, {when}" if when else title,
        attribution=given.attribution,
        simulated=given.simulated,
        note="; ".join(note for note in ("Made by Casbah", *notes) if note),
        start={"show": {"probability": 1, "error": int(given.prediction is None)}, "opacity": {"probability": 0.7}},
    )


def _paint(canvas: Canvas, given: Given, view: View) -> None:
    canvas.pictured = given.scene is not None
    if given.scene is not None:
        canvas.colour = view.picture(given)
    if given.labels is not None:
        canvas.layers["truth"] = truth_colours(view.truth(given.labels))
    if given.prediction is None:
        return
    probability = view.probability(given.prediction)
    colours = probability_colours(probability)
    if given.scene is not None:
        colours[..., 3] = colours[..., 3] * np.clip(np.nan_to_num(probability) / CLEAR, 0, 1)
    canvas.layers["probability"] = colours
    unlike = view.unlike(given.prediction)
    canvas.layers["unlike"] = np.where(unlike[..., None], (*UNKNOWN, 150), 0).astype(np.uint8)
    if given.labels is not None:
        canvas.layers["error"] = error_colours(*view.outcomes(given.prediction, given.labels))


def _blocks(given: Given, grid: Grid) -> list[BlockOutline]:
    """Blocks of the tiles, else those that the model has seen; those that were scored with their IoU."""
    found = tile_outlines(given.tiles, grid) if given.tiles else lattice_outlines(given.seen, grid)
    if given.evaluation is None:
        return found
    metrics = given.evaluation.metrics
    scores = {b.block: iou((b.tp, b.fp, b.fn, b.tn)) for b in metrics.blocks}
    known = {b.name for b in found}
    found += lattice_outlines({metrics.split: [name for name in scores if name not in known]}, grid)
    return [replace(b, score=scores.get(b.name)) for b in found]


def places(grid: Grid) -> dict[str, Any]:
    """Where the grid lies: its corner and CRS, and longitude and latitude of evenly spaced points of it."""
    from rasterio.warp import transform

    west, south, east, north = grid.bounds
    cols, rows = (max(1, int(np.ceil(length / NODES))) for length in (east - west, north - south))
    x, y = np.meshgrid(np.linspace(west, east, cols + 1), np.linspace(north, south, rows + 1))
    longitude, latitude = transform(grid.crs, "EPSG:4326", x.ravel().tolist(), y.ravel().tolist())
    return {
        "west": west,
        "north": north,
        "crs": _zone(grid.crs),
        "cols": cols,
        "rows": rows,
        "longitude": [round(value, 7) for value in longitude],
        "latitude": [round(value, 7) for value in latitude],
    }


def _zone(crs: str) -> str:
    code = int(crs.removeprefix("EPSG:"))
    if code // 100 in (326, 327) and 1 <= code % 100 <= 60:
        return f"UTM {code % 100}{'N' if code // 100 == 326 else 'S'}"
    return crs


def _outlines(given: Given, grid: Grid) -> tuple[dict[str, Any], list[str]]:
    assert given.footprints is not None
    info = given.footprints.info
    table = polygons_on(given, grid)
    total, said = len(table), []
    if total > POLYGONS:
        table = table.assign(size=table.geometry.area).nlargest(POLYGONS, "size").sort_index()
        said.append(f"of {total:,} footprints the {POLYGONS:,} largest are drawn")
    shapes = shapely.transform(
        table.geometry.to_numpy(), lambda at: (at - (grid.west, grid.north)) / (grid.resolution, -grid.resolution)
    )
    shapes, moved = _simplified(shapes)
    if moved:
        said.append(f"outlines are simplified by up to {moved * grid.resolution:g} m for this page")
    data = {
        "scale": UNITS,
        "shapes": [_corners(shape) for shape in shapes],
        "id": [str(value) for value in table["id"]],
        "probability": [round(float(value), 3) for value in table["probability"]],
        "area": [round(float(value)) for value in table["area_m2"]],
        "about": {
            "model": info.model.name,
            "imagery": dates_of(info.periods) or "dates unknown",
            "threshold": f"{info.threshold:.2f}",
            "meaning": info.meaning,
            "attribution": "; ".join(said for said in info.attribution if said != "unknown"),
        },
    }
    return data, said


def _simplified(shapes: NDArray[np.object_]) -> tuple[NDArray[np.object_], float]:
    """Shapes with at most `VERTICES` corners (or as few as the largest tolerance leaves), and how far they moved."""
    for tolerance in TOLERANCES:
        kept = shapely.simplify(shapes, tolerance)
        if shapely.get_num_coordinates(kept).sum() <= VERTICES:
            break
    return kept, tolerance


def _corners(shape: Any) -> list[list[int]]:
    """Rings of a polygon, each as x0, y0 and the steps from corner to corner, in `UNITS` of a pixel."""
    rings: Sequence[Any] = shapely.get_rings(shapely.get_parts(shape))
    found = []
    for ring in rings:
        points = np.round(shapely.get_coordinates(ring)[:-1] * UNITS).astype(np.int64)
        found.append(np.diff(points, axis=0, prepend=np.zeros((1, 2), np.int64)).ravel().tolist())
    return found
