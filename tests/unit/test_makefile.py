"""What `make` promises about the environment that it sets up, and about what it removes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU = "https://download.pytorch.org/whl/cpu"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose Python only writes down what it is asked for."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    program = tmp_path / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$@" >> asked\n')
    program.chmod(0o755)
    return tmp_path


def make(checkout: Path, *words: str) -> str:
    """What Python was asked for by one call of make."""
    asked = checkout / "asked"
    asked.unlink(missing_ok=True)
    clean = {name: value for name, value in os.environ.items() if name != "TORCH_INDEX" and "MAKE" not in name}
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable}", *words]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True, env=clean)
    return asked.read_text() if asked.exists() else ""


def test_an_index_for_torch_is_heeded_whenever_it_is_named_and_remembered(checkout: Path) -> None:
    assert "--index-url" not in make(checkout, "install")
    named = make(checkout, "install", f"TORCH_INDEX={CPU}")
    assert "uninstall --quiet --yes torch torchvision" in named, "pip would be content with the build that is there"
    assert f"--index-url {CPU} torch==" in named
    assert " torchvision==" in named
    assert make(checkout, "install", f"TORCH_INDEX={CPU}") == ""
    assert make(checkout, "install") == "", "the next target that needs the environment leaves torch alone"
    os.utime(checkout / "constraints.txt", (2e9, 2e9))
    again = make(checkout, "install")
    assert f"--index-url {CPU} torch==" in again
    assert "uninstall" not in again


def test_clean_leaves_the_stack_and_the_runs_of_a_person(checkout: Path) -> None:
    kept = [
        checkout / ".casbah" / "mlflow.db",
        checkout / "runs" / "mine" / "model",
        checkout / ".venv" / "bin" / "python",
    ]
    gone = [checkout / "runs" / "demo" / "report.html", checkout / "build" / "building_footprints.yaml"]
    for file in (*kept[:2], *gone):
        file.parent.mkdir(parents=True)
        file.write_text("")
    make(checkout, "clean")
    assert [file for file in (*kept, *gone) if file.exists()] == kept
    make(checkout, "clean-data")
    assert not (checkout / ".casbah").exists()
    assert kept[1].exists()
