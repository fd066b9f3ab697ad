"""The steps that every pipeline begins with: imagery and footprints become tiles."""

from typing import Any

from kfp import dsl
from kfp.dsl import Collected

from components.ingest.component import ingest
from components.label.component import label
from components.preflight.component import preflight
from components.tile.component import tile
from pipelines.placement import placed, with_store

CELLS_AT_ONCE = 8
"""Grid cells of a large area that are read at the same time: a public catalogue answers no faster to more."""


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
    cell_size: Any,
    align: Any,
    seed: Any,
    snapshot: Any,
    experiments: Any,
    trials: Any,
    name: Any,
) -> Any:
    """Add `preflight`, `ingest`, `label` and `tile` to the pipeline that is being made, and return the channel of the
    tile set. A large area is read and labelled cell by cell, and its cells are tiled together.

    The arguments are the pipeline's own parameters of the same names; the last three are for preflight alone.
    """
    checked = preflight(
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
    with_store(placed(checked, "preflight")).set_caching_options(False)
    with dsl.ParallelFor(checked.output, name="cells", parallelism=CELLS_AT_ONCE) as cell:
        read = ingest(
            aoi=aoi,
            cell=cell,
            cell_margin=0.0,
            start=start,
            end=end,
            stac=stac,
            periods=periods,
            max_cloud=max_cloud,
            snapshot=snapshot,
        )
        scene = with_store(placed(read, "ingest")).outputs["scene"]
        labelled = label(
            scene=scene,
            source=labels,
            labelled_area=labelled_area,
            licence=licence,
            attribution=attribution,
            vintage=vintage,
            snapshot=snapshot,
        )
        cover = with_store(placed(labelled, "label")).outputs["labels"]
    cut = tile(
        scenes=Collected(scene),
        labels=Collected(cover),
        tile_size=tile_size,
        block_size=block_size,
        align=align,
        seed=seed,
    )
    return placed(cut, "tile").outputs["tiles"]
