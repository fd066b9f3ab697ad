"""Models without weights for the predict stage, and the imagery that they are shown."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from scipy.ndimage import uniform_filter

from casbah.bands import BAND_NAMES
from casbah.grid import Grid
from casbah.products.model import ModelBundle, Training

BANDS = ("B02", "B03", "B04", "B08")


def training(**fields: Any) -> Training:
    """Of a model of four bands and one period at 10 m, on tiles of 32 px."""
    values: dict[str, Any] = {
        "experiment": "bright surroundings",
        "kind": "trees",
        "bands": BANDS,
        "periods": 1,
        "level": "L2A",
        "resolution": 10.0,
        "tile_size": 32,
        "building_cover": 50,
        "threshold": 0.5,
        "input_range": {name: [200, 3000] for name in BANDS},
        "blocks": {"train": ("32631_380_1_1",), "val": ("32631_380_1_2",)},
        "tiles": "0" * 64,
        "config": "0" * 64,
        "seed": 0,
        "parameters": 7,
        "attribution": ("Labels by Casbah's tests",),
    }
    return Training(**values | fields)


def bundle(path: Path, **fields: Any) -> ModelBundle:
    """A bundle of such a model, without anything to load."""
    with ModelBundle.write(path, parameters={}) as draft:
        (draft.directory / "config.yaml").write_text("experiment: bright surroundings\n")
        (draft.directory / "weights.safetensors").write_bytes(b"none")
        draft.write_json("metrics.json", {})
        draft.write_json("training.json", json.loads(training(**fields).model_dump_json()))
    return ModelBundle.open(path)


class Surroundings:
    """Sees the mean brightness of 13 px around each pixel, as far as boosted trees see."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.windows = 0

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        self.windows += len(images)
        bright = images.mean(axis=(1, 2), dtype=np.float32) / 4000
        return np.clip(uniform_filter(bright, 27, mode="reflect", axes=(1, 2)), 0, 1)


class Lopsided(Surroundings):
    """Says more on the right of a window than on its left: every window and every flip of it has another opinion."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        seen = super().probabilities(images)
        return (seen * np.linspace(0.5, 1, images.shape[-1], dtype=np.float32)).astype(np.float32)


def use(monkeypatch: pytest.MonkeyPatch, make: Any = Surroundings) -> list[Any]:
    """Let every bundle be loaded as `make(training)`; returns the list of those that were made."""
    made: list[Any] = []

    def load(bundle: ModelBundle) -> Any:
        made.append(make(bundle.training))
        return made[-1]

    monkeypatch.setattr("casbah.models.load", load)
    return made


def pixels(rows: int, cols: int, count: int = len(BANDS), seed: int = 0) -> np.ndarray:
    """Reflectance x 10000 (bands, rows, cols) of soft hills with noise, some of it dark."""
    rng = np.random.default_rng(seed)
    hills = 1200 + 900 * np.sin(np.arange(rows) / 23)[:, None] * np.cos(np.arange(cols) / 31)
    return np.clip(hills + rng.normal(0, 150, (count, rows, cols)), 1, None).astype(np.uint16)


def write_raster(
    path: Path,
    data: np.ndarray,
    *,
    names: Sequence[str | None] = BANDS,
    grid: Grid | None = None,
    tags: dict[str, str] | None = None,
    **profile: Any,
) -> Path:
    """A tiled GeoTIFF of (bands, rows, cols) with band descriptions, at 10 m unless `profile` says another."""
    grid = grid or Grid("EPSG:32631", 500_000.0, 4_060_000.0, *data.shape[1:])
    options: dict[str, Any] = grid.profile(
        driver="GTiff", count=len(data), dtype=data.dtype.name, nodata=0, tiled=True, blockxsize=256, blockysize=256
    )
    with rasterio.open(path, "w", **options | profile) as target:
        target.write(data)
        target.update_tags(**{"LEVEL": "L2A", "ATTRIBUTION": "Made by Casbah's tests"} | (tags or {}))
        for number, name in enumerate(names, start=1):
            if name is not None:
                target.set_band_description(number, name)
    return path


assert set(BANDS) <= set(BAND_NAMES)
