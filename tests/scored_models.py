"""Bundles without a trained model inside, and predictors that stand in for one at `casbah.models.load` alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casbah import scoring
from casbah.evaluate import evaluate
from casbah.models import check_images
from casbah.products.evaluation import Evaluation
from casbah.products.model import ModelBundle, Training
from casbah.products.tiles import TileSet
from casbah.register import Registration, register


def make_bundle(path: Path, tiles: TileSet, *, experiment: str = "bright pixels", **fields: Any) -> ModelBundle:
    """A bundle that says it was trained on the tiles' train split and tuned on their val split."""
    info = tiles.info
    values: dict[str, Any] = {
        "experiment": experiment,
        "kind": "trees",
        "bands": info.bands,
        "periods": info.periods,
        "level": info.level,
        "resolution": info.resolution,
        "tile_size": info.tile_size,
        "building_cover": info.building_cover,
        "threshold": 0.5,
        "blocks": {"train": info.blocks["train"], "val": info.blocks["val"]},
        "tiles": tiles.digest,
        "config": "0" * 64,
        "seed": 0,
        "parameters": 7,
        "simulated": info.simulated,
        "attribution": info.attribution,
    }
    with ModelBundle.write(path, parameters={}, inputs={"tiles": tiles.digest}) as draft:
        (draft.directory / "config.yaml").write_text(f"experiment: {experiment}\n")
        (draft.directory / "weights.safetensors").write_bytes(b"none")
        draft.write_json("metrics.json", {})
        draft.write_json("training.json", json.loads(Training(**values | fields).model_dump_json()))
    return ModelBundle.open(path)


class BrightPixels:
    """Calls bright pixels of the first period building: good on `builders.make_scene`, which brightens with cover."""

    def __init__(self, training: Training, sharpness: float = 1.0) -> None:
        self.training = training
        self.sharpness = sharpness

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        bright = images[:, 0].mean(axis=1, dtype=np.float32)
        return (1 / (1 + np.exp(-self.sharpness * (bright - 2150) / 80))).astype(np.float32)


class Blurred(BrightPixels):
    """Sees the image through noise that grows as the experiment's name says."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        check_images(self.training, images)
        noise = {"good": 0.0, "fair": 150.0, "poor": 700.0}[self.training.experiment]
        rng = np.random.default_rng(len(images))
        bright = images[:, 0].mean(axis=1, dtype=np.float32) + rng.normal(0, noise, (len(images), *images.shape[-2:]))
        return (1 / (1 + np.exp(-(bright - 2150) / 80))).astype(np.float32)


def use_predictor(monkeypatch: pytest.MonkeyPatch, make: Any = BrightPixels) -> None:
    """Let every bundle be predicted by `make(training)`."""
    monkeypatch.setattr("casbah.models.load", lambda bundle: make(bundle.training))


def predicting(value: np.ndarray | float) -> Any:
    """A predictor of one probability everywhere."""

    class Constant:
        def __init__(self, training: Training) -> None:
            self.training = training

        def probabilities(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), *images.shape[-2:]), value, np.float32)

    return Constant


def experiments(bundles: Sequence[ModelBundle]) -> list[str]:
    return [bundle.training.experiment for bundle in bundles]


def submit(where: Path, tiles: TileSet, experiment: str, name: str) -> tuple[ModelBundle, Evaluation, Registration]:
    """A bundle of `experiment` below `where`, evaluated on test and registered as `name`."""
    model = make_bundle(where / experiment, tiles, experiment=experiment)
    evaluation = evaluate(model=model.path, tiles=tiles.path, output=where / f"{experiment}-test", resamples=100)
    done = register(model=model.path, evaluation=evaluation.path, tiles=tiles.path, name=name)
    return model, evaluation, done


def counts_by_block(predicted: np.ndarray, masks: np.ndarray, blocks: Sequence[str]) -> dict[str, scoring.Counts]:
    """Each block's counts, of tiles (n, rows, cols) that do not overlap."""
    of = np.asarray(blocks, str)
    return {name: scoring.confusion(predicted[of == name], masks[of == name]) for name in sorted(set(of.tolist()))}
