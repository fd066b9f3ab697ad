"""The model card says what the bundle and the evaluation say, and what a consumer has to know."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import make_tiles
from scored_models import Blurred, make_bundle, use_predictor

from casbah.bands import BAND_NAMES
from casbah.evaluate import evaluate
from casbah.products.evaluation import Interval, Scores
from casbah.products.tiles import TileSet
from casbah.register.candidate import Candidate, open_candidate
from casbah.register.card import in_short, write_card
from casbah.register.logged import example, facts, requirements

RANGES = {name: [300.0 + 10 * i, 3100.0 + i] for i, name in enumerate(BAND_NAMES)}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("tiles") / "tiles", periods=2)


@pytest.fixture(scope="module")
def candidate(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    place = tmp_path_factory.mktemp("card")
    with pytest.MonkeyPatch.context() as patch:
        use_predictor(patch, Blurred)
        patch.setattr("casbah.evaluate.stage.write_report", blank)
        model = make_bundle(
            place / "fair",
            tiles,
            experiment="fair",
            threshold=0.4125,
            input_range=RANGES,
            seconds=754.0,
            peak_memory=900 * 2**20,
            device="cpu",
            precision="float32",
            epochs=12,
            best_epoch=9,
            trials=8,
            parameters=1_234_567,
        )
        evaluation = evaluate(model=model.path, tiles=tiles.path, output=place / "test", resamples=100)
        return open_candidate(model.path, evaluation.path, tiles.path, None)


def blank(directory: Path, *_: Any) -> None:
    for file in ("report.html", "report.md"):
        (directory / file).write_text("")


def card_of(candidate: Candidate, tmp_path: Path) -> str:
    write_card(tmp_path / "card.md", "casbah-buildings", candidate)
    return (tmp_path / "card.md").read_text(encoding="utf-8")


def told(candidate: Candidate, *, training: dict[str, Any] | None = None, **metrics: Any) -> Any:
    """The candidate, as if its bundle and its evaluation said something else."""
    model = SimpleNamespace(
        training=candidate.model.training.model_copy(update=training or {}), digest=candidate.model.digest
    )
    changed = candidate.metrics.model_copy(update=metrics)
    evaluation = SimpleNamespace(metrics=changed, digest=candidate.evaluation.digest)
    return replace(candidate, model=model, evaluation=evaluation)


def test_its_scores_are_those_of_the_evaluation_with_their_intervals(candidate: Candidate, tmp_path: Path) -> None:
    metrics = candidate.metrics
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for line in card_of(candidate, tmp_path).splitlines()
        if line.startswith("| ") and len(cells := line.strip("|").split("|")) == 5
    }
    for label, scores in {"fair": metrics.building, **metrics.baselines}.items():
        assert rows[label] == [getattr(scores, name).text() for name in ("iou", "f1", "precision", "recall")]
    assert metrics.building.iou.low is not None
    assert f"({metrics.building.iou.low:.3f}–" in rows["fair"][0]
    card = card_of(candidate, tmp_path)
    assert f"Expected calibration error (SIMULATED): {metrics.ece:.3f}." in card
    assert f"{len(metrics.blocks)} test blocks" in card
    other = Interval(value=0.123456, low=0.1, high=0.2)
    changed = told(candidate, building=Scores(iou=other, f1=other, precision=other, recall=other))
    assert "| fair | 0.123 (0.100–0.200) |" in card_of(changed, tmp_path)


def test_it_says_what_the_model_takes_and_what_a_pixel_means(candidate: Candidate, tmp_path: Path) -> None:
    card = card_of(candidate, tmp_path)
    assert "float32 (n, 2, 12, rows, cols)" in card
    assert f"| bands | {', '.join(BAND_NAMES)}, in that order |" in card
    assert "| unit | reflectance x 10000, offset removed, 0 = nodata |" in card
    assert "| level | L2A, resampled to 10 m |" in card
    assert "at least 50 % of its ground is covered by building footprints" in card
    assert "From a probability of 0.412 on" in card or "From a probability of 0.413 on" in card
    assert 'mlflow.pyfunc.load_model("models:/casbah-buildings@champion")' in card
    assert "| B02 | 310 | 3101 |" in card


def test_it_says_what_the_model_learned_from_and_at_which_cost(
    candidate: Candidate, tiles: TileSet, tmp_path: Path
) -> None:
    card = card_of(candidate, tmp_path)
    for part, blocks in (("training", tiles.info.blocks["train"]), ("test", candidate.tested)):
        assert re.search(rf"^- {part}: {len(blocks)} blocks of 380 m within .* in EPSG:32631", card, re.M)
    assert "1 STAC items (S2_TEST)" in card
    assert "- Simulated by Casbah's tests\n" in card
    assert "- Casbah's tests (CC0-1.0)\n" in card
    assert "- learned numbers: 1,234,567\n" in card
    assert "- time: 12.6 minutes\n" in card
    assert "- memory at the peak: 900 MiB\n" in card
    assert "- device: cpu, float32\n" in card
    assert "- epochs: 12, the best of them 9\n" in card
    assert "the best of 8 trials" in card
    assert candidate.model.digest in card
    assert candidate.evaluation.digest in card


def test_the_days_of_real_items_are_read_from_their_ids(candidate: Candidate, tmp_path: Path) -> None:
    items = ["S2B_31SEA_20230912_0_L2A", "S2A_MSIL2A_20230610T103031_N0509_R108_T31SEA_20230611T010101", "S2_TEST"]
    lineage = {**candidate.metrics.extra["lineage"], "stac_items": items}
    changed = told(candidate, extra={**candidate.metrics.extra, "lineage": lineage})
    assert "3 STAC items, acquired 2023-06-10 to 2023-09-12 (" in card_of(changed, tmp_path)


def test_simulated_data_are_called_so_first_of_all_and_real_data_are_not(candidate: Candidate, tmp_path: Path) -> None:
    assert card_of(candidate, tmp_path).startswith("> **SIMULATED DATA**")
    assert in_short(candidate).startswith("SIMULATED data")
    real = told(candidate, training={"simulated": False}, simulated=False)
    assert card_of(real, tmp_path).startswith("# casbah-buildings: fair")
    assert "SIMULATED" not in card_of(real, tmp_path) + in_short(real)


def test_a_refit_says_that_it_saw_the_test_blocks(candidate: Candidate, tmp_path: Path) -> None:
    assert "It is a refit" not in card_of(candidate, tmp_path)
    refit = told(candidate, training={"refit": "refit of 4 folds"})
    assert "It is a refit of 4 folds: it learned from every block, the test blocks among them." in card_of(
        refit, tmp_path
    )


def test_what_attribution_holds_opens_no_tag(candidate: Candidate, tmp_path: Path) -> None:
    hostile = told(candidate, training={"attribution": ("<script>alert(1)</script>",)})
    assert "<script" not in card_of(hostile, tmp_path)


def test_the_short_description_names_the_inputs_and_the_score(candidate: Candidate) -> None:
    short = in_short(candidate)
    assert "Sentinel-2 L2A, 2 periods of 12 bands at 10 m" in short
    assert f"Building IoU {candidate.metrics.building.iou.text()} on {len(candidate.tested)} test blocks" in short
    assert short.endswith("Its card: artifacts/model_card.md.")


def test_the_input_example_looks_like_the_training_data(candidate: Candidate) -> None:
    training = candidate.model.training
    given = example(training)
    assert (given.dtype, given.shape) == (np.float32, (1, 2, 12, 32, 32))
    low, high = np.array([training.input_range[name] for name in training.bands]).T[..., None, None]
    assert (given >= low).all()
    assert (given <= high).all()
    assert (given.std(axis=(-1, -2)) > 100).all()
    assert (example(training.model_copy(update={"input_range": {}})) > 0).all()
    assert facts(training)["bands"] == list(BAND_NAMES)


def test_what_reads_scenes_is_required_too(candidate: Candidate) -> None:
    names = {line.partition("==")[0] for line in requirements(candidate.model)}
    assert {"mlflow", "numpy", "rasterio", "requests", "minio", "shapely", "scipy"} <= names
    assert "torch" not in names
