"""The table that ends a run of the pipeline."""

import shlex
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from casbah.pipeline.session import Results
    from casbah.products.evaluation import Scores


def print_results(results: "Results") -> None:
    """Scores of the experiments, the winner's test, the baselines, and where everything is, on standard output."""
    out = Console(highlight=False, soft_wrap=True)
    simulated = " — SIMULATED imagery and footprints" if results.test.simulated else ""
    out.print()
    out.print(_validation(results, simulated))
    out.print()
    out.print(_test(results, simulated))
    if results.test.simulated:
        out.print("These numbers are SIMULATED: they show that everything works, not how well buildings are mapped.")
    out.print()
    for line in _places(results):
        out.print(line, markup=False)


def _validation(results: "Results", simulated: str) -> Table:
    table = _table(f"Experiments on validation blocks{simulated}", "building pixels", "IoU", "95 %", "F1")
    table.add_column("starts from", overflow="fold")
    for name, scores in sorted(results.experiments.items(), key=lambda pair: -pair[1].get("building_iou", 0.0)):
        mark = " (chosen)" if name == results.winner else ""
        table.add_row(f"{name}{mark}", *_cells(scores), _number(scores.get("building_f1")), results.starts_from[name])
    return table


def _table(title: str, name: str, *numbers: str) -> Table:
    """A table whose numbers stay whole in 80 columns: a name that is too long for that is folded."""
    table = Table(title=title, title_justify="left")
    table.add_column(name, overflow="fold")
    for heading in numbers:
        table.add_column(heading, no_wrap=True)
    return table


def _cells(scores: dict[str, float]) -> tuple[str, str]:
    low, high = scores.get("building_iou_low"), scores.get("building_iou_high")
    span = f"{low:.3f}-{high:.3f}" if low is not None and high is not None else ""
    return _number(scores.get("building_iou")), span


def _test(results: "Results", simulated: str) -> Table:
    table = _table(
        f"Test blocks, scored once{simulated}", "building pixels", "IoU", "95 %", "F1", "precision", "recall"
    )
    table.add_row(results.winner, *_scores(results.test.building))
    for name, scores in results.test.baselines.items():
        table.add_row(f"({name})", *_scores(scores))
    return table


def _scores(scores: "Scores") -> tuple[str, ...]:
    iou = scores.iou
    span = f"{iou.low:.3f}-{iou.high:.3f}" if iou.low is not None and iou.high is not None else ""
    return _number(iou.value), span, *(_number(one.value) for one in (scores.f1, scores.precision, scores.recall))


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _places(results: "Results") -> list[str]:
    made = results.registration
    evaluation = results.output / "evaluation"
    lines = [
        f"Registered   {made['name']} version {made['version']}, {made['alias']}",
        f"Report       {evaluation / 'report.html'}",
        *(f"Map          {file}" for file in sorted(evaluation.glob("map*.html"))),
        f"Model        {results.output / 'model'}",
        f"MLflow page  {made['url']}",
    ]
    stages = sum(results.stages.values())
    lines.append(
        f"Time         {results.wall:.0f} s, of which the stages took {stages:.0f} s (some of it side by side)"
    )
    if results.started:
        place = "" if results.directory.name == ".casbah" else f" --directory {shlex.quote(str(results.directory))}"
        lines += ["", f"The services stop now; `casbah up{place}` starts them again at the same addresses."]
    lines += [
        "Imagery of the sample catalogue, weights, checkpoints and MLflow's artifacts are in the object store (S3);",
        f"kfp.local keeps the artifacts of KFP itself on disk, in {results.directory / 'pipeline'}.",
    ]
    return lines
