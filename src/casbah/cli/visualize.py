"""The `visualize` command."""

from pathlib import Path
from typing import Annotated

import typer

from casbah.cli.root import app


@app.command()
def visualize(
    output: Annotated[
        Path, typer.Option(help="File to write: .png (300 dpi), .pdf or .svg, or .html for a map to move about in.")
    ],
    scene: Annotated[
        Path | None, typer.Option(help="A scene of `casbah ingest`, or the raster that was mapped.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of `casbah label`: over the scene, or to hold a prediction against.")
    ] = None,
    tiles: Annotated[
        Path | None, typer.Option(help="Tiles of `casbah tile`: their blocks are outlined, each split in its colour.")
    ] = None,
    prediction: Annotated[Path | None, typer.Option(help="A prediction of `casbah predict`.")] = None,
    footprints: Annotated[Path | None, typer.Option(help="Footprints drawn from a prediction.")] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="An evaluation: its calibration; on an .html map its test blocks.")
    ] = None,
    comparison: Annotated[Path | None, typer.Option(help="A comparison: the `report` below a study's output.")] = None,
    what: Annotated[
        str | None,
        typer.Option(
            help="One of scene, labels, tiles, prediction, footprints, error, panels, calibration, comparison, curve.  "
            "[default: the figure that shows all that is named]",
            show_default=False,
        ),
    ] = None,
    period: Annotated[int, typer.Option(help="Which time step of the scene, from 0.")] = 0,
    bands: Annotated[str, typer.Option(help="Three bands to show as red,green,blue.")] = "B04,B03,B02",
) -> None:
    """Draw what is named as a figure for a paper, or as an interactive map that opens without a network.

    Maps carry a scale bar and north, all figures the attribution; colours are safe for colour-blind eyes. Errors in
    blocks that the model learned from are drawn pale: they say nothing of its skill. For example:

        casbah visualize --scene work/scene --labels work/labels --output labels.png

        casbah visualize --prediction runs/map --labels work/labels --output errors.pdf

        casbah visualize --scene work/scene --labels work/labels --prediction runs/map --output panels.png

        casbah visualize --comparison build/study/report --what curve --output curve.svg

        casbah visualize --scene work/scene --prediction runs/map --footprints runs/footprints --output map.html
    """
    from casbah.figures.visualize import visualize as draw

    done = draw(
        output=output,
        scene=scene,
        labels=labels,
        tiles=tiles,
        prediction=prediction,
        footprints=footprints,
        evaluation=evaluation,
        comparison=comparison,
        what=what,
        period=period,
        bands=[name for name in bands.split(",") if name.strip()],
    )
    typer.echo(done)
