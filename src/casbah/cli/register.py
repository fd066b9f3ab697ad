"""The `register` and `rollback` commands."""

from pathlib import Path

import typer

from casbah.cli.root import app

TRACKING = typer.Option(None, "--tracking-uri", help="MLflow server; MLFLOW_TRACKING_URI where it is not given.")
NAME = typer.Option("casbah-buildings", help="Name of the registered model.")


@app.command()
def register(
    model: Path = typer.Option(..., help="Model bundle, as `casbah finetune` or `casbah select` left it."),
    evaluation: Path = typer.Option(..., help="Its evaluation on the test split."),
    name: str = NAME,
    tiles: Path | None = typer.Option(None, help="The tiles of the evaluation, to score the champion on them too."),
    champion_tiles: Path | None = typer.Option(
        None, help="Tiles of the same blocks with the champion's own inputs, where it takes other dates or bands."
    ),
    tracking_uri: str | None = TRACKING,
) -> None:
    """Register a model in MLflow; it becomes champion only on evidence.

    The first model is champion. A later one takes the alias only if it is better on test blocks that neither model has
    seen (paired block bootstrap, 95 %); else it is the challenger, and the version says why.

    Example: casbah register --model runs/unet --evaluation runs/unet-test --tiles runs/tiles
    """
    from casbah.register import register as run

    done = run(
        model=model,
        evaluation=evaluation,
        name=name,
        tiles=tiles,
        champion_tiles=champion_tiles,
        tracking_uri=tracking_uri,
    )
    verb = "has" if done.alias == "no alias" else "is"
    typer.echo(f"{done.name} version {done.version} {verb} {done.alias}: {done.reason}\n{done.url}")


@app.command()
def rollback(name: str = NAME, tracking_uri: str | None = TRACKING) -> None:
    """Give the champion's alias back to the version that held it before.

    Example: casbah rollback --name casbah-buildings
    """
    from casbah.register import rollback as run

    done = run(name=name, tracking_uri=tracking_uri)
    typer.echo(f"{done.name} version {done.version} is {done.alias} again: {done.reason}\n{done.url}")
