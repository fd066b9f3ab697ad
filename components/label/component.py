"""Label: building footprints as cover and mask on the grid of a scene."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components.images import image


@dsl.component(base_image=image("label"), packages_to_install=[], install_kfp_package=False)
def label(
    labels: Output[Dataset],
    scene: Input[Dataset],
    source: str,
    labelled_area: str,
    licence: str,
    attribution: str,
    vintage: str,
    snapshot: str,
) -> None:
    """Turns building footprints into the share of each pixel that they cover.

    Args:
        labels: Footprints, cover and mask on the scene's grid.
        scene: The scene whose grid the labels take.
        source: osm, overture, sample, or the s3:// or https:// address of a vector file.
        labelled_area: Address of polygons outside of which nothing is known; empty where the footprints are complete.
        licence: Licence of a vector file's footprints, such as CC-BY-4.0; empty where the source says it itself.
        attribution: Whom every map made from a vector file must name; empty where the source says it itself.
        vintage: Date, year or span of a vector file's footprints, such as 1988-2013; empty where the source says it.
        snapshot: Date of reading, ISO; OpenStreetMap is asked for its state of that day; part of the cache key.
    """
    from casbah.pipeline import steps

    steps.label(
        labels,
        scene=scene,
        source=source,
        labelled_area=labelled_area,
        licence=licence,
        attribution=attribution,
        vintage=vintage,
        snapshot=snapshot,
    )
