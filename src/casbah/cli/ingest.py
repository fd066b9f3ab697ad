"""`casbah ingest`: from a STAC search to a scene; `casbah cells`: the grid cells that a large area is read in."""

from pathlib import Path

import typer

from casbah.cli.root import app

EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
"""A public STAC API of all of Sentinel-2 as COGs; needs no account."""


@app.command()
def ingest(
    aoi: str = typer.Option(
        ..., help="The area: a GeoJSON or GeoPackage file in any CRS, an address, or a built-in name."
    ),
    output: Path = typer.Option(..., help="The directory of the scene to make."),
    start: str = typer.Option(None, help="First day, YYYY-MM-DD."),
    end: str = typer.Option(None, help="Last day, YYYY-MM-DD."),
    stac: str = typer.Option(
        None,
        help="A STAC API, or a static catalogue: path, http(s):// or s3:// address of its catalog.json.  "
        f"[default: {EARTH_SEARCH}]",
    ),
    collection: str = typer.Option(None, help="The collection, where the catalogue has several of a level."),
    max_cloud: float = typer.Option(None, help="Percent of an item that may be cloud.  [default: 20]"),
    bands: str = typer.Option(None, help="Bands, comma-separated (B02,B03 or blue,green); all twelve by default."),
    periods: int = typer.Option(
        None, min=1, help="Time steps: the dates are cut into this many composites.  [default: 1]"
    ),
    level: str = typer.Option(None, help="L1C or L2A, where the catalogue has both."),
    items: Path = typer.Option(None, help="An items.json, or a scene that holds one, to make again without a search."),
    offset: int = typer.Option(
        None, help="0 or 1000, for items of which neither metadata nor pixels tell, or where they dispute."
    ),
    exclude: list[str] = typer.Option([], help="Id of an item to leave out, a damaged one say; may be repeated."),
    cell: str = typer.Option("", help="Read only this grid cell of the area: <epsg>_<side in metres>_<column>_<row>."),
    cell_margin: float = typer.Option(0.0, min=0, help="Metres around the cell that are read too."),
    workers: int = typer.Option(4, min=1, help="Threads that read."),
    timeout: float = typer.Option(60.0, min=0.1, help="Seconds to wait for an answer before asking again."),
) -> None:
    """Make a scene: cloud-free median composites of Sentinel-2 over an area, on one 10 m grid.

    Clouds are masked by the scene classification where there is one, the +1000 offset of newer processing is taken
    off each item, and the items used are saved in the scene, so that --items can make it again.

    Example: casbah ingest --aoi town.geojson --start 2023-05-01 --end 2023-09-30 --output work/scene
    """
    from casbah.ingest import Patience
    from casbah.ingest import ingest as run

    scene = run(
        aoi=aoi,
        output=output,
        start=start,
        end=end,
        stac=stac or (None if items else EARTH_SEARCH),
        collection=collection,
        max_cloud=max_cloud,
        bands=bands.split(",") if bands else None,
        periods=periods,
        level=level,
        items=items,
        offset=offset,
        exclude=exclude,
        cell=cell,
        cell_margin=cell_margin,
        workers=workers,
        patience=Patience(read=timeout),
    )
    typer.echo(scene.path)


@app.command()
def cells(
    aoi: str = typer.Option(..., help="The area, as for `casbah ingest`."),
    side: float | None = typer.Option(
        None, min=0, help="Side of a cell in metres, rounded to whole blocks.  [default: 30 km; up to 60 km are one]"
    ),
    block: float | None = typer.Option(
        None, min=10, help="Side of the blocks that no cell cuts, in metres.  [default: 640, as for a map]"
    ),
) -> None:
    """List the grid cells of a large area, which `casbah ingest --cell` reads one by one.

    Nothing is printed for an area that is read as a whole. Tiles of several cells want the block size of
    `casbah tile`; for a map let cells overlap (`casbah ingest --cell-margin 960`), and lay their maps together by
    `casbah merge`.

    Example: casbah cells --aoi region.geojson --side 20000
    """
    from casbah.ingest import cells as grid_cells
    from casbah.ingest.area import read_area
    from casbah.pipeline.plan import BLOCK

    for name in grid_cells.plan(read_area(aoi), block=block or BLOCK, side=side):
        if name:
            typer.echo(name)
