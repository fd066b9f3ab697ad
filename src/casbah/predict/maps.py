"""The rasters of a prediction, joined from finished blocks: Cloud-Optimized GeoTIFFs with overviews that are right."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from casbah.grid import Grid
from casbah.predict.unlike import CELL, corner
from casbah.products.prediction import NODATA, STEPS, PredictionInfo
from casbah.workplace import TILE, blocks_vrt, write_cog

SMALLEST = 512
"""Pixels: the coarsest overview is at most so large, as in every COG."""

UNLIKE = "unlike the training data"

Colours = dict[int, tuple[int, int, int, int]]

CIVIDIS = (
    (0, 32, 81), (17, 54, 108), (60, 77, 110), (98, 100, 111), (127, 124, 117), (154, 148, 120), (187, 175, 113),
    (226, 203, 92), (253, 234, 69),
)  # fmt: skip
"""Nine steps of cividis (Nuñez et al. 2018, doi:10.1371/journal.pone.0199239), made to look alike to people with and
without red-green blindness."""

BUILDING: Colours = {0: (0, 32, 81, 255), 1: (253, 234, 69, 255)}


def _sequential(steps: int) -> Colours:
    """A colour for each value from 0 to `steps`, between those of cividis."""
    at = np.linspace(0, len(CIVIDIS) - 1, steps + 1)
    channels = [np.interp(at, range(len(CIVIDIS)), channel) for channel in np.array(CIVIDIS).T]
    return {value: (int(r), int(g), int(b), 255) for value, (r, g, b) in enumerate(zip(*channels, strict=True))}


def quantised(values: NDArray[np.float32], kind: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Numbers of 0 to 1 as steps of `kind` (uint8 or uint16), NaN as nodata."""
    steps = np.rint(np.nan_to_num(values) * STEPS[kind])
    steps[np.isnan(values)] = NODATA[kind]
    return steps.astype(kind)


Blocks = Sequence[tuple[Path, Window]]


def write_probability(
    blocks: Blocks, band: int, grid: Grid, target: Path, kind: str, name: str, tags: dict[str, str]
) -> None:
    """A raster of probabilities (or of their deviation) from one band of the blocks.

    Its overviews are means that leave nodata out. Of uint8 it has a colour table, which it gets after its overviews are
    made: GDAL would average colours.
    """
    vrt = blocks_vrt(
        blocks,
        grid,
        {name: band},
        {"uint8": "Byte", "uint16": "UInt16"}[kind],
        nodata=NODATA[kind],
        scale=1 / STEPS[kind],
        tags=tags,
    )
    _finish(vrt, target, Resampling.average, _sequential(STEPS[kind]) if kind == "uint8" else None)


def layers_of(uncertainty: str | None) -> list[tuple[str, str]]:
    """File and description of each layer of probabilities, in the order of a block's bands; the mask follows them."""
    layers = [("probability.tif", "probability of building")]
    return layers + ([("uncertainty.tif", f"standard deviation over {uncertainty}")] if uncertainty else [])


def write_layers(
    blocks: Blocks,
    grid: Grid,
    directory: Path,
    info: PredictionInfo,
    tags: dict[str, str],
    flagged: NDArray[np.bool_] | None = None,
    done: Callable[[str], None] = lambda file: None,
) -> None:
    """The layers, `mask.tif` and, of the cells that are `flagged`, `unlike.tif`, side by side; `done` is told of each
    file."""
    layers = layers_of(info.uncertainty)
    mask_band = len(layers) + 1
    with ThreadPoolExecutor() as pool:
        others = {"mask.tif": pool.submit(write_mask, blocks, mask_band, grid, directory / "mask.tif", tags)}
        if flagged is not None:
            target = directory / "unlike.tif"
            others[target.name] = pool.submit(write_unlike, blocks, mask_band, grid, flagged, target, tags)
        for band, (file, name) in enumerate(layers, start=1):
            write_probability(blocks, band, grid, directory / file, info.values, name, tags)
            done(file)
        for file, written in others.items():
            written.result()
            done(file)


def write_mask(
    blocks: Blocks, band: int, grid: Grid, target: Path, tags: dict[str, str], name: str = "building"
) -> None:
    """A raster of 0, 1 and nodata, whose overviews show what most of their pixels are."""
    vrt = blocks_vrt(blocks, grid, {name: band}, "Byte", nodata=NODATA["uint8"], tags=tags)
    _finish(vrt, target, Resampling.mode, BUILDING)


def write_unlike(
    blocks: Blocks, band: int, grid: Grid, flagged: NDArray[np.bool_], target: Path, tags: dict[str, str]
) -> None:
    """Where the imagery looks unlike the training data, by cells; nodata where the mask (a band of the blocks) is."""
    flat = target.with_suffix(".flat")
    mask = blocks_vrt(blocks, grid, {"building": band}, "Byte", nodata=NODATA["uint8"])
    top, left = corner(grid)
    with rasterio.open(mask) as known, rasterio.open(flat, "w", **_flat_profile(grid, "uint8")) as out:
        for window in grid.windows(TILE):
            values = known.read(1, window=window)
            rows = (np.arange(window.height) + window.row_off + top) // CELL
            cols = (np.arange(window.width) + window.col_off + left) // CELL
            found = flagged[np.ix_(rows, cols)].astype(np.uint8)
            found[values == NODATA["uint8"]] = NODATA["uint8"]
            out.write(found, 1, window=window)
        out.set_band_description(1, UNLIKE)
        out.update_tags(**tags)
    _coloured(flat, target, Resampling.mode, BUILDING)


def _finish(vrt: str, target: Path, how: Resampling, colours: Colours | None) -> None:
    flat = target.with_suffix(".flat")
    rasterio.shutil.copy(vrt, flat, driver="GTiff", tiled=True, blockxsize=TILE, blockysize=TILE, bigtiff="if_safer")
    _coloured(flat, target, how, colours)


def _coloured(flat: Path, target: Path, how: Resampling, colours: Colours | None) -> None:
    """Make the overviews of a raster, then colour it, then write it as a COG and remove it."""
    with rasterio.open(flat, "r+") as dataset:
        largest = max(dataset.shape)
        factors = [2**n for n in range(1, 32) if largest > SMALLEST * 2 ** (n - 1)]
        if factors:
            dataset.build_overviews(factors, how)
    if colours:
        with rasterio.open(flat, "r+") as dataset:
            dataset.write_colormap(1, colours)
    write_cog(flat, target, how.name, overviews="FORCE_USE_EXISTING")
    flat.unlink()


def _flat_profile(grid: Grid, kind: str) -> dict[str, object]:
    return grid.profile(
        driver="GTiff", count=1, dtype=kind, nodata=NODATA[kind], tiled=True, blockxsize=TILE, blockysize=TILE,
        bigtiff="if_safer",
    )  # fmt: skip
