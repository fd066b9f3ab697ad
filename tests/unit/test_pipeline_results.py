"""What the Kubeflow UI and the end of a local run show says what was measured, and that simulated is simulated."""

import io
from pathlib import Path
from typing import Any

import pytest

from casbah.cli import results as shown
from casbah.pipeline import steps
from casbah.pipeline.session import Results
from casbah.products.evaluation import BlockCounts, EvaluationMetrics, Interval, Scores


def scores(iou: float | None) -> Scores:
    if iou is None:
        return Scores(**dict.fromkeys(("iou", "f1", "precision", "recall"), Interval(value=None)))
    other = Interval(value=0.5)
    return Scores(iou=Interval(value=iou, low=iou - 0.05, high=iou + 0.05), f1=other, precision=other, recall=other)


def metrics(experiment: str, iou: float | None, *, simulated: bool = True, **more: Any) -> EvaluationMetrics:
    fields: dict[str, Any] = {
        "experiment": experiment,
        "split": "test",
        "protocol": "hold-out",
        "threshold": 0.4,
        "threshold_source": "validation",
        "building": scores(iou),
        "baselines": {"all background": scores(0.0), "built-up index": scores(0.2)},
        "ece": 0.1,
        "reliability": (),
        "blocks": (
            BlockCounts(block="a", tp=1, fp=2, fn=3, tn=4),
            BlockCounts(block="b", tp=10, fp=20, fn=30, tn=40),
        ),
        "tiles": "t",
        "model": "m",
        "simulated": simulated,
    }
    return EvaluationMetrics(**fields | more)


def test_the_confusion_matrix_has_truth_in_rows_and_background_first() -> None:
    assert steps.confusion_matrix(metrics("a", 0.3)) == [[44, 22], [33, 11]]


def test_scores_that_are_undefined_are_left_out_and_not_called_zero() -> None:
    found = steps.numbers(metrics("a", None))
    assert "building_iou" not in found
    assert found["threshold"] == 0.4
    assert steps.numbers(metrics("a", 0.3))["built-up_index_iou"] == pytest.approx(0.2)


def test_the_comparison_has_the_best_first_and_says_simulated() -> None:
    origins = {"worse": "random weights", "better": "trees"}
    table = steps.comparison_table([metrics("worse", 0.2), metrics("better", 0.4)], "better", origins)
    assert table.index("**better**") < table.index("worse")
    assert "0.400 [0.350, 0.450]" in table
    assert "SIMULATED" in table
    assert "| worse | random weights | 0.200 " in table, "a network without pretraining says so"
    assert "SIMULATED" not in steps.comparison_table([metrics("a", 0.2, simulated=False)], "a", {"a": "trees"})


def printed(monkeypatch: pytest.MonkeyPatch, width: int = 120, **more: Any) -> str:
    out = io.StringIO()
    console = shown.Console
    monkeypatch.setattr(shown, "Console", lambda **options: console(file=out, width=width, **options))
    fields: dict[str, Any] = {
        "experiments": {"unet": {"building_iou": 0.31, "building_f1": 0.47}, "trees": {"building_iou": 0.35}},
        "starts_from": {"unet": "random weights", "trees": "trees"},
        "winner": "trees",
        "test": metrics("trees", 0.33),
        "registration": {"name": "casbah-sample", "version": "3", "alias": "challenger", "url": "http://here/#/3"},
        "output": Path("runs/demo"),
        "seconds": {"ingest": 10.0, "tile": 2.0},
        "stages": {"ingest": 9.0, "tile": 1.0},
        "wall": 15.0,
        "directory": Path("/somewhere/.casbah"),
        "started": True,
    }
    shown.print_results(Results(**fields | more))
    return out.getvalue()


def test_the_end_of_a_run_names_scores_baselines_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch)
    assert text.index("trees (chosen)") < text.index("unet")
    for part in ("0.330", "0.280-0.380", "(all background)", "(built-up index)", "random weights"):
        assert part in text
    for part in ("runs/demo/evaluation/report.html", "http://here/#/3", "version 3, challenger"):
        assert part in text
    assert "object store (S3)" in text
    assert "on disk, in /somewhere/.casbah/pipeline" in text
    assert "`casbah up` starts them again" in text
    assert text.count("SIMULATED") >= 3


def test_real_results_are_not_called_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SIMULATED" not in printed(monkeypatch, test=metrics("trees", 0.33, simulated=False), started=False)


@pytest.mark.parametrize("winner", ["prithvi_tiny_upernet", "prithvi_eo_v2_100_upernet_of_my_own_two_dates"])
def test_no_number_and_no_name_is_cut_off_in_80_columns(winner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = "pretrained: HLS V2, Prithvi-EO-2.0 tiny"
    validated = {"building_iou": 0.31, "building_iou_low": 0.28, "building_iou_high": 0.34, "building_f1": 0.47}
    text = printed(
        monkeypatch,
        width=80,
        experiments={winner: validated},
        starts_from={winner: start},
        winner=winner,
        test=metrics(winner, 0.33),
    )
    tables = text[: text.index("Registered")]
    assert max(len(line) for line in tables.splitlines() if not line.startswith("These numbers")) <= 80
    assert "…" not in tables
    for whole in ("0.280-0.340", "0.280-0.380", "0.470", "precision", "recall", "(built-up index)"):
        assert whole in tables
    folded = "".join(line.split("│")[1].strip() for line in tables.splitlines() if line.startswith("│"))
    assert winner in folded.replace(" (chosen)", "").replace("(chosen)", "")


def test_the_table_of_a_run_without_a_terminal_is_whole_in_80_columns() -> None:
    import subprocess
    import sys

    program = """
from casbah.cli.results import Console, _table
table = _table("t", "building pixels", "IoU", "95 %", "F1", "precision", "recall")
table.add_row("prithvi_tiny_upernet", "0.330", "0.280-0.380", "0.500", "0.500", "0.500")
Console(highlight=False, soft_wrap=True).print(table)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "prithvi_tiny_upernet │ 0.330 │ 0.280-0.380 │ 0.500 │ 0.500     │ 0.500" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
