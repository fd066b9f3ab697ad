"""Trains an ensemble: each member as it would be trained alone, then their blend, in one bundle that holds them all.

Probabilities are averaged, not log-odds: trees say exactly 0 where nothing was observed, which in log-odds would
silence every other member, and the log-loss of an average of probabilities is never above the average of the members'.
Members that balance the classes differently are differently bold; the threshold, chosen on the blend, takes that up.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import save

from casbah import models, scoring
from casbah.bands import BAND_NAMES
from casbah.errors import InputError
from casbah.finetune import bundling, kinds
from casbah.finetune.checkpoints import mirror, run_key
from casbah.finetune.experiment import ENSEMBLE, Experiment, digest, names_model, read, unknown
from casbah.finetune.kinds import Delivery, Order
from casbah.finetune.tracking import Tracker
from casbah.models.ensemble import blend
from casbah.products.manifest import MANIFEST, check_target, read_manifest
from casbah.products.model import MEMBERS, ModelBundle, Training
from casbah.products.tiles import TileSet
from casbah.progress import say

ROUNDS = 1000
"""Of expectation and maximisation at most; weights of a handful of members have settled long before."""

SETTLED = 1e-6
"""The change of every weight below which they have."""

SURE = 1e-6
"""Probabilities are kept this far from 0 and 1 where their logarithm is taken."""


class Settings(BaseModel):
    """An experiment of kind `ensemble`, with every default."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["ensemble"] = "ensemble"
    members: tuple[str, ...] = Field(min_length=2)
    """Experiments (a name, a YAML) to train, and models that are trained (a ModelBundle, or a directory of those of
    the folds)."""
    weights: Literal["equal", "validation"] = "equal"
    seed: int = Field(default=0, ge=0)
    """Of the members that are trained here."""


@dataclass(frozen=True)
class Member:
    """One model of the blend: an `order` to train it, or the `bundle` where it is trained."""

    name: str
    config: str
    order: Order | None = None
    bundle: ModelBundle | None = None


def check(order: Order) -> str:
    """Digest of the resolved configuration; `InputError` where `train` would refuse the settings or a member."""
    return _Plan(order).digest


def train(order: Order, to: Delivery) -> ModelBundle:
    """Train the members beside the output, blend them and write the bundle; see `casbah.finetune.finetune`.

    With `resume` members that were finished stay as they are, and so does a finished ensemble of the same members.
    """
    tiles = order.tiles
    plan = _Plan(order)
    check_target(to.output, ModelBundle.schema)
    plan.check_output(to.output)
    kept = bundling.finished(to.output, plan.digest, tiles) if to.resume else None
    if kept is not None and plan.is_of(kept):
        say(f"{to.name}: {to.output} was trained before, and is kept")
        return kept
    workplace = to.output.parent / f".{to.output.name}.{MEMBERS}"
    tracker, status = Tracker(to.name, plan.described), "FAILED"
    try:
        checkpoints = plan.checkpoints(to)
        bundles = {member.name: _trained(member, workplace, to, checkpoints) for member in plan.members}
        start = time.monotonic()  # of the blend alone: each member brings its own seconds, also from before a stop
        found = _chances(bundles, tiles)
        masks = np.asarray(tiles.split("val").masks)
        weights = _weights(plan.settings.weights, found, masks)
        threshold, validation = bundling.threshold_of(blend(found, weights), tiles)
        tracker.log({f"val/{key}": validation[key] for key in scoring.SCORES if validation[key] is not None}, 0)
        status = "FINISHED"
    finally:
        tracker.finish(status)
    shares = dict(zip(bundles, weights.tolist(), strict=True))
    say(f"{to.name}: {', '.join(f'{name} {share:.2f}' for name, share in shares.items())}")
    training = _training(plan, bundles, threshold, time.monotonic() - start)
    alone = {name: {"weight": shares[name]} | bundle.metrics["validation"] for name, bundle in bundles.items()}
    metrics: dict[str, Any] = {
        "validation": validation,
        "monitor": None,
        "best_epoch": None,
        "history": [],
        "members": alone,
    }
    bundle = _write(to.output, plan, bundles, weights, training, metrics)
    shutil.rmtree(workplace, ignore_errors=True)
    return bundle


class _Plan:
    """An ensemble made ready for one TileSet: every member found and checked."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.settings = _checked(order.experiment)
        self.members = _members(order, self.settings.members)
        bundling.check_split(order.tiles, order.tiles.split("val"))
        if order.max_labels is not None:
            self._check_labels(order.max_labels)
        self.config: dict[str, Any] = self.settings.model_dump(mode="json") | {
            "members": [member.name for member in self.members],
            "seed": order.seed,
            "max_labels": order.max_labels,
            "configs": {member.name: member.config for member in self.members},
        }
        self.digest = digest(self.config)

    def _check_labels(self, wanted: int) -> None:
        """`InputError` where a member that is trained already learned from another number of tiles."""
        for member in self.members:
            had = wanted if member.bundle is None else member.bundle.manifest.parameters.get("max_labels")
            if had != wanted:
                raise InputError(
                    f"{self.order.experiment.source}: max_labels is {wanted}, and {member.name} is trained already, on "
                    f"{had or 'all'} tiles: name its experiment in its place, or leave max_labels out"
                )

    @property
    def described(self) -> dict[str, Any]:
        """What MLflow lists."""
        return {
            "experiment": self.order.experiment.name,
            "config": self.digest,
            "tiles": self.order.tiles.digest,
            "seed": self.order.seed,
            "members": ", ".join(member.name for member in self.members),
        }

    def check_output(self, output: Path) -> None:
        """`InputError` where the ensemble would replace one of its members."""
        for member in self.members:
            if member.bundle is not None and member.bundle.path.resolve() == output.resolve():
                raise InputError(f"{output} is the member {member.name} itself; name another output for the ensemble")

    def checkpoints(self, to: Delivery) -> str | Path | None:
        """Where members keep theirs: not where the same experiment, trained alone at the same time, keeps its own."""
        shared = mirror()
        if to.checkpoints is not None or shared is None:
            return to.checkpoints
        return str(shared / run_key(self.digest, self.order.tiles.digest))

    def is_of(self, bundle: ModelBundle) -> bool:
        """Whether a bundle holds the very models that this plan takes as they are."""
        inside = bundle.members
        return all(
            member.bundle is None or inside[member.name].digest == member.bundle.digest for member in self.members
        )


def _checked(experiment: Experiment) -> Settings:
    try:
        return Settings.model_validate(dict(experiment.settings))
    except ValidationError as error:
        first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        raise unknown("the key", place, Settings.model_fields, experiment.source)
    if place.partition(".")[0] == "members":
        raise InputError(
            f"{experiment.source}: members is {experiment.settings.get('members')!r}; a list of two or more "
            "experiments or trained models is wanted"
        )
    raise InputError(f"{experiment.source}: {place} is {first['input']!r}; {first['msg'].lower()}")


def _members(order: Order, entries: Sequence[str]) -> tuple[Member, ...]:
    """The members in their order, each under a name of its own."""
    found: list[Member] = []
    for entry in entries:
        member = _of_bundle(Path(entry), order) if names_model(entry) else _of_experiment(entry, order)
        taken = {other.name for other in found}
        if member.name in taken and member.bundle is not None:  # the same experiment with another seed
            member = replace(member, name=f"{member.name}-{member.bundle.training.seed}")
        if member.name in taken:
            raise InputError(
                f"{order.experiment.source}: two members are called {member.name}; an ensemble needs different ones: "
                "another experiment, or another seed"
            )
        found.append(member)
    return tuple(found)


def _of_experiment(entry: str, order: Order) -> Member:
    experiment = read(entry)
    if experiment.kind == ENSEMBLE:
        raise InputError(f"{order.experiment.source}: {entry} is an ensemble itself: name its members in its place")
    own = replace(order, experiment=experiment)
    return Member(experiment.name, kinds.of(experiment).check(own), order=own)


def _of_bundle(path: Path, order: Order) -> Member:
    """The model at `path`, or of the models of folds there the one of these tiles."""
    source, tiles = order.experiment.source, order.tiles
    places = [path] if (path / MANIFEST).is_file() else sorted(file.parent for file in path.glob(f"*/{MANIFEST}"))
    fitting = [
        place for place in places if read_manifest(place, ModelBundle.schema).inputs.get("tiles") == tiles.digest
    ]
    if not fitting:
        what = "was trained on other tiles" if places else "holds no trained model"
        raise InputError(
            f"{source}: the member {path} {what}; models of one ensemble are trained on the same tiles, here "
            f"{tiles.path}: train it on these, or name its experiment in its place"
        )
    bundle = ModelBundle.open(fitting[0])
    if bundle.training.kind == "ensemble":
        raise InputError(f"{source}: {path} is an ensemble itself: name its members in its place")
    return Member(bundle.training.experiment, bundle.training.config, bundle=bundle)


def _trained(member: Member, workplace: Path, to: Delivery, checkpoints: str | Path | None) -> ModelBundle:
    """The bundle of a member, trained where it is not yet."""
    if member.order is None:
        assert member.bundle is not None
        return member.bundle
    kind = kinds.of(member.order.experiment)
    own = Delivery(
        workplace / member.name, f"{to.name}/{member.name}", to.resume, checkpoints if kind.checkpoints else None
    )
    bundle = kind.train(member.order, own)
    assert bundle is not None
    return bundle


def _chances(bundles: Mapping[str, ModelBundle], tiles: TileSet) -> list[NDArray[np.float32]]:
    """What each member says of the validation tiles, (tiles, rows, cols)."""
    return [
        models.load(bundle).probabilities(bundling.validation_images(bundle.training, tiles))
        for bundle in bundles.values()
    ]


def _weights(how: str, found: Sequence[NDArray[np.float32]], masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    if how == "equal":
        return np.full(len(found), 1 / len(found))
    known = masks != scoring.IGNORE
    return likeliest(np.stack([chance[known] for chance in found]), masks[known] == 1)


def likeliest(found: NDArray[np.float32], building: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights (members,) from 0 on that sum to 1, under which the blend of probabilities has the lowest log-loss.

    `found` is (members, pixels), `building` (pixels,). Expectation and maximisation for the shares of a mixture
    (Dempster et al. 1977): the log-loss is convex in the weights and falls in every round, without a step to choose.
    """
    likelihood = np.clip(np.where(building, found, 1 - found).astype(np.float64), SURE, 1 - SURE)
    weights = np.full(len(found), 1 / len(found))
    for _ in range(ROUNDS):
        before = weights
        weights = before * (likelihood / (before @ likelihood)).mean(axis=1)
        weights /= weights.sum()
        if np.abs(weights - before).max() < SETTLED:
            break
    return weights


def _training(plan: _Plan, bundles: Mapping[str, ModelBundle], threshold: float, seconds: float) -> Training:
    trainings = [bundle.training for bundle in bundles.values()]
    tiles = plan.order.tiles
    taken = {name for training in trainings for name in training.bands}
    bands = tuple(name for name in BAND_NAMES if name in taken)
    pretrained = [f"{name} ({b.training.pretrained})" for name, b in bundles.items() if b.training.pretrained]
    return Training(
        experiment=plan.order.experiment.name,
        kind="ensemble",
        members=tuple(bundles),
        bands=bands,
        threshold=threshold,
        input_range=bundling.input_range(tiles, bands),
        blocks={
            split: tuple(sorted({block for training in trainings for block in training.blocks.get(split, ())}))
            for split in ("train", "val")
        },
        config=plan.digest,
        seed=plan.order.seed,
        trials=max(training.trials for training in trainings),
        pretrained="; ".join(pretrained) or None,
        parameters=sum(training.parameters for training in trainings),
        seconds=round(seconds + sum(training.seconds for training in trainings), 3),
        peak_memory=max(bundling.peak_memory(), *(training.peak_memory for training in trainings)),
        **bundling.facts_of(tiles),
    )


def _write(
    output: Path,
    plan: _Plan,
    bundles: Mapping[str, ModelBundle],
    weights: NDArray[np.float64],
    training: Training,
    metrics: Mapping[str, Any],
) -> ModelBundle:
    order = plan.order
    parameters = {"experiment": order.experiment.name, "seed": order.seed, "max_labels": order.max_labels}
    inputs = {"tiles": order.tiles.digest} | {f"{MEMBERS}/{name}": bundle.digest for name, bundle in bundles.items()}
    with ModelBundle.write(output, parameters=parameters, inputs=inputs) as draft:
        text = yaml.safe_dump(plan.config, sort_keys=False, allow_unicode=True)
        (draft.directory / "config.yaml").write_text(text, encoding="utf-8")
        (draft.directory / "weights.safetensors").write_bytes(save({"weights": weights}))
        for name, bundle in bundles.items():
            shutil.copytree(bundle.path, draft.directory / MEMBERS / name)
        draft.write_json("metrics.json", metrics)
        draft.write_json("training.json", training.model_dump(mode="json"))
    return ModelBundle.open(output, verify=False)
