"""Fetch: the registered model becomes an artifact of the run."""

from kfp import dsl
from kfp.dsl import Model, Output

from components.images import image


@dsl.component(base_image=image("fetch"), packages_to_install=[], install_kfp_package=False)
def fetch(model: Output[Model], address: str) -> None:
    """Downloads a registered model, without running code that lies with it.

    Args:
        model: Its bundle; the version stands in the metadata.
        address: models:/NAME@ALIAS, or models:/NAME/3 for that very version.
    """
    from casbah.pipeline import steps

    steps.fetch(model, address=address)
