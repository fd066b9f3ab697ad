"""Select takes the best model on validation, never on test, and says why it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from builders import make_tiles
from scored_models import make_bundle, use_predictor

from casbah.cli import main
from casbah.errors import InputError
from casbah.evaluate import evaluate, select
from casbah.evaluate.selection import Candidate
from casbah.products.evaluation import Evaluation
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet
from casbah.scoring import Counts


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("town") / "tiles")


@pytest.fixture(scope="module")
def town(tiles: TileSet) -> Path:
    """Three models beside their validation evaluations: `good` and `twin` predict alike, `poor` is less sure."""
    place = tiles.path.parent
    with pytest.MonkeyPatch.context() as patch:
        use_predictor(patch)
        patch.setattr("casbah.evaluate.stage.write_report", blank)
        for name, threshold, parameters in (("poor", 0.999, 1), ("good", 0.5, 50), ("twin", 0.5, 5)):
            bundle = make_bundle(place / name, tiles, experiment=name, threshold=threshold, parameters=parameters)
            evaluate(model=bundle.path, tiles=tiles.path, output=place / f"val-{name}", split="val", resamples=50)
        evaluate(model=place / "good", tiles=tiles.path, output=place / "test-good", resamples=50)
        other = make_tiles(place / "other", seed=1)
        bundle = make_bundle(place / "stranger", other)
        evaluate(model=bundle.path, tiles=other.path, output=place / "val-stranger", split="val", resamples=50)
    return place


def blank(directory: Path, *_: object) -> None:
    for name in ("report.html", "report.md"):
        (directory / name).write_text("")


def chosen(town: Path, output: Path, *names: str, **options: Path) -> ModelBundle:
    models = [town / name for name in names]
    evaluations = [town / f"val-{name}" for name in reversed(names)]
    return select(models=models, evaluations=evaluations, output=output, **options)


def test_the_best_on_validation_is_copied_whole(town: Path, tmp_path: Path) -> None:
    best = chosen(town, tmp_path / "best", "poor", "good")
    assert best.training.experiment == "good"
    assert best.digest == ModelBundle.open(town / "good").digest
    assert ModelBundle.open(tmp_path / "best").digest == best.digest


def test_of_equals_the_smaller_model_is_taken(town: Path, tmp_path: Path) -> None:
    assert chosen(town, tmp_path / "best", "good", "twin").training.experiment == "twin"
    assert chosen(town, tmp_path / "best", "twin", "good").training.experiment == "twin"


def test_the_table_ranks_the_models_and_calls_simulated_numbers_so(town: Path, tmp_path: Path) -> None:
    chosen(town, tmp_path / "best", "poor", "good", table=tmp_path / "new" / "comparison.md")
    text = (tmp_path / "new" / "comparison.md").read_text()
    assert text.index("| good |") < text.index("| poor |")
    assert "SIMULATED" in text
    rows = json.loads((tmp_path / "new" / "comparison.json").read_text())["models"]
    assert [row["experiment"] for row in rows] == ["good", "poor"]
    assert [row["selected"] for row in rows] == [True, False]
    value = Evaluation.open(town / "val-poor").metrics.building.iou.value
    assert rows[1]["iou"] == value
    assert rows[1]["difference"] == pytest.approx(value - rows[0]["iou"])


def test_a_difference_without_an_interval_is_a_dash_and_no_zero(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneBlock(Candidate):
        @property
        def counts(self) -> dict[str, Counts]:
            return dict(list(super().counts.items())[:1])

    monkeypatch.setattr("casbah.evaluate.selection.Candidate", OneBlock)
    chosen(town, tmp_path / "best", "poor", "good", table=tmp_path / "table.md")
    text, rows = (tmp_path / "table.md").read_text(), json.loads((tmp_path / "table.json").read_text())["models"]
    assert "(– to –)" in text
    assert (rows[1]["low"], rows[1]["high"]) == (None, None)
    assert rows[1]["difference"] < 0


def test_a_table_that_its_own_json_would_overwrite_is_refused(town: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t.json would be overwritten by the JSON file beside the table: .*table.md"):
        chosen(town, tmp_path / "best", "poor", "good", table=tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_on_the_test_split_is_refused(town: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test-good was made on the test split; .* run `casbah evaluate --split val`"):
        select(models=[town / "good"], evaluations=[town / "test-good"], output=tmp_path / "best")
    assert not (tmp_path / "best").exists()


def test_evaluations_on_different_tiles_are_refused(town: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"were made on different tiles .*: evaluate all models on the same TileSet"):
        chosen(town, tmp_path / "best", "good", "stranger")


def test_a_model_without_its_evaluation_or_the_reverse_is_named(town: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="good has no evaluation among those given"):
        select(models=[town / "good"], evaluations=[town / "val-poor"], output=tmp_path / "best")
    with pytest.raises(InputError, match="val-poor scores a model that was not given"):
        select(models=[town / "good"], evaluations=[town / "val-good", town / "val-poor"], output=tmp_path / "best")
    with pytest.raises(InputError, match="no model was given"):
        select(models=[], evaluations=[], output=tmp_path / "best")


def test_an_output_that_holds_something_else_is_kept(town: Path, tmp_path: Path) -> None:
    shutil.copytree(town / "val-good", tmp_path / "best")
    with pytest.raises(InputError, match="already holds something else than a model"):
        chosen(town, tmp_path / "best", "good")
    Evaluation.open(tmp_path / "best")


def test_the_command_says_which_model_won(town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [word for name in ("poor", "twin") for word in ("--model", str(town / name))]
    pairs += [word for name in ("poor", "twin") for word in ("--evaluation", str(town / f"val-{name}"))]
    with pytest.raises(SystemExit) as ended:
        main(["select", *pairs, "--output", str(tmp_path / "best"), "--table", str(tmp_path / "table.md")])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.strip() == f"twin: {tmp_path / 'best'}"
    assert (tmp_path / "table.json").is_file()
