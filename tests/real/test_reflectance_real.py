"""On real images: the offset left inside is mostly found, and never where the ground is like the training data; a
tenth of reflectance is found in each of them."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from predictors import training
from rasterio.enums import Resampling

from casbah.bands import BAND_NAMES
from casbah.errors import InputError
from casbah.models.reflectance import as_reflectance
from casbah.products.model import Training

pytestmark = pytest.mark.real

SIDE = 128
SIX = ("B02", "B03", "B04", "B8A", "B11", "B12")


@pytest.fixture(scope="module")
def images(shared: Path) -> dict[str, np.ndarray]:
    """Of each of eight images of four cities, from before the offset: (12, rows, cols), pixels repeated to 10 m."""
    found = {}
    for folder in sorted((shared / "data" / "sentinel-2" / "sentinel-2-l1c").glob("S2_*")):
        with rasterio.open(folder / "B02.tif") as first:
            shape = first.shape
        bands = []
        for name in BAND_NAMES:
            with rasterio.open(folder / f"{name}.tif") as dataset:
                bands.append(dataset.read(1, out_shape=shape, resampling=Resampling.nearest))
        found[folder.name] = np.stack(bands)
    return found


def model_of(image: np.ndarray, bands: tuple[str, ...]) -> Training:
    """A model that was trained on all of an image."""
    low, high = np.percentile(image[[BAND_NAMES.index(name) for name in bands]].reshape(len(bands), -1), (1, 99), 1)
    return training(bands=bands, input_range={name: [low[i], high[i]] for i, name in enumerate(bands)})


def refused(image: np.ndarray, model: Training, why: str) -> float:
    """Which share of the tiles of an image a model refuses, and for no other reason."""
    own = image[[BAND_NAMES.index(name) for name in model.bands]]
    answers = []
    for row in range(0, own.shape[1] - SIDE + 1, SIDE):
        for col in range(0, own.shape[2] - SIDE + 1, SIDE):
            try:
                as_reflectance(own[None, None, :, row : row + SIDE, col : col + SIDE], model)
                answers.append(False)
            except InputError as error:
                if why not in str(error):
                    raise
                answers.append(True)
    return float(np.mean(answers))


@pytest.mark.parametrize("bands", [BAND_NAMES, SIX])
def test_the_offset_is_found_in_most_tiles_and_where_there_is_none_the_ground_is_taken(
    images: dict[str, np.ndarray], bands: tuple[str, ...]
) -> None:
    here: dict[str, list[float]] = {"as it is": [], "with the offset": [], "of another city": []}
    for name, image in images.items():
        for other, ground in images.items():
            model = model_of(ground, bands)
            if name.split("_")[2] != other.split("_")[2]:
                here["of another city"].append(refused(image, model, "+1000"))
                continue
            here["as it is"].append(refused(image, model, "+1000"))
            here["with the offset"].append(refused(image + 1000, model, "+1000"))
    means = {what: float(np.mean(shares)) for what, shares in here.items()}
    print(f"{len(bands)} bands: refused {means}")
    assert max(here["as it is"]) == 0
    assert means["with the offset"] > 0.6
    assert means["of another city"] < 0.06


@pytest.mark.parametrize("bands", [BAND_NAMES, SIX])
def test_reflectance_times_a_thousand_is_found_in_every_tile(
    images: dict[str, np.ndarray], bands: tuple[str, ...]
) -> None:
    for image in images.values():
        assert refused(image // 10, model_of(image, bands), "reflectance x 1000") == 1
