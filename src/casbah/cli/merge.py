"""`casbah merge`: maps that overlap as one."""

from pathlib import Path

import typer

from casbah.cli.root import app


@app.command()
def merge(
    predictions: list[Path] = typer.Argument(
        ..., metavar="PREDICTION…", help="Maps of `casbah predict`, of one model."
    ),
    output: Path = typer.Option(..., help="The directory of the map to make."),
) -> None:
    """Lay maps of neighbouring scenes together as one, without seams where they overlap.

    Example: casbah merge runs/map-west runs/map-east --output runs/map
    """
    from casbah.predict import merge as run
    from casbah.predict.describe import summary

    typer.echo(summary(run(predictions, output)))
