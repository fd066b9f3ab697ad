"""A model's windows laid together show no seams, whatever the size of the image."""

from typing import Any

import numpy as np
import pytest

from casbah.errors import InputError
from casbah.predict.blending import Axis, blended, default_overlap, default_window
from casbah.products.model import Training


def training(**fields: Any) -> Training:
    values: dict[str, Any] = {
        "experiment": "test",
        "kind": "trees",
        "bands": ("B02", "B03"),
        "periods": 2,
        "level": "L2A",
        "resolution": 10.0,
        "tile_size": 32,
        "building_cover": 50,
        "threshold": 0.5,
        "blocks": {},
        "tiles": "",
        "config": "",
        "seed": 0,
        "parameters": 0,
    }
    return Training(**values | fields)


class Local:
    """Sees each pixel alone: what it says of a window is what it says of the whole image."""

    def __init__(self, tile_size: int = 32) -> None:
        self.training = training(tile_size=tile_size)
        self.windows = 0

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        self.windows += len(images)
        return (images.mean(axis=(1, 2)) / 10000).astype(np.float32)


class Surroundings(Local):
    """Sees `reach` pixels around each one, and a continued edge where its window ends."""

    reach = 13

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        from scipy.ndimage import uniform_filter

        direct = super().probabilities(images)
        return uniform_filter(direct, 2 * self.reach + 1, mode="reflect", axes=(1, 2))


class Corner(Local):
    """Says where in its window a pixel lies: the worst that a window's position can do to a model."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        n, _, _, rows, cols = images.shape
        ramp = np.add.outer(np.linspace(0, 0.5, rows), np.linspace(0, 0.5, cols))
        return np.broadcast_to(ramp, (n, rows, cols)).astype(np.float32)


def images(rows: int, cols: int, n: int = 1) -> np.ndarray:
    return np.random.default_rng(rows + cols).integers(1, 10000, (n, 2, 2, rows, cols), dtype=np.uint16)


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (31, 32), (256, 256), (257, 255), (511, 700)])
@pytest.mark.parametrize(("window", "overlap"), [(None, None), (64, 32), (96, 0), (50, 7)])
def test_what_a_model_says_of_single_pixels_is_the_same_through_windows(
    shape: tuple[int, int], window: int | None, overlap: int | None
) -> None:
    model, given = Local(), images(*shape, n=2)
    np.testing.assert_allclose(
        blended(model, given, window=window, overlap=overlap), model.probabilities(given), atol=1e-6
    )


def test_at_the_default_overlap_a_model_that_sees_as_far_as_boosted_trees_do_shows_no_window() -> None:
    model, given = Surroundings(), images(600, 430)
    np.testing.assert_allclose(blended(model, given), model.probabilities(given), atol=1e-5)
    assert abs(blended(model, given, overlap=8) - model.probabilities(given)).max() > 1e-3


def test_between_windows_that_disagree_the_map_changes_gradually() -> None:
    found = blended(Corner(), images(700, 700), window=256, overlap=64)[0]
    steps = [abs(np.diff(found, axis=axis)).max() for axis in (0, 1)]
    hard = blended(Corner(), images(700, 700), window=256, overlap=0)[0]
    assert max(steps) < 0.03 < 0.4 < abs(np.diff(hard, axis=0)).max()


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 1000])
@pytest.mark.parametrize("overlap", [0, 1, 2, 5, 16, 32])
def test_every_pixel_counts_once_in_all_and_the_border_counts_fully(length: int, overlap: int) -> None:
    axis = Axis.cut(length, 64, overlap)
    total = np.zeros(length)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        total[start : start + axis.size] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert axis.weights[0, 0] > 0.99
    assert axis.weights[-1, -1] > 0.99


def test_a_pixel_without_any_observation_is_nan_and_one_with_some_is_not() -> None:
    given = images(40, 40)
    given[..., :10, :] = 0
    given[:, 0, :, 10:20] = 0
    given[:, :, 0, 20:30] = 0
    found = blended(Local(), given)[0]
    assert np.isnan(found[:10]).all()
    assert np.isfinite(found[10:]).all()


def test_a_window_without_any_observation_does_not_go_through_the_model() -> None:
    model, given = Local(), images(64, 640)
    given[..., 200:] = 0
    found = blended(model, given, window=64, overlap=16)
    assert model.windows == 5
    assert np.isnan(found[..., 200:]).all()


def test_windows_are_whole_tiles_of_the_model_and_share_enough_for_its_surroundings() -> None:
    models = [Local(size) for size in (32, 48, 64, 224, 512)]
    assert [default_window(model) for model in models] == [256, 240, 256, 224, 512]
    assert [default_overlap(models[0], window) for window in (64, 224, 256, 512)] == [32, 64, 64, 128]


@pytest.mark.parametrize(("window", "overlap"), [(0, None), (64, 33), (64, -1)])
def test_sizes_that_can_not_be_laid_together_are_refused(window: int, overlap: int | None) -> None:
    with pytest.raises(InputError, match=r"(window|overlap) is -?\d+; .* wanted"):
        blended(Local(), images(32, 32), window=window, overlap=overlap)


def test_a_model_that_gives_nan_is_refused() -> None:
    class Broken(Local):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), *images.shape[-2:]), np.nan, np.float32)

    with pytest.raises(InputError, match=r"gave NaN or a wrong shape .* train it again"):
        blended(Broken(), images(32, 32))
