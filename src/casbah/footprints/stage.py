"""`footprints`: probabilities of a scene become polygons."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import rasterio
import shapely
from rasterio.errors import RasterioError
from rasterio.windows import Window

from casbah import progress
from casbah.errors import InputError, WorldError
from casbah.footprints.contours import UNKNOWN, Values, outlines, windows
from casbah.footprints.describe import stac_item
from casbah.footprints.drawing import Drawing
from casbah.footprints.ground import Ground, is_side
from casbah.footprints.objects import check, object_scores, shift_of
from casbah.footprints.spool import Spool
from casbah.footprints.writing import COLUMNS, GEOMETRY, Layer, dates, write_table
from casbah.grid import Grid
from casbah.products.footprints import BLOCKS, FLATGEOBUF, GEOPACKAGE, MEANING, PARQUET, FootprintInfo, FootprintSet
from casbah.products.labels import LabelSet
from casbah.products.manifest import check_target
from casbah.products.prediction import Prediction
from casbah.scoring import called_building

WINDOW = 512
"""Pixels on a side of what is in memory at once, beside a grid of contours four times as fine."""

SQUARE = 256
"""Pixels on a side of the least ground whose polygons are held against each other at once."""

BLOCK_SIZE = 1000.0
"""Metres."""

SMALLEST = 0.5
"""Pixels of the default minimum area: less than a lone pixel of probability 1 among zeros comes to at threshold 0.5."""

MOVED = 0.1
"""Pixels that simplification may move an outline by, unless said otherwise. On the buildings of Pisa, blurred to 10 m,
it leaves a quarter of the vertices and 0.435 of a mean IoU of 0.436; a quarter of a pixel leaves a sixth, and 0.429."""


def footprints(
    prediction: str | Path,
    output: str | Path,
    *,
    threshold: float | None = None,
    minimum_area: float | None = None,
    simplify: float | None = None,
    square: bool = True,
    flatgeobuf: bool = False,
    labels: str | Path | None = None,
    align: bool = False,
    block_size: float = BLOCK_SIZE,
    window: int = WINDOW,
) -> FootprintSet:
    """Draw polygons around what a prediction calls building, in the CRS of its grid.

    `threshold` (0-1, exclusive; the prediction's own where None) is the probability of the contours; polygons of less
    than `minimum_area` square metres (half a pixel where None) are left out, and holes of less are filled, the smallest
    first, as far as that adds 5 % to a polygon's area. Outlines are simplified by at most `simplify` metres (a tenth of
    a pixel where None, 0 for none) and with `square` get right angles where their shape has them; each keeps the area
    of its contour within 5 % or stays plainer. `flatgeobuf` writes that format as well.
    With `labels` (a label set of the same CRS) the polygons are scored object by object, apart on ground that the model
    has seen; `align` moves the labels first by the shift that they show against their image. `block_size` (metres) is
    the side of the blocks of `blocks.parquet`. `window` (pixels) bounds the memory for pixels and changes nothing in
    the result; shapes wait on the disk of the output, with about a hundred bytes for each in memory.

    Raises `InputError` for input that can't be used (nothing is written then) and `WorldError` where the disk fails.
    """
    _check(threshold, minimum_area, simplify, block_size, window)
    if align and labels is None:
        raise InputError("--align moves labels, and none are given: give --labels too")
    output = Path(output)
    check_target(output, FootprintSet.schema)
    opened = Prediction.open(prediction)
    truth = None if labels is None else LabelSet.open(labels)
    if truth is not None:
        check(truth, opened)
    moved = shift_of(truth) if truth is not None and align else (0.0, 0.0)
    said, grid = opened.info, opened.grid
    at = said.threshold if threshold is None else threshold
    least = SMALLEST * grid.resolution**2 if minimum_area is None else minimum_area
    tolerance = MOVED * grid.resolution if simplify is None else simplify
    parameters = {
        "threshold": threshold,
        "minimum_area": minimum_area,
        "simplify": simplify,
        "square": square,
        "flatgeobuf": flatgeobuf,
        "align": align,
        "block_size": block_size,
        "window": window,
    }
    inputs = {"prediction": opened.digest} | ({} if truth is None else {"labels": truth.digest})
    with (
        FootprintSet.write(output, parameters=parameters, inputs=inputs) as draft,
        Spool.within(draft.directory) as spool,
    ):
        drawing = Drawing(spool, grid, least, tolerance, square)
        ground = Ground(grid, block_size)
        pixels, highest = _draw(opened, at, drawing, ground, window)
        if not len(drawing):
            progress.say(
                f"{opened.path}: nothing of {least:g} m2 or more has a probability of {at:g} or more, so that the set "
                f"holds no polygon (the highest probability is {highest:.3f})"
            )
        spans: list[shapely.Geometry] = []
        for rows, shapes in drawing.chunks():
            ground.cover(shapes, rows["first"])
            spans.append(shapely.box(*shapely.total_bounds(shapes)))
        objects = {}
        if truth is not None:
            objects = object_scores((shapes for _, shapes in drawing.chunks()), truth, opened, moved)
        info = FootprintInfo(
            model=said.model,
            meaning=MEANING.format(cover=said.building_cover, resolution=grid.resolution, threshold=at),
            threshold=at,
            building_cover=said.building_cover,
            resolution=grid.resolution,
            minimum_area=least,
            simplified=tolerance,
            squared=square,
            block_size=block_size,
            periods=said.periods,
            polygons=len(drawing),
            area=drawing.area,
            area_of_contours=drawing.area_of_contours,
            area_of_pixels=pixels * grid.resolution**2,
            attribution=said.attribution,
            simulated=said.simulated,
            objects=objects,
        )
        layer = Layer(
            info, grid.crs, list(shapely.GeometryCollection(spans).bounds), lambda: _rows(drawing, info, grid)
        )
        layer.write_parquet(draft.directory / PARQUET)
        layer.write_vector(draft.directory / GEOPACKAGE)
        if flatgeobuf:
            layer.write_vector(draft.directory / FLATGEOBUF)
        write_table(ground.table(), draft.directory / BLOCKS, info)
        draft.write_json("footprints.json", json.loads(info.model_dump_json()))
        draft.write_json("item.json", stac_item(info, opened, draft.directory, output))
    return FootprintSet.open(output, verify=False)


def _check(
    threshold: float | None, minimum_area: float | None, simplify: float | None, block_size: float, window: int
) -> None:
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"the threshold is {threshold:g}; a probability between 0 and 1, both excluded, is wanted")
    for what, value, unit in (("minimum area", minimum_area, "square metres"), ("simplification", simplify, "metres")):
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise InputError(f"the {what} is {value:g}; 0 {unit} or more is wanted")
    if not is_side(block_size):
        raise InputError(f"the block size is {block_size:g} m; more than 0 is wanted")
    if window < 1:
        raise InputError(f"the window is {window} pixels; at least 1 is wanted")


def _draw(prediction: Prediction, threshold: float, drawing: Drawing, ground: Ground, window: int) -> tuple[int, float]:
    """Fill a drawing with the polygons of a prediction, and the ground with what was observed; how many pixels are
    building, also in what is too small to be drawn, and the highest probability."""
    info, grid = prediction.info, prediction.grid
    level = _level(threshold, info.steps)
    pixels, highest = 0, 0

    def seen(values: Values, top: int, left: int) -> None:
        nonlocal pixels, highest
        ground.add(values >= 0, top, left)
        pixels += int((values >= level).sum())
        highest = max(highest, int(values.max()))

    with (
        rasterio.open(prediction.probability_path) as dataset,
        progress.task("contours", windows(grid.shape, window)) as task,
    ):
        for batch in outlines(_reader(dataset, grid, info.nodata), grid.shape, level, window, seen, task.advance):
            drawing.add(batch, info.steps)
    drawing.settle(max(window, SQUARE) * grid.resolution)
    return pixels, highest / info.steps


def _level(threshold: float, steps: int) -> int:
    """The lowest stored value whose probability is at or above the threshold, as pixels are called building."""
    return int(np.argmax(called_building(np.arange(steps + 1, dtype=np.float32) / np.float32(steps), threshold)))


def _reader(dataset: Any, grid: Grid, nodata: int) -> Any:
    def inside(rows: tuple[int, int], cols: tuple[int, int]) -> Values:
        try:
            found = dataset.read(1, window=Window.from_slices(rows, cols)).astype(np.int32)
        except RasterioError as error:
            raise WorldError(f"{dataset.name} could not be read: {error}; is its disk still there?") from error
        found[found == nodata] = UNKNOWN
        return np.asarray(found)

    return padded(inside, grid)


def padded(inside: Callable[[tuple[int, int], tuple[int, int]], Values], grid: Grid) -> Any:
    """A reader of windows that may reach over the edge of a grid, where nothing is known; `inside` reads the rest."""

    def read(top: int, bottom: int, left: int, right: int) -> Values:
        values = np.full((bottom - top, right - left), UNKNOWN, np.int32)
        rows, cols = (max(top, 0), min(bottom, grid.rows)), (max(left, 0), min(right, grid.cols))
        values[rows[0] - top : rows[1] - top, cols[0] - left : cols[1] - left] = inside(rows, cols)
        return values

    return read


def _rows(drawing: Drawing, info: FootprintInfo, grid: Grid) -> Iterator[pyarrow.RecordBatch]:
    """The rows that are written, some at a time."""
    code = grid.crs.removeprefix("EPSG:")
    for rows, shapes in drawing.chunks():
        east = grid.west + (rows["first"][:, 1] + 0.5) * grid.resolution
        north = grid.north - (rows["first"][:, 0] + 0.5) * grid.resolution
        same = {"model": info.model.name, "dates": dates(info), "attribution": "; ".join(info.attribution)}
        columns = {
            "id": [f"{code}_{x:.0f}_{y:.0f}" for x, y in zip(east, north, strict=True)],
            "probability": np.round(rows["probability"], 6),
            "area_m2": shapely.area(shapes),
            **{name: [text] * len(rows) for name, text in same.items()},
            "simulated": [info.simulated] * len(rows),
            GEOMETRY: shapely.to_wkb(shapes),
        }
        yield pyarrow.RecordBatch.from_pydict(columns, schema=COLUMNS)
