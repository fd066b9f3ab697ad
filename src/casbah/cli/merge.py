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

    made = run(predictions, output)
    of_what = "SIMULATED  " if made.info.simulated else ""
    rows, cols = made.grid.shape
    typer.echo(f"{of_what}{made.info.model.name} on {made.info.scene}: {rows} x {cols} pixels")
    for name in ("probability.tif", "mask.tif"):
        typer.echo(made.path / name)
