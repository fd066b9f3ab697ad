"""The `registry` commands: what a retraining comes to, and the versions that nobody needs any more."""

from pathlib import Path

import typer

from casbah.cli.register import NAME, TRACKING
from casbah.cli.root import app

registry = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(registry, name="registry", help="The versions in MLflow: one against the champion, and which can go.")


@registry.command("report")
def report_(
    name: str = NAME,
    version: int | None = typer.Option(None, help="The version to report on.  [default: the newest]"),
    kfp_run: str | None = typer.Option(None, help="The version that this run of the pipeline made, in place of it."),
    kfp_host: str | None = typer.Option(
        None, envvar="KFP_ENDPOINT", show_envvar=False, help="Kubeflow Pipelines, to link the run to (KFP_ENDPOINT)."
    ),
    output: Path | None = typer.Option(None, help="The file to write; standard output where it is not given."),
    tracking_uri: str | None = TRACKING,
) -> None:
    """Report in Markdown on a version against the champion: what was decided and why, scores, and where it is from.

    It reads MLflow alone, so it can be a comment on a pull request or the summary of a CI job.

    Example: casbah registry report --output build/report.md
    """
    from casbah.errors import unwritable
    from casbah.register import report

    found = report(
        name=name,
        version=None if version is None else str(version),
        kfp_run=kfp_run,
        kfp_host=kfp_host or None,
        tracking_uri=tracking_uri,
    )
    if output is None:
        typer.echo(found, nl=False)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(found, encoding="utf-8")
    except OSError as error:
        raise unwritable(error)(f"{output} can't be written: {error.strerror}") from None
    typer.echo(output)


@registry.command("prune")
def prune_(
    name: str = NAME,
    keep: int = typer.Option(10, help="How many of the newest versions stay in any case."),
    older_than_days: float = typer.Option(90, help="Younger versions stay in any case."),
    yes: bool = typer.Option(False, "--yes", help="Delete them; without it they are only listed."),
    tracking_uri: str | None = TRACKING,
) -> None:
    """List the versions that nobody needs any more; with --yes delete them.

    Versions with an alias (champion, challenger, one of yours) stay, and so does the one that `casbah rollback` goes
    back to. The runs of deleted versions are deleted with them, unless another version uses them. MLflow keeps the
    files of deleted runs and models until `mlflow gc` runs where its server does.

    Example: casbah registry prune --keep 20 --older-than-days 180
    """
    from casbah.register import prune

    done = prune(name=name, keep=keep, older_than_days=older_than_days, yes=yes, tracking_uri=tracking_uri)
    for number, why in done.stays.items():
        typer.echo(f"version {number:5} stays: {why}")
    for old in done.goes:
        run = ", its run with it" if old.run_goes else ", its run stays: another version uses it" if old.run else ""
        verb = "deleted" if done.deleted else "would go"
        typer.echo(f"version {old.version:5} {verb}: registered on {old.registered}, {old.experiment}{run}")
    if not done.goes:
        typer.echo(f"{name} at {done.server} has no version to delete")
    elif done.deleted:
        typer.echo(f"Deleted {len(done.goes)}. Their files lie in MLflow's store until `mlflow gc` runs at its server.")
    else:
        typer.echo(f"Nothing was deleted; --yes deletes these {len(done.goes)}.")
