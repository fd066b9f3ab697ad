"""`casbah compare` on real processes: networks trained and scored side by side, stopped and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from builders import make_tiles

from casbah import experiments
from casbah.products.comparison import Comparison
from casbah.products.tiles import TileSet

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("town") / "tiles")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A U-Net and a Prithvi from random weights, both tiny and for one epoch."""
    folder = tmp_path_factory.mktemp("rows")
    unet = shortened("unet_scratch")
    unet["model"]["init_args"]["model_args"] |= {"smp_encoder_depth": 3, "smp_decoder_channels": [32, 16, 16]}
    prithvi = shortened("prithvi_tiny_upernet")
    prithvi["model"]["init_args"]["model_args"]["decoder_channels"] = 16
    files = {folder / "quick_unet.yaml": unet, folder / "quick_prithvi.yaml": prithvi}
    for file, content in files.items():
        file.write_text(yaml.safe_dump(content))
    return [str(file) for file in files]


def shortened(name: str) -> dict[str, Any]:
    content = yaml.safe_load(experiments.find(name).read_text())
    content["trainer"]["max_epochs"] = 1
    return content


def command(tiles: TileSet, rows: list[str], output: Path) -> list[str]:
    words = ["compare", *rows, "--tiles", str(tiles.path), "--output", str(output), "--seeds", "1", "--budgets", "all"]
    return [sys.executable, "-c", "from casbah.cli import main; main()", *words]


def at_work(output: Path) -> list[psutil.Process]:
    """Processes that train or score below `output`."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(output) in " ".join(words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_two_networks_are_stopped_gone_on_with_and_compared(tiles: TileSet, rows: list[str], tmp_path: Path) -> None:
    words = command(tiles, rows, tmp_path / "study")
    stopped = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "study" / "runs" / "quick_unet" / "seed_0-all" / "model.log"
    deadline = time.monotonic() + 60
    while not log.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert log.is_file()
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert not at_work(tmp_path / "study")
    assert not (tmp_path / "study" / "report").exists()

    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stdout
    comparison = Comparison.open(tmp_path / "study" / "report")
    by_name = {row.experiment: row for row in comparison.facts.rows}
    assert set(by_name) == {"quick_unet", "quick_prithvi"}
    assert {row.starts_from for row in by_name.values()} == {"random weights"}
    assert by_name["quick_prithvi"].pretrained_on == "random weights"
    assert by_name["quick_prithvi"].parameters > 1e6
    for one in comparison.facts.budgets:
        assert (one.convergence, one.convergence_unit, one.device) == (1, "epochs", "CPU")
    assert (comparison.path / "figures" / "maps.png").stat().st_size > 10_000

    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "study" / "runs").rglob("*.log")}
    again = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in made} == made, "no process was started"
    assert Comparison.open(tmp_path / "study" / "report").digest == comparison.digest


def test_a_row_that_fails_in_its_own_process_loses_itself_alone(tiles: TileSet, tmp_path: Path) -> None:
    for name, settings in (("lacking", {"bands": ["B10"]}), ("short", {"trees": {"rounds": 2}})):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"kind": "boosted_pixels", **settings}))
    files = [str(tmp_path / "lacking.yaml"), str(tmp_path / "short.yaml")]
    words = [*command(tiles, files, tmp_path / "study"), "--jobs", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 2, done.stderr
    assert "casbah: lacking failed (the report has the others)" in done.stderr
    facts = Comparison.open(tmp_path / "study" / "report").facts
    assert [row.experiment for row in facts.rows] == ["short"]
    assert [one.exit_code for one in facts.failed] == [2]
