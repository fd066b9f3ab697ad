"""The `finetune` command."""

from pathlib import Path
from typing import Annotated

import typer

from casbah.cli.root import app


@app.command()
def finetune(
    config: Annotated[str, typer.Option(help="YAML of an experiment, or the name of a built-in one (unet_scratch).")],
    tiles: Annotated[Path, typer.Option(help="TileSet, or the folds that `casbah tile --folds` made.")],
    output: Annotated[Path, typer.Option(help="Where the model goes (fold_0 … and refit below it, for folds).")],
    max_labels: Annotated[
        int | None, typer.Option(help="Learn from this many training tiles only, drawn block by block.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the last whole epoch of this very run.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="In place of the experiment's seed_everything.")] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            help="Directory or s3:// prefix for checkpoints; by default beside the model, and in the object store of "
            "AWS_ENDPOINT_URL where that is set."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting; may be repeated.")
    ] = None,
) -> None:
    """Train a model on tiles, from an experiment's YAML.

    The best epoch and the threshold are chosen on the validation split; the test split is not read. For example:

        casbah finetune --config unet_scratch_small --tiles build/tiles --output build/unet

        casbah finetune --config my.yaml --tiles build/tiles --output build/mine --set trainer.max_epochs=3 --resume
    """
    from casbah.finetune import finetune as stage

    bundle = stage(
        config=config,
        tiles=tiles,
        output=output,
        max_labels=max_labels,
        resume=resume,
        seed=seed,
        checkpoints=checkpoints,
        overrides=overrides or (),
    )
    typer.echo(bundle.path)
    typer.echo(_summary(bundle.metrics["validation"], bundle.training.threshold))


def _summary(validation: dict[str, float | None], threshold: float) -> str:
    words = ", ".join(
        f"{name} {value:.3f}"
        for name in ("iou", "f1", "precision", "recall")
        if (value := validation.get(name)) is not None
    )
    return f"validation, class building, threshold {threshold:.2f}: {words or 'nothing to score'}"
