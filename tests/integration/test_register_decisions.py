"""What is decided on a version, and when it is decided again, in a real MLflow on a database of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from builders import make_tiles
from scored_models import Blurred, make_bundle, submit, use_predictor

from casbah.errors import InputError, WorldError
from casbah.evaluate import evaluate
from casbah.grid import Grid
from casbah.products.tiles import TileSet
from casbah.register import register, rollback, settle
from casbah.register import stage as registering

pytestmark = pytest.mark.integration

GRID = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 384, 384)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("mlflow")
    uri, before = f"sqlite:///{place / 'mlflow.db'}", mlflow.get_tracking_uri()
    mlflow.MlflowClient(uri).create_experiment("casbah", artifact_location=(place / "artifacts").as_uri())
    yield uri
    mlflow.set_tracking_uri(before)


@pytest.fixture
def registry(database: str, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setattr("casbah.evaluate.stage.write_report", blank)
    mlflow.set_tracking_uri(database)
    use_predictor(monkeypatch, Blurred)
    return mlflow.MlflowClient(database)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("tiles") / "tiles", grid=GRID)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"t-{request.node.name.replace('_', '-')[:50]}"


def blank(directory: Path, *_: Any) -> None:
    for file in ("report.html", "report.md"):
        (directory / file).write_text("")


def test_a_challenger_of_other_inputs_is_a_whole_version_and_is_decided_on_once_the_champion_can_be_scored(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    submit(tmp_path, tiles, "poor", name)
    two_dates = make_tiles(tmp_path / "two-dates", grid=GRID, periods=2)
    model, evaluation, done = submit(tmp_path, two_dates, "good", name)
    assert (done.version, done.alias) == ("2", "challenger")
    assert "not compared: the champion (version 1) was trained on periods 1 where the tiles have 2" in done.reason
    version = registry.get_model_version(name, "2")
    assert version.tags["casbah.decision"] == "not compared"
    assert version.description.startswith("not compared: the champion")
    files = {"model": model.path, "evaluation": evaluation.path, "tiles": two_dates.path}
    again = register(**files, champion_tiles=tiles.path, name=name)
    assert (again.version, again.alias) == ("2", "champion")
    assert "blocks that neither model has seen" in again.reason
    assert registry.get_model_version(name, "2").tags["casbah.decision"] == "promoted"
    assert register(**files, champion_tiles=tiles.path, name=name).reason == again.reason


def test_what_was_not_compared_without_the_tiles_is_compared_with_them(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    submit(tmp_path, make_tiles(tmp_path / "earlier", grid=GRID, max_ignore=0.4), "poor", name)
    model = make_bundle(tmp_path / "good", tiles, experiment="good")
    evaluation = evaluate(model=model.path, tiles=tiles.path, output=tmp_path / "good-test", resamples=100)
    first = register(model=model.path, evaluation=evaluation.path, name=name)
    assert (first.version, first.alias) == ("2", "challenger")
    assert "give --tiles" in first.reason
    second = register(model=model.path, evaluation=evaluation.path, tiles=tiles.path, name=name)
    assert (second.version, second.alias) == ("2", "champion")
    tags = registry.get_model_version(name, "2").tags
    assert tags["casbah.split"] == "--seed 0 --block-size 380"


def test_a_run_that_breaks_off_before_the_alias_moves_counts_as_a_look_at_these_blocks(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    submit(tmp_path, tiles, "fair", name)
    with monkeypatch.context() as patch:

        def unplugged(*_: object, **__: object) -> None:
            raise ConnectionError("unplugged")

        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", unplugged)
        with pytest.raises(WorldError, match=r"failed \(unplugged\); what it had taken stays, and running `casbah reg"):
            submit(tmp_path, tiles, "good", name)
    assert str(registry.get_model_version_by_alias(name, "champion").version) == "1"
    assert "promoted: " in registry.get_model_version(name, "2").description
    _, _, third = submit(tmp_path, tiles, "poor", name)
    assert registry.get_model_version(name, third.version).tags["casbah.test_blocks_decided_before"] == "1"
    resumed = register(model=tmp_path / "good", evaluation=tmp_path / "good-test", tiles=tiles.path, name=name)
    assert (resumed.version, resumed.alias) == ("2", "champion")


def test_two_models_registered_from_one_run_keep_their_own_evaluations(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mlflow.set_experiment("casbah")
    wanted = pytest.raises(InputError, match=r"an MLflow run is active in this program: end it \(mlflow.end_run")
    with mlflow.start_run() as run, wanted:
        submit(tmp_path, tiles, "fair", name)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    submit(tmp_path, tiles, "poor", name)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)  # MLflow takes it out of its own process's environment
    _, _, better = submit(tmp_path, tiles, "good", name)
    assert better.alias == "champion"
    assert len(registry.list_artifacts(run.info.run_id, "evaluation")) == 2


def test_a_champion_before_that_was_deleted_is_named_and_nothing_moves(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    submit(tmp_path, tiles, "poor", name)
    submit(tmp_path, tiles, "good", name)
    registry.delete_model_version(name, "1")
    with pytest.raises(InputError, match=r"version 1 of .*, champion before version 2, was deleted: choose another"):
        rollback(name=name)
    assert str(registry.get_model_version_by_alias(name, "champion").version) == "2"
    assert registry.get_model_version(name, "2").tags["casbah.decision"] == "promoted"


class Died(BaseException):
    """The pod is gone."""


def dies(*_: object, **__: object) -> None:
    raise Died


def left_by(client: mlflow.MlflowClient, run: str) -> tuple[int, int]:
    """How many MLflow runs there are of a pipeline's run, and how many models that were logged in them."""
    (experiment,) = client.search_experiments(filter_string="name = 'casbah'")
    place = [experiment.experiment_id]
    runs = [one.info.run_id for one in client.search_runs(place, f"tags.`casbah.kfp_run` = '{run}'")]
    models = [one for one in client.search_logged_models(place) if one.source_run_id in runs]
    return len(runs), len(models)


@pytest.mark.parametrize("step", ["_write_decision", "register_model", "log_model"])
def test_a_step_that_dies_leaves_no_version_no_run_and_no_files_behind(
    step: str, registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run, name = f"run-{step}", f"{name}-{step}"
    monkeypatch.setenv("KFP_RUN_ID", f"{run}-before")
    submit(tmp_path, tiles, "poor", name)
    monkeypatch.setenv("KFP_RUN_ID", run)
    with monkeypatch.context() as dying:
        dying.setattr(mlflow if step == "register_model" else registering, step, dies)
        with pytest.raises(Died):
            submit(tmp_path, tiles, "good", name)
    assert left_by(registry, run) == (1, 0 if step == "log_model" else 1)
    assert settle(name=name, run="another") == []
    (sentence,) = settle(name=name, run=run)
    assert sentence.endswith("was deleted")
    assert left_by(registry, run) == (0, 0)
    assert left_by(registry, f"{run}-before") == (1, 1), "what became a version stays"
    assert [one.version for one in registry.search_model_versions(f"name = '{name}'")] == [1]
    assert settle(name=name, run=run) == []


def test_a_run_of_somebody_elses_stays_where_a_registering_in_it_broke_off(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-own")
    mlflow.set_experiment("casbah")
    with mlflow.start_run(run_name="mine") as own:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", own.info.run_id)
    with monkeypatch.context() as dying:
        dying.setattr(registering, "_write_decision", dies)
        with pytest.raises(Died):
            submit(tmp_path, tiles, "good", name)
    assert len(settle(name=name, run="run-own")) == 1, "the version goes"
    assert registry.get_run(own.info.run_id).info.lifecycle_stage == "active"


def test_a_challenger_that_lacks_no_more_than_the_word_for_it_stays_one(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-challenger")
    submit(tmp_path, tiles, "good", name)
    _, _, second = submit(tmp_path, tiles, "poor", name)
    assert second.alias == "challenger"
    decided = registry.get_model_version(name, second.version).tags["casbah.decision"]
    registry.delete_model_version_tag(name, second.version, "casbah.decision")
    (sentence,) = settle(name=name, run="run-challenger")
    assert sentence == f"{name} version 2 became challenger by a step that broke off afterwards; it says so now"
    version = registry.get_model_version(name, second.version)
    assert (version.tags["casbah.decision"], version.aliases) == (decided, ["challenger"])
    assert settle(name=name, run="run-challenger") == []
