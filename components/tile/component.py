"""Tile: tiles of image and label in spatially separate splits."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components.images import image


@dsl.component(base_image=image("tile"), packages_to_install=[], install_kfp_package=False)
def tile(
    tiles: Output[Dataset],
    scene: Input[Dataset],
    labels: Input[Dataset],
    tile_size: int,
    block_size: float,
    align: bool,
    seed: int,
) -> None:
    """Cuts scene and labels into tiles whose training, validation and test blocks share no pixel.

    Args:
        tiles: The tile set, memory-mapped, with statistics from the training split alone.
        scene: The scene.
        labels: The labels on its grid.
        tile_size: Rows and columns of a tile, in pixels of 10 m.
        block_size: Side of a block of one split, in metres; 0 lets the stage choose.
        align: Whether footprints are moved by the shift that each split's own blocks show.
        seed: Decides, with a block's name, which split it belongs to.
    """
    from casbah.pipeline import steps

    steps.tile(tiles, scene=scene, labels=labels, tile_size=tile_size, block_size=block_size, align=align, seed=seed)
