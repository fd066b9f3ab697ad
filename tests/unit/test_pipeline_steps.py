"""What a step of the pipeline hands to its stage: the person's words, and where the copies came from."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import GRID, cover_of, houses, make_prediction, make_scene, make_tiles
from predictors import bundle, use
from scored_models import make_bundle

from casbah import journal
from casbah.pipeline import inputs, steps
from casbah.products.footprints import FootprintSet
from casbah.products.labels import LabelSet
from casbah.products.manifest import sha256_of
from casbah.products.model import ModelBundle
from casbah.products.prediction import Prediction

ADDRESS = "https://example.org/tuscany/buildings.gpkg"
SAID = {"licence": "CC-BY-4.0", "attribution": "Regione Toscana", "vintage": "1988-2013"}


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files that addresses end in, fetched from a folder."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    houses(GRID).to_file(shelf / "buildings.gpkg", engine="pyogrio")
    houses(GRID).to_parquet(shelf / "footprints.parquet")
    houses(GRID).dissolve().convex_hull.to_file(shelf / "labelled_area.geojson", engine="pyogrio")
    monkeypatch.setattr(
        inputs, "fetch", lambda address, folder: Path(shutil.copy(shelf / Path(address.partition("?")[0]).name, folder))
    )
    return shelf


def labelled(tmp_path: Path, source: str, **given: Any) -> LabelSet:
    make_scene(tmp_path / "scene", GRID)
    artifacts = [SimpleNamespace(path=str(tmp_path / name), metadata={}) for name in ("labels", "scene")]
    words = {"labelled_area": "", "licence": "", "attribution": "", "vintage": "", "snapshot": "2026-11-01"}
    steps.label(artifacts[0], scene=artifacts[1], source=source, **words | given)
    return LabelSet.open(tmp_path / "labels")


def test_licence_attribution_and_vintage_of_a_file_travel_with_its_labels(shelf: Path, tmp_path: Path) -> None:
    made = labelled(tmp_path, ADDRESS, **SAID)
    assert {name: getattr(made.info, name) for name in SAID} == SAID


def test_the_labels_record_the_address_and_the_content_of_their_source(shelf: Path, tmp_path: Path) -> None:
    area = "s3://casbah/inputs/labelled_area.geojson"
    made = labelled(tmp_path, ADDRESS, labelled_area=area)
    assert made.manifest.parameters["source"] == ADDRESS
    assert made.manifest.parameters["labelled_area"] == area
    assert made.manifest.inputs["footprints"] == sha256_of(shelf / "buildings.gpkg")
    assert made.manifest.inputs["labelled_area"] == sha256_of(shelf / "labelled_area.geojson")


def test_a_password_or_token_in_an_address_is_not_recorded(shelf: Path, tmp_path: Path) -> None:
    made = labelled(tmp_path, "https://me:secret@example.org/buildings.gpkg?token=secret")
    assert made.manifest.parameters["source"] == "https://example.org/buildings.gpkg"


def test_what_nobody_says_of_a_file_is_said_in_the_log(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled(tmp_path, ADDRESS)
    said = capsys.readouterr().err
    assert "buildings.gpkg does not say its licence or whom to name" in said
    assert "buildings.gpkg does not say how old its footprints are" in said


def test_a_vintage_that_arrives_as_a_number_is_a_year(shelf: Path, tmp_path: Path) -> None:
    assert labelled(tmp_path, ADDRESS, vintage=2013.0).info.vintage == "2013"


def test_the_sample_has_its_licence_and_no_other(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert labelled(tmp_path, "sample").info.licence == "CC0-1.0"
    with pytest.raises(SystemExit) as end:
        labelled(tmp_path, "sample", licence="MIT")
    assert end.value.code == 2
    assert "licence is 'MIT', and the sample's footprints are CC0-1.0: leave licence out" in capsys.readouterr().err


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What the stages that train, `finetune` and `tune`, were asked for; each leaves a model where it was told to."""
    import casbah.finetune
    import casbah.tune
    from casbah.tune import report

    tiles, asked = make_tiles(tmp_path / "tiles"), {}

    def finetune(**given: Any) -> Any:
        asked["finetune"] = given
        return make_bundle(given["output"], tiles, experiment=str(given["config"]))

    def tune(**given: Any) -> Any:
        asked["tune"] = given
        made = make_bundle(given["output"] / "model", tiles, experiment=str(given["config"]), trials=given["trials"])
        return (SimpleNamespace(part=SimpleNamespace(model=made.path)),)

    monkeypatch.setattr(casbah.finetune, "finetune", finetune)
    monkeypatch.setattr(casbah.tune, "tune", tune)
    monkeypatch.setattr(report, "table", lambda result: "trial 1 is the best")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    return asked


def trained(tmp_path: Path, experiment: str, trials: float) -> ModelBundle:
    model, tuning, tiles = (SimpleNamespace(path=str(tmp_path / name), metadata={}) for name in ("m", "said", "tiles"))
    given = {"experiment": experiment, "seed": 7, "trials": trials, "snapshot": "2026-11-01"}
    steps.finetune(model, tuning, tiles=tiles, **given)
    return ModelBundle.open(tmp_path / "m")


@pytest.mark.parametrize(
    ("experiment", "seed"), [("boosted_pixels", "seed=7"), ("unet_scratch_small", "seed_everything=7")]
)
def test_a_step_with_trials_hands_on_the_best_of_them_and_keeps_the_study_in_the_store(
    tmp_path: Path, asked: dict[str, dict[str, Any]], experiment: str, seed: str
) -> None:
    assert trained(tmp_path, experiment, 3.0).training.trials == 3
    given = asked.pop("tune")
    assert not asked
    assert (given["trials"], given["seed"], given["overrides"]) == (3, 7, (seed,))
    assert given["checkpoints"] == "s3://casbah/checkpoints"
    assert "trial 1 is the best" in (tmp_path / "said").read_text()


@pytest.mark.parametrize(("experiment", "trials"), [("boosted_pixels", 0), ("ensemble_small", 3)])
def test_a_step_without_trials_and_an_ensemble_train_the_experiment_as_it_stands(
    tmp_path: Path, asked: dict[str, dict[str, Any]], experiment: str, trials: int
) -> None:
    assert trained(tmp_path, experiment, trials).training.trials == 0
    assert set(asked) == {"finetune"}
    assert asked["finetune"]["seed"] == 7
    assert (tmp_path / "said").read_text() == f"{experiment} as it stands: nothing was tuned.\n"


@pytest.mark.parametrize("trials", [-1, 2.5])
def test_a_wrong_number_of_trials_ends_the_step_in_one_sentence(
    tmp_path: Path, asked: dict[str, dict[str, Any]], trials: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        trained(tmp_path, "boosted_pixels", trials)
    assert end.value.code == 2
    assert f"casbah: trials is {trials}; 0 (nothing is tuned) or a whole number above" in capsys.readouterr().err
    assert not asked


def test_a_step_draws_footprints_with_what_the_model_chose_where_nothing_is_asked_for(tmp_path: Path) -> None:
    probability = cover_of(houses(GRID), GRID) / 100
    make_prediction(tmp_path / "prediction", probability, GRID, threshold=0.4)
    asked = {"minimum_area": 0.0, "square": True, "flatgeobuf": False, "block_size": 0.0}
    for threshold, at in ((0.0, 0.4), (0.6, 0.6)):
        polygons, summary, prediction = (
            SimpleNamespace(path=str(tmp_path / name), metadata={}) for name in ("polygons", "summary.md", "prediction")
        )
        steps.footprints(polygons, summary, prediction=prediction, threshold=threshold, **asked)
        info = FootprintSet.open(tmp_path / "polygons").info
        assert info.threshold == at
        assert (info.minimum_area, info.block_size) == (50, 1000)
        assert polygons.metadata["product"] == "footprints"
        assert polygons.metadata["polygons"] == str(info.polygons)
        assert info.meaning in (tmp_path / "summary.md").read_text()


def test_a_step_of_footprints_ends_in_one_sentence_where_its_input_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, polygons = (SimpleNamespace(path=str(tmp_path / name), metadata={}) for name in ("scene", "polygons"))
    make_scene(tmp_path / "scene", GRID)
    asked = {"threshold": 0.0, "minimum_area": 0.0, "square": True, "flatgeobuf": False, "block_size": 0.0}
    with pytest.raises(SystemExit) as end:
        steps.footprints(polygons, polygons, prediction=scene, **asked)
    assert end.value.code == 2
    assert "scene is a scene; a prediction is wanted here" in capsys.readouterr().err


MAPPED: dict[str, Any] = {
    "window": 0,
    "overlap": -1,
    "values": "uint8",
    "threshold": 0.0,
    "flips": False,
    "uncertainty": False,
}


def test_a_bundle_of_the_run_maps_its_scene_and_the_ui_is_told_by_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    scene, model = make_scene(tmp_path / "scene", GRID), bundle(tmp_path / "model")
    made, given, of = (SimpleNamespace(path=str(tmp_path / n), metadata={}) for n in ("map", "scene", "model"))
    steps.predict(made, model=of, scene=given, **MAPPED | {"window": 64, "threshold": 0.3})
    product = Prediction.open(tmp_path / "map")
    assert (product.info.window, product.info.overlap, product.info.threshold) == (64, 32, 0.3)
    assert product.manifest.inputs == {"scene": scene.digest, "model": model.digest}
    assert made.metadata["model"] == product.info.model.name
    assert made.metadata["simulated"] == "true"


def test_a_map_by_a_fetched_model_names_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    make_scene(tmp_path / "scene", GRID)
    bundle(tmp_path / "model")
    made, given, of = (SimpleNamespace(path=str(tmp_path / n), metadata={}) for n in ("map", "scene", "model"))
    of.metadata["registered"] = "casbah-buildings version 3"
    steps.predict(made, model=of, scene=given, **MAPPED)
    assert Prediction.open(tmp_path / "map").info.model.registered == "casbah-buildings version 3"


def test_of_maps_of_several_cells_each_says_of_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    monkeypatch.setenv(journal.VARIABLE, str(tmp_path / "journal.jsonl"))
    make_scene(tmp_path / "scene", GRID)
    bundle(tmp_path / "model")
    made, given, of = (SimpleNamespace(path=str(tmp_path / n), metadata={}) for n in ("map", "scene", "model"))
    of.metadata["experiment"], given.metadata["cell"] = "unet", "32631_2560_198_1588"
    steps.predict(made, model=of, scene=given, **MAPPED)
    told = journal.Reader(tmp_path / "journal.jsonl").new()
    assert {event["detail"] for event in told if event["event"] in ("start", "end")} == {"unet 32631_2560_198_1588"}
