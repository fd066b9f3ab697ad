"""Publish: the map and its polygons are put where others read them."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Output

from components.images import image


@dsl.component(base_image=image("publish"), packages_to_install=[], install_kfp_package=False)
def publish(
    collection: Output[Markdown],
    prediction: Input[Artifact],
    polygons: Input[Dataset],
    to: str,
) -> None:
    """Writes a STAC collection of the map and its polygons into the object store.

    Args:
        collection: What lies where, for the Kubeflow UI.
        prediction: The map.
        polygons: Its polygons.
        to: s3:// address under which the collection lies; what an earlier run left there is replaced.
    """
    from casbah.pipeline import steps

    steps.publish(collection, prediction=prediction, polygons=polygons, to=to)
