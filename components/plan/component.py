"""Plan: whether the area can be mapped with the model, and the grid cells that it is read in."""

from kfp import dsl
from kfp.dsl import Input, Model

from components.images import image


@dsl.component(base_image=image("plan"), packages_to_install=[], install_kfp_package=False)
def plan(
    model: Input[Model],
    aoi: str,
    start: str,
    end: str,
    stac: str,
    periods: int,
    max_cloud: float,
    cell_size: float,
    cell_margin: float,
    to: str,
) -> list:
    """Checks the parameters, the area and the object store against the model, and returns the grid cells.

    Args:
        model: The model that is to draw the map.
        aoi: As the pipeline's parameter; so are all below.
        start: First day.
        end: Last day.
        stac: STAC API or catalogue.
        periods: Time steps.
        max_cloud: Percent.
        cell_size: Side of a grid cell in metres; 0 to let it be chosen.
        cell_margin: Metres around each cell that are read too.
        to: Where the map is published.
    """
    from casbah.pipeline import steps

    return steps.plan(
        model=model,
        aoi=aoi,
        start=start,
        end=end,
        stac=stac,
        periods=periods,
        max_cloud=max_cloud,
        cell_size=cell_size,
        cell_margin=cell_margin,
        to=to,
    )
