"""The `tune` command."""

from pathlib import Path
from typing import Annotated

import typer

from casbah.cli.root import app


@app.command()
def tune(
    config: Annotated[str, typer.Option(help="YAML of an experiment, or the name of a built-in one (unet_scratch).")],
    tiles: Annotated[Path, typer.Option(help="TileSet, or the folds that `casbah tile --folds` made.")],
    output: Annotated[Path, typer.Option(help="Where the study goes; run again, it goes on from what lies there.")],
    trials: Annotated[
        int, typer.Option(help="Trainings in all, for each fold; failed ones count. More may be asked for later.")
    ] = 20,
    space: Annotated[
        Path | None, typer.Option(help="YAML of what is tried, in place of the built-in space for such an experiment.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search; every trial trains with the experiment's own seed.")] = 0,
    max_labels: Annotated[
        int | None, typer.Option(help="Learn from this many training tiles only, drawn block by block.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting in all trials; repeats.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Trainings at the same time; give each its share of the cores with OMP_NUM_THREADS.")
    ] = 1,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            metavar="S3-PREFIX", help="Keep the study in the object store too (s3://casbah/checkpoints): see below."
        ),
    ] = None,
) -> None:
    """Search an experiment's settings by building IoU on validation, with Optuna's TPE.

    The first trial is the experiment as it stands, and each trial is one `casbah finetune` in a process of its own.
    The test split is not read. Give every experiment of a comparison the same --trials: an untuned baseline proves
    nothing. It may be killed at any moment; the same command goes on. With --checkpoints it goes on where nothing of
    OUTPUT is left too, as on another machine. For example:

        casbah tune --config unet_scratch --tiles build/tiles --output build/tuned

        casbah tune --config boosted_pixels --tiles build/tiles --output build/trees --trials 40 --space my_space.yaml

    OUTPUT then holds best.yaml (an experiment for `casbah finetune`), model/ (its trained bundle), trials.csv,
    study.json, history.png, and journal.log, which Optuna's own tools read.

    With folds, each fold is tuned by itself, on its own training and validation tiles, into OUTPUT/fold_0 and so on,
    since the validation blocks of one fold are test blocks of another: settings chosen over all of them would leak.
    `casbah evaluate` scores each of these models on the tiles of its own fold.

    A space is a mapping of the experiment's dotted keys to ranges or choices. `around: 10` is a tenth to ten times what
    the experiment says, and `times` makes a setting a share of another one:

        model.init_args.lr: {around: 10}

        model.init_args.weight_decay: {low: 1e-4, high: 0.3, log: true}

        trees.max_leaf_nodes: {low: 7, high: 63, whole: true}

        model.init_args.class_balance: {choices: [none, sqrt, inverse]}

        model.init_args.backbone_lr: {low: 0.02, high: 1.0, log: true, times: model.init_args.lr}
    """
    from casbah.tune import tune as search
    from casbah.tune.report import table

    results = search(
        config=config,
        tiles=tiles,
        output=output,
        trials=trials,
        space=space,
        seed=seed,
        max_labels=max_labels,
        overrides=overrides or (),
        jobs=jobs,
        checkpoints=checkpoints,
    )
    for result in results:
        typer.echo(table(result))
        typer.echo(result.part.directory / "best.yaml")
        typer.echo(result.part.model)
