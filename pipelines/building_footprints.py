"""From a STAC search to a registered building model: the pipeline that trains, compares and registers.

Compiles to one YAML that runs on Kubeflow, under Docker and, through `kfp.local`, in plain processes of one machine:

    casbah pipeline compile --output build/building_footprints.yaml
    kfp run create -e casbah -f build/building_footprints.yaml aoi=algiers start=2023-06-01

Credentials come from the Secrets `casbah-store` and `casbah-mlflow`, addresses from the ConfigMap `casbah-services`;
the YAML holds neither.
"""

import os
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Collected, Markdown, Model, PipelineTask

from components.conclude.component import conclude
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.images import image
from components.register.component import register
from components.select.component import select
from pipelines.placement import on_gpu, placed, with_store
from pipelines.tiling import tiles_of

COMMIT = "CASBAH_GIT_COMMIT"
"""Variable that names the commit of Casbah in the images, where whoever compiles knows it."""


class Outputs(NamedTuple):
    """What a run leaves: the winner, its one evaluation on test, the comparison, and what the registry said."""

    model: Model
    evaluation: Artifact
    comparison: Markdown
    registration: Markdown


def with_origin(task: PipelineTask) -> PipelineTask:
    """Let the registered version name what trained it: the image of finetune, and its commit where it is known."""
    task.set_env_variable("CASBAH_IMAGE", image("finetune"))
    if commit := os.environ.get(COMMIT):
        task.set_env_variable(COMMIT, commit)
    return task


@dsl.pipeline(
    name="train-and-register",
    description="All of the run but its last word, which is said whatever happens here.",
)
def train_and_register(
    aoi: str,
    start: str,
    end: str,
    stac: str,
    labels: str,
    labelled_area: str,
    experiments: list[str],
    periods: int,
    max_cloud: float,
    tile_size: int,
    block_size: float,
    cell_size: float,
    align: bool,
    seed: int,
    trials: int,
    name: str,
    snapshot: str,
    licence: str,
    attribution: str,
    vintage: str,
) -> Outputs:
    """As `building_footprints`, whose parameters these are."""
    # fmt: off
    tiles = tiles_of(
        aoi=aoi, start=start, end=end, stac=stac, periods=periods, max_cloud=max_cloud, snapshot=snapshot, seed=seed,
        labels=labels, labelled_area=labelled_area, licence=licence, attribution=attribution, vintage=vintage,
        tile_size=tile_size, block_size=block_size, cell_size=cell_size, align=align, experiments=experiments,
        trials=trials, name=name,
    )
    # fmt: on

    with dsl.ParallelFor(experiments, name="experiments") as experiment:
        trained = finetune(tiles=tiles, experiment=experiment, seed=seed, trials=trials, snapshot=snapshot)
        on_gpu(with_store(placed(trained, "finetune")))
        validated = placed(evaluate(model=trained.outputs["model"], tiles=tiles, split="val", seed=seed), "evaluate")
        validated.set_display_name("evaluate on validation")

    chosen = select(models=Collected(trained.outputs["model"]), evaluations=Collected(validated.outputs["evaluation"]))
    placed(chosen, "select")
    winner = chosen.outputs["model"]
    tested = placed(evaluate(model=winner, tiles=tiles, split="test", seed=seed), "evaluate")
    tested.set_display_name("evaluate on test, once")
    registered = register(
        model=winner,
        evaluation=tested.outputs["evaluation"],
        tiles=tiles,
        name=name,
        run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    with_origin(with_store(placed(registered, "register"))).set_caching_options(False)
    return Outputs(
        winner, tested.outputs["evaluation"], chosen.outputs["comparison"], registered.outputs["registration"]
    )


@dsl.pipeline(
    name="building-footprints",
    description="Sentinel-2 and footprints become tiles, several models, one comparison and a registered version.",
)
def building_footprints(
    aoi: str = "algiers",
    start: str = "2023-06-01",
    end: str = "2023-09-30",
    stac: str = "https://earth-search.aws.element84.com/v1",
    labels: str = "osm",
    labelled_area: str = "",
    experiments: list[str] = ["unet_scratch_small", "prithvi_tiny_upernet", "boosted_pixels"],  # noqa: B006 - KFP reads it
    periods: int = 1,
    max_cloud: float = 20.0,
    tile_size: int = 64,
    block_size: float = 0.0,
    cell_size: float = 0.0,
    align: bool = False,
    seed: int = 0,
    trials: int = 0,
    name: str = "casbah-buildings",
    snapshot: str = "2026-11-01",
    licence: str = "",
    attribution: str = "",
    vintage: str = "",
) -> Outputs:
    """Trains, compares and registers building models of one area.

    Args:
        aoi: Area of interest: algiers, sample (sample@ and its digest: that very town), or the s3:// or https://
            address of a GeoJSON.
        start: First day of the imagery, ISO: 2023-06-01.
        end: Last day of the imagery, ISO: 2023-09-30.
        stac: STAC API or catalogue to read Sentinel-2 from; sample is the simulated town.
        labels: Footprints: osm, overture, sample, or the s3:// or https:// address of a vector file.
        labelled_area: Address of polygons outside of which no footprints are known; empty where they are complete.
        experiments: JSON list of experiments to train and compare, built-in names or addresses of YAML files.
        periods: Time steps that the span is cut into; several help more than any other choice, at their cost in time.
        max_cloud: Highest cloud cover of an image that is read, in percent.
        tile_size: Rows and columns of a tile, in pixels of 10 m.
        block_size: Side of a block that belongs to one split as a whole, in metres; 0 lets the tile stage choose.
        cell_size: Side of the grid cells that a large area is read in, each in a pod of its own, in metres, rounded to
            whole blocks; 0 reads up to 60 km as one, and more in cells of about 30 km.
        align: Move footprints by the shift that each split's own blocks show; scores come with and without it.
        seed: Of the splits, the weights and the bootstrap.
        name: Name of the registered model in MLflow.
        trials: Trainings among which each experiment's settings are looked for, on validation, the same number for all;
            0 trains them as they stand. An ensemble is trained as it stands in any case.
        snapshot: Date of reading, ISO. Equal runs reuse what was read; put today's date to read it all anew, the YAML
            files of experiments and the sample too. osm is read as it was on that day.
        licence: Licence of the footprints of a vector file, such as CC-BY-4.0; empty where the source says it itself.
        attribution: Whom every map made from a vector file's footprints must name; empty where the source says it.
        vintage: Date, year or span of a vector file's footprints, such as 1988-2013; empty where the source says it.
    """
    done = train_and_register(
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
        align=align,
        seed=seed,
        trials=trials,
        name=name,
        snapshot=snapshot,
        licence=licence,
        attribution=attribution,
        vintage=vintage,
    )
    # Runs whatever became of all that; an exit handler proper would hide the outputs from whoever asks for them.
    ended = conclude(name=name, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER).after(done).ignore_upstream_failure()
    with_store(placed(ended, "conclude")).set_caching_options(False)
    return Outputs(**{output: done.outputs[output] for output in Outputs._fields})
