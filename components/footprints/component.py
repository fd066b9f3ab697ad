"""Footprints: polygons of what a model calls building, from its probabilities."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Output

from components.images import image


@dsl.component(base_image=image("footprints"), packages_to_install=[], install_kfp_package=False)
def footprints(
    polygons: Output[Dataset],
    summary: Output[Markdown],
    prediction: Input[Artifact],
    threshold: float,
    minimum_area: float,
    square: bool,
    flatgeobuf: bool,
    block_size: float,
) -> None:
    """Draws outlines between pixels, where the probability passes a threshold.

    Args:
        polygons: The footprints as GeoParquet and GeoPackage, and a table by block.
        summary: What was drawn, in numbers and as a sentence on what a polygon means.
        prediction: The probabilities of a scene.
        threshold: Probability of the outlines, between 0 and 1; 0 for the model's own.
        minimum_area: Square metres below which a polygon is left out; 0 for half a pixel.
        square: Whether shapes with right angles are given them.
        flatgeobuf: Whether FlatGeobuf is written as well.
        block_size: Metres, the side of the blocks of the table; 0 for 1000.
    """
    from casbah.pipeline import steps

    steps.footprints(
        polygons,
        summary,
        prediction=prediction,
        threshold=threshold,
        minimum_area=minimum_area,
        square=square,
        flatgeobuf=flatgeobuf,
        block_size=block_size,
    )
