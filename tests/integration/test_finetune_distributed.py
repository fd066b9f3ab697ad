"""Two processes that torchrun starts train one model: as good as one process's, written once, and ended together."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import yaml
from builders import make_tiles

from casbah.evaluate import evaluate
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet

pytestmark = [pytest.mark.integration, pytest.mark.long]

# Nine validation tiles in batches of four: three batches, of which the second process has one and a filler.
SETTINGS = (
    "trainer.devices=2",
    "trainer.strategy=ddp",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "data.init_args.batch_size=4",
    "model.init_args.mixed_precision=false",
)
LIMIT = 90
"""Seconds after which a run counts as hanging."""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("distributed") / "tiles")


def start(
    folder: Path, tiles: Path | str, settings: Sequence[str] = SETTINGS, config: str = "unet_scratch_small", **more: str
) -> subprocess.Popen[str]:
    """torchrun with two processes, each in a folder of its own below `folder`, as if each were on its own node."""
    (folder / "node0").mkdir(parents=True, exist_ok=True)
    (folder / "node1").mkdir(exist_ok=True)
    casbah = f'cd {folder}/node$RANK && exec {sys.executable} -c "from casbah.cli import main; main()" "$@"'
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python", "sh", "-c", casbah]
    command += ["casbah", "finetune", "--config", config, "--tiles", str(tiles), "--output", "model", "--resume"]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """What it said until it ended by itself."""
    try:
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return said


def wait_for_state(process: subprocess.Popen[str], folder: Path) -> None:
    start = time.monotonic()
    while not any(folder.glob("node0/.model.checkpoints/*/last.ckpt")):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() - start < LIMIT, "no state was written"
        time.sleep(0.01)


def weights_digest(bundle: ModelBundle) -> str:
    return hashlib.sha256(bundle.weights_path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("trained")
    tracking = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(tracking_uri=tracking).create_experiment("casbah")  # so that a second process would not fail at it
    process = start(folder, tiles.path, MLFLOW_TRACKING_URI=tracking)
    said = end(process)
    assert process.returncode == 0, said
    (folder / "said").write_text(said)
    return folder


def test_one_bundle_one_run_and_one_account_come_out(trained: Path) -> None:
    from mlflow import MlflowClient

    assert ModelBundle.open(trained / "node0" / "model").training.epochs == 2
    assert sorted(path.name for path in trained.glob("node*/*")) == ["model"], "the second process writes nothing"
    assert sorted(path.name for path in trained.glob("node*/.*")) == [], "a finished run cleans up"
    client = MlflowClient(tracking_uri=f"sqlite:///{trained / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("casbah").experiment_id])
    assert run.info.status == "FINISHED"
    assert [row.step for row in client.get_metric_history(run.info.run_id, "val/loss")] == [0, 1]
    said = (trained / "said").read_text()
    assert said.count("epoch 2 of 2") == said.count("validation, class building") == 1


def test_the_score_of_the_bundle_is_that_of_one_process(trained: Path, tiles: TileSet, tmp_path: Path) -> None:
    bundle = ModelBundle.open(trained / "node0" / "model")
    found = evaluate(model=bundle.path, tiles=tiles.path, output=tmp_path / "val", split="val", resamples=1)
    assert found.metrics.building.iou.value == pytest.approx(bundle.metrics["validation"]["iou"], abs=1e-9)
    assert bundle.metrics["validation"]["tiles"] == len(tiles.split("val"))


def test_the_scores_that_choose_an_epoch_count_every_validation_tile_once(trained: Path, tiles: TileSet) -> None:
    import torch
    from safetensors.torch import load_file

    from casbah.finetune import TileDataModule
    from casbah.finetune.loss import BuildingLoss
    from casbah.finetune.task import BuildingScore
    from casbah.models import network

    bundle = ModelBundle.open(trained / "node0" / "model")
    settings = yaml.safe_load((bundle.path / "config.yaml").read_text())
    arguments = settings["model"]["init_args"]
    model = network.build(arguments["model_factory"], network.untrained(arguments["model_args"]))
    model.load_state_dict(load_file(bundle.weights_path))
    model.eval()
    data = TileDataModule(**settings["data"]["init_args"] | {"tiles": str(tiles.path)})
    data.setup("validate")
    share = data.building_share
    loss, score, total, count = BuildingLoss(((1 - share) / share) ** 0.5), BuildingScore(), 0.0, 0
    with torch.no_grad():
        for batch in data.val_dataloader():
            logits = network.logits(model, batch["image"], 1).float()
            score.update(logits.softmax(1)[:, 1], batch["mask"])
            total += float(loss(logits, batch["mask"])) * len(batch["mask"])
            count += len(batch["mask"])
    (best,) = (row for row in bundle.metrics["history"] if row["epoch"] == bundle.training.best_epoch)
    alone = score.compute()
    assert count == len(tiles.split("val"))
    assert best["val/IoU_building_best"] == pytest.approx(float(alone["IoU_building_best"]), abs=1e-6)
    assert best["val/threshold"] == pytest.approx(float(alone["threshold"]), abs=1e-6)
    assert best["val/loss"] == pytest.approx(total / count, rel=1e-5)


def test_a_run_that_is_killed_goes_on_with_the_weights_of_one_never_stopped(
    trained: Path, tiles: TileSet, tmp_path: Path
) -> None:
    """The second process has no file of the first, so it hears the state from it."""
    process = start(tmp_path, tiles.path)
    wait_for_state(process, tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "node0" / "model").exists()
    again = start(tmp_path, tiles.path)
    said = end(again)
    assert again.returncode == 0, said
    assert said.count("1 epochs were done before") == 1
    bundle = ModelBundle.open(tmp_path / "node0" / "model")
    assert weights_digest(bundle) == weights_digest(ModelBundle.open(trained / "node0" / "model"))
    assert bundle.metrics == ModelBundle.open(trained / "node0" / "model").metrics
    assert not any((tmp_path / "node1").iterdir())


def test_a_process_that_is_killed_ends_the_others_and_what_was_learned_is_kept(tiles: TileSet, tmp_path: Path) -> None:
    process = start(tmp_path, tiles.path, (*SETTINGS, "trainer.max_epochs=200"))
    wait_for_state(process, tmp_path)
    (second,) = (child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    second.kill()
    said = end(process)
    assert process.returncode != 0
    assert "--resume" in said, said
    assert any(tmp_path.glob("node0/.model.checkpoints/*/last.ckpt"))
    assert not (tmp_path / "node0" / "model").exists()


@pytest.mark.parametrize(
    ("config", "settings", "sentence"),
    [
        ("unet_scratch_small", (*SETTINGS, "model.init_args.lr=-1"), "lr is -1"),
        ("unet_scratch_small", SETTINGS[1:], "torchrun started 2 processes"),
        ("unet_scratch_small", (*SETTINGS, "trainer.limit_val_batches=0.5"), "limit_val_batches"),
        ("boosted_pixels", (), "torchrun started 2"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    tiles: TileSet, tmp_path: Path, config: str, settings: Sequence[str], sentence: str
) -> None:
    process = start(tmp_path, tiles.path, settings, config)
    assert_refused(end(process), sentence)
    assert not any(tmp_path.glob("node*/*"))


def test_what_one_process_alone_lacks_ends_both(tiles: TileSet, tmp_path: Path) -> None:
    (tmp_path / "node0").mkdir()
    (tmp_path / "node0" / "tiles").symlink_to(tiles.path)
    assert_refused(end(start(tmp_path, "tiles")), "tiles does not exist")
    assert [path.name for path in tmp_path.glob("node*/*")] == ["tiles"]
    assert not any(tmp_path.glob("node*/.*"))


def test_processes_with_other_tiles_are_refused(tiles: TileSet, tmp_path: Path) -> None:
    other = make_tiles(tmp_path / "other", seed=1)
    for number, path in enumerate((tiles.path, other.path)):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "tiles").symlink_to(path)
    assert_refused(end(start(tmp_path, "tiles")), "process 1 of 2 has other tiles")
    assert not any(tmp_path.glob("node*/.*"))


def assert_refused(said: str, sentence: str) -> None:
    (line,) = re.findall(r"^casbah: (.*)$", said, re.MULTILINE)
    assert sentence in line
    assert re.findall(r"exitcode +: (\S+)", said) == ["2", "2"], said


def test_several_devices_without_torchrun_are_refused(tiles: TileSet, tmp_path: Path) -> None:
    from casbah.errors import InputError
    from casbah.finetune import finetune

    with pytest.raises(InputError, match="torchrun --nproc-per-node"):
        finetune(config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "m", overrides=SETTINGS)
    assert not any(tmp_path.iterdir())
