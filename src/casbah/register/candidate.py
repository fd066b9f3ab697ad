"""What is to be registered: a model and its evaluation, checked to belong together before anything is written."""

from dataclasses import dataclass
from pathlib import Path

from casbah.blocks import seen_among
from casbah.errors import InputError
from casbah.products.evaluation import Evaluation, EvaluationMetrics
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileFolds, TileSet, holds_folds
from casbah.register.promotion import counts_of, seen_blocks


@dataclass(frozen=True)
class Candidate:
    """A model with its evaluation; the tiles of that, and those made for the champion, where they were given."""

    model: ModelBundle
    evaluation: Evaluation
    tiles: TileSet | TileFolds | None
    champion_tiles: TileSet | None = None

    @property
    def metrics(self) -> EvaluationMetrics:
        return self.evaluation.metrics

    @property
    def aligned(self) -> bool:
        """Whether it was scored against footprints that were moved onto the image."""
        return self.metrics.unaligned is not None

    @property
    def split(self) -> str:
        """How the test blocks were drawn, in words."""
        if isinstance(self.tiles, TileFolds):
            return f"{self.tiles.count} spatial folds"
        if self.tiles is None:
            return "not said (registered without --tiles)"
        return f"--seed {self.tiles.info.seed} --block-size {self.tiles.info.block_size:g}"

    @property
    def tested(self) -> list[str]:
        """The ids of the test blocks, sorted."""
        return sorted(counts_of(self.metrics.blocks))


def open_candidate(model: Path, evaluation: Path, tiles: Path | None, champion_tiles: Path | None) -> Candidate:
    """Open and check what was given; `InputError` where its parts do not belong together."""
    candidate = Candidate(
        ModelBundle.open(model),
        Evaluation.open(evaluation),
        None if tiles is None else _open_tiles(tiles),
        None if champion_tiles is None else TileSet.open(champion_tiles),
    )
    _check(candidate)
    return candidate


def _open_tiles(path: Path) -> TileSet | TileFolds:
    return TileFolds.open(path) if holds_folds(path) else TileSet.open(path)


def _check(candidate: Candidate) -> None:
    model, metrics = candidate.model, candidate.metrics
    if model.training.normalise != "none":
        raise InputError(
            f"{model.path} was trained on tiles of `--normalise {model.training.normalise}`, and a registered model is "
            "given reflectance as it is: train it on tiles without it"
        )
    if metrics.split != "test":
        raise InputError(
            f"{candidate.evaluation.path} was made on the {metrics.split} split; a registered version needs the test "
            "split: run `casbah evaluate --split test`"
        )
    if model.training.refit is None and metrics.model != model.digest:
        raise InputError(
            f"{candidate.evaluation.path} scores another model ({metrics.model[:12]}) than {model.path} "
            f"({model.digest[:12]}): evaluate this one"
        )
    if model.training.refit is not None:
        _check_trained_as_its_folds(candidate)
    if model.training.refit is not None and (strange := set(candidate.tested) - seen_blocks(model.training)):
        raise InputError(
            f"{model.path} was not trained on {len(strange)} of the {len(candidate.tested)} blocks that "
            f"{candidate.evaluation.path} tests ({sorted(strange)[0]} …): it is no refit of these folds"
        )
    if model.training.refit is None and (leaked := seen_among(candidate.tested, seen_blocks(model.training))):
        raise InputError(
            f"{candidate.evaluation.path} scores {len(leaked)} blocks that the model trained or was tuned on "
            f"({', '.join(sorted(leaked)[:3])} …): its scores leak and are not registered"
        )
    if candidate.tiles is not None and candidate.tiles.digest != metrics.tiles:
        raise InputError(f"{candidate.tiles.path} is not the TileSet that {candidate.evaluation.path} was made on")


def _check_trained_as_its_folds(candidate: Candidate) -> None:
    """`InputError` unless the folds have the settings of the refit, or ones that were looked for likewise."""
    model, folds = candidate.model, candidate.evaluation.metrics.extra.get("folds", [])
    if not folds:
        raise InputError(
            f"{model.path} is a {model.training.refit}: give the evaluation of its folds, not a hold-out evaluation"
        )
    differs = None
    if {fold.get("trials", 0) for fold in folds} != {model.training.trials}:
        differs = "settings were looked for among another number of trials"
    elif candidate.metrics.experiment != model.training.experiment:
        differs = "another experiment"
    elif model.training.trials and any(fold["asked"] != model.asked for fold in folds):
        differs = "another seed or number of labels"
    elif not model.training.trials and {fold.get("config") for fold in folds} != {model.training.config}:
        differs = "another configuration"
    if differs:
        raise InputError(
            f"{model.path} was not trained as the folds of {candidate.evaluation.path} were ({differs}): "
            "give the evaluation of its own folds"
        )
