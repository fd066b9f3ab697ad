"""The `label` command."""

from pathlib import Path

import typer

from casbah.cli.root import app


@app.command()
def label(
    scene: Path = typer.Option(..., help="Scene, as `casbah ingest` left it."),
    source: str = typer.Option(
        ...,
        help="osm (Overpass), overture, or a file or s3://, https:// address: GPKG, GeoJSON, Shapefile, FlatGeobuf, "
        "GeoParquet, or an OSM extract (.osm.pbf).",
    ),
    output: Path = typer.Option(..., help="Directory of the new label set."),
    labelled_area: Path | None = typer.Option(
        None, help="Polygon inside of which every building is labelled; outside of it nothing is learnt or scored."
    ),
    building_cover: int = typer.Option(50, help="Percent of a pixel under buildings that makes it building."),
    licence: str | None = typer.Option(
        None, help="Licence of footprints that do not say it themselves, such as CC-BY-4.0."
    ),
    attribution: str | None = typer.Option(
        None, help="Whom every map made from footprints must name, where these do not say it."
    ),
    vintage: str | None = typer.Option(
        None, help="Date, year or span of footprints that do not say it, such as 2013, 2013-04-30 or 1988-2013."
    ),
    snapshot: str | None = typer.Option(
        None, help="OSM: the date (ISO) of the data; Overture: the release. Makes the same labels again later."
    ),
    layer: str | None = typer.Option(None, help="Layer of a file that has several."),
    overpass: str | None = typer.Option(
        None, envvar="CASBAH_OVERPASS_URL", help="Another Overpass server's interpreter URL."
    ),
) -> None:
    """Turn building footprints into cover and mask on a scene's grid.

    Prints what a person wants to know before trusting them: counts, repairs, cover, gaps, age, licence, and how far
    the footprints lie from the image.

    Example: casbah label --scene runs/scene --source osm --output runs/labels

    Example: casbah label --scene runs/pisa --source buildings.gpkg --labelled-area area.geojson --licence CC-BY-4.0
    --attribution "Regione Toscana" --vintage 1988-2013 --output runs/labels
    """
    from casbah.label import describe
    from casbah.label import label as run

    made = run(
        scene=scene,
        source=source,
        output=output,
        labelled_area=labelled_area,
        building_cover=building_cover,
        licence=licence,
        attribution=attribution,
        vintage=vintage,
        snapshot=snapshot,
        layer=layer,
        overpass=overpass,
    )
    typer.echo(describe(made.info, made.grid.resolution))
    typer.echo(f"labels       {made.path}")
