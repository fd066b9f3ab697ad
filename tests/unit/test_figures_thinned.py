"""A picture of a scene too large to show every pixel shows some of them, as they are: never a mixture of several."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from builders import houses, make_labels, make_map, make_scene
from PIL import Image

from casbah.figures.colour import FALSE_ALARM, FOUND, MISSED, TRUTH, error_colours, probability_colours
from casbah.figures.given import Given
from casbah.figures.visualize import LONGEST, draw, visualize
from casbah.figures.webmap import MAXIMUM_SIDE
from casbah.grid import Grid
from casbah.predict.maps import SMALLEST
from casbah.products.labels import LabelSet
from casbah.products.prediction import Prediction
from casbah.products.scene import Scene

LARGE = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 2201, 301)
"""More rows than any picture shows, and not a whole number of steps."""


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scene`, its `labels`, a `perfect` prediction (its mask is that of the labels) and one that is mostly `wrong`."""
    folder = tmp_path_factory.mktemp("region")
    labels = make_labels(folder / "labels", LARGE, footprints=houses(LARGE, 12_000))
    truth = labels.mask()
    make_scene(folder / "scene", LARGE, bands=("B02", "B03", "B04"), cover=labels.coverage())
    rng = np.random.default_rng(1)
    probability = np.where(truth == 1, rng.uniform(0.6, 0.95, LARGE.shape), rng.uniform(0.05, 0.4, LARGE.shape))
    make_map(folder / "perfect", LARGE, probability=probability, overviews=True)
    guessed = rng.uniform(0, 1, LARGE.shape)
    guessed[rng.random(LARGE.shape) < 0.1] = np.nan
    make_map(folder / "wrong", LARGE, probability=guessed, overviews=True)
    return folder


def shown(pixels: np.ndarray) -> np.ndarray:
    """The pixels (rows, cols) of `LARGE` that lie in the middle of those that a picture shows."""
    size = [-(-length // 2) for length in LARGE.shape]
    rows, cols = (
        [(2 * i + 1) * length // (2 * n) for i in range(n)] for n, length in zip(size, LARGE.shape, strict=True)
    )
    return pixels[np.ix_(rows, cols)]


def layers_of(page: Path) -> dict[str, np.ndarray]:
    """The layers of a page as RGBA (rows, cols, 4)."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert found is not None
    layers = json.loads(found.group(1))["areas"][0]["layers"]
    return {
        name: np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))
        for name, uri in layers.items()
    }


def share(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    """The share of an RGBA picture's pixels that have a colour."""
    return float((picture == (*colour, 255)).all(axis=-1).mean())


def given(region: Path, prediction: str) -> Given:
    return Given(
        scene=Scene.open(region / "scene"),
        labels=LabelSet.open(region / "labels"),
        prediction=Prediction.open(region / prediction),
    )


def test_the_rasters_have_overviews_that_a_thinned_picture_could_be_read_from(region: Path) -> None:
    assert max(LARGE.shape) > max(SMALLEST, MAXIMUM_SIDE, LONGEST)
    for name in ("probability.tif", "mask.tif"):
        with rasterio.open(region / "perfect" / name) as dataset:
            assert dataset.overviews(1)[0] == 2


def test_a_page_draws_no_error_of_a_prediction_that_makes_none(region: Path, tmp_path: Path) -> None:
    named = {"labels": region / "labels", "prediction": region / "perfect"}
    layers = layers_of(visualize(**named, output=tmp_path / "map.html"))
    built = (LabelSet.open(region / "labels").mask() == 1).mean()
    assert share(layers["error"], MISSED) == 0
    assert share(layers["error"], FALSE_ALARM) == 0
    assert share(layers["error"], FOUND) == share(layers["truth"], TRUTH) == pytest.approx(built, rel=0.05)


@pytest.mark.parametrize(("figure", "panel"), [("error", 0), ("panels", 3)])
def test_a_figure_draws_no_error_of_a_prediction_that_makes_none(region: Path, figure: str, panel: int) -> None:
    errors = draw(figure, given(region, "perfect")).axes[panel].images[-1].get_array()
    built = (LabelSet.open(region / "labels").mask() == 1).mean()
    assert share(errors, MISSED) == 0
    assert share(errors, FALSE_ALARM) == 0
    assert share(errors, FOUND) == pytest.approx(built, rel=0.05)


def test_errors_and_probabilities_are_those_of_the_pixel_in_the_middle(region: Path, tmp_path: Path) -> None:
    wrong, labels = Prediction.open(region / "wrong"), LabelSet.open(region / "labels")
    called, truth = shown(wrong.mask()), shown(labels.mask())
    truth[called == 255] = 255
    errors, probability = error_colours(called == 1, truth), shown(wrong.probability())
    named = {"labels": labels.path, "prediction": wrong.path}
    layers = layers_of(visualize(**named, output=tmp_path / "map.html"))
    assert np.array_equal(layers["error"], errors)
    assert np.array_equal(layers["probability"], probability_colours(probability))
    panels = draw("panels", given(region, "wrong")).axes
    assert np.array_equal(panels[3].images[-1].get_array(), errors)
    drawn = np.ma.filled(panels[2].images[-1].get_array(), np.nan)
    assert np.array_equal(drawn, probability, equal_nan=True)
