"""The `tile` command."""

from enum import StrEnum
from pathlib import Path

import typer

from casbah.cli.root import app


class Layout(StrEnum):
    """How tiles lie on disk."""

    npy = "npy"
    geotiff = "geotiff"


class Normalise(StrEnum):
    """What is done to the images of each scene."""

    none = "none"
    scene = "scene"


@app.command()
def tile(
    scene: list[Path] = typer.Option(..., help="A scene of `casbah ingest`; give several for several cities."),
    labels: list[Path] = typer.Option(..., help="Its labels of `casbah label`, one for each --scene, in order."),
    output: Path = typer.Option(..., help="Directory of the tiles; an older set there is replaced when all is done."),
    tile_size: int = typer.Option(224, help="Rows and columns of a tile, in pixels (10 m each)."),
    stride: int | None = typer.Option(
        None, help="Pixels from one tile to the next in a block; less than --tile-size overlaps.  [default: tile size]"
    ),
    block_size: float | None = typer.Option(
        None, help="Side of a block in metres; a block is in one split.  [default: about 1000, whole tiles + guard]"
    ),
    guard: float | None = typer.Option(
        None, help="Metres between tiles of different blocks, so that no split sees into another.  [default: 120]"
    ),
    test_fraction: float | None = typer.Option(
        None, help="Share of blocks to test on; not with --folds or --test-scene.  [default: 0.2]"
    ),
    val_fraction: float = typer.Option(0.1, help="Share of blocks to choose epochs and thresholds on."),
    folds: int = typer.Option(1, help="Spatial k-fold: test every block once, in K sets, plus one to refit on."),
    align: bool = typer.Option(False, "--align", help="Move footprints by the shift that each split's blocks show."),
    seed: int = typer.Option(0, help="Another seed, another draw of blocks."),
    test_scene: str | None = typer.Option(None, help="Test on this whole scene (its directory name or item id)."),
    layout: Layout = typer.Option(Layout.npy, help="geotiff also writes the folders that TerraTorch reads."),
    few_labels: float = typer.Option(0.0, help="Share of the blocks of --test-scene to learn from, as few labels."),
    normalise: Normalise = typer.Option(
        Normalise.none, help="scene brings every scene to the same mean and deviation, by its own images."
    ),
    max_ignore: float = typer.Option(0.5, help="Drop a tile with more than this share unlabelled or unobserved."),
) -> None:
    """Cut scenes and labels into train, val and test tiles that are spatially apart.

    Example: casbah tile --scene pisa/scene --labels pisa/labels --output pisa/tiles --tile-size 64 --folds 4

    Blocks lie on a fixed lattice and take their split from a hash of their name and the seed, so that a block stays in
    its split when the area or the labels grow. Prints one row per split and what was left out.
    """
    from casbah.products.tiles import TileFolds
    from casbah.tile import tile as cut
    from casbah.tile.summary import table_of

    made = cut(
        scenes=scene,
        labels=labels,
        output=output,
        tile_size=tile_size,
        stride=stride,
        block_size=block_size,
        guard=guard,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        folds=folds,
        align=align,
        seed=seed,
        test_scene=test_scene,
        layout=layout.value,
        max_ignore=max_ignore,
        few_labels=few_labels,
        normalise=normalise.value,
    )
    for tiles in [*made.folds, made.refit] if isinstance(made, TileFolds) else [made]:
        typer.echo(f"{tiles.path}\n{table_of(tiles.info)}\n")
