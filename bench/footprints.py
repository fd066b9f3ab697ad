"""How fast polygons come out of probabilities, and how true their areas are, beside outlines along pixels, in one run.

python -m bench.footprints [--objects 10000] [--footprints FILE --crs EPSG:n]
python -m bench.footprints --large 10980

Simulated buildings (turned rectangles of 20-70 m, one every 120 m, as a sensor with a Gaussian spread of 8 m sees them)
give a surface of probabilities that is known everywhere, sampled at the middles of pixels of 10 m and stored in 200
steps. Its area at the threshold is counted on points 1 m apart: the truth.
  contours    `casbah.footprints.contours`, in one window and in windows of 64 pixels;
  + shaped    the same, simplified and squared as the stage does it;
  pixels      `rasterio.features.shapes` of the mask and shapely's union of it.
The error of one object is |area - true area| / true area, its mean is over all objects; bias is that of all areas
together. With `--footprints` those of a file stand in for the simulated ones: their exact cover is the surface, the
cover of pixels moved by whole metres its truth, and there is no error of one, since buildings merge. That surface has
edges that no sensor gives, and much of it is less than a pixel wide.

`--large N` makes a simulated prediction of N x N pixels with a building on every 144 of them, draws its footprints by
the whole stage and records the peak of resident memory.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes
from rasterio.windows import Window
from scipy.ndimage import uniform_filter
from scipy.special import ndtr

from bench._turns import measure, peak
from casbah.bands import BAND_NAMES
from casbah.cover import exact_fractions, united
from casbah.footprints import footprints
from casbah.footprints.contours import Outline, Values, outlines
from casbah.footprints.drawing import Drawing, in_metres
from casbah.footprints.spool import Spool
from casbah.footprints.stage import MOVED, WINDOW, padded
from casbah.grid import Grid
from casbah.predict.describe import stac_item
from casbah.products.prediction import Prediction, PredictionInfo, Predictor

ROUNDS = 3
STEPS = 200
LEVEL = STEPS // 2
SPACING = 12
"""Pixels between two simulated buildings."""
SPREAD = 8.0
MADE_APART = "import sys; from pathlib import Path; from bench.footprints import make_large; " + (
    "make_large(Path(sys.argv[1]), int(sys.argv[2]))"
)
"""In a process of its own, so that what making the prediction takes is no part of the peak."""
FINE = 10
"""Points on a side of a pixel that the truth is counted on."""


class Buildings:
    """Turned rectangles, one in the middle of each cell of SPACING pixels, and the surface that they make."""

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.side = int(np.ceil(np.sqrt(count)))
        self.length, self.width = rng.uniform(20, 70, (2, self.side, self.side))
        self.angle = rng.uniform(0, np.pi, (self.side, self.side))
        self.east, self.north = rng.uniform(-5, 5, (2, self.side, self.side))

    def surface(self, points: int, chosen: slice = slice(None)) -> NDArray[np.float64]:
        """Probability at points x points a pixel, as (cells, cells, rows, cols) of each cell of the `chosen` rows."""
        at = ((np.arange(SPACING * points) + 0.5) / points - SPACING / 2) * 10
        x, y = at[None, None, None, :], at[None, None, :, None]
        east, north, angle, length, width = (
            one[chosen, :, None, None] for one in (self.east, self.north, self.angle, self.length, self.width)
        )
        x, y, cos, sin = x - east, y - north, np.cos(angle), np.sin(angle)
        along, across = x * cos + y * sin, y * cos - x * sin
        seen = 1.0
        for distance, size in ((along, length), (across, width)):
            half = size / 2
            seen = seen * (ndtr((distance + half) / SPREAD) - ndtr((distance - half) / SPREAD))
        return np.asarray(seen)

    def areas(self) -> NDArray[np.float64]:
        """True square metres at or above the threshold in each cell, row by row of cells for memory's sake."""
        rows = (slice(row, row + 1) for row in range(self.side))
        found = [(self.surface(FINE, one) >= 0.5).sum(axis=(2, 3)) for one in rows]
        return np.concatenate(found).astype(float) * (10 / FINE) ** 2


def moved_cover(footprints: NDArray[np.object_], grid: Grid) -> float:
    """Square metres around whose middle a pixel would be half covered, by points 1 m apart."""
    fine = Grid(grid.crs, grid.west, grid.north, grid.rows * FINE, grid.cols * FINE, grid.resolution / FINE)
    burnt = rasterize(footprints, out_shape=fine.shape, transform=fine.transform, dtype="uint8")
    share = uniform_filter(burnt.astype(np.float32), FINE, mode="constant")
    return float((share >= 0.5).sum() * fine.resolution**2)


def stored(probability: NDArray[np.float64]) -> Values:
    """The whole numbers of a prediction."""
    return np.rint(probability * STEPS).astype(np.int32)


def by_contours(values: Values, grid: Grid, window: int) -> list[Outline]:
    """The polygons of the stage before they are shaped."""

    read = padded(lambda rows, cols: values[slice(*rows), slice(*cols)], grid)
    made = outlines(read, grid.shape, LEVEL, window, lambda *_: None, lambda: None)
    return [outline for batch in made for outline in batch]


def by_shaping(values: Values, grid: Grid, window: int) -> NDArray[np.object_]:
    """The polygons of the stage, in metres."""
    with tempfile.TemporaryDirectory() as scratch, Spool.within(Path(scratch)) as spool:
        drawing = Drawing(spool, grid, 0.0, MOVED * grid.resolution, True)
        drawing.add(by_contours(values, grid, window), STEPS)
        drawing.settle(WINDOW * grid.resolution)
        return np.concatenate([polygons for _, polygons in drawing.chunks()])


def by_pixels(values: Values, grid: Grid) -> NDArray[np.object_]:
    """Polygons along the edges of the pixels that are building."""
    mask = (values >= LEVEL).astype(np.uint8)
    found = [shapely.geometry.shape(one) for one, _ in shapes(mask, mask=mask == 1, transform=grid.transform)]
    return shapely.get_parts(shapely.unary_union(found))


def by_object(polygons: NDArray[np.object_], grid: Grid, side: int) -> NDArray[np.float64]:
    """Square metres of polygons by cell."""
    x, y = shapely.get_coordinates(shapely.centroid(polygons)).T
    size = SPACING * grid.resolution
    cell = np.floor((grid.north - y) / size).astype(int) * side + np.floor((x - grid.west) / size).astype(int)
    return np.bincount(cell, weights=shapely.area(polygons), minlength=side * side)


def make_large(path: Path, pixels: int) -> None:
    """A prediction in which the same 8,100 simulated buildings stand again and again."""
    buildings = Buildings(8100)
    side = buildings.side * SPACING
    square = stored(buildings.surface(1).transpose(0, 2, 1, 3).reshape(side, side)).astype("uint8")
    grid = Grid("EPSG:32631", 500_000.0, 4_000_000.0, pixels, pixels)
    info = PredictionInfo(
        model=Predictor(digest="0" * 64, experiment="bench"), scene="bench", periods=(), level="L2A", bands=BAND_NAMES,
        threshold=0.5, building_cover=50, window=256, overlap=64, simulated=True,
    )  # fmt: skip
    with Prediction.write(path, parameters={}) as draft:
        profile = grid.profile(
            driver="GTiff", count=1, dtype="uint8", nodata=info.nodata, tiled=True, blockxsize=512, blockysize=512,
            compress="deflate",
        )  # fmt: skip
        with rasterio.open(draft.directory / "probability.tif", "w", **profile) as target:
            for top, left in itertools.product(range(0, pixels, side), repeat=2):
                height, width = min(side, pixels - top), min(side, pixels - left)
                target.write(square[:height, :width], 1, window=Window(left, top, width, height))
        for name in ("mask.tif", "unlike.tif"):
            (draft.directory / name).write_bytes(b"not read")
        draft.write_json("prediction.json", info.model_dump(mode="json"))
        draft.write_json("item.json", stac_item(info, grid, [], "0" * 64))


def large(pixels: int) -> None:
    """Print seconds and the peak of memory for a large prediction."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [sys.executable, "-c", MADE_APART, f"{scratch}/map", str(pixels)]
        subprocess.run(words, check=True)
        before, began = peak(), time.perf_counter()
        made = footprints(f"{scratch}/map", f"{scratch}/footprints")
        seconds = time.perf_counter() - began
        size = made.parquet_path.stat().st_size / made.info.polygons
    print(
        f"{pixels} x {pixels} pixels, {made.info.polygons:,} polygons of {size:.0f} bytes: {seconds:.0f} s, "
        f"peak {peak():.0f} MB ({before:.0f} MB before)"
    )


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--footprints", type=Path)
    parser.add_argument("--crs", default="EPSG:32632")
    parser.add_argument("--large", type=int, metavar="PIXELS", help="the whole stage, and its peak of memory")
    asked = parser.parse_args()
    if asked.large:
        large(asked.large)
        return
    truth: NDArray[np.float64] | None = None
    if asked.footprints:
        frame = geopandas.read_file(asked.footprints).to_crs(asked.crs)
        real = united(shapely.get_parts(shapely.make_valid(frame.geometry.to_numpy())))
        grid, side = (
            Grid.covering(asked.crs, tuple(shapely.bounds(shapely.box(*shapely.total_bounds(real)).buffer(10)))),
            0,
        )
        values, total = stored(exact_fractions(real, grid)), moved_cover(real, grid)
    else:
        buildings = Buildings(asked.objects)
        side = buildings.side
        values = stored(buildings.surface(1).transpose(0, 2, 1, 3).reshape(side * SPACING, side * SPACING))
        grid = Grid("EPSG:32631", 500_000.0, 4_000_000.0, *values.shape)
        truth = buildings.areas().ravel()
        total = float(truth.sum())
    ways: dict[str, Callable[[], NDArray[np.object_]]] = {
        "contours, one window": lambda: in_metres(by_contours(values, grid, max(grid.shape)), grid),
        "contours, windows of 64": lambda: in_metres(by_contours(values, grid, 64), grid),
        "contours + shaped": lambda: by_shaping(values, grid, max(grid.shape)),
        "pixels": lambda: by_pixels(values, grid),
    }
    found: dict[str, NDArray[np.object_]] = {}

    def run(name: str) -> Callable[[], None]:
        return lambda: found.__setitem__(name, ways[name]())

    _, cpu = measure({name: run(name) for name in ways}, ROUNDS)
    print(f"{grid.rows} x {grid.cols} pixels, {total / 1e6:.3f} km2 are building.")
    print(f"{'':24} {'polygons':>9} {'CPU s':>8} {'polygons/s':>11} {'vertices':>9} {'bias':>8} {'error of one':>13}")
    for name, polygons in found.items():
        bias = shapely.area(polygons).sum() / total - 1
        error = ""
        if truth is not None:
            there = truth > 0
            error = f"{100 * np.mean(np.abs(by_object(polygons, grid, side) - truth)[there] / truth[there]):.2f} %"
        print(
            f"{name:24} {len(polygons):9,} {cpu[name]:8.2f} {len(polygons) / cpu[name]:11,.0f} "
            f"{shapely.get_num_coordinates(polygons).sum():9,} {100 * bias:+7.2f}% {error:>13}"
        )


if __name__ == "__main__":
    main()
