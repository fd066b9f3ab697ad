"""The study as a pipeline: every experiment trained on the same tiles, scored, and reported side by side.

    casbah pipeline compile --pipeline compare_experiments --output build/compare_experiments.yaml
    kfp run create -e casbah -f build/compare_experiments.yaml aoi=algiers start=2023-06-01 end=2023-09-30

One seed and all labels; `casbah compare` also draws several seeds and smaller budgets. Kubeflow ends a run whose
`ParallelFor` has a failed item: run it again without that experiment, and the others are taken from the cache.
"""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Collected, Markdown

from casbah.compare.rows import study
from components.compare.component import compare
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from pipelines.placement import on_gpu, placed, with_store
from pipelines.tiling import tiles_of


class Outputs(NamedTuple):
    """What a run leaves."""

    comparison: Artifact
    summary: Markdown


@dsl.pipeline(
    name="compare-experiments",
    description="Sentinel-2 and footprints become tiles, and every model of the study is compared on them.",
)
def compare_experiments(
    aoi: str = "algiers",
    start: str = "2023-06-01",
    end: str = "2023-09-30",
    stac: str = "https://earth-search.aws.element84.com/v1",
    labels: str = "osm",
    labelled_area: str = "",
    experiments: list[str] = study(),
    periods: int = 1,
    max_cloud: float = 20.0,
    tile_size: int = 64,
    block_size: float = 0.0,
    cell_size: float = 0.0,
    align: bool = False,
    seed: int = 0,
    trials: int = 0,
    snapshot: str = "2026-11-01",
    licence: str = "",
    attribution: str = "",
    vintage: str = "",
) -> Outputs:
    """Compares building models on one area.

    Args:
        aoi: Area of interest: algiers, sample (sample@ and its digest: that very town), or the s3:// or https://
            address of a GeoJSON.
        start: First day of the imagery, ISO: 2023-06-01.
        end: Last day of the imagery, ISO: 2023-09-30.
        stac: STAC API or catalogue to read Sentinel-2 from; sample is the simulated town.
        labels: Footprints: osm, overture, sample, or the s3:// or https:// address of a vector file.
        labelled_area: Address of polygons outside of which no footprints are known; empty where they are complete.
        experiments: JSON list of experiments to compare, built-in names or addresses of YAML files; all rows of the
            study as it stands, and names that end in _small are their variants for a CPU.
        periods: Time steps that the span is cut into; several help more than any other choice, at their cost in time.
        max_cloud: Highest cloud cover of an image that is read, in percent.
        tile_size: Rows and columns of a tile, in pixels of 10 m.
        block_size: Side of a block that belongs to one split as a whole, in metres; 0 lets the tile stage choose.
        cell_size: Side of the grid cells that a large area is read in, each in a pod of its own, in metres, rounded to
            whole blocks; 0 reads up to 60 km as one, and more in cells of about 30 km.
        align: Move footprints by the shift that each split's own blocks show.
        seed: Of the splits, the weights and the bootstrap.
        trials: Trainings among which each experiment's settings are looked for, on validation, the same number for all;
            0 trains them as they stand. An ensemble is trained as it stands in any case.
        snapshot: Date of reading, ISO. Equal runs reuse what was read; put today's date to read it all anew.
        licence: Licence of the footprints of a vector file, such as CC-BY-4.0; empty where the source says it itself.
        attribution: Whom every map made from a vector file's footprints must name; empty where the source says it.
        vintage: Date, year or span of a vector file's footprints, such as 1988-2013; empty where the source says it.
    """
    # fmt: off
    tiles = tiles_of(
        aoi=aoi, start=start, end=end, stac=stac, periods=periods, max_cloud=max_cloud, snapshot=snapshot, seed=seed,
        labels=labels, labelled_area=labelled_area, licence=licence, attribution=attribution, vintage=vintage,
        tile_size=tile_size, block_size=block_size, cell_size=cell_size, align=align, experiments=experiments,
        trials=trials, name="",
    )
    # fmt: on

    with dsl.ParallelFor(experiments, name="experiments") as experiment:
        trained = finetune(tiles=tiles, experiment=experiment, seed=seed, trials=trials, snapshot=snapshot)
        on_gpu(with_store(placed(trained, "finetune")))
        validated = placed(evaluate(model=trained.outputs["model"], tiles=tiles, split="val", seed=seed), "evaluate")
        validated.set_display_name("evaluate on validation")
        tested = placed(evaluate(model=trained.outputs["model"], tiles=tiles, split="test", seed=seed), "evaluate")
        tested.set_display_name("evaluate on test, to be reported alone")

    compared = compare(
        models=Collected(trained.outputs["model"]),
        validations=Collected(validated.outputs["evaluation"]),
        tests=Collected(tested.outputs["evaluation"]),
        tiles=tiles,
    )
    placed(compared, "compare")
    return Outputs(compared.outputs["comparison"], compared.outputs["summary"])
