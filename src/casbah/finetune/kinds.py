"""The kinds of experiments, each with its own way to be checked and trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from casbah.finetune.experiment import ENSEMBLE, NETWORK, TREES, Experiment
from casbah.models import torchvision_cure
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet


@dataclass(frozen=True)
class Order:
    """What is to be learned from what: two orders with equal digests give the same model."""

    experiment: Experiment
    tiles: TileSet
    seed: int
    max_labels: int | None


@dataclass(frozen=True)
class Delivery:
    """Where a model goes, what it is called while it is trained, and whether and where it goes on from."""

    output: Path
    name: str
    resume: bool
    checkpoints: str | Path | None


@dataclass(frozen=True)
class Kind:
    """`check` gives the digest of the resolved configuration, and raises what `train` would refuse.

    `train` gives None in the processes that only help another one to train (see `casbah.finetune.ranks`).
    """

    check: Callable[[Order], str]
    train: Callable[[Order, Delivery], ModelBundle | None]
    checkpoints: bool
    """Whether it keeps any while it is trained."""


def of(experiment: Experiment) -> Kind:
    """How an experiment is checked and trained."""
    return KINDS[experiment.kind]


def _check_network(order: Order) -> str:
    torchvision_cure.apply()
    from casbah.finetune import fit

    return fit.check(experiment=order.experiment, tiles=order.tiles, seed=order.seed, max_labels=order.max_labels)


def _train_network(order: Order, to: Delivery) -> ModelBundle | None:
    torchvision_cure.apply()
    from casbah.finetune import fit

    return fit.train(
        experiment=order.experiment,
        tiles=order.tiles,
        output=to.output,
        seed=order.seed,
        max_labels=order.max_labels,
        resume=to.resume,
        checkpoints=to.checkpoints,
        name=to.name,
    )


def _check_trees(order: Order) -> str:
    from casbah.finetune import trees

    return trees.check(
        settings=order.experiment.settings,
        tiles=order.tiles,
        seed=order.seed,
        max_labels=order.max_labels,
        name=order.experiment.name,
    )


def _train_trees(order: Order, to: Delivery) -> ModelBundle:
    from casbah.finetune import trees

    return trees.train(
        settings=order.experiment.settings,
        tiles=order.tiles,
        output=to.output,
        seed=order.seed,
        max_labels=order.max_labels,
        resume=to.resume,
        name=order.experiment.name,
        run_name=to.name,
    )


def _check_ensemble(order: Order) -> str:
    from casbah.finetune import ensemble

    return ensemble.check(order)


def _train_ensemble(order: Order, to: Delivery) -> ModelBundle:
    from casbah.finetune import ensemble

    return ensemble.train(order, to)


KINDS = {
    NETWORK: Kind(_check_network, _train_network, checkpoints=True),
    TREES: Kind(_check_trees, _train_trees, checkpoints=False),
    ENSEMBLE: Kind(_check_ensemble, _train_ensemble, checkpoints=True),
}
"""By `Experiment.kind`; each one's code is imported when it is asked for, since torch takes seconds."""
