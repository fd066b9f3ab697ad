"""The study tells what it lacks, and compares only what differs in one thing."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "studies" / "pisa.py"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pisa_study", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pisa_study"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_without_the_data_it_says_which_file_is_wanted_and_writes_nothing(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--shared", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nowhere/data/sentinel-2/catalog.json does not exist" in done.stderr
    assert "--shared" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_rows_are_compared_only_where_they_differ_in_one_thing(study: ModuleType) -> None:
    rows = [
        study.Row(experiment, dates, labels)
        for experiment in study.EXPERIMENTS
        for dates in study.DATES
        for labels in study.LABELS
    ]
    for row in rows:
        for other in rows:
            if study._pair(row, other):
                changed = [getattr(row, name) != getattr(other, name) for name in ("experiment", "dates", "labels")]
                assert sum(changed) == 1
                assert row.labels == other.labels
