"""The study on cities scores every row on the same blocks, and chooses nothing on them that it does not own up to."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from casbah.errors import InputError
from casbah.scoring import Counts

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    sys.path.insert(0, str(STUDIES))  # it takes its stages from the study beside it
    try:
        spec = importlib.util.spec_from_file_location("cities_study", STUDIES / "cities.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["cities_study"] = module  # a dataclass looks its module up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(STUDIES))
    return module


def pixels(*blocks: tuple[str, list[float], list[int]]) -> dict[str, Any]:
    return {name: (np.array(found, np.float32), np.array(mask, np.uint8)) for name, found, mask in blocks}


def outcome(study: ModuleType, *counts: tuple[str, int, int, int]) -> Any:
    return study.Outcome({block: Counts(tp, fp, fn, 0) for block, tp, fp, fn in counts}, (0.3, 0.4))


def table(study: ModuleType, better: Any) -> dict[str, Any]:
    base = outcome(study, ("a", 10, 10, 0), ("b", 10, 0, 10))
    return {"north": {study.WAYS[0]: base, study.WAYS[1]: better}, "south": {study.WAYS[0]: base, study.WAYS[1]: base}}


def test_the_threshold_comes_from_the_few_blocks_and_from_no_scored_one(study: ModuleType) -> None:
    few = pixels(("few", [0.1, 0.6, 0.7], [0, 1, 1]))
    scored = pixels(("scored", [0.1, 0.2, 0.7], [0, 1, 1]))
    of_few, oracle = study.Way("", threshold="few"), study.Way("", threshold="oracle")
    assert study._threshold(study.AS_IS, 0.5, few, scored) == 0.5
    assert study._threshold(of_few, 0.5, few, scored) == pytest.approx(0.6)
    assert study._threshold(oracle, 0.5, few, scored) == pytest.approx(0.2)
    with pytest.raises(InputError, match="blocks scored would choose the threshold that they are scored at"):
        study._threshold(of_few, 0.5, scored, scored)


def test_ignored_pixels_count_nowhere(study: ModuleType) -> None:
    found = study.counted(pixels(("a", [0.9, 0.9, 0.1, 0.1, 0.9], [1, 0, 1, 0, 255])), 0.5)
    assert found == {"a": Counts(1, 1, 1, 1)}


def test_the_table_has_each_city_all_of_them_and_the_difference_to_doing_nothing(study: ModuleType) -> None:
    better = outcome(study, ("a", 20, 0, 0), ("b", 20, 0, 0))
    lines = study._table(table(study, better), "SIMULATED towns").splitlines()
    assert "SIMULATED" in lines[0]
    nothing, threshold = (next(line for line in lines if line.startswith(f"| {way.words}")) for way in study.WAYS[:2])
    assert nothing.split(" | ")[1:4] == ["0.500", "0.500", "0.500 (0.500 to 0.500)"]
    assert nothing.endswith("| – |")
    cells = threshold.split(" | ")
    assert cells[1:3] == ["1.000", "0.500"]
    assert cells[3].startswith("0.750 (")
    assert cells[4].startswith("+0.250 (")
    assert "- north: 0.30–0.40, 0.30–0.40" in lines


def test_two_dates_of_one_ground_are_one_block(study: ModuleType) -> None:
    found = table(study, outcome(study, ("a", 20, 0, 0), ("b", 20, 0, 0)))
    assert study._pooled(found, study.WAYS[1]) == {"a": Counts(30, 10, 0, 0), "b": Counts(30, 0, 10, 0)}


def test_rows_on_other_blocks_are_no_table(study: ModuleType) -> None:
    with pytest.raises(InputError, match="north are not scored on the same blocks"):
        study._table(table(study, outcome(study, ("a", 20, 0, 0))), "")


def test_rows_that_look_at_the_scored_blocks_say_that_they_are_not_to_be_had(study: ModuleType) -> None:
    for way in study.WAYS:
        assert (way.threshold == "oracle") == ("not to be had" in way.words)
        assert not (way.few and way.threshold == "few"), "blocks trained on are too easy to choose a threshold by"
    assert not any(way.few for way in study.Pisa.ways)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pisa", "--shared", "nowhere"], "nowhere/data/sentinel-2/catalog.json does not exist"),
        (["--cities", "oran"], "--cities names oran; known are clear, hazy"),
    ],
)
def test_what_can_not_be_studied_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, words: list[str], message: str
) -> None:
    command = [sys.executable, str(STUDIES / "cities.py"), "--output", str(tmp_path / "out"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
