"""Which model is scored on which tiles: one pair, or one pair a fold; and that they fit and nothing leaks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from casbah.blocks import seen_among
from casbah.errors import InputError
from casbah.models.on_tiles import check_fit
from casbah.products.manifest import MANIFEST, read_manifest
from casbah.products.model import ModelBundle
from casbah.products.tiles import SPLITS, TileFolds, TileSet, holds_folds

NAMED = 3
"""How many blocks an error names before it counts the rest."""


@dataclass(frozen=True)
class Case:
    """A model and the tiles it is scored on; `fold` is None outside of k-fold."""

    model: ModelBundle
    tiles: TileSet
    fold: int | None = None


@dataclass(frozen=True)
class Cases:
    """All that one evaluation scores, and the digests that stand for the whole."""

    cases: tuple[Case, ...]
    model_digest: str
    tiles_digest: str

    @property
    def trials(self) -> int:
        """Among how many each model's settings were looked for, on its own validation; 0 where they were given."""
        return self.cases[0].model.training.trials

    @property
    def folds(self) -> int:
        """K, or 0 for a hold-out split."""
        return len(self.cases) if self.cases[0].fold is not None else 0


def open_cases(model: Path, tiles: Path, split: str) -> Cases:
    """Open and check what is to be scored.

    `tiles` is a TileSet, with a ModelBundle at `model`; or a directory of folds, with bundles `fold_0` … in `model`.
    `InputError` where something is missing, model and tiles do not fit, the split is empty, or it leaks.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; choose from {', '.join(SPLITS)}")
    found = _folds(model, tiles) if holds_folds(tiles) else _hold_out(model, tiles)
    for case in found.cases:
        check_fit(case.model, case.tiles)
        check_unseen(case.model, case.tiles, split)
        for name in SPLITS:  # the index is tuned on val, and the pictures show all
            case.tiles.split(name).check_images()
    _check_tested_once(found.cases, split)
    return found


def check_unseen(model: ModelBundle, tiles: TileSet, split: str) -> None:
    """`InputError` where the split is empty or holds blocks that the model has seen: such a score would leak."""
    blocks = set(tiles.split(split).blocks)
    if not blocks:
        hint = "evaluate the folds beside it" if tiles.info.refit else "cut tiles with another seed or a larger area"
        raise InputError(f"the {split} split of {tiles.path} holds no tile: {hint}")
    forbidden = {"test": ("train", "val"), "val": ("train",), "train": ()}[split]
    for name in forbidden:
        seen = sorted(seen_among(blocks, model.training.blocks.get(name, ())))
        if seen:
            more = f" and {len(seen) - NAMED} more" if len(seen) > NAMED else ""
            learned = "trained on" if name == "train" else "was tuned on"
            raise InputError(
                f"{model.path} {learned} {', '.join(seen[:NAMED])}{more}, blocks of the {split} split of {tiles.path}: "
                "its score there would leak; evaluate it on tiles whose blocks it has not seen"
            )


def _hold_out(model: Path, tiles: Path) -> Cases:
    case = Case(ModelBundle.open(model), TileSet.open(tiles))
    return Cases((case,), case.model.digest, case.tiles.digest)


def _folds(model: Path, tiles: Path) -> Cases:
    folds = TileFolds.open(tiles)
    if not (model / "fold_0").is_dir():
        raise InputError(
            f"{tiles} holds {folds.count} folds, but {model} has no fold_0: fine-tune one model a fold into "
            f"{model / 'fold_0'} and so on, or evaluate on one fold alone ({tiles / 'fold_0'})"
        )
    _check_no_surplus(model, folds)
    cases = tuple(Case(ModelBundle.open(model / f"fold_{k}"), tile_set, k) for k, tile_set in enumerate(folds.folds))
    _check_one_protocol(cases)
    digest = _digest_of(model) or joined_digest([case.model for case in cases])
    return Cases(cases, digest, folds.digest)


def joined_digest(models: Sequence[ModelBundle]) -> str:
    """What stands for the models of all folds, in their order: sha256 of their digests, one a line."""
    return hashlib.sha256("\n".join(model.digest for model in models).encode()).hexdigest()


def _check_no_surplus(model: Path, folds: TileFolds) -> None:
    """`InputError` where models of more folds lie there: which of them belong to these tiles can't be told."""
    wanted = {f"fold_{k}" for k in range(folds.count)}
    if surplus := sorted(path.name for path in model.glob("fold_*") if path.name not in wanted):
        raise InputError(
            f"{model} holds {', '.join(surplus)} too, and {folds.path} has {folds.count} folds: these are models of "
            "other folds; give a directory of the models of these alone"
        )


def _check_one_protocol(cases: tuple[Case, ...]) -> None:
    """`InputError` unless all folds' models are of one configuration, or of ones that were looked for likewise."""
    first = cases[0].model
    for case in cases[1:]:
        training = case.model.training
        if training.trials != first.training.trials:
            raise InputError(
                f"{case.model.path} was tuned among {training.trials} trials, and {first.path} among "
                f"{first.training.trials}: the folds of one evaluation are tuned alike, or not at all"
            )
        same = case.model.asked == first.asked if training.trials else training.config == first.training.config
        if not same:
            raise InputError(
                f"{case.model.path} ({training.experiment}, seed {training.seed}) was trained from another "
                f"configuration than {first.path} ({first.training.experiment}, seed {first.training.seed}): the folds "
                "of one evaluation are trained from one YAML, with one seed"
            )


def _digest_of(model: Path) -> str | None:
    return read_manifest(model).digest if (model / MANIFEST).is_file() else None


def _check_tested_once(cases: tuple[Case, ...], split: str) -> None:
    seen: dict[str, int | None] = {}
    if split != "test":
        return
    for case in cases:
        for block in sorted(set(case.tiles.split(split).blocks)):
            if block in seen:
                raise InputError(
                    f"block {block} is tested in fold {seen[block]} and in fold {case.fold}: these folds do not belong "
                    "together; cut them anew with `casbah tile --folds`"
                )
            seen[block] = case.fold
