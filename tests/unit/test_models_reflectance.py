"""An array of another band set, unit or scale is refused with one sentence, and what a model takes is not."""

from typing import Any

import numpy as np
import pytest
from predictors import BANDS, training

from casbah.errors import InputError
from casbah.models.reflectance import as_reflectance

MODEL = training(input_range={name: [250.0, 3200.0] for name in BANDS})


def ground(rows: int = 64, cols: int = 64, n: int = 1) -> np.ndarray:
    """Reflectance x 10000 (n, 1, 4, rows, cols) from dark to bright, some of it not observed."""
    rng = np.random.default_rng(rows)
    values = np.rint(rng.gamma(4, 350, (n, 1, len(BANDS), rows, cols)) + 120)
    values[:, :, 3] += 500  # soil and plants reflect more in infrared
    values[..., :4, :4] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", ["float32", "float64", "uint16", "int64"])
def test_reflectance_of_any_number_type_goes_through_as_it_is(kind: str) -> None:
    given = ground().astype(kind)
    found = as_reflectance(given, MODEL)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, given)


def test_bands_that_are_named_are_brought_into_the_order_of_the_model_and_others_left_out() -> None:
    named = ("B8A", "B08", "red", "B03", "B02")
    given = np.stack([ground()[:, :, 0] + 10 * i for i in range(5)], axis=2)
    found = as_reflectance(given, MODEL, bands=named)
    np.testing.assert_array_equal(found, given[:, :, [4, 3, 2, 1]])


@pytest.mark.parametrize(
    ("shape", "bands", "words"),
    [
        ((1, 1, 3, 8, 8), (), r"has the shape \(1, 1, 3, 8, 8\); \(n, 1 period, 4 bands, rows, cols\) is wanted, the "
                              r"bands being B02, B03, B04, B08"),
        ((1, 2, 4, 8, 8), (), r"\(1, 2, 4, 8, 8\); \(n, 1 period, 4 bands"),
        ((4, 8, 8), (), r"\(4, 8, 8\); \(n, 1 period"),
        ((0, 0, 0, 0, 0), (), r"\(0, 0, 0, 0, 0\); \(n, 1 period"),
        ((1, 1, 4, 8, 8), ("B02", "B03", "B04"), r"3 bands, rows, cols\) is wanted, the bands being B02, B03, B04$"),
        ((1, 1, 4, 8, 8), ("B02", "B03", "B04", "B11"), "needs the bands B02, B03, B04, B08, and the images lack B08"),
        ((1, 1, 4, 8, 8), ("B02", "B03", "B04", "green grass"), "'green grass' is not a Sentinel-2 band"),
    ],
)  # fmt: skip
def test_another_band_set_is_refused_by_name(shape: tuple[int, ...], bands: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_reflectance(np.full(shape, 900.0, np.float32), MODEL, bands=bands)


def changed(**changes: Any) -> np.ndarray:
    """Ground of which single values were set."""
    given = ground()
    for value in changes.values():
        given[0, 0, 1, 20, 20] = value
    return given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ground() / 10000, "no value above 0.[0-9]+, as reflectance of 0 to 1 does; .* multiply by 10000"),
        (np.ones((1, 1, 4, 8, 8), np.float32), "no value above 1, as reflectance of 0 to 1"),
        (ground() / 100, "holds fractions up to .*, as reflectance in percent does; .* multiply by 100$"),
        (np.rint(ground() / 100), "no value above [0-9]+ in any band, as reflectance in percent does; .* by 100$"),
        (np.rint(ground() / ground().max() * 255), "ends at [0-9]+ to 255 in every band, as 8-bit pictures do"),
        (
            np.rint(ground() / 10),
            r"holds [0-9]+ in B03 and [0-9]+ in B08 at its median pixels and less than 600 in every band, which is too "
            "dark for ground and no water, as reflectance x 1000",
        ),
        (np.minimum(ground() * 20, 65535), "values up to 65535, half of them above [0-9.e+]+, and snow is about"),
        (changed(a=70000), "values up to 70000, "),
        (changed(a=-9999), r"negative values \(down to -9999\); reflectance x 10000"),
        (changed(a=np.nan), "holds NaN or infinity; reflectance x 10000 without the .1000 offset, 0 for nodata"),
        (changed(a=np.inf), "holds NaN or infinity"),
        (np.full((1, 1, 4, 2, 2), "1200"), "an array of <U4; numbers are wanted"),
        (np.full((1, 1, 4, 2, 2), 1200, object), "an array of object; numbers are wanted"),
        (np.full((1, 1, 4, 2, 2), True), "an array of bool; numbers are wanted"),
        (np.concatenate([ground(), ground() / 10000]), "^image 1 holds no value above"),
    ],
)
def test_another_unit_or_scale_is_refused_with_one_sentence(given: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        as_reflectance(given, MODEL)
    assert "\n" not in str(refused.value)


def test_dark_ground_in_one_of_two_periods_is_found_and_small_or_shaded_images_are_taken() -> None:
    model = training(periods=2, input_range=MODEL.input_range)
    dark = np.rint(ground() / 10)
    with pytest.raises(InputError, match="too dark for ground"):
        as_reflectance(np.concatenate([ground(), dark], axis=1), model)
    as_reflectance(dark[..., :40, :40], MODEL)  # so few pixels may lie in the shadow of one house
    as_reflectance(np.where(dark > 0, dark + 500, 0), MODEL)
    colours = training(bands=("B02", "B03", "B04"), input_range={name: [250.0, 3200.0] for name in BANDS[:3]})
    as_reflectance(dark[:, :, :3], colours)  # which ground and water share


def test_the_offset_left_inside_is_refused_and_the_way_out_is_said() -> None:
    given = np.where(ground() > 0, ground() + 1000, 0)
    with pytest.raises(InputError, match=r"period 1 lie \d+ to \d+ above .* the .1000 .* take it off; .*offset_remov"):
        as_reflectance(given, MODEL)
    np.testing.assert_array_equal(as_reflectance(given, MODEL, offset_removed=True), given)


def test_the_offset_left_inside_one_of_two_periods_is_found() -> None:
    model = training(periods=2, input_range=MODEL.input_range)
    both = np.concatenate([ground(), np.where(ground() > 0, ground() + 1000, 0)], axis=1)
    as_reflectance(np.concatenate([ground(), ground()], axis=1), model)
    with pytest.raises(InputError, match="of period 2 lie"):
        as_reflectance(both, model)


def test_few_bright_pixels_prove_no_offset() -> None:
    as_reflectance(np.full((1, 1, 4, 32, 32), 2600, np.float32), MODEL)
    with pytest.raises(InputError, match="offset_removed"):
        as_reflectance(np.full((2, 1, 4, 32, 32), 2600, np.float32), MODEL)


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((2, 1, 4, 8, 8), np.float32),  # nothing observed
        np.zeros((0, 1, 4, 8, 8), np.float32),  # no image
        np.full((1, 1, 4, 64, 64), 20, np.float32) * np.array([9, 6, 3, 1])[:, None, None],  # clear deep water
        np.full((1, 1, 4, 64, 64), 11000, np.float32) * np.array([0.03, 1, 1, 1])[:, None, None],  # snow by a lake
    ],
)
def test_dark_water_snow_and_unobserved_ground_are_no_other_unit(given: np.ndarray) -> None:
    np.testing.assert_array_equal(as_reflectance(given, MODEL), given)
