"""The `compare` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casbah.cli.root import app

if TYPE_CHECKING:
    from casbah.products.comparison import Comparison, ComparisonFacts


@app.command()
def compare(
    tiles: Annotated[Path, typer.Option(help="TileSet, or the folds that `casbah tile --folds` made.")],
    output: Annotated[Path, typer.Option(help="Where models, evaluations and the report go; equal ones are reused.")],
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT]…", help="Names or YAML files; all rows of the study without any.", show_default=False
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Draws of each row and budget: seeds 0, 1 ….")] = 3,
    budgets: Annotated[
        str, typer.Option(help="Training tiles to learn from, with commas; those beyond the tiles are left out.")
    ] = "50,100,200,500,2000,all",
    small: Annotated[bool, typer.Option("--small", help="Take each row's small variant, for a CPU.")] = False,
    trials: Annotated[
        int, typer.Option(help="Tune every training among so many trials, each on its own validation; 0 for none.")
    ] = 0,
    jobs: Annotated[
        int | None, typer.Option(help="Processes at once.  [default: one a GPU, or one on the CPU]", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting; may be repeated.")
    ] = None,
) -> None:
    """Train every model of the study on the same tiles, and report them side by side.

    Rows are stopped, ranked and, with --trials, tuned on validation; test scores are reported for all and decide
    nothing. A row that fails stands in the report with why, and loses no other. What is finished is kept: the same
    command goes on after a stop, and a changed YAML trains its own row alone. For example:

        casbah compare --tiles build/tiles --output build/study

        casbah compare --tiles build/tiles --output build/study unet_scratch boosted_pixels --budgets 50,all --seeds 2
    """
    from casbah.compare import compare as run

    done = run(
        tiles=tiles,
        output=output,
        experiments=experiments or (),
        seeds=seeds,
        budgets=budgets,
        small=small,
        trials=trials,
        jobs=jobs,
        overrides=overrides or (),
    )
    print_comparison(done)
    _raise_first_failure(done.facts)


def print_comparison(done: "Comparison") -> None:
    """The first table in short, and where the report lies, on standard output."""
    facts = done.facts
    if facts.simulated:
        typer.echo("SIMULATED imagery and footprints: these numbers show that everything works, no more.")
    rows = [("", "validation IoU", "test IoU", "to the best", "")]
    for row in facts.rows:
        validation = "–" if row.validation_iou is None else f"{row.validation_iou:.3f}"
        behind = "" if row.verdict == "best" else row.difference.text()
        rows.append((row.experiment, validation, row.iou.text(), behind, row.verdict))
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(rows[0]))]
    for cells in rows:
        typer.echo("  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
    for name in ("comparison.html", "comparison.md"):
        typer.echo(done.path / name)


def _raise_first_failure(facts: "ComparisonFacts") -> None:
    """End with the exit code of the first that failed, its sentence and those of the others having been said."""
    from casbah.errors import CasbahError, InputError, WorldError

    if not facts.failed:
        return
    kinds = {error.exit_code: error for error in (CasbahError, InputError, WorldError)}
    first, names = facts.failed[0], sorted({one.experiment for one in facts.failed})
    raise kinds[first.exit_code](
        f"{', '.join(names)} failed (the report has the others): {first.experiment}, seed {first.seed}: {first.why}"
    )
