"""`casbah tune` killed at whatever moment leaves no process, and the same command makes the same study."""

import csv
import json
import os
import shutil
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

pytestmark = pytest.mark.long

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


@pytest.mark.integration
def test_a_study_goes_on_on_another_machine_from_what_the_store_keeps_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah import stack
    from casbah.storage import Location, Store
    from casbah.tune.mirror import Mirror

    tiles = make_tiles(tmp_path / "tiles")
    network = ["--config", "prithvi_tiny_upernet", "--set", "trainer.max_epochs=2", "--checkpoints", "s3://casbah/here"]
    running = stack.up(tmp_path / "stack")
    try:
        for name, value in running.environment().items():
            if name.startswith("AWS_"):
                monkeypatch.setenv(name, value)
        store, where = Store.from_environment(), Location("casbah", "here/")
        words = [*command(tiles, tmp_path / "pod")[:3], "tune", "--tiles", str(tiles.path), "--trials", "2", *network]
        with open(tmp_path / "log", "w") as log:
            process = subprocess.Popen([*words, "--output", str(tmp_path / "pod")], stdout=log, stderr=log)
            until(lambda: [found for found in store.list(where) if found.key.endswith("journal.log")])
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        done = trials(tmp_path / "pod")
        assert len(done) == 1
        shutil.rmtree(tmp_path / "pod")  # the disk of a preempted pod
        again = run([*words, "--output", str(tmp_path / "other")])
        assert again.returncode == 0, again.stderr
        assert "1 of 2 trials were made before" in again.stderr
        assert trials(tmp_path / "other")[:1] == done
        best = json.loads((tmp_path / "other" / "study.json").read_text())["best"]["trial"]
        assert best == 0, "else nothing of what the first machine trained is needed"
        assert "trial 0: prithvi_tiny_upernet: 2 epochs were done before" in again.stderr
        kept = [found.key.partition("/trials/")[2].partition("/")[0] for found in store.list(where)]
        assert {number for number in kept if number} == {"0"}, "of the other trial nothing is of any use"
        mirror = Mirror("s3://casbah/here", tmp_path / "other", {"seed": 0}, 2)
        mirror.keep(0, 1)
        assert store.read(mirror.place / "journal.log") == (tmp_path / "other" / "journal.log").read_bytes()
        longer = store.read(mirror.place / "journal.log") + b"of another machine"
        store.write(longer, mirror.place / "journal.log")
        mirror.keep(0, 1)
        assert mirror.lost
        assert store.read(mirror.place / "journal.log") == longer, "a shorter record took the place of a longer one"
    finally:
        stack.down(tmp_path / "stack")
