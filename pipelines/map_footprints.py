"""From the registered model to a published map: one probability raster, its polygons, one STAC collection.

    casbah pipeline compile --pipeline map_footprints --output build/map_footprints.yaml
    kfp run create -e casbah -f build/map_footprints.yaml aoi=algiers start=2023-06-01 end=2023-09-30

The area is read and predicted in grid cells that overlap, a pod each, and laid together as one map.
"""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Collected, Dataset, Markdown

from components.fetch.component import fetch
from components.footprints.component import footprints
from components.ingest.component import ingest
from components.merge.component import merge
from components.plan.component import plan
from components.predict.component import predict
from components.publish.component import publish
from pipelines.placement import on_gpu, placed, with_store
from pipelines.tiling import CELLS_AT_ONCE

MARGIN = 960.0
"""Metres around a grid cell that are predicted too: 96 pixels on either side of a border, more than windows share."""


class Outputs(NamedTuple):
    """What a run leaves beside the published collection."""

    prediction: Artifact
    footprints: Dataset
    collection: Markdown


@dsl.pipeline(
    name="map-footprints",
    description="The registered model draws the buildings of an area: one map, its polygons, one STAC collection.",
)
def map_footprints(
    aoi: str = "algiers",
    start: str = "2023-06-01",
    end: str = "2023-09-30",
    stac: str = "https://earth-search.aws.element84.com/v1",
    model: str = "models:/casbah-buildings@champion",
    to: str = "s3://casbah/maps/latest",
    periods: int = 1,
    max_cloud: float = 20.0,
    cell_size: float = 0.0,
    minimum_area: float = 100.0,
    snapshot: str = "2026-11-01",
) -> Outputs:
    """Maps the buildings of one area with a registered model.

    Args:
        aoi: Area of interest: algiers, sample (sample@ and its digest: that very town), or the s3:// or https://
            address of a GeoJSON.
        start: First day of the imagery, ISO: 2023-06-01.
        end: Last day of the imagery, ISO: 2023-09-30.
        stac: STAC API or catalogue to read Sentinel-2 from; sample is the simulated town.
        model: The model in MLflow: models:/NAME@ALIAS, or models:/NAME/3 for that very version.
        to: s3:// address under which the STAC collection lies; what an earlier run left there is replaced.
        periods: Time steps that the span is cut into: as many as the model learned from.
        max_cloud: Highest cloud cover of an image that is read, in percent.
        cell_size: Side of the grid cells that a large area is read and predicted in, each in a pod of its own, in
            metres; 0 takes up to 60 km as one, and more in cells of about 30 km.
        minimum_area: Polygons smaller than so many square metres are left out: 100 is a pixel.
        snapshot: Date of reading, ISO. Equal runs reuse what was read; put today's date to read it all anew.
    """
    fetched = fetch(address=model)
    with_store(placed(fetched, "fetch")).set_caching_options(False)
    bundle = fetched.outputs["model"]
    # fmt: off
    planned = plan(
        model=bundle, aoi=aoi, start=start, end=end, stac=stac, periods=periods, max_cloud=max_cloud,
        cell_size=cell_size, cell_margin=MARGIN, to=to,
    )
    # fmt: on
    with_store(placed(planned, "plan")).set_caching_options(False)
    with dsl.ParallelFor(planned.output, name="cells", parallelism=CELLS_AT_ONCE) as cell:
        read = ingest(
            aoi=aoi,
            cell=cell,
            cell_margin=MARGIN,
            start=start,
            end=end,
            stac=stac,
            periods=periods,
            max_cloud=max_cloud,
            snapshot=snapshot,
        )
        with_store(placed(read, "ingest"))
        predicted = predict(model=bundle, scene=read.outputs["scene"])
        on_gpu(placed(predicted, "predict"))
    merged = placed(merge(predictions=Collected(predicted.outputs["prediction"])), "merge")
    whole = merged.outputs["prediction"]
    # fmt: off
    drawn = footprints(
        prediction=whole, threshold=0.0, minimum_area=minimum_area, square=True, flatgeobuf=False, block_size=0.0
    )
    # fmt: on
    polygons = placed(drawn, "footprints").outputs["polygons"]
    published = publish(prediction=whole, polygons=polygons, to=to)
    with_store(placed(published, "publish")).set_caching_options(False)
    return Outputs(whole, polygons, published.outputs["collection"])
