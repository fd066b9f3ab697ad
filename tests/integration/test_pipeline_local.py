"""The compiled YAML, run by `kfp.local` on real services and a tiny simulated town, leaves what it promises."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from casbah import experiments, stack
from casbah.errors import InputError, WorldError
from casbah.pipeline import compiled, demo, local
from casbah.pipeline.session import Results, Session, request
from casbah.products.evaluation import Evaluation
from casbah.products.model import ModelBundle
from casbah.sample import Town
from casbah.stack.process import MARK
from casbah.storage import BUCKET, Location, Store

pytestmark = pytest.mark.integration

CASBAH = str(Path(sys.executable).parent / "casbah")
QUICK = Location(BUCKET, "inputs/quick_pixels.yaml")
"""An experiment of one's own, given by its address: the boosted pixels with a handful of trees."""

QUICK_UNET = Location(BUCKET, "inputs/quick_unet.yaml")
"""The U-Net with a small encoder, for one epoch."""

TINY = {"tile_size": "16", "block_size": "440", "experiments": f'["{QUICK}", "{QUICK_UNET}"]'}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled.compile_pipeline(tmp_path_factory.mktemp("compiled") / "pipeline.yaml")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def session(place: Path) -> Iterator[Session]:
    with Session(place / "casbah") as opened:
        content = yaml.safe_load(experiments.find("boosted_pixels").read_text())
        content["trees"]["rounds"] = 20
        store = Store.from_environment()
        store.ensure_bucket()
        store.write(yaml.safe_dump(content).encode(), QUICK)
        content = yaml.safe_load(experiments.find("unet_scratch_small").read_text())
        content["trainer"]["max_epochs"] = 1
        arguments = content["model"]["init_args"]["model_args"]
        arguments |= {"smp_encoder_depth": 3, "smp_decoder_channels": [32, 16, 16]}
        store.write(yaml.safe_dump(content).encode(), QUICK_UNET)
        yield opened


@pytest.fixture(autouse=True)
def _services(_no_surprises: None, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in session.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def results(session: Session, place: Path, package: Path) -> Results:
    return played(session, place / "first", package)


def played(session: Session, output: Path, package: Path, **more: str) -> Results:
    with request({**demo.arguments("[]"), **TINY, **more}, package) as wanted:
        return demo.play(session, wanted, size=(1.8, 1.8), output=output)


def test_the_run_leaves_a_model_its_evaluation_and_a_registered_version(results: Results) -> None:
    model = ModelBundle.open(results.output / "model")
    evaluation = Evaluation.open(results.output / "evaluation")
    assert model.training.experiment == results.winner
    assert evaluation.metrics.split == "test"
    assert evaluation.metrics.model == model.digest
    assert evaluation.metrics.simulated
    assert results.test.building.iou.value is not None
    assert results.winner in (results.output / "comparison.md").read_text()
    assert "SIMULATED" in (results.output / "comparison.md").read_text()
    assert 0 < results.experiments[results.winner]["building_iou"] < 1
    assert results.starts_from == {"quick_pixels": "trees", "quick_unet": "random weights"}
    best = max(results.experiments, key=lambda name: results.experiments[name].get("building_iou", 0.0))
    assert len(results.experiments) == 2
    assert results.winner == best, "the better of the two on validation"
    assert (results.output / "evaluation" / "report.html").stat().st_size > 10_000

    import mlflow

    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    champion = client.get_model_version_by_alias(demo.NAME, "champion")
    assert str(champion.version) == str(results.registration["version"])
    run = results.directory / "pipeline" / "runs" / champion.tags["casbah.kfp_run"]
    assert (run / "run.log").stat().st_size > 0, "the version leads to the log of the run that made it"
    assert champion.tags["casbah.image"] == "none", "no image ran here, whatever the YAML names"


def test_what_a_step_is_cached_by_names_the_town(results: Results, session: Session) -> None:
    job = json.loads(next(iter(sorted(session.directory.glob("pipeline/runs/*/job.json")))).read_text())
    town = f"sample@{Town.open(session.directory / 'sample').digest[:16]}"
    assert job["arguments"]["aoi"] == job["arguments"]["labels"] == town


def test_no_test_block_was_trained_or_tuned_on(results: Results) -> None:
    blocks = ModelBundle.open(results.output / "model").training.blocks
    tested = {block.block for block in results.test.blocks}
    assert tested
    assert not tested & {*blocks["train"], *blocks["val"]}


def test_a_second_run_reuses_every_step_but_registering(results: Results, session: Session, package: Path) -> None:
    again = played(session, results.output.parent / "second", package)
    assert set(again.seconds) == {"preflight", f"register {demo.NAME}", "conclude succeeded"}
    assert again.test == results.test
    assert again.registration["version"] == results.registration["version"], "the same model is no new version"


@pytest.mark.long
def test_a_large_area_is_read_in_cells_side_by_side_and_trained_on_as_one(
    results: Results, session: Session, package: Path
) -> None:
    one = f'["{QUICK}"]'
    cells = played(session, results.output.parent / "cells", package, cell_size="1320", experiments=one)
    read = {name for name in cells.seconds if name.startswith("ingest")}
    assert len(read) > 1, "each cell is a step of its own"
    assert len({name for name in cells.seconds if name.startswith("tile")}) == 1
    blocks = {kind: set(names) for kind, names in ModelBundle.open(cells.output / "model").training.blocks.items()}
    whole = {kind: set(names) for kind, names in ModelBundle.open(results.output / "model").training.blocks.items()}
    assert blocks == whole, "a block is in its split, whichever cell it lies in"
    assert {block.block for block in cells.test.blocks} == {block.block for block in results.test.blocks}


def test_bad_input_of_a_step_is_its_sentence_at_once(session: Session, place: Path, package: Path) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=r"preflight: aoi is 'nowhere'; known here: .*run\.log"):
        local.run(package, {"aoi": "nowhere"}, directory=place / "bad", environment=session.environment)
    assert time.monotonic() - began < 30, "no retry changes what the user typed"


def test_a_fault_of_the_world_ends_with_exit_code_3_after_the_retries(
    session: Session, place: Path, package: Path
) -> None:
    quick = place / "quick.yaml"
    quick.write_text(package.read_text().replace("backoffDuration: 10s", "backoffDuration: 0s"))
    broken = {**session.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
    events: list[dict[str, Any]] = []
    with pytest.raises(WorldError, match=r"preflight: .*refused the credentials"):
        local.run(quick, {"aoi": "sample"}, directory=place / "world", environment=broken, watch=events.append)
    assert len([event for event in events if event["event"] == "fail"]) == 2, "one retry of preflight"
    assert {event["step"] for event in events if event["event"] == "start"} == {"preflight", "conclude"}


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", r"preflight: .*127\.0\.0\.1:9"),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9", r"preflight: MLflow at http://127\.0\.0\.1:9 did not answer"),
    ],
)
def test_a_service_that_is_down_is_told_before_anything_is_read(
    session: Session, place: Path, package: Path, variable: str, value: str, sentence: str
) -> None:
    quick = place / "soon.yaml"
    quick.write_text(re.sub("maxRetryCount: [0-9]", "maxRetryCount: 0", package.read_text()))
    events: list[dict[str, Any]] = []
    broken = {**session.environment, variable: value}
    with pytest.raises(WorldError, match=sentence):
        local.run(quick, {"aoi": "sample"}, directory=place / "down", environment=broken, watch=events.append)
    assert "ingest" not in {event.get("step") for event in events}


def test_a_missing_secret_and_an_experiment_that_can_not_train_are_told_before_anything_is_read(
    session: Session, place: Path, package: Path
) -> None:
    store = Store.from_environment()
    bad = Location(BUCKET, "inputs/bad.yaml")
    store.write(b"kind: nothing\n", bad)
    for given, environment, sentence in (
        (
            {},
            {"AWS_SECRET_ACCESS_KEY": ""},
            r"AWS_SECRET_ACCESS_KEY is not set: .*secretkey of the Secret casbah-store",
        ),
        ({}, {"MLFLOW_TRACKING_URI": ""}, r"MLFLOW_TRACKING_URI is not set: .*ConfigMap casbah-services"),
        ({"experiments": f'["{bad}"]'}, {}, r"preflight: .*bad\.yaml"),
        ({"experiments": '["satmae_large_upernet"]'}, {"HF_ENDPOINT": "http://127.0.0.1:9"}, r"satmae_large_upernet: "),
    ):
        events: list[dict[str, Any]] = []
        with pytest.raises((InputError, WorldError), match=sentence):
            local.run(
                package,
                {"aoi": "sample", **given},
                directory=place / "secret",
                environment={**session.environment, **environment},
                watch=events.append,
            )
        assert "ingest" not in {event.get("step") for event in events}, sentence


def test_a_step_that_is_killed_is_told_from_one_that_failed(session: Session, place: Path, package: Path) -> None:
    quick = place / "once.yaml"
    quick.write_text(re.sub("maxRetryCount: [0-9]", "maxRetryCount: 0", package.read_text()))

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "start" and event["step"] == "ingest":
            os.kill(event["pid"], signal.SIGKILL)

    with pytest.raises(WorldError, match=r"ingest ended without a word, .* out of memory; see .*run\.log"):
        local.run(quick, {"aoi": "sample"}, directory=place / "kill", environment=session.environment, watch=kill)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_or_whose_terminal_is_closed_stops_all_that_it_started(
    number: signal.Signals, place: Path
) -> None:
    directory = place / f"stopped-{number.name}"
    command = [
        CASBAH,
        "demo",
        "--directory",
        str(directory),
        "--output",
        str(place / "none"),
        "--size-km",
        "1.2",
        "1.2",
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    # Whoever runs the tests may ignore SIGHUP (nohup), which a child would inherit.
    stopped = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 90
    while not list(directory.glob("pipeline/runs/*/journal.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.2)
    marks = marks_of(directory)
    stopped.send_signal(number)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert "Traceback" not in said
    assert len(marks) >= 2
    assert not [one for one in psutil.process_iter() if mark_of(one) in marks]
    shutil.rmtree(directory)


def test_after_a_killed_demo_no_step_goes_on_and_the_next_session_takes_over_its_services(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = session.directory
    for name in session.environment:
        monkeypatch.delenv(name, raising=False)
    words = ["--directory", str(directory), "--output", str(directory.parent / "none"), "--size-km", "1.2", "1.2"]
    before = set(directory.glob("pipeline/runs/*/journal.jsonl"))
    killed = subprocess.Popen([CASBAH, "demo", *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not set(directory.glob("pipeline/runs/*/journal.jsonl")) - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert running_steps(directory)
    killed.kill()
    killed.wait()
    # The town's catalogue is gone with the demo, so that ingest alone would go on asking for it for much longer.
    deadline = time.monotonic() + 8
    while running_steps(directory) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not running_steps(directory), "the steps of the killed run would work on beside those of the next one"
    with Session(directory) as taken:
        assert not taken.started
        assert Store.from_environment().exists(Location(BUCKET, "sample/manifest.json"))
    assert stack.find(directory) is not None, "services that a session found are left running"


def running_steps(directory: Path) -> list[psutil.Process]:
    """The KFP runner of a directory's runs, and the steps that it has started."""
    runs = str(directory / "pipeline")
    return [one for one in psutil.process_iter() if any(runs in word for word in cmdline_of(one))]


def marks_of(directory: Path) -> set[str]:
    """The marks of the services of a stack, and of the run on it."""
    place = str(directory)
    return {mark_of(one) for one in psutil.process_iter() if place in " ".join(cmdline_of(one))} - {""}


def mark_of(one: psutil.Process) -> str:
    try:
        return "" if one.status() == psutil.STATUS_ZOMBIE else one.environ().get(MARK, "")
    except psutil.Error:
        return ""


def cmdline_of(one: psutil.Process) -> list[str]:
    try:
        return one.cmdline()
    except psutil.Error:
        return []


def test_mistakes_are_found_before_anything_is_started(tmp_path: Path) -> None:
    for words, sentence in (
        (["aio=algiers"], "casbah: the pipeline has no parameter 'aio'; did you mean aoi"),
        (["aoi=absent.geojson"], "casbah: aoi is 'absent.geojson', and there is no such file"),
        (["algiers"], "casbah: 'algiers' is not NAME=VALUE, such as aoi=algiers"),
    ):
        directory = tmp_path / "none"
        command = [CASBAH, "pipeline", "run", *words, "--directory", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(sentence)
        assert not directory.exists()
    assert stack.find(tmp_path / "none") is None
