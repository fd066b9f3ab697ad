"""What every test may ask for."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from casbah.sample import Town

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("CASBAH_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; the test is skipped where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED} (set CASBAH_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> "Town":
    """A small simulated town (1.32 x 1.32 km, made in seconds): catalogue, footprints and areas. Never change it."""
    from casbah.sample import make

    return make(tmp_path_factory.mktemp("sample") / "town", size=(1.32, 1.32), seed=0)


@pytest.fixture(autouse=True, scope="module")
def _environment_of_its_own() -> Iterator[None]:
    """No file of tests sees a variable that an earlier one in the same process left behind."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_surprises(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the caller's object store or tracking server by accident."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "MLFLOW_", "CASBAH_TILES")) and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
