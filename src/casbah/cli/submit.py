"""The `submit` command."""

from pathlib import Path
from typing import Annotated

import typer

from casbah.cli.root import app


@app.command()
def submit(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]…", help="Parameters, written as for `kfp run create`.", show_default=False
        ),
    ] = None,
    package: Annotated[
        Path | None, typer.Option(help="A compiled pipeline; without one, it is compiled first.")
    ] = None,
    pipeline: Annotated[
        str, typer.Option(help="Which one is compiled: building_footprints, compare_experiments or map_footprints.")
    ] = "building_footprints",
    host: Annotated[
        str | None,
        typer.Option(help="Address of Kubeflow Pipelines (KFP_ENDPOINT).", show_default=False),
    ] = None,
    experiment: Annotated[str, typer.Option(help="The experiment of the run; made where there is none.")] = "casbah",
    namespace: Annotated[
        str | None,
        typer.Option(help="Your namespace, where Kubeflow serves several users (KFP_NAMESPACE).", show_default=False),
    ] = None,
    run_name: Annotated[
        str | None, typer.Option(help="What the run is called.  [default: pipeline and time]", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Tell what happens until the run has ended.")] = False,
    timeout_minutes: Annotated[
        float | None, typer.Option(help="Wait so long at most; the run itself goes on.", show_default=False)
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step, whatever ran before.")] = False,
    upload: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Upload the package as a new version of this pipeline, and run that version.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="CRON",
            help="Run again and again, by six fields: second, minute, hour, day, month, weekday.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the pipeline on Kubeflow: check the arguments, submit, and with --wait tell what happens.

    Arguments are checked against the compiled pipeline before the server is asked. A token is taken from KFP_TOKEN and
    shown nowhere. With --wait the exit code is 0 where the run succeeded and 3 where it did not. For example:

        kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80 &

        casbah submit --host http://localhost:8080 --wait aoi=algiers start=2023-06-01 end=2023-09-30

        casbah submit --package build/building_footprints.yaml --upload footprints --every "0 0 3 1 * *" aoi=algiers
    """
    import tempfile
    import time
    from dataclasses import replace

    from casbah.errors import InputError
    from casbah.interruption import termination_as_interrupt
    from casbah.pipeline import compiled, submission
    from casbah.pipeline.kubeflow import Server, check_package
    from casbah.pipeline.session import split_arguments
    from casbah.progress import say

    if every is not None:
        submission.check_schedule(every)
        if wait:
            raise InputError("--every and --wait are given: a schedule has no end to wait for; one of both is wanted")
    if timeout_minutes is not None and not (wait and timeout_minutes > 0):
        raise InputError(f"--timeout-minutes is {timeout_minutes:g}; minutes above 0 are wanted, together with --wait")
    if upload is not None and not upload.strip():
        raise InputError("--upload is empty; the name of a pipeline is wanted, such as footprints")
    given = split_arguments(arguments or [])
    server = Server(host, namespace=namespace)
    with tempfile.TemporaryDirectory(prefix="casbah-") as folder:
        package = package or compiled.compile_pipeline(Path(folder) / f"{pipeline}.yaml", pipeline=pipeline)
        wanted = submission.checked(package, given)
        check_package(package)
        if no_cache:
            wanted = replace(wanted, path=submission.without_cache(package, Path(folder) / "uncached.yaml"))
        elif every and wanted.snapshot:
            say(
                f"Each of its runs reads the world as of snapshot={wanted.snapshot}, and what ran before comes from "
                "the cache; --no-cache runs all steps each time"
            )
        server.connect()
        group = server.experiment(experiment)
        version = server.upload(wanted.path, upload) if upload else None
        name = run_name or f"{wanted.pipeline} {time.strftime('%Y-%m-%d %H:%M:%S')}"
        made = server.submit(wanted, experiment=group, name=name, version=version, every=every)
        typer.echo(f"{made.kind.capitalize():14}{made.identifier}")
        if version:
            typer.echo(f"{'Version':14}{version[1]}")
        typer.echo(f"{'Page':14}{made.page}")
        if wait:
            with termination_as_interrupt():
                server.wait(made, wanted.path, minutes=timeout_minutes)
            typer.echo(f"{'State':14}SUCCEEDED")
