"""Tile: tiles of image and label in spatially separate splits."""

from typing import List  # noqa: UP035 - KFP reads this form alone as a list of artifacts

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components.images import image


@dsl.component(base_image=image("tile"), packages_to_install=[], install_kfp_package=False)
def tile(
    tiles: Output[Dataset],
    scenes: Input[List[Dataset]],  # noqa: UP006
    labels: Input[List[Dataset]],  # noqa: UP006
    tile_size: int,
    block_size: float,
    align: bool,
    seed: int,
) -> None:
    """Cuts scenes and labels into tiles whose training, validation and test blocks share no pixel.

    Args:
        tiles: The tile set, memory-mapped, with statistics from the training split alone.
        scenes: The scenes: one, or the grid cells of a large area.
        labels: The labels on their grids, in the same order.
        tile_size: Rows and columns of a tile, in pixels of 10 m.
        block_size: Side of a block of one split, in metres; 0 lets the stage choose.
        align: Whether footprints are moved by the shift that each split's own blocks show.
        seed: Decides, with a block's name, which split it belongs to.
    """
    from casbah.pipeline import steps

    steps.tile(tiles, scenes=scenes, labels=labels, tile_size=tile_size, block_size=block_size, align=align, seed=seed)
