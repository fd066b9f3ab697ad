"""`finetune`: one experiment on one TileSet, or on every fold of a k-fold."""

from collections.abc import Sequence
from pathlib import Path

from casbah.errors import InputError
from casbah.finetune import kinds, ranks
from casbah.finetune.experiment import ENSEMBLE, OTHERS, Experiment, read
from casbah.finetune.kinds import Delivery, Order
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

    Where torchrun starts several processes, they train one network together: the first writes and returns, the others
    end the process (`SystemExit`) when it is done.

    Args:
        config: YAML of the experiment, or the name of a built-in one (`unet_scratch_small`).
        tiles: A TileSet; or TileFolds, whose every fold and refit are then trained into `output/fold_0` … and
            `output/refit`.
        output: Where the bundle goes.
        max_labels: Learn from this many training tiles only, drawn by block; a smaller draw lies within a larger one.
        resume: Go on from the last whole epoch of this very run (same configuration, tiles, and code that trains),
            wherever it was stopped; on a CPU of the same kind with the same number of threads the weights are those of
            a run never stopped. Trees start again; an ensemble goes on with its first unfinished member. Finished
            bundles at `output` of the same configuration and tiles are kept, whatever code trained them.
        seed: In place of the experiment's `seed_everything`.
        checkpoints: A directory or an `s3://` prefix for checkpoints while training. By default they lie beside
            `output` and, where the environment names an object store (AWS_ENDPOINT_URL and credentials), in
            `s3://casbah/checkpoints/<digest>/`.
            Trees keep none, and refuse it; of an ensemble they are its networks'.
        overrides: `dotted.key=value` settings that replace those of the experiment.

    Returns:
        The bundle; that of the refit for TileFolds.

    Raises:
        InputError: The experiment, the tiles or the output can't be used; nothing was trained.
        WorldError: The store or the source of pretrained weights can't be reached.
        CasbahError: The loss became NaN, or the device ran out of memory.
    """
    with ranks.together() as processes:
        bundle = _finetune(config, Path(tiles), Path(output), max_labels, resume, seed, checkpoints, overrides)
    if bundle is None or not processes.first:
        raise SystemExit(0)
    return bundle


def _finetune(
    config: str | Path,
    tiles: Path,
    output: Path,
    max_labels: int | None,
    resume: bool,
    seed: int | None,
    checkpoints: str | Path | None,
    overrides: Sequence[str],
) -> ModelBundle | None:
    experiment = read(config, overrides)
    wanted = experiment.seed if seed is None else checked_seed(seed, "--seed")
    kind = kinds.of(experiment)
    _check_alone(experiment)
    if checkpoints is not None and not kind.checkpoints:
        raise InputError(
            f"{experiment.name} {OTHERS[experiment.kind]}, which keep no checkpoints, since they are soon grown again: "
            "leave out --checkpoints"
        )
    if not holds_folds(tiles):
        check_target(output, ModelBundle.schema)
        order = Order(experiment, TileSet.open(tiles), wanted, max_labels)
        return kind.train(order, Delivery(output, experiment.name, resume, checkpoints))
    folds = TileFolds.open(tiles)
    if (output / "manifest.json").exists():
        raise InputError(f"{output} already holds a single product; name another output for the models of the folds")
    parts = {f"fold_{number}": fold for number, fold in enumerate(folds.folds)} | {"refit": folds.refit}
    for part in parts:
        check_target(output / part, ModelBundle.schema)
    for fold in parts.values():  # before hours are spent on the first
        kind.check(Order(experiment, fold, wanted, max_labels))
    for part, fold in parts.items():
        say(f"{experiment.name} on {part}, {list(parts).index(part) + 1} of {len(parts)}")
        to = Delivery(output / part, f"{experiment.name}/{part}", resume, checkpoints)
        bundle = kind.train(Order(experiment, fold, wanted, max_labels), to)
    return bundle


def _check_alone(experiment: Experiment) -> None:
    """`InputError` where several processes are to train what one does."""
    size = ranks.current().size
    if size == 1 or experiment.is_network:
        return
    members = (
        ": train its networks by torchrun, and name the models as its members" if experiment.kind == ENSEMBLE else ""
    )
    raise InputError(
        f"{experiment.name} {OTHERS[experiment.kind]}, which one process does, and torchrun started {size}: run casbah "
        f"finetune without torchrun{members}"
    )


def check(
    *, config: str | Path, tiles: TileSet, max_labels: int | None = None, overrides: Sequence[str] = ()
) -> Experiment:
    """Raise what `finetune` would raise before it trains, and return the experiment; nothing is written."""
    experiment = read(config, overrides)
    kinds.of(experiment).check(Order(experiment, tiles, experiment.seed, max_labels))
    return experiment
