"""The `evaluate` and `select` commands."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from casbah.cli.root import app

if TYPE_CHECKING:
    from casbah.products.evaluation import Evaluation


@app.command()
def evaluate(
    model: Path = typer.Option(
        ..., help="A model, as `casbah finetune` leaves it; with folds, a directory of fold_0 …"
    ),
    tiles: Path = typer.Option(..., help="Tiles, as `casbah tile` leaves them; with --folds, the whole directory."),
    output: Path = typer.Option(..., help="Directory to write numbers, report and map to."),
    split: str = typer.Option("test", help="Which blocks to score: test, or val to choose between models."),
    resamples: int = typer.Option(1000, help="Draws of blocks that the 95 % intervals are taken over."),
    seed: int = typer.Option(0, help="Seed of these draws."),
) -> None:
    """Score a model on blocks it has not seen, against two baselines, and write a report.

    Building IoU, F1, precision and recall with 95 % intervals over blocks; calibration; report.html and map.html open
    offline. The threshold comes from validation. Blocks that the model trained or was tuned on are refused.

    Example: casbah evaluate --model runs/unet --tiles work/tiles --output work/evaluation
    """
    from casbah.evaluate import evaluate as stage
    from casbah.evaluate.report import caution

    done = stage(model=model, tiles=tiles, output=output, split=split, resamples=resamples, seed=seed)
    typer.echo(_table(done))
    if said := caution(done.metrics):
        typer.echo(said)
    for name in ("report.html", "map.html"):
        typer.echo(done.path / name)


@app.command()
def select(
    model: list[Path] = typer.Option(..., help="A model to choose from; give one --model for each."),
    evaluation: list[Path] = typer.Option(..., help="The evaluation of each on validation (--split val)."),
    output: Path = typer.Option(..., help="Directory to copy the best model to."),
    table: Path | None = typer.Option(None, help="Markdown file for the comparison (a JSON file goes beside it)."),
) -> None:
    """Choose the model with the highest building IoU on validation; the test split stays unseen.

    Of equal models the one with fewer parameters is taken. All evaluations must be of the same tiles.

    Example: casbah select --model runs/unet --model runs/prithvi --evaluation work/val_unet --evaluation
    work/val_prithvi --output runs/best --table work/comparison.md
    """
    from casbah.evaluate import select as stage

    best = stage(models=model, evaluations=evaluation, output=output, table=table)
    typer.echo(f"{best.training.experiment}: {best.path}")


def _table(done: "Evaluation") -> str:
    metrics = done.metrics
    lines = [f"{'SIMULATED  ' if metrics.simulated else ''}{metrics.experiment}, {metrics.split}, {metrics.protocol}"]
    rows = {metrics.experiment: metrics.building, **metrics.baselines}
    if metrics.unaligned is not None:
        rows[f"{metrics.experiment}, footprints as published"] = metrics.unaligned
    width = max(len(name) for name in rows)
    lines.append(f"{'':{width}}  {'IoU':>21}  {'F1':>21}  {'precision':>21}  {'recall':>21}")
    for name, scores in rows.items():
        cells = [scores.iou, scores.f1, scores.precision, scores.recall]
        lines.append(f"{name:{width}}  " + "  ".join(f"{cell.text():>21}" for cell in cells))
    lines.append(f"threshold {metrics.threshold:.3f} from {metrics.threshold_source}; ECE {metrics.ece:.3f}")
    return "\n".join(lines)
