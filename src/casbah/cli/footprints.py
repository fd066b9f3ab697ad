"""The `footprints` command."""

from pathlib import Path

import typer

from casbah.cli.root import app


@app.command()
def footprints(
    prediction: Path = typer.Option(..., help="Prediction, as `casbah predict` left it."),
    output: Path = typer.Option(..., help="Directory of the new set of footprints."),
    threshold: float | None = typer.Option(
        None, help="Probability (0-1) at which outlines are drawn; the model's own where not given."
    ),
    minimum_area: float | None = typer.Option(
        None, help="Square metres below which a polygon is left out; half a pixel where not given."
    ),
    simplify: float | None = typer.Option(
        None, help="Metres that an outline may move by for fewer vertices; a tenth of a pixel where not given."
    ),
    square: bool = typer.Option(True, help="Give right angles to the shapes that have them."),
    flatgeobuf: bool = typer.Option(False, "--flatgeobuf", help="Write FlatGeobuf as well."),
    labels: Path | None = typer.Option(
        None, help="Label set to score the polygons against, object by object; ground that the model saw apart."
    ),
    align: bool = typer.Option(
        False, "--align", help="Move the labels first by the shift that they show against their image."
    ),
    block_size: float = typer.Option(1000.0, help="Metres: side of the blocks of blocks.parquet."),
    window: int = typer.Option(512, help="Pixels on a side read at once: less needs less memory."),
) -> None:
    """Draw building footprints from a prediction: GeoPackage, GeoParquet, and a table by block.

    Outlines run between pixels, where the probability passes the threshold. A polygon is a built-up patch: at 10 m
    buildings that stand closer than about two pixels merge, and small ones are missed.

    Example: casbah footprints --prediction runs/prediction --output runs/footprints

    Example: casbah footprints --prediction runs/prediction --output runs/footprints --threshold 0.4 --minimum-area 100
    --labels runs/labels --flatgeobuf
    """
    from casbah.footprints import describe
    from casbah.footprints import footprints as run

    made = run(
        prediction,
        output,
        threshold=threshold,
        minimum_area=minimum_area,
        simplify=simplify,
        square=square,
        flatgeobuf=flatgeobuf,
        labels=labels,
        align=align,
        block_size=block_size,
        window=window,
    )
    typer.echo(describe(made.info))
    typer.echo(f"footprints   {made.path}")
