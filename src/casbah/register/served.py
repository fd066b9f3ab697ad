"""The registered model as MLflow loads it (models-from-code: MLflow runs this file, nothing is unpickled).

Input: float32 (n, dates, bands, rows, cols), reflectance x 10000 with the +1000 offset removed and 0 for nodata, dates
and bands as the bundle's `training.json` lists them. Output: float32 (n, rows, cols), the probability of building.
"""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from casbah.errors import InputError
from casbah.models import load
from casbah.products.model import ModelBundle


class BuildingModel(PythonModel):
    """Opens the bundle that travels with the version and answers with probabilities."""

    def load_context(self, context: Any) -> None:
        self.bundle = ModelBundle.open(context.artifacts["bundle"])
        self.predictor = load(self.bundle)

    # `np.ndarray`, since MLflow warns of an input without a hint and of `Any`; what comes is looked at below.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        training = self.bundle.training
        images = np.asarray(model_input)
        wanted = (training.periods, len(training.bands))
        if images.ndim != 5 or images.shape[1:3] != wanted:
            raise InputError(
                f"the input has shape {images.shape}; (n, {wanted[0]} dates, {wanted[1]} bands, rows, cols) is wanted, "
                f"bands {', '.join(training.bands)}"
            )
        if not np.isfinite(images).all():
            raise InputError("the input holds NaN or infinity; nodata is 0 here")
        return self.predictor.probabilities(np.clip(np.rint(images), 0, 65535).astype(np.uint16))


set_model(BuildingModel())
