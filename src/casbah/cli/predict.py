"""The `predict` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casbah.cli.register import TRACKING
from casbah.cli.root import app

if TYPE_CHECKING:
    from casbah.products.prediction import Prediction


@app.command()
def predict(
    model: Annotated[str, typer.Option(help="A model's directory, or models:/NAME@ALIAS or models:/NAME/3 in MLflow.")],
    scene: Annotated[
        str, typer.Option(help="A scene, as `casbah ingest` leaves it, or a raster: a path, s3:// or https:// address.")
    ],
    output: Annotated[Path, typer.Option(help="Directory to write the map to.")],
    window: Annotated[
        int | None, typer.Option(help="Pixels across the windows.  [default: the model's tiles, up to 256]")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Pixels that windows share.  [default: a quarter, at least 64]")
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
    typer.echo(_facts(done))
    for name in ("probability.tif", "mask.tif"):
        typer.echo(done.path / name)


def _facts(done: "Prediction") -> str:
    """What the map shows, in a line."""
    import numpy as np
    from rasterio.windows import Window

    building = observed = 0
    rows, cols = done.grid.shape
    for top in range(0, rows, 512):
        values = done.mask(Window(0, top, cols, min(512, rows - top)))
        building += int(np.count_nonzero(values == 1))
        observed += int(np.count_nonzero(values != 255))
    info, share = done.info, 100 * building / observed
    return (
        f"{'SIMULATED  ' if info.simulated else ''}{info.model.name} on {info.scene}: {share:.2f} % "
        f"of {observed / 1e6:.2f} million observed pixels are building at {info.threshold:.3f}; "
        f"{100 * info.unlike['share']:.1f} % look unlike the training data"
    )
