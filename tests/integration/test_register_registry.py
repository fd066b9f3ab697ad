"""What `casbah registry` says of versions and deletes of them, in a real MLflow on a database of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from builders import make_tiles
from scored_models import Blurred, submit, use_predictor

from casbah.cli import main
from casbah.errors import InputError
from casbah.grid import Grid
from casbah.products.tiles import TileSet
from casbah.register import prune, register, report, rollback

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
    monkeypatch.delenv("KFP_ENDPOINT", raising=False)
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


def bare(client: mlflow.MlflowClient, name: str, count: int, *, runs: int | None = None) -> list[str]:
    """Versions 1 to `count` of a name, without a model inside, over so many runs (one each); the runs' ids."""
    experiment = client.get_experiment_by_name("casbah")
    assert experiment is not None
    ids = [client.create_run(experiment.experiment_id).info.run_id for _ in range(runs or count)]
    client.create_registered_model(name)
    used = [ids[number % len(ids)] for number in range(count)]
    for number, run in enumerate(used):
        tags = {"casbah.compared_on": f'["32631_1000_{number}_0"]', "casbah.experiment": "fair"}
        client.create_model_version(name, "s3://casbah/nowhere", run, tags=tags)
    return used


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["registry", *words])
    return int(ended.value.code or 0)


def numbers(client: mlflow.MlflowClient, name: str) -> set[str]:
    return {str(version.version) for version in client.search_model_versions(f"name='{name}'")}


def gone(client: mlflow.MlflowClient, run: str) -> bool:
    return client.get_run(run).info.lifecycle_stage == "deleted"


def test_a_report_sets_a_challenger_beside_the_champion_with_intervals_and_the_paired_difference(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _, better, _ = submit(tmp_path, tiles, "good", name)
    monkeypatch.setenv("KFP_RUN_ID", "a1b2-c3")
    monkeypatch.setenv("CASBAH_IMAGE", "ghcr.io/me/casbah-finetune@sha256:abc")
    monkeypatch.setenv("CASBAH_GIT_COMMIT", "f" * 40)
    _, worse, done = submit(tmp_path, tiles, "poor", name)
    said = report(name=name, kfp_host="https://kubeflow.example/")
    assert said.startswith(
        f"## {name} version 2: challenger\n\n**kept as challenger**: stays challenger: building IoU -"
    )
    assert "|  | version 2 | champion, version 1 |" in said
    iou = f"| Building IoU (95 %) | {worse.metrics.building.iou.text()} | {better.metrics.building.iou.text()} |"
    assert iou in said
    low, high = worse.metrics.building.iou.low, worse.metrics.building.iou.high
    assert low is not None
    assert high is not None
    assert f"({low:.3f}–{high:.3f})" in iou
    assert f"Paired difference in building IoU to the champion of then: {done.reason.split()[4]}" in said
    assert f"on {len(worse.metrics.blocks)} test blocks that neither model has seen" in said
    assert "SIMULATED" in said
    assert "`ghcr.io/me/casbah-finetune@sha256:abc`" in said
    assert "f" * 40 in said
    assert "[Its run](https://kubeflow.example/#/runs/details/a1b2-c3)" in said
    assert report(name=name, kfp_run="a1b2-c3") == report(name=name)
    assert "The run `another` made no version: " in report(name=name, kfp_run="another")
    first = report(name=name, version="1")
    assert f"## {name} version 1: champion" in first
    assert "version 2" not in first, "a first champion stands against nothing"


def test_a_champion_is_reported_against_the_one_whose_place_it_took(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    submit(tmp_path, tiles, "poor", name)
    submit(tmp_path, tiles, "good", name)
    file = tmp_path / "out" / "report.md"
    assert command("report", "--name", name, "--output", str(file)) == 0
    said = file.read_text()
    assert capsys.readouterr().out.strip() == str(file)
    assert f"## {name} version 2: champion\n\n**promoted**: building IoU +" in said
    assert "| version 2 | champion before it, version 1 |" in said


def test_what_others_wrote_into_mlflow_can_t_break_out_of_the_table_or_call_people(
    registry: mlflow.MlflowClient, name: str
) -> None:
    bare(registry, name, 1)
    registry.set_model_version_tag(name, "1", "casbah.reason", "a | b\n\n<img src=x> [c](http://d) @everyone")
    registry.set_model_version_tag(name, "1", "casbah.image", "x` | y")
    registry.set_model_version_tag(name, "1", "casbah.test_iou", "not json")
    said = report(name=name)
    assert "a \\| b &lt;img src=x&gt; \\[c\\](http://d) &#8203;@everyone" in said
    assert "| Image | `x  y` |" in said
    assert "| Building IoU (95 %) | – |" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["report", "--name", "nobody"], "nobody has no version at"),
        (["report", "--name", "a/b"], "which is no name for a registered model"),
        (["report", "--kfp-host", "kubeflow"], "an address such as https://kubeflow.example is wanted"),
        (["prune", "--keep", "0"], "--keep is 0; at least 1 is wanted"),
        (["prune", "--older-than-days", "-1"], "--older-than-days is -1; 0 or more days are wanted"),
        (["prune", "--name", "nobody"], "nobody has no version at"),
    ],
)
def test_bad_input_is_one_sentence(
    registry: mlflow.MlflowClient, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith("casbah: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_a_version_that_is_not_there_is_named_with_those_that_are(registry: mlflow.MlflowClient, name: str) -> None:
    bare(registry, name, 2)
    with pytest.raises(InputError, match=r"has no version '7'; there are 1, 2$"):
        report(name=name, version="7")


def test_nothing_is_deleted_without_yes_and_then_only_what_was_listed(
    registry: mlflow.MlflowClient, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = bare(registry, name, 6)
    registry.set_registered_model_alias(name, "champion", "3")
    registry.set_registered_model_alias(name, "mine", "1")
    registry.set_model_version_tag(name, "3", "casbah.previous_champion", "2")
    words = ["prune", "--name", name, "--keep", "1", "--older-than-days", "0"]
    assert command(*words) == 0
    listed = capsys.readouterr().out
    assert numbers(registry, name) == set("123456")
    assert [line.split()[1] for line in listed.splitlines() if "would go" in line] == ["4", "5"]
    assert "version 2     stays: what `casbah rollback` goes back to" in listed
    assert "version 1     stays: mine" in listed
    assert "Nothing was deleted; --yes deletes these 2." in listed
    assert command(*words, "--yes") == 0
    said = capsys.readouterr()
    assert numbers(registry, name) == set("1236")
    assert f"deleted version 4 of {name}, and its run {runs[3]}" in said.err
    assert "until `mlflow gc` runs at its server" in said.out
    assert [gone(registry, run) for run in runs] == [False, False, False, True, True, False]
    assert rollback(name=name).version == "2", "the way back is still there"


def test_young_versions_stay_and_grow_old(
    registry: mlflow.MlflowClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare(registry, name, 3)
    young = prune(name=name, keep=1, older_than_days=90)
    assert young.goes == ()
    assert young.stays["1"].startswith("young: registered on 20")
    later = time.time() + 91 * 24 * 3600
    monkeypatch.setattr("casbah.register.pruning.time.time", lambda: later)
    assert [old.version for old in prune(name=name, keep=1, older_than_days=90).goes] == ["1", "2"]
    assert [old.version for old in prune(name=name, keep=2, older_than_days=90).goes] == ["1"]


def test_a_run_that_another_version_uses_stays_until_the_last_of_them_goes(
    registry: mlflow.MlflowClient, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = bare(registry, name, 3, runs=1)
    registry.create_registered_model(f"{name}-2")
    registry.create_model_version(f"{name}-2", "s3://casbah/nowhere", runs[0])
    found = prune(name=name, keep=1, older_than_days=0, yes=True)
    assert [old.run_goes for old in found.goes] == [False, False]
    assert not gone(registry, runs[0])
    two = bare(registry, f"{name}-3", 3, runs=1)[0]
    registry.create_model_version(f"{name}-3", "s3://casbah/nowhere", bare(registry, f"{name}-4", 1)[0])
    assert [old.run_goes for old in prune(name=f"{name}-3", keep=1, older_than_days=0, yes=True).goes] == [True] * 3
    assert gone(registry, two)


def test_a_version_that_comes_into_use_while_others_are_deleted_stays(
    registry: mlflow.MlflowClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare(registry, name, 4)
    delete = mlflow.MlflowClient.delete_model_version

    def promoting(self: mlflow.MlflowClient, model: str, version: str) -> None:
        delete(self, model, version)
        registry.set_registered_model_alias(model, "champion", "2")

    monkeypatch.setattr(mlflow.MlflowClient, "delete_model_version", promoting)
    with pytest.raises(InputError, match=r"version 2 of .* came into use meanwhile"):
        prune(name=name, keep=1, older_than_days=0, yes=True)
    assert numbers(registry, name) == set("234")


def test_mlflows_own_gc_frees_what_was_deleted_and_nothing_else(
    tiles: TileSet, registry: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    uri, place = f"sqlite:///{tmp_path / 'own.db'}", tmp_path / "artifacts"
    mlflow.MlflowClient(uri).create_experiment("casbah", artifact_location=place.as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for experiment in ("good", "poor", "fair"):
        submit(tmp_path, tiles, experiment, name)

    def kept() -> tuple[int, int]:
        return len(list(place.rglob("MLmodel"))), len(list(place.rglob("evaluation/*/metrics.json")))

    assert kept() == (3, 3)
    prune(name=name, keep=1, older_than_days=0, yes=True)
    assert kept() == (3, 3), "until the server's own gc"
    gc = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
    done = subprocess.run(gc, capture_output=True, text=True, check=False)
    assert kept() == (2, 2), done.stdout + done.stderr


def test_test_blocks_that_decided_on_a_deleted_version_still_count(
    registry: mlflow.MlflowClient, tiles: TileSet, tmp_path: Path, name: str
) -> None:
    submit(tmp_path, tiles, "good", name)
    submit(tmp_path, tiles, "fair", name)
    registry.delete_registered_model_alias(name, "challenger")
    _, _, _ = submit(tmp_path, tiles, "poor", name)
    assert registry.get_model_version(name, "3").tags["casbah.test_blocks_decided_before"] == "1"
    done = prune(name=name, keep=1, older_than_days=0, yes=True)
    assert [old.version for old in done.goes] == ["2"]
    assert gone(registry, done.goes[0].run)
    again = register(model=tmp_path / "fair", evaluation=tmp_path / "fair-test", tiles=tiles.path, name=name)
    assert again.version == "4"
    assert registry.get_model_version(name, "4").tags["casbah.test_blocks_decided_before"] == "2"
