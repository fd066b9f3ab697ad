"""`casbah tune` killed at whatever moment leaves no process, and the same command makes the same study."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from builders import make_tiles

from casbah.grid import Grid
from casbah.products.tiles import TileSet

TRIALS = 3
WAIT = 180.0


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("tune") / "tiles", grid=Grid("EPSG:32631", 500_000, 4_066_000, 160, 160))


def command(tiles: TileSet, output: Path, *more: str) -> list[str]:
    given = ["tune", "--config", "boosted_pixels", "--tiles", str(tiles.path), "--output", str(output)]
    given += ["--trials", str(TRIALS), "--set", "trees.rounds=6", "--set", "trees.min_samples_leaf=20", *more]
    return [sys.executable, "-c", "from casbah.cli import main; main()", *given]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=WAIT)


def trials(output: Path) -> list[dict[str, str]]:
    if not (output / "trials.csv").exists():
        return []
    with open(output / "trials.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def until(what: Any) -> Any:
    deadline = time.monotonic() + WAIT
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_a_killed_study_goes_on_and_its_training_dies_with_it(tiles: TileSet, tmp_path: Path) -> None:
    whole = run(command(tiles, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command(tiles, tmp_path / "out"), stdout=log, stderr=log)
        until(lambda: trials(tmp_path / "out"))
        (trial,) = until(lambda: psutil.Process(process.pid).children())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    until(lambda: not trial.is_running() or trial.status() == psutil.STATUS_ZOMBIE)
    done = trials(tmp_path / "out")
    assert 0 < len(done) < TRIALS
    again = run(command(tiles, tmp_path / "out"))
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} of {TRIALS} trials were made before" in again.stderr
    assert trials(tmp_path / "out") == trials(tmp_path / "whole")
    assert (tmp_path / "out/best.yaml").read_text() == (tmp_path / "whole/best.yaml").read_text()
    assert "optimistic" in again.stdout


def test_a_training_that_is_killed_costs_one_trial(tiles: TileSet, tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command(tiles, tmp_path / "out"), stdout=log, stderr=log)
        until(lambda: len(trials(tmp_path / "out")) == 1)
        (trial,) = until(lambda: psutil.Process(process.pid).children())
        trial.kill()
        assert process.wait(WAIT) == 0
    reasons = [row["failed_because"] for row in trials(tmp_path / "out")]
    assert len(reasons) == TRIALS
    assert [reason for reason in reasons if reason] == ["its process was ended by SIGKILL, as when memory runs out"], (
        tmp_path / "log"
    ).read_text()


def test_a_wrong_setting_is_told_before_anything_is_written(tiles: TileSet, tmp_path: Path) -> None:
    refused = run(command(tiles, tmp_path / "out", "--set", "trees.learning_rat=0.1"))
    assert refused.returncode == 2
    assert "learning_rat" in refused.stderr
    assert "did you mean learning_rate" in refused.stderr
    assert not (tmp_path / "out").exists()
