"""`casbah publish`: a map and its footprints as a STAC collection."""

from pathlib import Path

import typer

from casbah.cli.root import app


@app.command()
def publish(
    prediction: Path = typer.Option(..., help="The map, of `casbah predict` or `casbah merge`."),
    to: str = typer.Option(..., help="Where it goes: s3://bucket/prefix, or a directory."),
    footprints: Path | None = typer.Option(None, help="Its polygons, of `casbah footprints`."),
    name: str | None = typer.Option(None, help="Id of the collection.  [default: the last part of --to]"),
) -> None:
    """Put a map and its footprints under one address as a STAC collection, in the object store or a folder.

    Example: casbah publish --prediction runs/map --footprints runs/footprints --to s3://casbah/maps/pisa
    """
    from casbah.publish import publish as run

    typer.echo(run(prediction=prediction, to=to, footprints=footprints, name=name))
