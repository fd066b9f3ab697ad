"""The registered model as MLflow loads it (models-from-code: MLflow runs this file, nothing is unpickled).

    model = mlflow.pyfunc.load_model("models:/casbah-buildings@champion")
    found = model.predict(images)                                          # float32 (n, periods, bands, rows, cols)
    found = model.predict(NOTHING, params={"scene": "runs/scene"})         # NOTHING = np.empty((0,) * 5, "float32")

`images` are reflectance x 10000 with the +1000 offset removed and 0 for nodata, of any size; periods and bands are
those of the model card, in that order. Without images a scene is mapped: `scene` is the directory of a `Scene`, or a
raster's path, s3:// or http(s):// address, and `output` a directory where the `Prediction` is kept as well.

Further `params`: `bands` (`"B04,B03,B02,B08"`) names the bands of `images` where they are more than the model's, or in
another order; `offset_removed` says that the offset is off where dark ground is missing and pixels can't show it.

What comes back is a dict of float32 arrays:

- `probability` (n, rows, cols): P(building); NaN where a pixel was observed in no period (`null` in a server's JSON).
- `unlike` (n,): which share of the observed pixels lies where the image looks unlike the training data.
- `outside` (n, bands): which share of a band's values lies outside of the training range; 0.02 is usual.

`Refused` with one sentence for everything else: another band set, unit or scale.

A process that serves others reads no scene, since a request could name any file or address. MLflow's server says of
itself that it serves; of any other process it is taken as a sign that a web server is loaded. In a notebook or a job
where one is loaded for another reason, `load_model(..., model_config={"scenes": "yes"})` says so; "no" never reads one.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray

from casbah.errors import InputError
from casbah.models import load
from casbah.models.reflectance import as_reflectance
from casbah.predict import predict, unlike
from casbah.predict.blending import blended, unobserved
from casbah.products.model import ModelBundle

SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
"""MLflow's server sets this variable of its own process, and `mlflow models predict` too."""

SERVERS = (
    "mlflow.pyfunc.scoring_server.app",
    "uvicorn",
    "gunicorn",
    "hypercorn",
    "waitress",
    "uwsgi",
    "mlserver",
    "kserve",
    "bentoml",
    "ray.serve",
    "azureml_inference_server_http",
    "sagemaker_inference",
    "triton_python_backend_utils",
)
"""Modules that are loaded where models are served to others."""

DIGITS = 6
"""Decimals of the numbers in a server's JSON."""


class Refused(InputError, MlflowException):
    """An input that the model does not take. MLflow's server answers HTTP 400 with the sentence, and no traceback."""

    def __init__(self, sentence: str) -> None:
        MlflowException.__init__(self, sentence, INVALID_PARAMETER_VALUE)


class BuildingModel(PythonModel):
    """Opens the bundle that travels with the version and answers with probabilities."""

    def load_context(self, context: Any) -> None:
        self.bundle = ModelBundle.open(context.artifacts["bundle"])
        self.predictor = load(self.bundle)
        self.scenes = (context.model_config or {}).get("scenes", "auto")
        if self.scenes not in ("auto", "yes", "no"):
            raise Refused(f'"scenes" is {self.scenes!r} in model_config; "auto", "yes" or "no" is wanted')

    # `np.ndarray`, since MLflow warns of an input without a hint and of `Any`; what comes is looked at below.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> dict[str, Any]:
        images, asked = np.asarray(model_input), params or {}
        with _one_sentence():
            if asked.get("scene") or asked.get("output"):
                found = self._of_scene(images, str(asked.get("scene") or ""), str(asked.get("output") or ""))
            else:
                names = tuple(name.strip() for name in str(asked.get("bands") or "").split(",") if name.strip())
                found = self._of_images(images, names, bool(asked.get("offset_removed")))
        if _says_that_it_serves():
            return {name: _for_json(values) for name, values in found.items()}
        _warn(found["unlike"])
        return found

    def _of_images(self, given: NDArray[Any], bands: tuple[str, ...], offset_removed: bool) -> dict[str, Any]:
        training = self.bundle.training
        images = as_reflectance(given, training, bands=bands, offset_removed=offset_removed)
        # Images have no place, so their squares begin at their first pixel.
        looks = [unlike.count(one, ~unobserved(one[None])[0], training, 0, 0) for one in images]
        outside = [_of_each_band(one.shares(training), training.bands) for one in looks]
        return {
            "probability": blended(self.predictor, images),
            "unlike": np.array([one.share() for one in looks], np.float32),
            "outside": np.array(outside, np.float32).reshape(len(images), len(training.bands)),
        }

    def _of_scene(self, images: NDArray[Any], scene: str, output: str) -> dict[str, Any]:
        self._check_may_read()
        if not scene:
            raise InputError(f'"output" is {output!r} and no "scene" was given; a map is written of a scene alone')
        if images.size:
            raise InputError(
                f"both images {images.shape} and a scene were given; with a scene the images are "
                'np.empty((0,) * 5, "float32")'
            )
        with tempfile.TemporaryDirectory(prefix="casbah-map-") as scratch:
            made = predict(self.bundle.path, scene, output or Path(scratch) / "map", values="uint16")
            return {
                "probability": made.probability()[None],
                "unlike": np.array([made.info.unlike["share"]], np.float32),
                "outside": np.array([_of_each_band(made.info.unlike["bands"], made.info.bands)], np.float32),
            }

    def _check_may_read(self) -> None:
        """`InputError` where this process serves others, as far as can be told."""
        if _says_that_it_serves() or self.scenes == "no":
            raise InputError(
                "a served model reads no files and no addresses for others: send the images themselves, or load the "
                "model in a notebook or a job of your own"
            )
        if self.scenes == "auto" and (server := next((name for name in SERVERS if name in sys.modules), None)):
            raise InputError(
                f"{server} is loaded in this process, so it may serve others, and a served model reads no files and no "
                'addresses; where it does not serve, load the model with model_config={"scenes": "yes"}'
            )


@contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise Refused(str(error)) from None


def _says_that_it_serves() -> bool:
    return os.environ.get(SERVING, "").lower() in ("true", "1")


def _of_each_band(shares: dict[str, float], bands: tuple[str, ...]) -> list[float]:
    """NaN for a band whose training range the bundle does not say."""
    return [shares.get(name, float("nan")) for name in bands]


def _for_json(values: NDArray[np.float32]) -> Any:
    """Nested lists in which NaN, which JSON has not, is None."""
    found = np.round(values.astype(np.float64), DIGITS).astype(object)
    found[np.isnan(values)] = None
    return found.tolist()


def _warn(shares: NDArray[np.float32]) -> None:
    if far := [f"{100 * share:.0f} % of image {n}" for n, share in enumerate(shares) if share > unlike.MUCH]:
        more = f" and {len(far) - 3} images more" if len(far) > 3 else ""
        warnings.warn(
            f"{', '.join(far[:3])}{more} looks unlike what the model was trained on: do not trust it there",
            stacklevel=3,
        )


set_model(BuildingModel())
