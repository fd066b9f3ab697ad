"""The `up` and `down` commands."""

import shlex
from pathlib import Path

import typer

from casbah.cli.root import app

_DIRECTORY = typer.Option(
    Path(".casbah"), "--directory", help="Where the stack keeps its data, logs and credentials; one stack each."
)


@app.command()
def up(
    directory: Path = _DIRECTORY,
    env: bool = typer.Option(
        False, "--env", help="Print lines for `eval`, the secret key among them, instead of the addresses."
    ),
) -> None:
    """Start an object store (S3) and MLflow on this machine, for your own work.

    They answer on 127.0.0.1 alone, on free ports, with generated credentials. Data stays when they stop.
    Example: `casbah up && eval "$(casbah up --env)"`, then `casbah register …`; `casbah down` stops them.
    """
    from casbah import stack
    from casbah.stack.stack import FOREIGN

    running = stack.up(directory)
    if env:
        typer.echo(f"unset {' '.join(FOREIGN)}")
        for name, value in running.environment().items():
            typer.echo(f"export {name}={shlex.quote(value)}")
        return
    place = "" if directory == stack.DIRECTORY else f" --directory {shlex.quote(str(directory))}"
    typer.echo(f"object store  {running.endpoint}  (bucket casbah)")
    typer.echo(f"MLflow        {running.tracking_uri}")
    typer.echo(f"credentials   {running.directory / 'credentials.json'}  (readable by you alone)")
    typer.echo("")
    typer.echo("To use them in this shell (this sets AWS_… and MLFLOW_… variables):")
    typer.echo(f'  eval "$(casbah up{place} --env)"')
    typer.echo(f"To stop them; the data stays:\n  casbah down{place}")


@app.command()
def down(directory: Path = _DIRECTORY) -> None:
    """Stop the object store and MLflow that `casbah up` started; their data stays for the next time.

    Example: `casbah down`. To delete the data too, remove the directory afterwards.
    """
    from casbah import stack

    stopped = stack.down(directory)
    typer.echo(f"stopped {' and '.join(stopped)}" if stopped else f"no stack runs in {directory}")
