"""The registered model tiles inside, flags what looks unlike its training data, reads scenes for its owner alone."""

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from predictors import BANDS, Surroundings, bundle, pixels, use, write_raster

from casbah.errors import InputError
from casbah.predict import predict, served
from casbah.products.prediction import Prediction

NOTHING = np.empty((0,) * 5, np.float32)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> served.BuildingModel:
    return opened(tmp_path, monkeypatch)


def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> served.BuildingModel:
    use(monkeypatch)
    monkeypatch.setattr(served, "load", lambda bundle: Surroundings(bundle.training))
    monkeypatch.setattr(served, "SERVERS", ("a_server",))  # whatever other tests have loaded
    path = tmp_path / "bundle"
    found = served.BuildingModel()
    found.load_context(
        SimpleNamespace(
            artifacts={"bundle": str(path if path.exists() else bundle(path).path)}, model_config=config or None
        )
    )
    return found


def images(rows: int = 70, cols: int = 90) -> np.ndarray:
    return pixels(rows, cols)[None, None].astype(np.float32)


def test_images_of_any_size_are_answered_as_a_map_of_them_is(model: served.BuildingModel, tmp_path: Path) -> None:
    given = images(300, 340)
    found = model.predict(None, given)
    assert found["probability"].shape == (1, 300, 340)
    raster = write_raster(tmp_path / "image.tif", given[0, 0].astype(np.uint16))
    made = predict(tmp_path / "bundle", raster, tmp_path / "map", values="uint16")
    np.testing.assert_allclose(found["probability"][0], made.probability(), atol=1e-4)
    np.testing.assert_allclose(found["unlike"], made.info.unlike["share"], atol=1e-4)
    np.testing.assert_allclose(found["outside"][0], list(made.info.unlike["bands"].values()), atol=1e-4)


def test_a_scene_comes_back_as_its_images_do_and_is_kept_where_that_is_asked_for(
    model: served.BuildingModel, tmp_path: Path
) -> None:
    given = images(300, 340)
    given[..., :20, :] = 0
    raster = write_raster(tmp_path / "image.tif", given[0, 0].astype(np.uint16))
    direct = model.predict(None, given)
    for output in ("", str(tmp_path / "kept")):
        found = model.predict(None, NOTHING, {"scene": str(raster), "output": output})
        assert {name: values.shape for name, values in found.items()} == {
            "probability": (1, 300, 340),
            "unlike": (1,),
            "outside": (1, 4),
        }
        for name, values in found.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, direct[name], atol=1e-4)
    kept = Prediction.open(tmp_path / "kept")
    np.testing.assert_array_equal(kept.probability(), found["probability"][0])


def test_ground_unlike_the_training_data_is_flagged_in_the_output(model: served.BuildingModel) -> None:
    usual = images(128, 128)
    strange = usual.copy()
    strange[:, :, 1, :64] = 9000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.predict(None, usual)
    assert found["unlike"][0] == 0
    assert found["outside"].max() < 0.05
    with pytest.warns(UserWarning, match="50 % of image 1 looks unlike what the model was trained on: do not trust"):
        found = model.predict(None, np.concatenate([usual, strange]))
    np.testing.assert_allclose(found["unlike"], [0, 0.5])
    assert found["outside"][1, 1] > 0.5 > 0.05 > found["outside"][1, [0, 2, 3]].max()


def test_bands_in_another_order_are_answered_alike_once_they_are_named(model: served.BuildingModel) -> None:
    given = images()
    turned = given[:, :, ::-1]
    found = model.predict(None, turned, {"bands": ", ".join(BANDS[::-1])})
    np.testing.assert_array_equal(found["probability"], model.predict(None, given)["probability"])


def test_what_was_nowhere_observed_is_nan_and_null_where_it_is_served(
    model: served.BuildingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = images()
    given[..., 10:20, 30:40] = 0
    here = model.predict(None, given)["probability"]
    assert np.isnan(here[0, 10:20, 30:40]).all()
    assert np.isnan(here).sum() == 100
    monkeypatch.setenv(served.SERVING, "true")
    sent = json.loads(json.dumps(model.predict(None, given), allow_nan=False))
    there = np.array(sent["probability"], float)
    np.testing.assert_allclose(there, here, atol=1e-6)
    assert sent["probability"][0][15][35] is None
    assert sent["unlike"] == [0.0]


@pytest.mark.parametrize("scene", ["/etc/passwd", "http://127.0.0.1:9/scene.tif", "s3://casbah/scene.tif"])
def test_a_served_model_refuses_to_read_whatever_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: str
) -> None:
    monkeypatch.setenv(served.SERVING, "true")
    for config in ({}, {"scenes": "yes"}, {"scenes": "no"}):
        model = opened(tmp_path, monkeypatch, **config)
        monkeypatch.setattr(served, "predict", unread)
        with pytest.raises(served.Refused, match="a served model reads no files and no addresses for others"):
            model.predict(None, NOTHING, {"scene": scene})
        with pytest.raises(served.Refused, match="a served model reads no files"):
            model.predict(None, NOTHING, {"output": str(tmp_path / "written")})
    assert not (tmp_path / "written").exists()


def unread(*_: object, **__: object) -> None:
    raise AssertionError("it was read")


def test_where_any_web_server_is_loaded_a_scene_is_read_only_once_the_owner_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster = write_raster(tmp_path / "image.tif", pixels(40, 40))
    asked = {"scene": str(raster)}
    monkeypatch.setitem(sys.modules, "a_server", object())
    with pytest.raises(served.Refused, match=r'a_server is loaded in this process, .* model_config=."scenes": "yes".'):
        opened(tmp_path, monkeypatch).predict(None, NOTHING, asked)
    assert opened(tmp_path, monkeypatch, scenes="yes").predict(None, NOTHING, asked)["probability"].shape == (1, 40, 40)
    monkeypatch.delitem(sys.modules, "a_server")
    with pytest.raises(served.Refused, match="a served model reads no files"):
        opened(tmp_path, monkeypatch, scenes="no").predict(None, NOTHING, asked)
    with pytest.raises(served.Refused, match="\"scenes\" is 'perhaps'"):
        opened(tmp_path, monkeypatch, scenes="perhaps")


def test_what_can_not_be_meant_is_one_sentence(model: served.BuildingModel, tmp_path: Path) -> None:
    with pytest.raises(served.Refused, match=r"both images \(1, 1, 4, 70, 90\) and a scene were given; with a scene"):
        model.predict(None, images(), {"scene": "runs/scene"})
    with pytest.raises(served.Refused, match=r'"output" is .* and no "scene" was given'):
        model.predict(None, images(), {"output": str(tmp_path / "map")})
    with pytest.raises(served.Refused, match=r"nowhere does not exist; a scene's directory, a raster"):
        model.predict(None, NOTHING, {"scene": str(tmp_path / "nowhere")})
    with pytest.raises(served.Refused, match="as reflectance of 0 to 1 does"):
        model.predict(None, images() / 10000)


def test_a_refusal_is_an_input_error_for_people_and_a_bad_request_for_a_server() -> None:
    refusal = served.Refused("one sentence")
    assert isinstance(refusal, InputError)
    assert refusal.get_http_status_code() == 400
    assert json.loads(refusal.serialize_as_json())["message"] == str(refusal) == "one sentence"
