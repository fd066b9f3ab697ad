"""Predictions that overlap, laid together as one map: what a large area is predicted in needs no borders on the map."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.ndimage import distance_transform_cdt

import casbah
from casbah.errors import InputError
from casbah.grid import Grid
from casbah.predict import maps
from casbah.predict.describe import sources_of, stac_item, tags_of
from casbah.predict.stage import code
from casbah.products.manifest import check_target
from casbah.products.prediction import NODATA, Prediction, PredictionInfo
from casbah.products.scene import Period
from casbah.progress import say, task
from casbah.scoring import called_building
from casbah.workplace import Workplace, writing

BLOCK = 1024
"""Pixels on a side of what is laid together at once."""

SAME = (
    "model", "threshold", "building_cover", "level", "bands", "values", "flips", "uncertainty",
)  # fmt: skip
"""Facts that predictions of one map share."""

FADE = 64
"""Pixels over which a prediction fades towards what it has not observed, such as a cloud."""

MOST_NAMED = 3
"""Scenes that a merged map names; its manifest knows all of them."""


def merge(predictions: Sequence[str | Path], output: str | Path) -> Prediction:
    """Lay predictions of one model, on one lattice of pixels, together as one.

    Where several cover a pixel each counts by the product of its distances to the edges of its own grid, along rows and
    along columns, and less within `FADE` pixels of what it has not observed: one fades into the next, and what a model
    said at an edge, where it saw half of the surroundings, counts nothing. Of one prediction a copy is made. Memory
    does not grow with the area; a killed run leaves nothing at `output` and a rerun goes on from its blocks.

    `InputError` where they differ in model, threshold or encoding, or their pixels do not lie on one another;
    `WorldError` where the disk failed.
    """
    output = Path(output)
    with writing(output):
        check_target(output, Prediction.schema)
    if not predictions:
        raise InputError("no prediction was given; name at least one")
    # In an order of their own, so that the map is the same however they are named.
    opened = sorted((Prediction.open(path) for path in predictions), key=lambda one: one.digest)
    for other in opened[1:]:
        _check_alike(opened[0], other)
    if len(opened) == 1:
        return opened[0].copy_to(output)
    grid = _around(opened)
    info = _info(opened)
    digests = [one.digest for one in opened]
    request = {"predictions": digests, "casbah": casbah.__version__, "code": code()}
    workplace = Workplace(output, request, "merge")
    with workplace.held(), workplace.making(Prediction.schema):
        blocks = _blocks(opened, grid, info, workplace)
        sources = sorted({source for one in opened for source in sources_of(one.item)})
        scene = hashlib.sha256("\n".join(digests).encode()).hexdigest()
        inputs = {f"prediction {number}": one.digest for number, one in enumerate(opened)}
        parameters = {"scenes": [one.info.scene for one in opened]}
        with writing(output), Prediction.write(workplace.draft, parameters=parameters, inputs=inputs) as draft:
            tags = tags_of(info)
            maps.write_layers(blocks, grid, draft.directory, info, tags)
            band = len(maps.layers_of(info.uncertainty)) + 2
            maps.write_mask(blocks, band, grid, draft.directory / "unlike.tif", tags, maps.UNLIKE)
            info = info.model_copy(update={"unlike": _unlike(opened, draft.directory / "unlike.tif")})
            draft.write_json("prediction.json", info.model_dump(mode="json"))
            changed = max((str(one.item["properties"]["datetime"] or "") for one in opened), default="")
            draft.write_json("item.json", stac_item(info, grid, sources, scene, changed or None))
    return Prediction.open(output, verify=False)


def _check_alike(first: Prediction, other: Prediction) -> None:
    for fact in SAME:
        ours, theirs = getattr(first.info, fact), getattr(other.info, fact)
        if fact == "model":
            ours, theirs = first.info.model.digest[:12], other.info.model.digest[:12]
        if ours != theirs:
            raise InputError(
                f"the predictions {first.path} and {other.path} can't be one map: they differ in {fact} ({ours} and "
                f"{theirs}); predict them alike"
            )
    a, b = first.grid, other.grid
    if (a.crs, a.resolution) != (b.crs, b.resolution):
        raise InputError(
            f"the pixels of {first.path} and {other.path} do not lie on one another ({a.crs}, {a.resolution:g} m and "
            f"{b.crs}, {b.resolution:g} m): predict scenes of one UTM zone, as `casbah ingest` makes them"
        )
    if not _on_lattice(a, b):
        east, north = (b.west - a.west, b.north - a.north)
        off = [metres - round(metres / a.resolution) * a.resolution for metres in (east, north)]
        raise InputError(
            f"the pixels of {first.path} and {other.path} do not lie on one another (off by {off[0]:g} m east and "
            f"{off[1]:g} m north): cut both scenes from one lattice, as `casbah ingest` does, or resample one"
        )
    if len(first.info.periods) != len(other.info.periods):
        raise InputError(
            f"the predictions {first.path} and {other.path} can't be one map: they are of {len(first.info.periods)} "
            f"and of {len(other.info.periods)} dates"
        )


def _on_lattice(a: Grid, b: Grid) -> bool:
    steps = np.array([a.west - b.west, a.north - b.north]) / a.resolution
    return bool(np.allclose(steps, np.rint(steps), atol=1e-3))


def _around(predictions: Sequence[Prediction]) -> Grid:
    bounds = np.array([one.grid.bounds for one in predictions])
    west, south = bounds[:, :2].min(axis=0)
    east, north = bounds[:, 2:].max(axis=0)
    first = predictions[0].grid
    size = first.resolution
    return Grid(first.crs, float(west), float(north), round((north - south) / size), round((east - west) / size), size)


def _info(predictions: Sequence[Prediction]) -> PredictionInfo:
    infos = [one.info for one in predictions]
    scenes = sorted({info.scene for info in infos})
    named = ", ".join(scenes[:MOST_NAMED]) + (" …" if len(scenes) > MOST_NAMED else "")
    periods = tuple(
        Period(
            start=min(info.periods[t].start for info in infos),
            end=max(info.periods[t].end for info in infos),
            dates=tuple(sorted({day for info in infos for day in info.periods[t].dates})),
        )
        for t in range(len(infos[0].periods))
    )
    return infos[0].model_copy(
        update={
            "scene": f"{len(scenes)} scenes: {named}" if len(scenes) > 1 else scenes[0],
            "periods": periods,
            # Of maps drawn by other windows the smallest are told.
            "window": min(info.window for info in infos),
            "overlap": min(info.overlap for info in infos),
            "attribution": tuple(dict.fromkeys(sentence for info in infos for sentence in info.attribution)),
            "simulated": any(info.simulated for info in infos),
        }
    )


def _unlike(predictions: Sequence[Prediction], merged: Path) -> dict[str, Any]:
    """How far the imagery lies outside of the training range: the share of what the merged map flags, and the bands'
    shares over all predictions by their observed pixels (where predictions overlap, both count)."""
    flagged, observed = _counted(merged)
    seen = [(one.info.unlike.get("bands", {}), _counted(one.path / "unlike.tif")[1]) for one in predictions]
    total = max(sum(count for _, count in seen), 1)
    names = dict.fromkeys(name for bands, _ in seen for name in bands)
    return {
        "share": round(flagged / max(observed, 1), 4),
        "bands": {name: round(sum(bands.get(name, 0.0) * count for bands, count in seen) / total, 4) for name in names},
    }


def _counted(raster: Path) -> tuple[int, int]:
    """Pixels of a raster of flags that are flagged, and that are observed."""
    flagged = observed = 0
    with rasterio.open(raster) as dataset:
        for _, window in dataset.block_windows(1):
            values = dataset.read(1, window=window)
            flagged += int((values == 1).sum())
            observed += int((values != NODATA["uint8"]).sum())
    return flagged, observed


def _blocks(
    predictions: Sequence[Prediction], grid: Grid, info: PredictionInfo, workplace: Workplace
) -> list[tuple[Path, Window]]:
    """Make every block that no earlier run made; those that no prediction reaches are left out."""
    say(f"{len(predictions)} predictions become one map of {grid.rows} x {grid.cols} pixels")
    windows = [window for window in grid.windows(BLOCK) if any(_shared(one, grid, window) for one in predictions)]
    blocks = [(workplace.block_path(0, window), window) for window in windows]
    left = [(path, window) for path, window in blocks if not path.exists()]
    with task("merge", len(left)) as progress:
        for path, window in left:
            planes = _laid(predictions, grid, window, info)
            part = grid.part(window.row_off, window.col_off, window.height, window.width)
            workplace.save_block(path, part, planes)
            progress.advance()
    return blocks


def _laid(predictions: Sequence[Prediction], grid: Grid, window: Window, info: PredictionInfo) -> list[NDArray[Any]]:
    """One window of the map as it is kept: probability (its deviation, too), mask, and what looks unlike."""
    shape = (window.height, window.width)
    layers = [file for file, _ in maps.layers_of(info.uncertainty)]
    total = np.zeros(shape, np.float64)
    sums = np.zeros((len(layers), *shape), np.float64)
    unlike = np.full(shape, NODATA["uint8"], np.uint8)
    for one in predictions:
        shared = _shared(one, grid, window)
        if shared is None:
            continue
        rows, cols, inside = shared
        flags, weight = _flags_and_weight(one, inside)
        for number, file in enumerate(layers):
            with rasterio.open(one.path / file) as dataset:
                values = dataset.read(1, window=inside) / info.steps
            sums[number, rows, cols] += weight * np.where(weight > 0, values, 0)
        total[rows, cols] += weight
        seen = unlike[rows, cols]
        known = flags != NODATA["uint8"]
        seen[known] = np.where(seen == NODATA["uint8"], flags, np.maximum(seen, flags))[known]
    with np.errstate(invalid="ignore"):
        found = np.where(total > 0, sums / total, np.nan).astype(np.float32)
    planes: list[NDArray[Any]] = [maps.quantised(layer, info.values) for layer in found]
    # By what is stored, as whoever reads the probabilities would call it: sums of weights round to either side.
    stored = planes[0].astype(np.float32) / info.steps
    mask = called_building(stored, info.threshold).astype(np.uint8)
    mask[total == 0] = NODATA["uint8"]
    return [*planes, mask.astype(planes[0].dtype), unlike.astype(planes[0].dtype)]


def _shared(one: Prediction, grid: Grid, window: Window) -> tuple[slice, slice, Window] | None:
    """What a prediction covers of a window: rows and columns of the window, and the same as a window of its own."""
    top = round((grid.north - one.grid.north) / grid.resolution) - window.row_off
    left = round((one.grid.west - grid.west) / grid.resolution) - window.col_off
    first = max(top, 0), max(left, 0)
    last = min(top + one.grid.rows, window.height), min(left + one.grid.cols, window.width)
    if last[0] <= first[0] or last[1] <= first[1]:
        return None
    inside = Window(first[1] - left, first[0] - top, last[1] - first[1], last[0] - first[0])
    return slice(first[0], last[0]), slice(first[1], last[1]), inside


def _flags_and_weight(one: Prediction, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """What looks unlike the training in a window of a prediction, and what each pixel counts: 0 where not observed."""
    top, left = max(window.row_off - FADE, 0), max(window.col_off - FADE, 0)
    bottom = min(window.row_off + window.height + FADE, one.grid.rows)
    right = min(window.col_off + window.width + FADE, one.grid.cols)
    with rasterio.open(one.path / "unlike.tif") as dataset:
        flags = dataset.read(1, window=Window(left, top, right - left, bottom - top))
    known = flags != NODATA["uint8"]
    # Nearest in rows or columns, whichever are more: of a window as of the whole, since it is cut off at the margin.
    near = np.minimum(distance_transform_cdt(known, "chessboard"), FADE) if not known.all() else known * FADE
    own = np.s_[window.row_off - top :, window.col_off - left :]
    flags, near = (part[own][: window.height, : window.width] for part in (flags, near))
    return flags, _weight(one.grid, window) * near / FADE


def _weight(grid: Grid, window: Window) -> NDArray[np.float64]:
    """Distance to the nearer edge of the grid, along rows times along columns, in pixels from the pixels' centres."""
    rows = np.arange(window.row_off, window.row_off + window.height) + 0.5
    cols = np.arange(window.col_off, window.col_off + window.width) + 0.5
    down = np.minimum(rows, grid.rows - rows)
    right = np.minimum(cols, grid.cols - cols)
    return np.outer(down, right)
