"""The steps that every pipeline begins with: imagery and footprints become tiles."""

from typing import Any

from components.ingest.component import ingest
from components.label.component import label
from components.tile.component import tile
from pipelines.placement import with_store


def tiles_of(
    *,
    aoi: Any,
    start: Any,
    end: Any,
    stac: Any,
    periods: Any,
    max_cloud: Any,
    labels: Any,
    labelled_area: Any,
    licence: Any,
    attribution: Any,
    vintage: Any,
    tile_size: Any,
    block_size: Any,
    align: Any,
    seed: Any,
    snapshot: Any,
) -> Any:
    """Add `ingest`, `label` and `tile` to the pipeline that is being made, and return the channel of the tile set.

    The arguments are the pipeline's own parameters of the same names.
    """
    scene = with_store(
        ingest(aoi=aoi, start=start, end=end, stac=stac, periods=periods, max_cloud=max_cloud, snapshot=snapshot)
    ).outputs["scene"]
    cover = with_store(
        label(
            scene=scene,
            source=labels,
            labelled_area=labelled_area,
            licence=licence,
            attribution=attribution,
            vintage=vintage,
            snapshot=snapshot,
        )
    ).outputs["labels"]
    return tile(scene=scene, labels=cover, tile_size=tile_size, block_size=block_size, align=align, seed=seed).outputs[
        "tiles"
    ]
