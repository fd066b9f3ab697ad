"""Training that is killed goes on as if nothing had happened, and every command trains the same model."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import make_tiles

from casbah.errors import WorldError
from casbah.experiments import FOLDER
from casbah.finetune import finetune
from casbah.products.tiles import TileSet

pytestmark = [pytest.mark.integration, pytest.mark.long]

# Small, with dropout-free ViT, a frozen phase and early stopping: all that a resumed run has to remember.
SETTINGS = (
    "trainer.max_epochs=6",
    "trainer.callbacks.0.init_args.after_epochs=2",
    "trainer.callbacks.1.init_args.patience=5",
    "model.init_args.backbone_lr=1e-4",
)
CASBAH = [sys.executable, "-c", "from casbah.cli import main; main()"]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("resume") / "tiles")


def weights_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def environment() -> dict[str, str]:
    import torch

    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}


def start(tiles: TileSet, output: Path, settings: Sequence[str] = SETTINGS, **more: str) -> subprocess.Popen[str]:
    command = [*CASBAH, "finetune", "--config", "prithvi_tiny_upernet", "--tiles", str(tiles.path), "--resume"]
    command += ["--output", str(output)]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.Popen(command, env=environment() | more, stderr=subprocess.PIPE, text=True)


def kill_after_an_epoch(process: subprocess.Popen[str], state: Path) -> None:
    """SIGKILL as soon as a state newer than the one before has appeared."""
    before = state.stat().st_mtime_ns if state.is_file() else 0
    for _ in range(6000):
        if process.poll() is not None:
            raise AssertionError(f"the run ended by itself: {process.stderr.read() if process.stderr else ''}")
        if state.is_file() and state.stat().st_mtime_ns > before:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            return
        time.sleep(0.01)
    raise AssertionError("no state was written within a minute")


@pytest.mark.parametrize(("experiment", "epochs"), [("unet_scratch_small", 2), ("prithvi_tiny_upernet", 1)])
def test_every_command_trains_the_same_model(tiles: TileSet, tmp_path: Path, experiment: str, epochs: int) -> None:
    """`casbah terratorch fit` is TerraTorch's own command, so plain `terratorch fit` is the same where it starts."""
    bundle = finetune(
        config=experiment, tiles=tiles.path, output=tmp_path / "ours", overrides=[f"trainer.max_epochs={epochs}"]
    )
    command = [*CASBAH, "terratorch", "fit", "--config", str(FOLDER / f"{experiment}.yaml")]
    command += ["--trainer.max_epochs", str(epochs), "--trainer.logger", "false"]
    command += ["--trainer.default_root_dir", str(tmp_path)]
    by_variable = environment() | {"CASBAH_TILES": str(tiles.path)}
    subprocess.run(command, env=by_variable, check=True, capture_output=True, cwd=tmp_path)
    theirs = list((tmp_path / "checkpoints").glob("best-*.safetensors"))
    assert [weights_digest(path) for path in theirs] == [weights_digest(bundle.weights_path)]
    shutil.rmtree(tmp_path / "checkpoints")
    by_option = [*command, "--data.init_args.tiles", str(tiles.path)]
    subprocess.run(by_option, env=environment(), check=True, capture_output=True, cwd=tmp_path)
    theirs = list((tmp_path / "checkpoints").glob("best-*.safetensors"))
    assert [weights_digest(path) for path in theirs] == [weights_digest(bundle.weights_path)]


def test_a_rerun_elsewhere_finds_the_checkpoints_in_the_store_and_goes_on(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from casbah import stack
    from casbah.storage import Location, Store

    whole = finetune(config="prithvi_tiny_upernet", tiles=tiles.path, output=tmp_path / "whole", overrides=SETTINGS)
    running = stack.up(tmp_path / "stack")
    try:
        services = {k: v for k, v in running.environment().items() if k.startswith("AWS_")}
        for name, value in services.items():
            monkeypatch.setenv(name, value)
        store, where = Store.from_environment(), Location("casbah", "checkpoints/")
        process = start(tiles, tmp_path / "pod" / "model", **services)
        for _ in range(6000):
            if any(found.key.endswith("last.ckpt") for found in store.list(where)) or process.poll() is not None:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        shutil.rmtree(tmp_path / "pod")  # the disk of a preempted pod
        capsys.readouterr()
        again = finetune(
            config="prithvi_tiny_upernet",
            tiles=tiles.path,
            output=tmp_path / "other" / "model",
            overrides=SETTINGS,
            resume=True,
        )
        assert "epochs were done before" in capsys.readouterr().err
        assert weights_digest(again.weights_path) == weights_digest(whole.weights_path)
        kept = {found.key.rpartition("/")[2] for found in store.list(where)}
        assert "last.ckpt" in kept
        assert len(kept) == 2, "the state and the weights of the best epoch, and nothing of older epochs"
    finally:
        stack.down(tmp_path / "stack")


def test_a_store_that_is_down_is_said_before_anything_is_trained(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(WorldError, match=r"127\.0\.0\.1:9"):
        finetune(config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_tracking_server_that_is_down_costs_a_sentence_and_not_the_training(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    finetune(config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "m", overrides=["trainer.max_epochs=1"])
    assert "MLflow at http://127.0.0.1:9 failed" in capsys.readouterr().err


@pytest.mark.parametrize("given", [False, True])
def test_the_history_is_in_mlflow_in_the_run_that_the_environment_names(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(tracking_uri=uri)
    if given:
        run = client.create_run(client.create_experiment("kubeflow")).info.run_id
        monkeypatch.setenv("MLFLOW_RUN_ID", run)
    finetune(config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "m", overrides=["trainer.max_epochs=2"])
    if given:
        found, prefix = client.get_run(run), "unet_scratch_small/"
        assert found.info.status == "RUNNING", "a run of somebody else is not closed"
    else:
        experiment = client.get_experiment_by_name("casbah")
        found, prefix = client.search_runs([experiment.experiment_id])[0], ""
        assert found.info.status == "FINISHED"
    assert f"{prefix}val/IoU_building_best" in found.data.metrics
    assert len(client.get_metric_history(found.info.run_id, f"{prefix}train/loss")) == 2


def signal_after_an_epoch(process: subprocess.Popen[str], folder: Path, how: signal.Signals) -> None:
    """Send a signal as soon as some state lies below the folder."""
    for _ in range(6000):
        if any(folder.glob("*/last.ckpt")) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(how)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_resumed_training_is_one_run_in_mlflow_with_every_epoch_once(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("casbah")
    process = start(tiles, tmp_path / "model")
    signal_after_an_epoch(process, tmp_path / ".model.checkpoints", signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (broken,) = client.search_runs([experiment])
    assert broken.info.status == "RUNNING"
    if deleted:
        client.delete_run(broken.info.run_id)
    again: dict[str, Any] = {"config": "prithvi_tiny_upernet", "tiles": tiles.path, "overrides": SETTINGS}
    bundle = finetune(output=tmp_path / "model", resume=True, **again)
    (whole,) = client.search_runs([experiment])
    assert (whole.info.run_id == broken.info.run_id) != deleted
    assert whole.info.status == "FINISHED"
    steps = [row.step for row in client.get_metric_history(whole.info.run_id, "val/loss")]
    assert sorted(steps) == list(range(bundle.training.epochs))


def test_a_training_that_is_asked_to_end_says_how_it_goes_on(tiles: TileSet, tmp_path: Path) -> None:
    process = start(tiles, tmp_path / "model")
    signal_after_an_epoch(process, tmp_path / ".model.checkpoints", signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; the last whole epoch is kept in" in said
    assert "--resume goes on from there" in said


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_killed_twice_has_the_weights_and_the_history_of_one_never_stopped(
    tiles: TileSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    settings = (*SETTINGS, f"data.init_args.num_workers={workers}")
    whole = finetune(config="prithvi_tiny_upernet", tiles=tiles.path, output=tmp_path / "whole", overrides=settings)
    for _ in range(2):
        process = start(tiles, tmp_path / "killed", settings)
        folder = tmp_path / ".killed.checkpoints"
        while not folder.is_dir() and process.poll() is None:
            time.sleep(0.01)
        for _ in range(6000):
            if any(folder.iterdir()):
                break
            time.sleep(0.01)
        kill_after_an_epoch(process, next(folder.iterdir()) / "last.ckpt")
        assert not (tmp_path / "killed").exists(), "a killed run leaves nothing that opens"
    capsys.readouterr()
    again = finetune(
        config="prithvi_tiny_upernet", tiles=tiles.path, output=tmp_path / "killed", overrides=settings, resume=True
    )
    assert "epochs were done before" in capsys.readouterr().err
    assert weights_digest(again.weights_path) == weights_digest(whole.weights_path)
    assert again.metrics == whole.metrics
    assert again.training.epochs == whole.training.epochs
    assert not (tmp_path / ".killed.checkpoints").exists(), "a finished run cleans up"
