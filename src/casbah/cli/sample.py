"""`casbah sample`: the simulated town for the demo and for trying things out."""

from pathlib import Path

import typer

from casbah.cli.root import app

sample = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sample, name="sample", help="Make, serve or publish a simulated town to try Casbah on.")

_TOWN = typer.Argument(..., help="A town that `casbah sample make` wrote.")


@sample.command("make")
def _make(
    output: Path = typer.Option(..., "--output", help="The directory to write (reused where it is there already)."),
    size_km: tuple[float, float] = typer.Option((6.0, 5.04), "--size-km", help="Kilometres east and north."),
    seed: int = typer.Option(0, "--seed", min=0, help="Another seed draws another town."),
    south_km: float = typer.Option(0.0, "--south-km", help="Move the town, so that two towns share no ground."),
    gain: float = typer.Option(1.0, "--gain", help="Multiplies what the satellite sees."),
    haze: float = typer.Option(0.0, "--haze", help="Reflectance to add to B01 (less at longer wavelengths)."),
    roofs: float = typer.Option(1.0, "--roofs", help="Multiplies the reflectance of roofs."),
) -> None:
    """Write a simulated Sentinel-2 L2A catalogue of a town that does not exist, with its footprints.

    Prints the paths of the static STAC catalogue, the area to ingest, the footprints and the area they cover.
    Example: `casbah sample make --output data/sample`
    """
    from casbah.sample import Character, make

    town = make(output, size=size_km, seed=seed, character=Character(south_km, gain, haze, roofs))
    for name, path in (
        ("catalogue", town.catalog),
        ("aoi", town.aoi),
        ("footprints", town.footprints),
        ("labelled area", town.labelled_area),
    ):
        typer.echo(f"{name:<15}{path}")


@sample.command("serve")
def _serve(
    directory: Path = _TOWN,
    port: int = typer.Option(0, "--port", help="Port on 127.0.0.1; 0 takes a free one."),
    asset_base: str = typer.Option(
        "", "--asset-base", help="Where clients find the files instead: a directory, https://… or s3://…"
    ),
) -> None:
    """Serve the town as a STAC API on this machine until Ctrl-C; prints its address.

    Example: `casbah sample serve data/sample --port 8080`, then `casbah ingest --stac http://127.0.0.1:8080 …`
    """
    import threading

    from casbah.sample.api import serve

    with serve(directory, port=port, asset_base=asset_base or None) as address:
        typer.echo(address)
        threading.Event().wait()


@sample.command("publish")
def _publish(
    directory: Path = _TOWN,
    target: str = typer.Argument(..., help="Where to in the object store, as s3://bucket/prefix."),
) -> None:
    """Copy the town to the object store named by AWS_ENDPOINT_URL; what is there already is skipped.

    Example: `casbah sample publish data/sample s3://casbah/sample`, then `--stac s3://casbah/sample/catalog.json`.
    """
    from casbah.progress import say
    from casbah.sample import publish
    from casbah.storage import Location

    location = Location.parse(target)
    uploaded = publish(directory, location)
    say(f"{uploaded} files uploaded" if uploaded else "all files were there already")
    typer.echo(location / "catalog.json")
