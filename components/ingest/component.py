"""Ingest: Sentinel-2 of an area and a time span, composited into one scene."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from components.images import image


@dsl.component(base_image=image("ingest"), packages_to_install=[], install_kfp_package=False)
def ingest(
    scene: Output[Dataset],
    aoi: str,
    cell: str,
    cell_margin: float,
    start: str,
    end: str,
    stac: str,
    periods: int,
    max_cloud: float,
    snapshot: str,
) -> None:
    """Reads Sentinel-2 from a STAC catalogue and leaves cloud-free composites on one grid.

    Args:
        scene: The scene: reflectance x 10000 per time step, 12 bands, 10 m.
        aoi: Built-in name (algiers, sample), or the s3:// or https:// address of a GeoJSON.
        cell: Grid cell of the area that is read, as preflight or plan names it; empty for the whole area.
        cell_margin: Metres around the cell that are read too.
        start: First day, ISO (2023-06-01).
        end: Last day, ISO (2023-09-30).
        stac: STAC API or catalogue; `sample` is the simulated town in the object store.
        periods: Time steps that the span is cut into, each one composite.
        max_cloud: Highest cloud cover of an image that is read, in percent.
        snapshot: Date of reading, ISO; part of the cache key, so that a later date reads the catalogue again.
    """
    from casbah.pipeline import steps

    steps.ingest(
        scene,
        aoi=aoi,
        cell=cell,
        cell_margin=cell_margin,
        start=start,
        end=end,
        stac=stac,
        periods=periods,
        max_cloud=max_cloud,
        snapshot=snapshot,
    )
