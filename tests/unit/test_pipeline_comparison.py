"""The study as a pipeline trains and scores each experiment by itself, and reports what all of them left."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from casbah.compare.rows import study
from casbah.errors import InputError
from casbah.pipeline import compiled
from casbah.pipeline.session import request
from casbah.products.evaluation import Evaluation


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("compiled") / "study.yaml"
    return compiled.compile_pipeline(target, pipeline=compiled.COMPARISON)


@pytest.fixture(scope="module")
def document(package: Path) -> dict[str, Any]:
    return next(yaml.safe_load_all(package.read_text()))


def test_each_experiment_is_trained_and_scored_on_both_splits_by_itself(document: dict[str, Any]) -> None:
    tasks = document["components"]["comp-for-loop-2"]["dag"]["tasks"]
    splits = {
        task["inputs"]["parameters"]["split"]["runtimeValue"]["constant"]
        for name, task in tasks.items()
        if name.startswith("evaluate")
    }
    assert splits == {"val", "test"}
    assert len([name for name in tasks if name.startswith("finetune")]) == 1


def test_the_report_alone_sees_all_of_them(document: dict[str, Any]) -> None:
    outside = document["root"]["dag"]["tasks"]
    assert set(outside) == {"preflight", "for-loop-1", "tile", "for-loop-2", "compare"}
    given = outside["compare"]["inputs"]["artifacts"]
    loop = {name for name, source in given.items() if source["taskOutputArtifact"]["producerTask"] == "for-loop-2"}
    assert loop == {"models", "validations", "tests"}


def test_it_compares_all_rows_of_the_study_unless_told_otherwise(package: Path) -> None:
    assert compiled.defaults(package)["experiments"] == study()
    for name, facts in compiled.parameters(package).items():
        assert "defaultValue" in facts, name
        assert len(facts.get("description", "")) > 15, name


def test_a_package_says_which_pipeline_it_is(package: Path, tmp_path: Path) -> None:
    assert compiled.name(package) == compiled.COMPARISON
    assert compiled.name(compiled.compile_pipeline(tmp_path / "other.yaml")) == compiled.FOOTPRINTS
    with request({}, package) as wanted:
        assert wanted.pipeline == compiled.COMPARISON


def test_an_unknown_pipeline_is_one_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    sentence = "no pipeline 'study'; choose from building_footprints, compare_experiments"
    with pytest.raises(InputError, match=sentence):
        compiled.compile_pipeline(tmp_path / "a.yaml", pipeline="study")
    assert not list(tmp_path.iterdir())


def test_where_something_else_lies_nothing_is_run(package: Path, tmp_path: Path) -> None:
    with Evaluation.write(tmp_path / "other", parameters={}) as draft:
        for name in Evaluation.required:
            (draft.directory / name).write_text("")
    with (
        pytest.raises(InputError, match="already holds something else than a comparison"),
        request({}, package, output=tmp_path / "other"),
    ):
        pass
