"""`finetune`: one experiment on one TileSet, or on every fold of a k-fold."""

from collections.abc import Sequence
from pathlib import Path

from casbah.errors import InputError
from casbah.finetune.experiment import Experiment, read
from casbah.models import torchvision_cure
from casbah.products.manifest import check_target
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileFolds, TileSet, holds_folds
from casbah.progress import say
from casbah.seeds import checked_seed


def finetune(
    *,
    config: str | Path,
    tiles: str | Path,
    output: str | Path,
    max_labels: int | None = None,
    resume: bool = False,
    seed: int | None = None,
    checkpoints: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> ModelBundle:
    """Train an experiment on tiles and write the model with everything that a consumer needs to feed it rightly.

    Args:
        config: YAML of the experiment, or the name of a built-in one (`unet_scratch_small`).
        tiles: A TileSet; or TileFolds, whose every fold and refit are then trained into `output/fold_0` … and
            `output/refit`.
        output: Where the bundle goes.
        max_labels: Learn from this many training tiles only, drawn by block; a smaller draw lies within a larger one.
        resume: Go on from the last whole epoch of this very run (same configuration, tiles, and code that trains),
            wherever it was stopped; on a CPU with the same number of threads the weights are those of a run never
            stopped. Trees start again. Finished bundles at `output` of the same configuration and tiles are kept,
            whatever code trained them.
        seed: In place of the experiment's `seed_everything`.
        checkpoints: A directory or an `s3://` prefix for checkpoints while training. By default they lie beside
            `output` and, where the environment names an object store (AWS_ENDPOINT_URL and credentials), in
            `s3://casbah/checkpoints/<digest>/`.
            Trees keep none, and refuse it.
        overrides: `dotted.key=value` settings that replace those of the experiment.

    Returns:
        The bundle; that of the refit for TileFolds.

    Raises:
        InputError: The experiment, the tiles or the output can't be used; nothing was trained.
        WorldError: The store or the source of pretrained weights can't be reached.
        CasbahError: The loss became NaN, or the device ran out of memory.
    """
    experiment = read(config, overrides)
    wanted = experiment.seed if seed is None else checked_seed(seed, "--seed")
    if experiment.is_trees and checkpoints is not None:
        raise InputError(
            f"{experiment.name} grows trees, which keep no checkpoints, since they are soon grown again: leave out "
            "--checkpoints"
        )
    output, tiles = Path(output), Path(tiles)
    if not holds_folds(tiles):
        check_target(output, ModelBundle.schema)
        return _train(experiment, TileSet.open(tiles), output, wanted, max_labels, resume, checkpoints, experiment.name)
    folds = TileFolds.open(tiles)
    if (output / "manifest.json").exists():
        raise InputError(f"{output} already holds a single product; name another output for the models of the folds")
    parts = {f"fold_{number}": fold for number, fold in enumerate(folds.folds)} | {"refit": folds.refit}
    for part in parts:
        check_target(output / part, ModelBundle.schema)
    for fold in parts.values():  # before hours are spent on the first
        _check(experiment, fold, wanted, max_labels)
    for part, fold in parts.items():
        say(f"{experiment.name} on {part}, {list(parts).index(part) + 1} of {len(parts)}")
        name = f"{experiment.name}/{part}"
        bundle = _train(experiment, fold, output / part, wanted, max_labels, resume, checkpoints, name)
    return bundle


def _check(experiment: Experiment, tiles: TileSet, seed: int, max_labels: int | None) -> None:
    """Refuse what the training of `tiles` would refuse."""
    if experiment.is_trees:
        from casbah.finetune import trees

        trees.check(settings=experiment.settings, tiles=tiles, seed=seed, max_labels=max_labels, name=experiment.name)
        return
    torchvision_cure.apply()
    from casbah.finetune import fit

    fit.check(experiment=experiment, tiles=tiles, seed=seed, max_labels=max_labels)


def _train(
    experiment: Experiment,
    tiles: TileSet,
    output: Path,
    seed: int,
    max_labels: int | None,
    resume: bool,
    checkpoints: str | Path | None,
    name: str,
) -> ModelBundle:
    if experiment.is_trees:
        from casbah.finetune import trees

        return trees.train(
            settings=experiment.settings,
            tiles=tiles,
            output=output,
            seed=seed,
            max_labels=max_labels,
            resume=resume,
            name=experiment.name,
            run_name=name,
        )
    torchvision_cure.apply()
    from casbah.finetune import fit

    return fit.train(
        experiment=experiment,
        tiles=tiles,
        output=output,
        seed=seed,
        max_labels=max_labels,
        resume=resume,
        checkpoints=checkpoints,
        name=name,
    )
