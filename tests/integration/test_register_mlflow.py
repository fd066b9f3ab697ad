"""Versions, champion and challenger in a real MLflow with a real object store."""

import os
from pathlib import Path

import boto3
import mlflow
import numpy as np
import pytest
from builders import make_tiles
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client
from scored_models import Blurred, make_bundle, submit, use_predictor

from casbah import stack
from casbah.errors import InputError, WorldError
from casbah.evaluate import evaluate
from casbah.finetune import finetune
from casbah.grid import Grid
from casbah.models import load
from casbah.products.tiles import TileSet
from casbah.register import register, rollback, settle
from casbah.register import stage as registering

pytestmark = pytest.mark.integration

GRID = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 512, 512)


@pytest.fixture
def served(served: stack.Stack) -> stack.Stack:
    mlflow.set_tracking_uri(served.tracking_uri)
    return served


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("tiles") / "tiles", grid=GRID)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"t-{request.node.name.replace('_', '-')[:50]}"


def test_the_first_model_is_champion_a_better_one_takes_over_and_one_command_rolls_back(
    served: stack.Stack,
    tiles: TileSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    use_predictor(monkeypatch, Blurred)
    _, _, first = submit(tmp_path, tiles, "poor", name)
    assert (first.version, first.alias) == ("1", "champion")
    said = capfd.readouterr().err
    assert not any(noise in said for noise in ("UserWarning", "type hint", "INFO mlflow", "300 seconds"))
    _, _, second = submit(tmp_path, tiles, "good", name)
    assert (second.version, second.alias) == ("2", "champion")
    assert "blocks that neither model has seen" in second.reason
    client = mlflow.MlflowClient()
    version = client.get_model_version(name, "2")
    assert version.tags["casbah.simulated"] == "true"
    assert version.tags["casbah.data"] == tiles.digest
    assert version.tags["casbah.bands"].startswith("B01,B02")
    assert version.tags["casbah.previous_champion"] == "1"
    back = rollback(name=name)
    assert (back.version, back.alias) == ("1", "champion")
    assert client.get_model_version_by_alias(name, "champion").version == "1"
    again = register(model=tmp_path / "good", evaluation=tmp_path / "good-test", tiles=tiles.path, name=name)
    assert (again.version, again.alias) == ("2", "no alias"), "a rerun of the pipeline does not undo a rollback"
    assert again.reason.startswith("was champion, rolled back to version 1 (had been: promoted: ")
    restored, demoted = (client.get_model_version(name, number) for number in ("1", "2"))
    assert restored.tags["casbah.reason"] == "first model of this name"
    assert restored.tags["casbah.rolled_back_from"] == "2"
    assert "first model of this name. Champion again, rolled back from version 2." in restored.description
    assert demoted.tags["casbah.rolled_back_to"] == "1"
    assert demoted.description.startswith("promoted: ")
    assert "Was champion, rolled back to version 1.\n\nSIMULATED data" in demoted.description
    assert client.get_model_version_by_alias(name, "champion").version == "1"
    with pytest.raises(InputError, match="first champion"):
        rollback(name=name)


def test_a_version_that_nobody_decided_on_does_not_outlive_its_run(
    served: stack.Stack, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A pod that dies while it registers: before the alias nothing is left, after it the decision is written."""
    use_predictor(monkeypatch, Blurred)
    client = mlflow.MlflowClient()
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    submit(tmp_path, tiles, "poor", name)
    assert settle(name=name, run="run-1") == [], "what was decided stays"
    monkeypatch.setenv("KFP_RUN_ID", "run-2")
    with monkeypatch.context() as dying:
        dying.setattr(registering, "_write_decision", _die)
        with pytest.raises(Died):
            submit(tmp_path, tiles, "good", name)
    assert settle(name=name, run="another") == []
    assert len(client.search_model_versions(f"name = '{name}'")) == 2
    (sentence,) = settle(name=name, run="run-2")
    assert sentence == f"{name} version 2 was not decided on when its step broke off, and was deleted"
    assert [version.version for version in client.search_model_versions(f"name = '{name}'")] == ["1"]
    assert client.get_model_version_by_alias(name, "champion").version == "1"
    again = register(model=tmp_path / "good", evaluation=tmp_path / "good-test", tiles=tiles.path, name=name)
    client.delete_model_version_tag(name, again.version, "casbah.decision")
    (sentence,) = settle(name=name, run="run-2")
    assert "was promoted by a step that broke off afterwards" in sentence
    assert client.get_model_version(name, again.version).tags["casbah.decision"] == "promoted"
    assert settle(name=name, run="run-2") == []


class Died(BaseException):
    """The pod is gone."""


def _die(*_: object) -> None:
    raise Died


def test_a_worse_model_stays_challenger_and_the_version_says_why_and_how_often_these_blocks_decided(
    served: stack.Stack, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use_predictor(monkeypatch, Blurred)
    submit(tmp_path, tiles, "good", name)
    _, _, fair = submit(tmp_path, tiles, "fair", name)
    _, _, poor = submit(tmp_path, tiles, "poor", name)
    assert (fair.alias, poor.alias) == ("challenger", "challenger")
    client = mlflow.MlflowClient()
    assert client.get_model_version_by_alias(name, "champion").version == "1"
    assert "stays challenger" in client.get_model_version(name, "3").description
    decided = [client.get_model_version(name, v).tags["casbah.test_blocks_decided_before"] for v in ("1", "2", "3")]
    assert decided == ["0", "0", "1"]


@pytest.mark.parametrize("experiment", ["unet_scratch_small", "urban_graphsage"])
def test_a_network_is_loaded_by_its_alias_and_answers_as_the_bundle_does(
    served: stack.Stack, tmp_path: Path, experiment: str
) -> None:
    name = f"t-served-{experiment}"
    tiles = make_tiles(tmp_path / "tiles", grid=Grid("EPSG:32631", 500_000.0, 4_060_000.0, 192, 192), periods=2)
    model = finetune(config=experiment, tiles=tiles.path, output=tmp_path / "model", overrides=["trainer.max_epochs=1"])
    evaluation = evaluate(model=model.path, tiles=tiles.path, output=tmp_path / "test", resamples=50)
    register(model=model.path, evaluation=evaluation.path, tiles=tiles.path, name=name)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    images = np.asarray(tiles.split("test").images[:2])
    index = [tiles.info.bands.index(band) for band in model.training.bands]
    found = loaded.predict(images[:, :, index].astype(np.float32))["probability"]
    observed = (images != 0).any(axis=(1, 2))
    wanted = np.where(observed, load(model).probabilities(images[:, :, index]), np.nan)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found[observed].std() > 0
    needed = Path(mlflow.artifacts.download_artifacts(f"models:/{name}@champion/requirements.txt")).read_text()
    assert ("torch-geometric==" in needed) is (experiment == "urban_graphsage")
    assert "terratorch==" in needed


def test_registering_the_same_model_again_makes_no_second_version(
    served: stack.Stack, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use_predictor(monkeypatch, Blurred)
    model, evaluation, first = submit(tmp_path, tiles, "good", name)
    again = register(model=model.path, evaluation=evaluation.path, name=name)
    assert again.version == first.version
    assert len(mlflow.MlflowClient().search_model_versions(f"name='{name}'")) == 1


def test_a_champion_that_trained_on_the_test_blocks_is_not_compared_and_the_way_out_is_said(
    served: stack.Stack, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use_predictor(monkeypatch, Blurred)
    other = make_tiles(tmp_path / "other", grid=GRID, seed=0, val_fraction=0.2, test_fraction=0.2)
    everything = tuple(sorted({block for blocks in tiles.info.blocks.values() for block in blocks}))
    held = make_bundle(tmp_path / "poor", other, experiment="poor")
    evaluation = evaluate(model=held.path, tiles=other.path, output=tmp_path / "held-test", resamples=100)
    register(model=held.path, evaluation=evaluation.path, tiles=other.path, name=name)
    # The champion of the registry, as if it had been trained on every block: its stored bundle says so.
    leaky = make_bundle(tmp_path / "leaky", tiles, experiment="poor", blocks={"train": everything, "val": ()})
    monkeypatch.setattr("casbah.register.comparison.bundle_of", lambda *_: leaky)
    _, _, done = submit(tmp_path / "new", tiles, "good", name)
    assert done.alias == "challenger"
    assert "none is unseen by both" in done.reason
    assert f"would serve (casbah tile --seed {other.info.seed} --block-size {other.info.block_size:g})" in done.reason


def test_mlflow_down_loses_nothing_and_the_next_run_succeeds(
    running: stack.Stack, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use_predictor(monkeypatch, Blurred)
    monkeypatch.setattr("casbah.mlflow_server.PAUSE", 0.01)
    for key, value in running.environment().items():
        monkeypatch.setenv(key, value)
    model = make_bundle(tmp_path / "good", tiles, experiment="good")
    evaluation = evaluate(model=model.path, tiles=tiles.path, output=tmp_path / "test", resamples=100)
    address = os.environ["MLFLOW_TRACKING_URI"]
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mine.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(WorldError, match="run `casbah register` again"):
        register(model=model.path, evaluation=evaluation.path, name=name, tracking_uri="http://127.0.0.1:9")
    before = mlflow.get_tracking_uri()
    assert register(model=model.path, evaluation=evaluation.path, name=name, tracking_uri=address).alias == "champion"
    assert mlflow.get_tracking_uri() == before, "a program that registers goes on with its own server"
    assert os.environ["MLFLOW_TRACKING_URI"] == address


def test_an_evaluation_of_another_model_or_on_validation_is_refused(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_predictor(monkeypatch, Blurred)
    good, poor = (make_bundle(tmp_path / one, tiles, experiment=one) for one in ("good", "poor"))
    on_val = evaluate(model=good.path, tiles=tiles.path, output=tmp_path / "val", split="val", resamples=50)
    with pytest.raises(InputError, match="needs the test split"):
        register(model=good.path, evaluation=on_val.path)
    on_test = evaluate(model=good.path, tiles=tiles.path, output=tmp_path / "test", resamples=50)
    with pytest.raises(InputError, match="scores another model"):
        register(model=poor.path, evaluation=on_test.path)
    with pytest.raises(InputError, match="no MLflow server is named"):
        register(model=good.path, evaluation=on_test.path)


def test_a_refit_is_registered_with_the_scores_of_its_protocol_and_says_so(
    served: stack.Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use_predictor(monkeypatch, Blurred)
    folds = make_tiles(tmp_path / "folds", grid=GRID, folds=3)
    models = tmp_path / "models"
    for number, fold in enumerate(folds.folds):
        make_bundle(models / f"fold_{number}", fold, experiment="fair")
    refit = make_bundle(models / "refit", folds.refit, experiment="fair", refit="refit of 3 folds")
    evaluation = evaluate(model=models, tiles=folds.path, output=tmp_path / "evaluation", resamples=100)
    other = make_bundle(models / "other", folds.refit, experiment="fair", refit="refit of 3 folds", config="1" * 64)
    with pytest.raises(InputError, match="another configuration"):
        register(model=other.path, evaluation=evaluation.path, name=name)
    elsewhere = Grid(GRID.crs, GRID.west + 20_000, GRID.north, GRID.rows, GRID.cols)
    foreign = make_tiles(tmp_path / "foreign", grid=elsewhere, folds=3).refit
    stranger = make_bundle(models / "stranger", foreign, experiment="fair", refit="refit of 3 folds")
    with pytest.raises(InputError, match="no refit of these folds"):
        register(model=stranger.path, evaluation=evaluation.path, name=name)
    first = register(model=refit.path, evaluation=evaluation.path, tiles=folds.path, name=name)
    assert first.alias == "champion"
    tags = mlflow.MlflowClient().get_model_version(name, first.version).tags
    assert tags["casbah.refit"].startswith("refit of 3 folds; its scores are those of the protocol (spatial 3-fold")
    again = make_bundle(models / "again", folds.refit, experiment="fair", refit="refit of 3 folds", seed=1)
    second = register(model=again.path, evaluation=evaluation.path, name=name)
    assert second.alias == "challenger"
    assert "trained on every block" in second.reason


def forget_credentials() -> None:
    """Boto and MLflow look at the environment once in a process."""
    _cached_get_s3_client.cache_clear()
    boto3.setup_default_session()


def test_a_store_that_refuses_or_does_not_answer_is_named_and_loses_nothing(
    served: stack.Stack, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A tracking server that does not serve artifacts: the program writes to the store itself."""
    use_predictor(monkeypatch, Blurred)
    model = make_bundle(tmp_path / "good", tiles, experiment="good")
    evaluation = evaluate(model=model.path, tiles=tiles.path, output=tmp_path / "test", resamples=100)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    forget_credentials()
    mlflow.MlflowClient(uri).create_experiment("casbah", artifact_location="s3://casbah/elsewhere")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    given = {"model": model.path, "evaluation": evaluation.path, "name": name, "tracking_uri": uri}
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-key")
        with pytest.raises(
            WorldError, match=r"refused the credentials \(\w+\): check AWS_ACCESS_KEY_ID and"
        ) as refused:
            register(**given)
        assert served.endpoint in str(refused.value)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(WorldError, match=r"http://127.0.0.1:9, .*is it up\? MLFLOW_S3_ENDPOINT_URL names it"):
            register(**given)
    assert mlflow.MlflowClient(uri).search_model_versions(f"name='{name}'") == []
    forget_credentials()
    assert register(**given).alias == "champion"
