"""The `demo` command: everything, on a simulated town, with nothing but this machine."""

from pathlib import Path
from typing import Annotated

import typer

from casbah.cli.pipeline import CONTAINERS, GPUS, IMAGES, MEMORY, USER, boxes
from casbah.cli.root import app

EXPERIMENTS = '["unet_scratch_small", "prithvi_tiny_upernet", "boosted_pixels"]'


@app.command()
def demo(
    directory: Annotated[
        Path, typer.Option(help="Where the services, the town and the steps' results live; a second run reuses them.")
    ] = Path(".casbah"),
    output: Annotated[Path, typer.Option(help="Where report, map and model are copied to.")] = Path("runs/demo"),
    experiments: Annotated[str, typer.Option(help="JSON list of the experiments to compare.")] = EXPERIMENTS,
    size_km: Annotated[tuple[float, float], typer.Option(help="Kilometres east and north of the simulated town.")] = (
        6.0,
        5.04,
    ),
    containers: CONTAINERS = False,
    images: IMAGES = Path("build/images.json"),
    user: USER = None,
    memory: MEMORY = "",
    gpus: GPUS = False,
) -> None:
    """Run the whole pipeline on a simulated town: object store, MLflow, KFP, report and map.

    Starts the services, makes the town, publishes its imagery to the object store and serves its catalogue as a STAC
    API, runs the compiled Kubeflow pipeline on this machine, prints the results, and stops what it started. All
    numbers are SIMULATED: they show that everything works, not how well buildings are mapped. Needs a checkout of
    Casbah, which holds the pipeline's source.
    Example: `casbah demo`, and then open runs/demo/evaluation/report.html
    """
    from casbah.cli.results import print_results
    from casbah.pipeline import demo as story
    from casbah.pipeline.compiled import built
    from casbah.pipeline.session import Session, request

    asked = boxes(containers, user, memory, gpus)
    pinned = built(images) if containers else None
    with (
        request(story.arguments(experiments), output=output, images=pinned) as wanted,
        Session(directory, embedded=True, boxes=asked) as session,
    ):
        print_results(story.play(session, wanted, size=size_km, output=output))
