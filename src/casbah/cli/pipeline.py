"""The `pipeline` commands: compile the Kubeflow pipeline, and run it on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from casbah.cli.root import app

pipeline = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    pipeline, name="pipeline", help="Compile the Kubeflow pipeline to one YAML, or run that YAML on this machine."
)

_PIPELINE = Annotated[
    str,
    typer.Option(help="building_footprints (trains, selects, registers) or compare_experiments (compares all models)."),
]


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
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Ask for no GPU: for a cluster without one, where such a pod would wait.")
    ] = False,
) -> None:
    """Compile the pipeline to one YAML, which runs on Kubeflow, under Docker and on this machine.

    Example: `casbah pipeline compile --image finetune=ghcr.io/me/casbah-finetune@sha256:…`, then
    `kfp run create -e casbah -f build/building_footprints.yaml aoi=algiers` (older name: `kfp run submit`).
    """
    from casbah.errors import InputError
    from casbah.pipeline.compiled import compile_pipeline

    images = {}
    for pair in image or []:
        stage, separator, reference = pair.partition("=")
        if not separator:
            raise InputError(f"--image {pair!r} is not STAGE=IMAGE, such as finetune=repository@sha256:digest")
        images[stage] = reference
    target = output or Path("build") / f"{pipeline}.yaml"
    typer.echo(compile_pipeline(target, pipeline=pipeline, images=images, registry=registry, cpu=cpu))


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
        Path, typer.Option(help="Where the winner, its evaluation and the comparison are copied to.")
    ] = Path("runs/latest"),
    directory: Annotated[
        Path, typer.Option(help="Where the stack and the steps' results live; equal steps are reused.")
    ] = Path(".casbah"),
) -> None:
    """Run the pipeline on this machine: the same YAML as on Kubeflow, each step a process of its own.

    It uses the object store and MLflow that the environment names (AWS_…, MLFLOW_TRACKING_URI), or starts embedded
    ones and stops them afterwards. Without --package it needs a checkout of Casbah, to compile the pipeline from. A
    file given for `aoi` or `labels` is copied into the object store first.
    Example: `casbah pipeline run aoi=my_town.geojson labels=osm start=2023-06-01 end=2023-09-30`
    """
    from casbah.cli.compare import print_comparison
    from casbah.cli.results import print_results
    from casbah.pipeline.compiled import COMPARISON
    from casbah.pipeline.session import Session, request, split_arguments

    given = split_arguments(arguments or [])
    with request(given, package, output=output, pipeline=pipeline) as wanted, Session(directory) as session:
        if wanted.pipeline == COMPARISON:
            print_comparison(session.compare(wanted, output=output))
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
