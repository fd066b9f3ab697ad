"""Preflight: what can be known to be wrong is said before anything is read or trained."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("preflight"), packages_to_install=[], install_kfp_package=False)
def preflight(
    aoi: str,
    start: str,
    end: str,
    stac: str,
    labels: str,
    labelled_area: str,
    experiments: list,
    periods: int,
    max_cloud: float,
    tile_size: int,
    block_size: float,
    cell_size: float,
    seed: int,
    trials: int,
    vintage: str,
    name: str,
) -> list:
    """Checks the parameters, the object store, MLflow, the area, every experiment and that its weights can be had.

    Returns the grid cells that the area is read in, each by a pod of its own.

    Args:
        aoi: As the pipeline's parameter; so are all below.
        start: First day.
        end: Last day.
        stac: STAC API or catalogue.
        labels: Source of the footprints.
        labelled_area: Address of polygons, or empty.
        experiments: Names or addresses of the experiments.
        periods: Time steps.
        max_cloud: Percent.
        tile_size: Pixels.
        block_size: Metres; 0 lets the tile stage choose.
        cell_size: Side of a grid cell in metres; 0 to let it be chosen.
        seed: Of everything random.
        trials: Trainings for each experiment's settings.
        vintage: Date or span of the footprints, or empty.
        name: Name of the registered model; empty where nothing is registered, and MLflow may be missing.
    """
    from casbah.pipeline import steps

    return steps.preflight(
        aoi=aoi,
        start=start,
        end=end,
        stac=stac,
        labels=labels,
        labelled_area=labelled_area,
        experiments=experiments,
        periods=periods,
        max_cloud=max_cloud,
        tile_size=tile_size,
        block_size=block_size,
        cell_size=cell_size,
        seed=seed,
        trials=trials,
        vintage=vintage,
        name=name,
    )
