"""The `predict` command."""

from pathlib import Path
from typing import Annotated

import typer

from casbah.cli.register import TRACKING
from casbah.cli.root import app


@app.command()
def predict(
    model: Annotated[str, typer.Option(help="A model's directory, or models:/NAME@ALIAS or models:/NAME/3 in MLflow.")],
    scene: Annotated[
        str, typer.Option(help="A scene, as `casbah ingest` leaves it, or a raster: a path, s3:// or https:// address.")
    ],
    output: Annotated[Path, typer.Option(help="Directory to write the map to.")],
    window: Annotated[
        int | None,
        typer.Option(help="Pixels across the windows.  [default: the model's tiles, up to 256, or 512 for a U-Net]"),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="Pixels that windows share.  [default: a quarter, at least 64, or 64 for a U-Net]"),
    ] = None,
    values: Annotated[
        str, typer.Option(help="uint8 (steps of 1/200) or uint16 (of 1/10000) in probability.tif.")
    ] = "uint8",
    threshold: Annotated[
        float | None, typer.Option(help="Probability that makes a building.  [default: the model's own]")
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over the eight flips and turns of each window.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write how far an ensemble's members, or the flips, disagree.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    tracking_uri: str | None = TRACKING,
) -> None:
    """Map a whole scene or raster with a model: probability, mask, and where the imagery looks unlike the training.

    Windows stream through the model and are blended without seams, in memory that does not grow with the scene. Maps
    are Cloud-Optimized GeoTIFFs with their lineage, described by a STAC item. A stopped run goes on where it was. A
    raster holds reflectance x 10000 as uint16, its bands described by ESA's names, period after period.

    Example: casbah predict --model models:/casbah-buildings@champion --scene work/scene --output work/map
    """
    from casbah.predict import predict as stage
    from casbah.predict.describe import summary

    done = stage(
        model,
        scene,
        output,
        window=window,
        overlap=overlap,
        values=values,
        threshold=threshold,
        flips=flips,
        uncertainty=uncertainty,
        device=device,
        tracking_uri=tracking_uri,
    )
    typer.echo(summary(done))
