"""Trains boosted trees on the pixels of a TileSet and writes their bundle: the classical floor beside the networks.

Rounds stop, and the best round is chosen, by the log-loss on validation; the threshold by building IoU on validation.
scikit-learn keeps the log-loss of each round up to date as trees are added, while an IoU would need the probabilities
of all validation pixels and their best threshold in every round, and jumps where the log-loss is smooth.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from sklearn.ensemble import HistGradientBoostingClassifier

from casbah import bands, scoring
from casbah.errors import InputError
from casbah.finetune import bundling
from casbah.finetune.experiment import digest, unknown
from casbah.finetune.subset import training_rows
from casbah.finetune.tracking import Tracker, write_history
from casbah.models import boosted, pixel_features
from casbah.models.pixel_features import Recipe
from casbah.products.manifest import check_target
from casbah.products.model import ModelBundle, Training
from casbah.products.tiles import TileSet
from casbah.progress import Task, say, task

NAME = "boosted_pixels"

MIXED_COVER = 20
"""Percent under buildings from which on a background pixel always counts: the boundary is drawn among these."""


TILES_AT_ONCE = 64
"""Tiles whose features are held beside the pixels that are kept of them."""

MAX_BINS = 255
"""What scikit-learn's histograms hold beside NaN."""

MONITOR = "val/loss"


def _odd(pixels: int) -> int:
    if pixels < 3 or pixels % 2 == 0:
        raise ValueError("an odd number of pixels from 3 on is wanted")
    return pixels


def _not_one(stages: int) -> int:
    if stages == 1:
        raise ValueError("0 (one stage) or 2 to 10 first stages are wanted: one alone would have seen every block")
    return stages


Window = Annotated[int, AfterValidator(_odd)]
"""Pixels across a window that has a middle pixel."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Features(_Strict):
    """`features`: see `casbah.models.pixel_features.Recipe`."""

    means: tuple[Window, ...] = Recipe.means
    deviations: tuple[Window, ...] = Recipe.deviations
    neighbours: bool = True
    gradients: bool = True
    differences: bool = True


class Trees(_Strict):
    """`trees`: the arguments of scikit-learn's HistGradientBoostingClassifier of the same names, and two of ours."""

    rounds: int = Field(default=400, ge=1)
    """At most so many trees."""
    learning_rate: float = Field(default=0.08, gt=0, le=1)
    max_leaf_nodes: int = Field(default=31, ge=2, le=boosted.MAX_LEAVES)
    min_samples_leaf: int = Field(default=200, ge=1)
    l2_regularization: float = Field(default=10.0, ge=0)
    max_features: float = Field(default=0.3, gt=0, le=1)
    patience: int = Field(default=25, ge=1)
    """Rounds without a lower log-loss on validation, after which no more trees are grown."""


class Settings(_Strict):
    """An experiment of kind `boosted_pixels`, with every default."""

    kind: Literal["boosted_pixels"] = "boosted_pixels"
    seed: int = Field(default=0, ge=0)
    bands: tuple[str, ...] | None = None
    features: Features = Features()
    trees: Trees = Trees()
    class_balance: Literal["none", "sqrt", "inverse"] = "sqrt"
    background_share: float = Field(default=0.33, gt=0, le=1)
    context: Annotated[int, AfterValidator(_not_one)] = Field(default=0, ge=0, le=10)
    """0, or the number of first stages (from 2 on), each grown without its own share of the training blocks: the last
    trees also see what the first stages, without having learned from these blocks, thought of each pixel's
    surroundings."""


@dataclass(frozen=True)
class Pixels:
    """Labelled and observed pixels: features (pixels, features), whether building, cover in percent, weight."""

    features: NDArray[np.float32]
    building: NDArray[np.bool_]
    cover: NDArray[np.uint8]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Where each feature is cut before trees are grown: `edges[f]` ascending, at most `MAX_BINS` - 1 of them.

    scikit-learn cuts weighted data by weighted quantiles, which takes many times as long as growing the trees.
    """

    edges: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> "Bins":
        """Cut (pixels, features) at quantiles, NaN left out."""
        shares = np.linspace(0, 1, MAX_BINS + 1)[1:-1]
        return cls(tuple(_quantiles(column, shares) for column in features.T))

    def codes(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The bin of each value, 0 for what is at or below the first edge; NaN stays NaN."""
        found = np.empty(features.shape, np.float32, order="F")
        for i, edges in enumerate(self.edges):
            column = features[:, i]
            found[:, i] = np.where(np.isnan(column), np.nan, np.searchsorted(edges, column, side="left"))
        return found


def _quantiles(column: NDArray[np.float32], shares: NDArray[np.float64]) -> NDArray[np.float32]:
    ordered = np.sort(column[~np.isnan(column)])
    return np.unique(ordered[np.round(shares * (len(ordered) - 1)).astype(np.int64)]) if len(ordered) else ordered


class Told(HistGradientBoostingClassifier):
    """scikit-learn's boosted trees, telling the person who waits after each round.

    A scorer of one's own would do it through the public door, and walk through all trees again in every round.
    """

    progress: Task

    def _should_stop(self, scores: list[float]) -> bool:
        if len(scores) > 1:  # the first is the score before any tree
            self.progress.advance(1, f"validation loss {-scores[-1]:.4f}")
        return bool(super()._should_stop(scores))

    @property
    def losses(self) -> list[float]:
        """The validation loss before any tree and after each round."""
        return [-float(score) for score in self.validation_score_]

    @property
    def history(self) -> list[tuple[int, dict[str, float]]]:
        """`losses` with the number of trees."""
        return [(number, {MONITOR: loss}) for number, loss in enumerate(self.losses)]

    @property
    def best(self) -> int:
        """How many trees gave the lowest validation loss (at least one)."""
        return max(1, int(np.argmin(self.losses)))


def train(
    *,
    settings: Mapping[str, Any],
    tiles: TileSet,
    output: Path,
    seed: int,
    max_labels: int | None = None,
    resume: bool = False,
    name: str = NAME,
    run_name: str | None = None,
) -> ModelBundle:
    """Train boosted trees on the train split, stop and choose the threshold on validation, and write the bundle.

    `settings` are the keys of the experiment's YAML (see `Settings`) and `name` is what it is called; `run_name` is
    what progress and MLflow call this training of it (`name` where None). `seed` draws the background pixels and the
    features that each split of a tree may use. The same settings, tiles and seed give the same trees. They keep no
    checkpoints: `resume` only keeps a finished bundle of the same run. The test split is not read. Raises `InputError`
    where a setting is unknown or out of range, or the tiles can't be learned from.
    """
    start = time.monotonic()
    run = _Run(name, settings, tiles, seed, max_labels)
    check_target(output, ModelBundle.schema)
    called = run_name or name
    kept = bundling.finished(output, digest(run.config), tiles) if resume else None
    if kept is not None:
        say(f"{called}: {output} was trained before, and is kept")
        return kept.tuned_among(0)  # the settings were given now, wherever they are from
    tracker = Tracker(called, run.described)
    status = "FAILED"
    try:
        model, stages = _grow(run, called)
        training = run.training(stages, model)
        threshold, validation = bundling.choose_threshold(boosted.BoostedPredictor(training, stages, run.recipe), tiles)
        scores = {f"val/{key}": validation[key] for key in scoring.SCORES if validation[key] is not None}
        tracker.log_history(model.history)
        tracker.log(scores, model.best)
        status = "FINISHED"
    finally:
        tracker.finish(status)
    seconds = round(time.monotonic() - start, 3)
    measured = {"threshold": threshold, "seconds": seconds, "peak_memory": bundling.peak_memory()}
    training = training.model_copy(update=measured)
    parameters = {"experiment": name, "seed": seed, "max_labels": max_labels}
    with ModelBundle.write(output, parameters=parameters, inputs={"tiles": tiles.digest}) as draft:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        (draft.directory / "config.yaml").write_text(text, encoding="utf-8")
        stages.save(draft.directory / "weights.safetensors")
        history = [{"round": number} | scores for number, scores in model.history]
        write_history(draft.directory / "metrics.csv", history)
        metrics = {"validation": validation, "monitor": MONITOR, "best_epoch": model.best, "history": history}
        draft.write_json("metrics.json", metrics)
        draft.write_json("training.json", training.model_dump(mode="json"))
    return ModelBundle.open(output, verify=False)


def check(*, settings: Mapping[str, Any], tiles: TileSet, seed: int, max_labels: int | None, name: str) -> str:
    """Digest of the resolved configuration; `InputError` where `train` would refuse the settings or the tiles."""
    run = _Run(name, settings, tiles, seed, max_labels)
    if run.settings.context:
        run.shares()
    return digest(run.config)


class _Run:
    """An experiment made ready for one TileSet: settings and tiles checked, and the configuration resolved."""

    def __init__(
        self, name: str, settings: Mapping[str, Any], tiles: TileSet, seed: int, max_labels: int | None
    ) -> None:
        self.settings, self.tiles, self.seed, self.name = _checked(settings, name), tiles, seed, name
        self.bands = _bands(self.settings, tiles)
        self.recipe = Recipe(**self.settings.features.model_dump())
        for name in ("train", "val"):
            bundling.check_split(tiles, tiles.split(name))
        split = tiles.split("train")
        self.rows = training_rows(split.blocks, max_labels, seed)
        self.blocks = {split.blocks[row] for row in self.rows}
        bundling.check_draw(tiles, self.rows)
        resolved = self.settings.model_copy(update={"seed": seed, "bands": self.bands})
        self.val_rows = np.arange(len(tiles.split("val")))
        self.config: dict[str, Any] = resolved.model_dump(mode="json") | {"max_labels": max_labels}

    def images(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Images of some tiles of a split, with the bands that the model takes."""
        index = [self.tiles.info.bands.index(band) for band in self.bands]
        return self.tiles.split(split).images[rows][:, :, index]

    def pixels(
        self, name: str, rows: NDArray[np.int64], chances: NDArray[np.float32] | None = None, share: float = 1.0
    ) -> Pixels:
        """The labelled pixels of some tiles that were observed in some period.

        With the probabilities (rows, tile rows, tile cols) of a first stage, their surroundings are features too. Of
        the pixels far from any building only a `share` is drawn, before more tiles are read: it then weighs for all of
        them, and every other pixel weighs 1.
        """
        split, draws, found = self.tiles.split(name), np.random.default_rng(self.seed), []
        for first in range(0, len(rows), TILES_AT_ONCE):
            part = rows[first : first + TILES_AT_ONCE]
            images, masks, cover = self.images(name, part), split.masks[part], split.cover[part]
            taken = (masks != scoring.IGNORE) & pixel_features.observed(images)
            plain = (masks[taken] != 1) & (cover[taken] < MIXED_COVER)
            drawn = ~plain | (draws.random(len(plain)) < share)
            taken[taken] = drawn
            weights = np.where(plain[drawn], 1 / share, 1.0)
            planes = pixel_features.features(images, self.bands, self.recipe)
            if chances is not None:
                around = pixel_features.context(chances[first : first + TILES_AT_ONCE])
                planes = np.concatenate([planes, around])
            found.append((planes[:, taken].T, masks[taken] == 1, cover[taken], weights))
        return Pixels(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def sample(self, rows: NDArray[np.int64], chances: NDArray[np.float32] | None = None) -> Pixels:
        """What is learned from of some training tiles: see `pixels` and `background_share`."""
        return self.pixels("train", rows, chances, self.settings.background_share)

    @property
    def described(self) -> dict[str, Any]:
        """What MLflow lists."""
        return {
            "experiment": self.name,
            "config": digest(self.config),
            "tiles": self.tiles.digest,
            "seed": self.seed,
            "train_tiles": len(self.rows),
        }

    def chances(self, name: str, rows: NDArray[np.int64], forests: Sequence[boosted.Forest]) -> NDArray[np.float32]:
        """The mean probability (rows, tile rows, tile cols) that `forests` give some tiles."""
        images = self.images(name, rows)
        found = [boosted.predict(boosted.Stages(forest), images, self.bands, self.recipe) for forest in forests]
        mean: NDArray[np.float32] = np.mean(found, axis=0, dtype=np.float32)
        return mean

    def shares(self) -> list[NDArray[np.int64]]:
        """Positions in `rows`, one array for each first stage: whole blocks, in the order of a hash of seed and name.

        `InputError` where a first stage would have nothing, or no building, to learn from.
        """
        split = self.tiles.split("train")
        blocks = [split.blocks[row] for row in self.rows]
        ordered = sorted(set(blocks), key=lambda block: hashlib.sha256(f"{self.seed}/{block}".encode()).hexdigest())
        share_of = {block: number % self.settings.context for number, block in enumerate(ordered)}
        own = np.array([share_of[block] for block in blocks])
        built = (split.masks[self.rows] == 1).any(axis=(1, 2))
        for number in range(self.settings.context):
            if not (own == number).any() or not built[own != number].any():
                raise InputError(
                    f"{self.name}: context {self.settings.context} needs as many shares of the training blocks, with "
                    f"buildings in the rest, and there are {len(ordered)} blocks: lower context, or take more labels"
                )
        return [np.flatnonzero(own == number) for number in range(self.settings.context)]

    def ratio(self, pixels: Pixels) -> float:
        """How much more than background a building pixel weighs."""
        building = float(pixels.weights[pixels.building].sum())
        power = {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}[self.settings.class_balance]
        return ((float(pixels.weights.sum()) - building) / building) ** power

    def training(self, stages: boosted.Stages, model: Told) -> Training:
        return Training(
            experiment=self.name,
            kind="trees",
            bands=self.bands,
            threshold=0.5,
            input_range=bundling.input_range(self.tiles, self.bands),
            blocks={
                "train": tuple(sorted(self.blocks)),
                "val": tuple(sorted(set(self.tiles.split("val").blocks))),
            },
            config=digest(self.config),
            seed=self.seed,
            parameters=stages.nodes,
            epochs=len(model.losses) - 1,
            best_epoch=model.best,
            **bundling.facts_of(self.tiles),
        )


def _checked(settings: Mapping[str, Any], name: str) -> Settings:
    try:
        return Settings.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        sections: dict[str, type[BaseModel]] = {"features": Features, "trees": Trees}
        model = sections.get(place[0], Settings) if len(place) > 1 else Settings
        section = f"{'.'.join(place[:-1])}." if len(place) > 1 else ""
        raise unknown(f"the key {section}", place[-1], model.model_fields, name)
    raise InputError(f"{name}: {'.'.join(place)} is {first['input']!r}; {first['msg'].lower()}")


def _bands(settings: Settings, tiles: TileSet) -> tuple[str, ...]:
    if settings.bands is None:
        return tiles.info.bands
    wanted = bands.select(settings.bands)
    bundling.band_index(tiles, wanted, "bands")
    return wanted


def _grow(run: _Run, name: str) -> tuple[Told, boosted.Stages]:
    """The last classifier, and the trees of all stages."""
    say(f"{name}: features of {len(run.rows)} training and {len(run.val_rows)} validation tiles")
    if not run.settings.context:
        model, final = _fit(run, run.sample(run.rows), run.pixels("val", run.val_rows), f"finetune {name}")
        return model, boosted.Stages(final)
    first, unseen = _first_stages(run, name)
    chances = run.chances("val", run.val_rows, first)
    known, val = run.sample(run.rows, unseen), run.pixels("val", run.val_rows, chances)
    model, final = _fit(run, known, val, f"finetune {name}, last stage")
    return model, boosted.Stages(final, tuple(first))


def _first_stages(run: _Run, name: str) -> tuple[list[boosted.Forest], NDArray[np.float32]]:
    """One forest for each share of the training blocks, grown without it, and what it thinks of that share's tiles."""
    size = run.tiles.info.tile_size
    unseen = np.empty((len(run.rows), size, size), np.float32)
    val, forests = run.pixels("val", run.val_rows), []
    for number, own in enumerate(run.shares()):
        others = np.delete(run.rows, own)
        words = f"finetune {name}, first stage {number + 1} of {run.settings.context}"
        _, forest = _fit(run, run.sample(others), val, words)
        unseen[own] = run.chances("train", run.rows[own], [forest])
        forests.append(forest)
    return forests, unseen


def _fit(run: _Run, known: Pixels, val: Pixels, words: str) -> tuple[Told, boosted.Forest]:
    """Trees until the log-loss on validation stops falling, cut off after the best round."""
    settings, ratio = run.settings.trees, run.ratio(known)
    bins = Bins.of(known.features)
    with task(words, settings.rounds) as progress:
        model = Told(
            max_iter=settings.rounds,
            early_stopping=True,
            n_iter_no_change=settings.patience,
            scoring="loss",
            random_state=run.seed,
            **settings.model_dump(exclude={"rounds", "patience"}),
        )
        model.progress = progress
        model.fit(
            bins.codes(known.features),
            known.building,
            sample_weight=np.where(known.building, ratio, 1) * known.weights,
            X_val=bins.codes(val.features),
            y_val=val.building,
            sample_weight_val=np.where(val.building, ratio, 1) * val.weights,
        )
        progress.advance(settings.rounds - progress.done, f"stopped; best after {model.best} rounds")
    # Weighting the class building by `ratio` adds log(ratio) to the log-odds (Elkan 2001): taken off, so that
    # probabilities mean what they say.
    return model, forest_of(model, bins, model.best, shift=-np.log(ratio))


def forest_of(model: HistGradientBoostingClassifier, bins: Bins, rounds: int, shift: float = 0.0) -> boosted.Forest:
    """The first `rounds` trees of a binary classifier fitted to the codes of `bins`, over the features themselves.

    `shift` is added to the log-odds.
    """
    trees = [stage[0].nodes for stage in model._predictors[:rounds]]  # scikit-learn has no public access to its trees
    nodes = np.concatenate(trees)
    leaf = nodes["is_leaf"].astype(bool)
    return boosted.Forest(
        feature=np.where(leaf, -1, nodes["feature_idx"]).astype(np.int32),
        threshold=_edges(nodes, leaf, bins),
        left=np.where(leaf, 0, nodes["left"]).astype(np.int32),
        right=np.where(leaf, 0, nodes["right"]).astype(np.int32),
        missing_left=np.where(leaf, 0, nodes["missing_go_to_left"]).astype(np.uint8),
        value=np.where(leaf, nodes["value"], 0.0),
        start=np.concatenate([[0], np.cumsum([len(tree) for tree in trees])]).astype(np.int64),
        baseline=np.array([float(np.ravel(model._baseline_prediction)[0]) + shift]),
    )


def _edges(nodes: NDArray[Any], leaf: NDArray[np.bool_], bins: Bins) -> NDArray[np.float64]:
    """The edge for each threshold between two codes; infinity where only NaN goes to the right."""
    found = np.zeros(len(nodes))
    for i in np.flatnonzero(~leaf):
        edges, code = bins.edges[nodes["feature_idx"][i]], nodes["num_threshold"][i]
        found[i] = edges[int(code)] if code < len(edges) else np.inf
    return found
