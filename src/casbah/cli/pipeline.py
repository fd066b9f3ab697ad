"""The `pipeline` commands: compile the Kubeflow pipeline, run it on this machine, and estimate what a run takes."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casbah.cli.root import app

if TYPE_CHECKING:
    from casbah.pipeline.containers import Containers

pipeline = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    pipeline,
    name="pipeline",
    help="Compile the Kubeflow pipeline to one YAML, run that YAML on this machine, or estimate a run.",
)

_PIPELINE = Annotated[
    str,
    typer.Option(
        help="building_footprints (trains, selects, registers), compare_experiments (compares all models) or "
        "map_footprints (the registered model draws a map)."
    ),
]

CONTAINERS = Annotated[
    bool, typer.Option("--containers", help="Run each step in its image by Docker, not in this environment.")
]
IMAGES = Annotated[
    Path, typer.Option(help="Which images those are, where no package names them: what `make images` has written.")
]
USER = Annotated[
    str | None,
    typer.Option(help="User and group of the containers, by number.  [default: you, and 0]", show_default=False),
]
MEMORY = Annotated[
    str, typer.Option(help="Most memory of a container, such as 8g; without it there is no limit.", show_default=False)
]
GPUS = Annotated[bool, typer.Option("--gpus", help="Let containers use this machine's GPUs.")]


def boxes(containers: bool, user: str | None, memory: str, gpus: bool) -> "Containers | None":
    """What these options ask for; `InputError` where they ask for containers' ways without containers."""
    from casbah.errors import InputError
    from casbah.pipeline.containers import Containers

    if not containers:
        given = [name for name, value in (("user", user), ("memory", memory), ("gpus", gpus)) if value]
        if given:
            raise InputError(f"--{given[0]} is for containers: give --containers too")
        return None
    if user is None:
        return Containers(memory=memory, gpus=gpus)
    if not re.fullmatch(r"\d+(:\d+)?", user):
        raise InputError(f"--user is {user!r}; numbers are wanted, such as 1000:0")
    return Containers(user=user, memory=memory, gpus=gpus)


@pipeline.command("compile")
def compile_(
    output: Annotated[
        Path | None, typer.Option(help="The YAML to write.  [default: build/<pipeline>.yaml]", show_default=False)
    ] = None,
    pipeline: _PIPELINE = "building_footprints",
    image: Annotated[
        list[str] | None,
        typer.Option(
            help="STAGE=IMAGE, the image of one stage, pinned as repository@sha256:digest; give it once per stage. "
            "The variable CASBAH_IMAGE_<STAGE> does the same."
        ),
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="Where the images of the other stages come from (CASBAH_REGISTRY).")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="What `make images` has written: every stage's image, pinned.", show_default=False),
    ] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Ask for no GPU: for a cluster without one, where such a pod would wait.")
    ] = False,
    any_user: Annotated[
        bool,
        typer.Option("--any-user", help="Name no user for the pods: for OpenShift, which gives each namespace one."),
    ] = False,
    gpu_resource: Annotated[
        str | None,
        typer.Option(
            help="What to ask for in place of a whole GPU: a slice (MIG), such as nvidia.com/mig-1g.10gb (CASBAH_GPU).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compile the pipeline to one YAML, which runs on Kubeflow, under Docker and on this machine.

    Example: `casbah pipeline compile --images build/images.json`, then
    `kfp run create -e casbah -f build/building_footprints.yaml aoi=algiers` (older name: `kfp run submit`).
    """
    from casbah.errors import InputError
    from casbah.pipeline.compiled import built, compile_pipeline

    named = built(images) if images else {}
    for pair in image or []:
        stage, separator, reference = pair.partition("=")
        if not separator:
            raise InputError(f"--image {pair!r} is not STAGE=IMAGE, such as finetune=repository@sha256:digest")
        named[stage] = reference
    target = output or Path("build") / f"{pipeline}.yaml"
    made = compile_pipeline(
        target, pipeline=pipeline, images=named, registry=registry, cpu=cpu, any_user=any_user, gpu=gpu_resource
    )
    typer.echo(made)


@pipeline.command("run")
def run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]…", help="Parameters, written as for `kfp run create`.", show_default=False
        ),
    ] = None,
    package: Annotated[
        Path | None, typer.Option(help="A compiled pipeline; without one, it is compiled first.")
    ] = None,
    pipeline: _PIPELINE = "building_footprints",
    output: Annotated[
        Path,
        typer.Option(
            help="Where what the run made is copied to: winner, evaluation and comparison; or map and polygons."
        ),
    ] = Path("runs/latest"),
    directory: Annotated[
        Path, typer.Option(help="Where the stack and the steps' results live; equal steps are reused.")
    ] = Path(".casbah"),
    containers: CONTAINERS = False,
    images: IMAGES = Path("build/images.json"),
    user: USER = None,
    memory: MEMORY = "",
    gpus: GPUS = False,
) -> None:
    """Run the pipeline on this machine: the same YAML as on Kubeflow, each step a process or a container of its own.

    It uses the object store and MLflow that the environment names (AWS_…, MLFLOW_TRACKING_URI), or starts embedded
    ones and stops them afterwards. Without --package it needs a checkout of Casbah, to compile the pipeline from. A
    file given for `aoi` or `labels` is copied into the object store first.
    Example: `casbah pipeline run aoi=my_town.geojson labels=osm start=2023-06-01 end=2023-09-30`
    """
    from casbah.cli.compare import print_comparison
    from casbah.cli.results import print_results
    from casbah.pipeline.compiled import COMPARISON, MAP, built
    from casbah.pipeline.session import Session, request, split_arguments

    given = split_arguments(arguments or [])
    asked = boxes(containers, user, memory, gpus)
    pinned = built(images) if containers and package is None else None
    with (
        request(given, package, output=output, pipeline=pipeline, images=pinned) as wanted,
        Session(directory, boxes=asked) as session,
    ):
        if wanted.pipeline == COMPARISON:
            print_comparison(session.compare(wanted, output=output))
        elif wanted.pipeline == MAP:
            for name, place in session.map(wanted, output=output).items():
                typer.echo(f"{name:12} {place}")
        else:
            print_results(session.run(wanted, output=output))


@pipeline.command("parameters")
def parameters(
    package: Annotated[
        Path | None, typer.Option(help="A compiled pipeline; without one, it is compiled first.")
    ] = None,
    pipeline: _PIPELINE = "building_footprints",
) -> None:
    """List the pipeline's parameters with their defaults and what they mean."""
    import tempfile

    from rich.console import Console
    from rich.table import Table

    from casbah.pipeline import compiled

    with tempfile.TemporaryDirectory() as folder:
        package = package or compiled.compile_pipeline(Path(folder) / "pipeline.yaml", pipeline=pipeline)
        declared = compiled.parameters(package)
    table = Table(box=None)
    for heading in ("parameter", "default", "meaning"):
        table.add_column(heading)
    for name, facts in declared.items():
        table.add_row(name, str(facts.get("defaultValue", "")), facts.get("description", ""))
    Console(highlight=False).print(table)


@pipeline.command("estimate")
def estimate_(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]…", help="Parameters, written as for `kfp run create`.", show_default=False
        ),
    ] = None,
    area: Annotated[
        float | None,
        typer.Option(help="Square kilometres, where `aoi` is not to be read.", show_default=False),
    ] = None,
    pipeline: Annotated[str, typer.Option(help="building_footprints or compare_experiments.")] = "building_footprints",
) -> None:
    """Estimate the GPU hours and the storage of a run before it runs, to an order of magnitude.

    From area, dates, tiles, experiments and trials. What is measured and what assumed is said below the table.

    Example: casbah pipeline estimate aoi=my_town.geojson periods=2 trials=20 experiments=unet_imagenet,boosted_pixels
    """
    import tempfile

    from rich.console import Console
    from rich.table import Table

    from casbah.errors import InputError
    from casbah.pipeline import compiled, inputs
    from casbah.pipeline.estimate import area_of, assumptions, check_area, estimate
    from casbah.pipeline.session import split_arguments

    if pipeline == compiled.MAP:
        raise InputError(
            f"a run of {pipeline} trains nothing that could be estimated; {compiled.FOOTPRINTS} or "
            f"{compiled.COMPARISON} is wanted"
        )
    with tempfile.TemporaryDirectory() as folder:
        package = compiled.compile_pipeline(Path(folder) / "pipeline.yaml", pipeline=pipeline)
        given = compiled.arguments(package, split_arguments(arguments or []))
        values = compiled.defaults(package) | given
    # Files of this machine are an area and labels too: `casbah pipeline run` takes them to the store.
    inputs.check({name: value for name, value in values.items() if name not in ("aoi", "labels", "labelled_area")})
    if area is not None:
        check_area(area)
    polygons, boxes = (area, area) if area is not None else area_of(values["aoi"])
    found = estimate(values, area=polygons, boxes=boxes)
    table = Table(box=None)
    table.add_column("for")
    for heading in ("trainings", "GPU hours", "GB"):
        table.add_column(heading, justify="right")
    for each in found.trainings:
        table.add_row(each.experiment, str(each.trainings), about(each.hours), about(each.bytes / 1e9))
    for what, size in list(found.storage.items())[:-1]:
        table.add_row(what, "", "", about(size / 1e9))
    table.add_row("together, about", "", about(found.hours), about(found.bytes / 1e9))
    console = Console(highlight=False)
    console.print(f"{found.square_kilometres:,.3g} km², about {about(found.tiles)} tiles of {values['tile_size']} px")
    console.print(table)
    for sentence in assumptions(found):
        console.print(f"- {sentence}", markup=False)


def about(value: float) -> str:
    """A number without pretended precision: one digit that counts; `< 0.01` for less than that."""
    if value < 0.01:
        return "< 0.01"
    return f"{float(f'{value:.1g}'):,g}"
