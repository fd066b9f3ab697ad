"""Prediction of a whole scene: against TerraTorch's tiled inference, and against the bare passes of the same windows.

python -m bench.predict [--pixels 1536] [--model unet|galileo] [--rounds 2] [--threads 1]
python -m bench.predict --large 30000 [--model unet] [--observed 100]

On one simulated raster (12 bands, uint16, a tiled GeoTIFF) and one network with random weights, each in a process of
its own:
  passes      the network's forward passes of the very windows that `predict` makes, normalised;
  predict     the whole stage: reading, normalising, passes, blending, mask, COGs with overviews, checksums;
  blended     the same windows of the raster in memory: no reading, no writing;
  terratorch  `terratorch.tasks.tiled_inference.tiled_inference` of the raster in memory, normalised as a whole, with
              the same window and as many pixels between windows; nothing is read or written. In the network's own
              precision, as the rows above (bfloat16 where the hardware has it);
  float32     the same without `casbah.models.network.precision`, as TerraTorch's own task computes by default;
  own         TerraTorch in the network's own precision with its own windows: 224 pixels, 192 from one to the next, so
              that neighbours share half as many pixels as Casbah's do and fade over fewer;
  defaults    TerraTorch as it comes: those windows in float32.
`predict` folds the network's batch normalisations into its convolutions, as it does for everybody; the other rows run
the network as it was trained.
TerraTorch blends whatever the model's callable gives: it is given P(building) here, in batches of 16 windows (its
default). It fades windows along another ramp, crops 8 px of each (`delta`, by default), and pads the
raster by reflection, so that its windows lie 8 px further north and west. Where the two must agree (`agree`), both are
given a network that sees each pixel alone: then neither windows nor ramps may matter.

--large N makes a raster of N x N pixels (24 bytes each; `--observed 1` leaves 99 % of it a hole in the file), maps it
and records the peak of resident memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from bench._turns import measure, peak
from bench.training import galileo, unet
from casbah import models
from casbah.bands import BAND_NAMES, TEN_BANDS
from casbah.grid import Grid
from casbah.models import network
from casbah.predict import blended, predict
from casbah.predict.blending import Axis, sizes
from casbah.products.model import ModelBundle, Training

TILE_SIZE = 64
MADE_APART = "import sys; from pathlib import Path; from bench.predict import make_large; " + (
    "make_large(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
)
"""In a process of its own, so that what making the raster takes is no part of the peak."""

AGREE = 1e-3
"""Of probability: how far the two maps may lie apart."""

WAYS = ("passes", "blended", "predict", "terratorch", "float32", "own", "defaults")


class PixelByPixel(torch.nn.Module):
    """A network that sees each pixel alone."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(bands, 16, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 2, 1))

    def forward(self, images: torch.Tensor) -> Any:
        class Output:
            output = self.layers(images)

        return Output()


def make_predictor(kind: str) -> network.NetworkPredictor:
    """A network with random weights, as a bundle of it would be loaded."""
    torch.manual_seed(0)
    bands = TEN_BANDS if kind == "galileo" else BAND_NAMES
    facts: dict[str, Any] = {"mean": [[1500.0] * len(bands)], "std": [[600.0] * len(bands)], "source": "bench"}
    training = Training(
        experiment=f"bench {kind}",
        kind="network",
        bands=bands,
        periods=1,
        level="L2A",
        resolution=10.0,
        tile_size=TILE_SIZE,
        building_cover=50,
        threshold=0.5,
        normalisation=facts,
        input_range={name: [200, 4000] for name in bands},
        blocks={},
        tiles="",
        config="",
        seed=0,
        parameters=0,
    )
    if kind == "galileo":
        return network.NetworkPredictor(training, galileo(), "frames", mixed_precision=True)
    if kind == "pixels":
        return network.NetworkPredictor(training, PixelByPixel(len(bands)), "channels")
    return network.NetworkPredictor(
        training, unet(), "channels", upsample=2 if kind == "upsampled" else 1, mixed_precision=True
    )


def make_raster(path: Path, pixels: int) -> None:
    """A tiled GeoTIFF of hills and noise, band after band."""
    rng = np.random.default_rng(0)
    grid = Grid("EPSG:32631", 500_000.0, 4_060_000.0, pixels, pixels)
    profile = grid.profile(
        driver="GTiff", count=len(BAND_NAMES), dtype="uint16", nodata=0, tiled=True, blockxsize=512, blockysize=512,
        compress="deflate", predictor=2, interleave="band",
    )  # fmt: skip
    hills = 1500 + 800 * np.sin(np.arange(pixels) / 40)[:, None] * np.cos(np.arange(pixels) / 50)
    with rasterio.open(path, "w", **profile) as target:
        for number, name in enumerate(BAND_NAMES, start=1):
            target.write(np.clip(hills + rng.normal(0, 120, hills.shape), 1, None).astype("uint16"), number)
            target.set_band_description(number, name)
        target.update_tags(LEVEL="L2A")


def make_large(path: Path, pixels: int, observed: int) -> None:
    """An uncompressed raster of which `observed` percent, square by square, are observed; the rest takes no room."""
    rng = np.random.default_rng(0)
    grid = Grid("EPSG:32631", 500_000.0, 4_060_000.0, pixels, pixels)
    profile = grid.profile(
        driver="GTiff", count=len(BAND_NAMES), dtype="uint16", nodata=0, tiled=True, blockxsize=512, blockysize=512,
        interleave="band", sparse_ok=True, bigtiff="yes",
    )  # fmt: skip
    hills = 1500 + 800 * np.sin(np.arange(512) / 40)[:, None] * np.cos(np.arange(512) / 50)
    square = np.clip(hills + rng.normal(0, 120, (len(BAND_NAMES), 512, 512)), 1, None).astype("uint16")
    side = -(-pixels // 512)
    with rasterio.open(path, "w", **profile) as target:
        for number, name in enumerate(BAND_NAMES, start=1):
            target.set_band_description(number, name)
        target.update_tags(LEVEL="L2A")
        for place in sorted(rng.choice(side * side, max(1, side * side * observed // 100), replace=False)):
            row, col = int(place // side) * 512, int(place % side) * 512
            height, width = min(512, pixels - row), min(512, pixels - col)
            target.write(square[:, :height, :width], window=Window(col, row, width, height))


def loaded(predictor: network.NetworkPredictor) -> Any:
    """Let every bundle be loaded as this predictor for as long as the block lasts."""
    return patch.object(models, "load", return_value=predictor)


def bundle_of(path: Path, predictor: network.NetworkPredictor) -> ModelBundle:
    """A bundle that is never loaded."""
    with ModelBundle.write(path, parameters={}) as draft:
        (draft.directory / "config.yaml").write_text("bench: true\n")
        (draft.directory / "weights.safetensors").write_bytes(b"none")
        draft.write_json("metrics.json", {})
        draft.write_json("training.json", json.loads(predictor.training.model_dump_json()))
    return ModelBundle.open(path)


def read(raster: Path, predictor: network.NetworkPredictor) -> np.ndarray:
    """(1, 1, bands, rows, cols)."""
    with rasterio.open(raster) as dataset:
        return dataset.read([BAND_NAMES.index(name) + 1 for name in predictor.training.bands])[None, None]


def passes(predictor: network.NetworkPredictor, raster: Path) -> Callable[[], None]:
    """The forward passes alone, of windows that lie normalised in memory, as many at once as Casbah takes."""
    images = read(raster, predictor)
    window, overlap = sizes(predictor, None, None)
    rows, cols = (Axis.cut(side, window, overlap) for side in images.shape[-2:])
    batch = predictor.at_once(rows.size, cols.size)
    corners = [(row, col) for row in rows.starts for col in cols.starts]
    normal = np.empty(images.shape, np.float32)
    predictor._normalisation.apply(images, normal)
    batches = []
    for start in range(0, len(corners), batch):
        parts = [normal[0, ..., r : r + window, c : c + window] for r, c in corners[start : start + batch]]
        batches.append(torch.from_numpy(network.arrange(np.stack(parts), predictor.layout)))

    def run() -> None:
        with torch.inference_mode(), network.precision(predictor.device, predictor.mixed_precision):
            for part in batches:
                network.logits(predictor.model, part.to(predictor.device), predictor.upsample).float().softmax(1).cpu()

    return run


def tiled(
    predictor: network.NetworkPredictor, raster: Path, mixed_precision: bool, alike: bool = True
) -> Callable[[], torch.Tensor]:
    """TerraTorch's tiled inference of the whole raster, by windows `alike` or by its own."""
    from terratorch.tasks.tiled_inference import tiled_inference

    images = read(raster, predictor)
    window, overlap = sizes(predictor, None, None)
    normal = np.empty(images.shape, np.float32)
    predictor._normalisation.apply(images, normal)
    inputs = torch.from_numpy(network.arrange(normal, predictor.layout)).contiguous()

    def forward(part: torch.Tensor) -> torch.Tensor:
        with network.precision(predictor.device, mixed_precision and predictor.mixed_precision):
            return network.logits(predictor.model, part, predictor.upsample).float().softmax(1)

    def run() -> torch.Tensor:
        place = str(predictor.device)
        chosen = {"crop": window, "stride": window - overlap} if alike else {}
        found: torch.Tensor = tiled_inference(forward, inputs, device=place, **chosen)
        return found

    return run


def one(way: str, kind: str, raster: Path, rounds: int) -> dict[str, float]:
    """The best wall and CPU seconds of some rounds of one way in this process, and its peak of memory in MB."""
    predictor = make_predictor(kind)
    with tempfile.TemporaryDirectory(dir=raster.parent) as scratch, loaded(predictor):
        folder = Path(scratch)
        runs: dict[str, Callable[[], Any]] = {}
        if way == "predict":
            bundle = bundle_of(folder / "model", predictor)
            numbers = iter(range(1000))
            runs[way] = lambda: predict(bundle.path, raster, folder / f"map{next(numbers)}")
        elif way == "blended":
            images = read(raster, predictor)
            runs[way] = lambda: blended(predictor, images)
        elif way == "passes":
            runs[way] = passes(predictor, raster)
        else:
            runs[way] = tiled(predictor, raster, way in ("terratorch", "own"), alike=way not in ("own", "defaults"))
        wall, cpu = measure(runs, rounds)
    return {"seconds": wall[way], "cpu": cpu[way], "peak": peak()}


def agreement(raster: Path) -> tuple[float, float]:
    """How far Casbah's and TerraTorch's maps of a network that sees each pixel alone lie apart at the most: as they are
    computed, and as `predict` stores one in steps of 1/10000."""
    predictor = make_predictor("pixels")
    theirs = tiled(predictor, raster, True)()[0, 1].numpy()
    ours = blended(predictor, read(raster, predictor))[0]
    with tempfile.TemporaryDirectory(dir=raster.parent) as scratch, loaded(predictor):
        bundle = bundle_of(Path(scratch) / "model", predictor)
        stored = predict(bundle.path, raster, Path(scratch) / "map", values="uint16").probability()
    return float(abs(ours - theirs).max()), float(abs(stored - theirs).max())


def compare(pixels: int, kind: str, rounds: int) -> None:
    """Print a row per way."""
    with tempfile.TemporaryDirectory() as scratch:
        raster = Path(scratch) / "raster.tif"
        make_raster(raster, pixels)
        found: dict[str, dict[str, float]] = {}
        for _ in range(rounds):  # taking turns, so that all meet the same neighbours
            for way in WAYS:
                words = [sys.executable, "-m", "bench.predict", "--way", way, "--model", kind, "--raster", str(raster)]
                words += ["--threads", str(torch.get_num_threads())]
                done = subprocess.run([*words, "--rounds", "2"], check=True, capture_output=True, text=True)
                now = json.loads(done.stdout)
                before = found.get(way, now)
                best = {name: min(now[name], before[name]) for name in ("seconds", "cpu")}
                found[way] = best | {"peak": max(now["peak"], before["peak"])}
        apart = agreement(raster)
    print(
        f"{pixels} x {pixels} pixels, {kind}, window and overlap {sizes(make_predictor(kind), None, None)} px, "
        f"{torch.get_num_threads()} threads"
    )
    print("| way | s | Mpx/s | CPU s | peak MB | as fast as terratorch: s, CPU s | as the passes: s, CPU s |")
    print("|---|---|---|---|---|---|---|")
    for way, row in found.items():
        pace = pixels**2 / 1e6 / row["seconds"]
        against = [
            ", ".join(f"{found[other][kind] / row[kind]:.2f}" for kind in ("seconds", "cpu"))
            for other in ("terratorch", "passes")
        ]
        numbers = f"{row['seconds']:.2f} | {pace:.3f} | {row['cpu']:.2f} | {row['peak']:.0f}"
        print(f"| {way} | {numbers} | {' | '.join(against)} |")
    computed, stored = apart
    print(
        f"\nOf a network that sees each pixel alone the two maps lie at most {computed:.1e} apart, and the map of "
        f"`predict`, stored in steps of 1/10000, {stored:.1e}."
    )
    if max(apart) > AGREE:
        raise SystemExit(f"they must lie within {AGREE:g}: these are not the same map, and their paces no comparison")


def large(pixels: int, kind: str, observed: int) -> None:
    """Print seconds and the peak of memory for a large raster."""
    predictor = make_predictor(kind)
    with tempfile.TemporaryDirectory() as scratch, loaded(predictor):
        folder = Path(scratch)
        words = [sys.executable, "-c", MADE_APART, str(folder / "raster.tif"), str(pixels), str(observed)]
        subprocess.run(words, check=True)
        before, began = peak(), time.perf_counter()
        made = predict(bundle_of(folder / "model", predictor).path, folder / "raster.tif", folder / "map")
        seconds = time.perf_counter() - began
        size = sum(file.stat().st_size for file in made.path.iterdir())
    imagery = pixels**2 * len(BAND_NAMES) * 2 / 1e9
    print(
        f"{pixels} x {pixels} pixels ({imagery:.2f} GB of imagery, {observed} % observed), {kind}: {seconds:.0f} s, "
        f"{pixels**2 / 1e6 / seconds:.2f} Mpx/s, peak {peak():.0f} MB ({before:.0f} MB before, with the model), "
        f"{size / 1e6:.0f} MB written"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, default=1536)
    parser.add_argument("--model", default="unet", choices=("unet", "upsampled", "galileo", "pixels"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--large", type=int, metavar="PIXELS", help="one raster of so many pixels on a side, its peak of memory"
    )
    parser.add_argument("--observed", type=int, default=100, help="percent of a large raster that are no nodata")
    parser.add_argument(
        "--threads", type=int, default=1, help="that torch computes with; reading and writing have theirs"
    )
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--raster", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.way:
        print(json.dumps(one(asked.way, asked.model, asked.raster, asked.rounds)))
    elif asked.large:
        large(asked.large, asked.model, asked.observed)
    else:
        compare(asked.pixels, asked.model, asked.rounds)


if __name__ == "__main__":
    main()
