"""A version's files in MLflow: the model that answers, the code it answers with, what that needs, and its card.

All of Casbah travels, not only what the model uses: a process that loads the model first and imports more of Casbah
later would else find a package with holes.
"""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

import casbah
from casbah.models.graph import FACTORY
from casbah.products.model import ModelBundle, Training
from casbah.register.candidate import Candidate
from casbah.register.card import CARD, write_card

CODE = Path(casbah.__file__).parent

SERVED = CODE / "predict" / "served.py"
"""The file that MLflow runs to have a model."""

READING = ("rasterio", "shapely", "requests", "minio", "rich")
"""What maps scenes and rasters, wherever they lie."""

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "network": ("numpy", "pydantic", "torch", "torchvision", "terratorch", "torchgeo", "lightning",
                "segmentation-models-pytorch", "safetensors", "PyYAML", "jsonargparse"),
    "trees": ("numpy", "pydantic", "scipy", "safetensors", "PyYAML"),
    "ensemble": ("numpy", "pydantic", "safetensors", "PyYAML"),
}  # fmt: skip
"""What a registered model of each kind needs beside Casbah's own code, which travels with it."""

FACTORY_REQUIREMENTS = {FACTORY: ("torch-geometric", "scikit-image", "scipy")}
"""What networks of a model factory need on top."""

EXAMPLE_SIDE = 32
"""Pixels across the input example, which MLflow keeps as text."""

USUAL_RANGE = (500.0, 3500.0)
"""Of the example, where a bundle does not say the range of its training pixels."""


def log_model(mlflow: Any, name: str, candidate: Candidate) -> Any:
    """Log the candidate's model to the active run; returns MLflow's `ModelInfo`."""
    model = candidate.model
    with tempfile.TemporaryDirectory() as scratch:
        code, card = Path(scratch) / "casbah", Path(scratch) / CARD
        shutil.copytree(CODE, code, ignore=shutil.ignore_patterns("__pycache__"))
        write_card(card, name, candidate)
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(SERVED),
            artifacts={"bundle": str(model.path), "card": str(card)},
            code_paths=[str(code)],
            signature=signature(),
            input_example=example(model.training),
            pip_requirements=requirements(model),
            model_config={"scenes": "auto"},
            metadata=facts(model.training),
        )


def signature() -> Any:
    """What goes in and comes out, and the `params` beside it: see `casbah.predict.served`.

    How many periods and bands there are is left to the model, which refuses others by name; MLflow would print all
    values and two shapes.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    number = np.dtype("float32")
    return ModelSignature(
        inputs=Schema([TensorSpec(number, (-1, -1, -1, -1, -1))]),
        outputs=Schema(
            [
                TensorSpec(number, (-1, -1, -1), "probability"),
                TensorSpec(number, (-1,), "unlike"),
                TensorSpec(number, (-1, -1), "outside"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("scene", "string", ""),
                ParamSpec("output", "string", ""),
                ParamSpec("bands", "string", ""),
                ParamSpec("offset_removed", "boolean", False),
            ]
        ),
    )


def facts(training: Training) -> dict[str, Any]:
    """What a program must know to feed the model, in the version's `metadata`."""
    return {
        "shape": ["n", training.periods, len(training.bands), "rows", "cols"],
        "bands": list(training.bands),
        "periods": training.periods,
        "level": training.level,
        "units": training.units,
        "resolution": training.resolution,
        "threshold": training.threshold,
        "building_cover": training.building_cover,
        "simulated": training.simulated,
    }


def example(training: Training) -> NDArray[np.float32]:
    """One image (1, periods, bands, rows, cols) of the model's units, its values spread over the training range."""
    rng = np.random.default_rng(0)
    side = EXAMPLE_SIDE
    ground = rng.random((side // 4, side // 4)).repeat(4, axis=0).repeat(4, axis=1)
    ranges = np.array([training.input_range.get(name, USUAL_RANGE) for name in training.bands])
    low, high = np.maximum(ranges[:, 0], 1), ranges[:, 1]
    noise = rng.random((1, training.periods, len(training.bands), side, side))
    share = 0.8 * ground + 0.2 * noise
    return np.rint(low[:, None, None] + (high - low)[:, None, None] * share).astype(np.float32)


def requirements(model: ModelBundle) -> list[str]:
    """Pinned to what is installed here; local version labels (`+cpu`) are left out, since no index serves them."""
    wanted = dict.fromkeys(("mlflow", *_needed(model), *READING))  # each once, in a steady order
    return [f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in wanted]


def _needed(model: ModelBundle) -> Iterator[str]:
    """What a model needs, and what its members do."""
    yield from REQUIREMENTS[model.training.kind]
    if model.training.kind == "network":
        config = yaml.safe_load(model.config_path.read_text(encoding="utf-8"))
        yield from FACTORY_REQUIREMENTS.get(config["model"]["init_args"].get("model_factory"), ())
    for member in model.members.values():
        yield from _needed(member)
