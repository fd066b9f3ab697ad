"""Training input: normalised batches from a TileSet, and from TerraTorch's generic datamodule on the same tiles."""

import importlib
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml

from casbah.bands import BAND_NAMES
from casbah.grid import Grid
from casbah.models import torchvision_cure
from casbah.products.labels import LabelInfo, LabelSet
from casbah.products.scene import Period, Scene, SceneInfo
from casbah.products.tiles import TileSet
from casbah.tile import tile

ROUNDS = 3
"""The two take turns, so that both meet the same disk cache and the same neighbours; the median round counts."""

BATCH = 16

PRITHVI = ("B02", "B03", "B04", "B8A", "B11", "B12")
CASES = ((224, PRITHVI, 1, 2240, 7), (64, BAND_NAMES, 1, 1280, 7), (64, BAND_NAMES, 2, 1280, 7))
"""(tile size, bands, periods, metres of a block, blocks on a side)."""


def make_tiles(directory: Path, size: int, bands: tuple[str, ...], periods: int, block: int, blocks: int) -> TileSet:
    """Noise over smooth ground, about as hard to decode as real imagery, cut in both layouts."""
    rng = np.random.default_rng(0)
    side = block * blocks // 10
    grid = Grid("EPSG:32631", 400.0 * block, 3000.0 * block, side, side)
    profile = grid.profile(driver="GTiff", tiled=True, compress="deflate")
    times = tuple(Period(start=f"2023-0{t + 1}-01", end=f"2023-0{t + 1}-02", dates=()) for t in range(periods))
    info = SceneInfo(level="L2A", bands=bands, periods=times, attribution="bench", simulated=True)
    with Scene.write(directory / "scene", parameters={}) as draft:
        for t in range(periods):
            ground = 1500 + 700 * np.sin(np.arange(side) / 40)[:, None] * np.cos(np.arange(side) / 50)
            image = np.clip(ground + rng.normal(0, 120, (len(bands), side, side)), 1, None).astype("uint16")
            _write(draft.directory / f"reflectance_{t}.tif", image, profile)
            _write(draft.directory / f"valid_{t}.tif", np.ones((1, side, side), "uint8"), profile)
        draft.write_json("item.json", {"id": "bench", "properties": {"casbah": info.model_dump(mode="json")}})
    cover = np.where(rng.random((1, side, side)) < 0.1, 100, 0).astype("uint8")
    facts = {"source": "bench", "licence": "CC0-1.0", "attribution": "bench", "vintage": "2023", "summary": {}}
    with LabelSet.write(directory / "labels", parameters={}) as draft:
        (draft.directory / "footprints.parquet").touch()
        _write(draft.directory / "coverage.tif", cover, profile)
        _write(draft.directory / "mask.tif", (cover >= 50).astype("uint8"), profile)
        draft.write_json("labels.json", json.loads(LabelInfo(**facts, footprints=0).model_dump_json()))
    pair: dict[str, Any] = {"scenes": [directory / "scene"], "labels": [directory / "labels"]}
    sizes: dict[str, Any] = {"tile_size": size, "block_size": block, "guard": 0}
    made = tile(**pair, output=directory / "tiles", layout="geotiff", **sizes)
    assert isinstance(made, TileSet)
    return made


def _write(path: Path, data: np.ndarray, profile: dict[str, Any]) -> None:
    with rasterio.open(path, "w", count=len(data), dtype=data.dtype.name, **profile) as target:
        target.write(data)


def terratorch_batches(tiles: TileSet) -> Iterable[Any]:
    """Normalised training batches as TerraTorch makes them from `geotiff/`."""
    described = yaml.safe_load((tiles.path / "geotiff" / "datamodule.yaml").read_text())["data"]
    module, name = described["class_path"].rsplit(".", 1)
    options = {"batch_size": BATCH, "num_workers": 0}
    data = getattr(importlib.import_module(module), name)(**described["init_args"] | options)
    data.setup("fit")
    return Normalised(data.train_dataloader(), data.aug)


class Normalised:
    """What Lightning makes of a loader: each batch through the datamodule's `aug`."""

    def __init__(self, loader: Iterable[Any], aug: Any) -> None:
        self.loader, self.aug = loader, aug

    def __iter__(self) -> Any:
        return map(self.aug, self.loader)


def casbah_batches(tiles: TileSet, augment: bool) -> Iterable[Any]:
    """Normalised training batches as Casbah makes them from the memory map."""
    from casbah.finetune.datamodule import TileDataModule

    layout: Any = "channels" if tiles.info.periods == 1 else "frames"
    data = TileDataModule(str(tiles.path), layout=layout, batch_size=BATCH, augment=augment, seed=0)
    data.setup("fit")
    return data.train_dataloader()


def tiles_per_second(batches: Iterable[Any]) -> float:
    """Whole epochs for at least a second, each from the first request to the last batch."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 1:
        for batch in batches:
            count += len(batch["mask"])
    return count / (time.perf_counter() - start)


def compare(tiles: TileSet) -> dict[str, float]:
    """Median tiles a second of each way, in turns."""
    ways = {
        "terratorch": terratorch_batches(tiles),
        "casbah": casbah_batches(tiles, augment=False),
        "casbah, augmented": casbah_batches(tiles, augment=True),
    }
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, batches in ways.items():
            seen[name].append(tiles_per_second(batches))
    return {name: statistics.median(values) for name, values in seen.items()}


def main() -> None:
    """Print a row per kind of tile."""
    torchvision_cure.apply()
    import terratorch.datamodules  # noqa: F401 - it sets warning filters of its own while it is imported

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print("Tiles a second, in float32, normalised, in batches of 16, shuffled, one process each:\n")
    names = ("terratorch", "casbah", "casbah, augmented")
    print("| tiles | " + " | ".join(names) + " | casbah / terratorch |\n|---|" + "---|" * (len(names) + 1))
    for size, bands, periods, block, blocks in CASES:
        with tempfile.TemporaryDirectory() as directory:
            tiles = make_tiles(Path(directory), size, bands, periods, block, blocks)
            os.chdir(tiles.path)
            count, found = len(tiles.split("train")), compare(tiles)
            os.chdir("/")
        what = f"{count} of {size} px, {len(bands)} bands, {periods} period(s)"
        ratio = found["casbah"] / found["terratorch"]
        print(f"| {what} | " + " | ".join(f"{found[name]:.0f}" for name in names) + f" | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
