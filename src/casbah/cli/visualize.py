"""The `visualize` command."""

from pathlib import Path

import typer

from casbah.cli.root import app


@app.command()
def visualize(
    output: Path = typer.Option(..., help="The PNG file to write."),
    scene: Path | None = typer.Option(None, help="A scene of `casbah ingest`."),
    labels: Path | None = typer.Option(None, help="Its labels of `casbah label`: building cover is drawn over it."),
    tiles: Path | None = typer.Option(None, help="Tiles of `casbah tile`: blocks are drawn in their split's colour."),
    period: int = typer.Option(0, help="Which time step of the scene, from 0."),
    bands: str = typer.Option("B04,B03,B02", help="Three bands to show as red,green,blue."),
) -> None:
    """Draw a scene, its labels or its splits as one picture, with scale bar, north arrow and attribution.

    Example: casbah visualize --scene work/scene --labels work/labels --output town.png
    """
    from casbah.figures.visualize import visualize as draw

    names = [name for name in bands.split(",") if name.strip()]
    typer.echo(draw(output=output, scene=scene, labels=labels, tiles=tiles, period=period, bands=names))
