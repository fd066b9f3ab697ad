"""What `make test-images` has built, and the engine that runs it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = os.environ.get("DOCKER") or "docker"
ANYONE = "23456:0"
"""A user that no image knows, in group 0: what OpenShift gives a pod."""


@pytest.fixture(scope="session")
def built() -> dict[str, dict[str, Any]]:
    """Stage -> `image`, `id` and `bytes`."""
    file = ROOT / "build" / "images.json"
    if not file.is_file():
        pytest.fail(f"{file} is not there: `make test-images` builds the images first")
    return json.loads(file.read_text(encoding="utf-8"))


Said = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def said(built: dict[str, dict[str, Any]]) -> Said:
    """Runs a command in a stage's image as anyone: nothing writable but what is asked for, and no network."""

    def run(stage: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        words = [DOCKER, "run", "--rm", "--user", ANYONE, "--read-only", "--network", "none", "--cap-drop", "ALL"]
        return subprocess.run(
            [*words, *options, built[stage]["image"], *command], capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture(scope="session")
def inspected(built: dict[str, dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """What the engine knows of a stage's image."""

    def look(stage: str) -> dict[str, Any]:
        done = subprocess.run(
            [DOCKER, "image", "inspect", built[stage]["image"]], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)[0]

    return look
