"""Champion and challenger meet on the same pixels and one truth, or the version says why not and what would serve."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import make_tiles
from scored_models import BrightPixels, make_bundle, use_predictor

from casbah.errors import InputError
from casbah.evaluate import evaluate
from casbah.grid import Grid
from casbah.models import check_images
from casbah.products.evaluation import Evaluation
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet
from casbah.register.candidate import Candidate, open_candidate
from casbah.register.comparison import compare
from casbah.register.promotion import Decision
from casbah.scoring import FEWEST_BLOCKS

GRID = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 384, 384)


class Strict(BrightPixels):
    """As real models do, it refuses images of another shape; `dull` ones see nothing."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        check_images(self.training, images)
        return super().probabilities(images) * (0.1 if self.training.experiment == "dull" else 1.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(directory: Path, *_: Any) -> None:
        for name in ("report.html", "report.md"):
            (directory / name).write_text("")

    use_predictor(monkeypatch, Strict)
    monkeypatch.setattr("casbah.evaluate.stage.write_report", blank)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("towns")


@pytest.fixture(scope="module")
def tiles(place: Path) -> TileSet:
    return make_tiles(place / "tiles", grid=GRID)


@pytest.fixture(scope="module")
def two_dates(place: Path) -> TileSet:
    """The same ground and blocks on two dates."""
    return make_tiles(place / "two-dates", grid=GRID, periods=2)


def relabelled(tiles: TileSet, target: Path, **fields: Any) -> TileSet:
    """A copy of a TileSet that says other things of itself."""
    with TileSet.write(target, parameters=tiles.manifest.parameters, inputs=tiles.manifest.inputs) as draft:
        shutil.copytree(tiles.path, draft.directory, dirs_exist_ok=True)
        (draft.directory / "manifest.json").unlink()
        draft.write_json("tileset.json", json.loads((tiles.path / "tileset.json").read_text()) | fields)
    return TileSet.open(target)


def challenger(tmp_path: Path, tiles: TileSet, give: bool = True, champion_tiles: TileSet | None = None) -> Candidate:
    model = make_bundle(tmp_path / "challenger", tiles, experiment="challenger")
    evaluation = evaluate(model=model.path, tiles=tiles.path, output=tmp_path / "evaluation", resamples=20)
    own = None if champion_tiles is None else champion_tiles.path
    return open_candidate(model.path, evaluation.path, tiles.path if give else None, own)


def against(held: ModelBundle, candidate: Candidate, monkeypatch: pytest.MonkeyPatch, **tags: str) -> Decision:
    monkeypatch.setattr("casbah.register.comparison.bundle_of", lambda *_: held)
    version = SimpleNamespace(version="7", tags=tags, run_id=None)
    return compare(None, "town", version, candidate)


def test_a_champion_of_one_date_is_scored_on_its_own_tiles_of_the_same_blocks(
    tmp_path: Path, tiles: TileSet, two_dates: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = make_bundle(tmp_path / "held", tiles, experiment="dull")
    alone = against(held, challenger(tmp_path, two_dates), monkeypatch)
    assert (alone.promoted, alone.compared) == (False, False)
    assert alone.reason.startswith(
        "not compared: the champion (version 7) was trained on periods 1 where the tiles have 2"
    )
    assert (
        f"casbah tile --seed 0 --block-size {tiles.info.block_size:g}, then register again with --champion-tiles"
        in (alone.reason)
    )
    both = against(held, challenger(tmp_path, two_dates, champion_tiles=tiles), monkeypatch)
    assert both.promoted
    assert both.blocks == tuple(sorted(tiles.info.blocks["test"]))
    assert len(both.blocks) >= FEWEST_BLOCKS


def test_champion_tiles_that_do_not_fit_it_either_are_named(
    tmp_path: Path, tiles: TileSet, two_dates: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = make_bundle(tmp_path / "held", tiles, periods=3)
    decision = against(held, challenger(tmp_path, two_dates, champion_tiles=tiles), monkeypatch)
    assert not decision.compared
    assert (
        f"periods 3 where the tiles have 1 ({tiles.path}); give --champion-tiles that hold its own" in decision.reason
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"level": "L1C"}, "trained on level L1C where the tiles have L2A; tiles of its own inputs"),
        ({"bands": ("B02", "B10")}, "trained on band B10, which the tiles have not; tiles of its own inputs"),
        ({"building_cover": 25}, "has another yardstick: building cover 25 % where the tiles have 50 %; a challenger"),
        ({"resolution": 20.0}, "has another yardstick: resolution 20 m where the tiles have 10 m; a challenger"),
    ],
)
def test_a_champion_that_evaluate_would_refuse_on_these_tiles_is_not_scored_on_them(
    tmp_path: Path, tiles: TileSet, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], said: str
) -> None:
    held = make_bundle(tmp_path / "held", tiles, **fields)
    decision = against(held, challenger(tmp_path, tiles), monkeypatch)
    assert (decision.promoted, decision.compared) == (False, False)
    assert said in decision.reason


def test_a_champion_of_footprints_moved_onto_the_image_is_not_held_to_those_as_published(
    tmp_path: Path, tiles: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = make_bundle(tmp_path / "held", tiles)
    decision = against(held, challenger(tmp_path, tiles), monkeypatch, **{"casbah.aligned": "true"})
    assert not decision.compared
    assert "has another yardstick: footprints moved onto the image" in decision.reason


def test_champion_tiles_of_another_truth_are_refused(
    tmp_path: Path, tiles: TileSet, two_dates: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = relabelled(tiles, tmp_path / "coarse", building_cover=30)
    held = make_bundle(tmp_path / "held", coarse)
    decision = against(held, challenger(tmp_path, two_dates, champion_tiles=coarse), monkeypatch)
    assert not decision.compared
    assert "another yardstick: building cover 30 % where the evaluation has 50 %" in decision.reason
    shifted = make_tiles(tmp_path / "shifted", grid=GRID, tile_size=30)
    held = make_bundle(tmp_path / "other-held", shifted)
    decision = against(held, challenger(tmp_path, two_dates, champion_tiles=shifted), monkeypatch)
    assert not decision.compared
    assert "do the champion's tiles hold the pixels that the challenger's do" in decision.reason


def test_a_model_against_itself_differs_by_exactly_nothing_where_tiles_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = make_tiles(tmp_path / "tiles", grid=GRID, tile_size=16, stride=8)
    candidate = challenger(tmp_path, tiles)
    decision = against(candidate.model, candidate, monkeypatch)
    assert decision.compared
    assert (decision.difference, decision.low, decision.high) == (0, 0, 0)


def test_what_goes_wrong_in_scoring_the_champion_becomes_the_reason(
    tmp_path: Path, tiles: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = make_bundle(tmp_path / "held", tiles)
    candidate = challenger(tmp_path, tiles)

    def broken(*_: Any) -> Any:
        raise InputError("its weights are not sound")

    monkeypatch.setattr("casbah.models.load", broken)
    decision = against(held, candidate, monkeypatch)
    assert (decision.promoted, decision.compared) == (False, False)
    assert decision.reason == "not compared: its weights are not sound"
    without = against(held, challenger_without_tiles(candidate), monkeypatch)
    assert "evaluated on other tiles; give --tiles" in without.reason


def challenger_without_tiles(candidate: Candidate) -> Candidate:
    return Candidate(candidate.model, candidate.evaluation, None)


def test_a_refit_is_not_registered_with_folds_of_several_configurations(tmp_path: Path) -> None:
    folds = make_tiles(tmp_path / "folds", folds=2)
    for number, fold in enumerate(folds.folds):
        make_bundle(tmp_path / "models" / f"fold_{number}", fold)
    refit = make_bundle(tmp_path / "models" / "refit", folds.refit, refit="refit of 2 folds")
    evaluation = evaluate(model=tmp_path / "models", tiles=folds.path, output=tmp_path / "out", resamples=20)
    open_candidate(refit.path, evaluation.path, folds.path, None)
    with Evaluation.write(tmp_path / "mixed", parameters={}) as draft:
        shutil.copytree(evaluation.path, draft.directory, dirs_exist_ok=True)
        (draft.directory / "manifest.json").unlink()
        mixed = evaluation.metrics.model_dump(mode="json")
        mixed["extra"]["folds"][1]["config"] = "1" * 64
        draft.write_json("metrics.json", mixed)
    with pytest.raises(InputError, match=r"was not trained as the folds of .*mixed were"):
        open_candidate(refit.path, tmp_path / "mixed", folds.path, None)


def test_a_refit_with_settings_of_its_own_is_registered_with_folds_that_were_tuned_likewise(tmp_path: Path) -> None:
    folds = make_tiles(tmp_path / "folds", folds=2)
    for number, fold in enumerate(folds.folds):
        make_bundle(tmp_path / "models" / f"fold_{number}", fold, config=f"{number}" * 64, trials=3)
    evaluation = evaluate(model=tmp_path / "models", tiles=folds.path, output=tmp_path / "out", resamples=20)
    refit = make_bundle(tmp_path / "models" / "refit", folds.refit, refit="refit of 2 folds", config="2" * 64, trials=3)
    open_candidate(refit.path, evaluation.path, folds.path, None)
    with pytest.raises(InputError, match=r"another number of trials"):
        open_candidate(refit.tuned_among(5).path, evaluation.path, folds.path, None)
    other = make_bundle(tmp_path / "other", folds.refit, refit="refit of 2 folds", experiment="other", trials=3)
    seed = make_bundle(tmp_path / "seed", folds.refit, refit="refit of 2 folds", seed=1, trials=3)
    with pytest.raises(InputError, match=r"another seed or number of labels"):
        open_candidate(seed.path, evaluation.path, folds.path, None)
    with pytest.raises(InputError, match=r"another experiment"):
        open_candidate(other.path, evaluation.path, folds.path, None)


def test_folds_that_were_tuned_are_one_evaluation_of_one_experiment_alone(tmp_path: Path) -> None:
    folds = make_tiles(tmp_path / "folds", folds=2)
    for number, (fold, experiment) in enumerate(zip(folds.folds, ("trees", "net"), strict=True)):
        make_bundle(tmp_path / "models" / f"fold_{number}", fold, experiment=experiment, trials=3)
    with pytest.raises(InputError, match=r"fold_1 \(net, seed 0\) was trained from another configuration"):
        evaluate(model=tmp_path / "models", tiles=folds.path, output=tmp_path / "out", resamples=20)


def test_a_model_of_normalised_scenes_is_not_registered_since_it_would_be_served_others(
    tmp_path: Path, tiles: TileSet
) -> None:
    normalised = relabelled(tiles, tmp_path / "tiles", normalise="scene")
    model = make_bundle(tmp_path / "model", normalised, normalise="scene")
    evaluation = evaluate(model=model.path, tiles=normalised.path, output=tmp_path / "evaluation", resamples=20)
    with pytest.raises(InputError, match=r"--normalise scene.*train it on tiles without it"):
        open_candidate(model.path, evaluation.path, None, None)
