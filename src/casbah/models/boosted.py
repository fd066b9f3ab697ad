"""Boosted trees as plain arrays: how a bundle stores them, and how they are evaluated without the library they grew in.

Nothing is unpickled: a bundle's `weights.safetensors` holds numbers alone, and is checked before it is used.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.special import expit

from casbah.errors import InputError
from casbah.models import check_images, pixel_features
from casbah.models.pixel_features import Recipe
from casbah.products.model import ModelBundle, Training

MAX_LEAVES = 64
"""Leaves of a tree: each is one bit of a machine word while pixels find theirs."""

CHUNK = 16_384
"""Pixels that are led through all trees at once: their features stay in the processor's cache."""

PIXELS_AT_ONCE = 1 << 18
"""Pixels whose features are held in memory at once."""

ARRAYS: dict[str, Any] = {
    "feature": np.int32,
    "threshold": np.float64,
    "left": np.int32,
    "right": np.int32,
    "missing_left": np.uint8,
    "value": np.float64,
    "start": np.int64,
    "baseline": np.float64,
}


@dataclass(frozen=True)
class Forest:
    """Trees that add up to the log-odds of *building*.

    Nodes of all trees lie in one row; tree t has the nodes `start[t]` to `start[t + 1]`, its root first. At a node a
    pixel goes to `left` where its `feature` is at or below `threshold` (NaN: where `missing_left`), else to `right`
    (both counted from the tree's first node). A leaf has `feature` -1 and the `value` that it adds to `baseline`.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.uint8]
    value: NDArray[np.float64]
    start: NDArray[np.int64]
    baseline: NDArray[np.float64]

    @property
    def trees(self) -> int:
        return len(self.start) - 1

    @property
    def nodes(self) -> int:
        return len(self.feature)

    @classmethod
    def checked(cls, arrays: dict[str, NDArray[Any]], features: int) -> "Forest | None":
        """Trees over `features` features; None where the arrays are something else."""
        if set(arrays) != set(ARRAYS) or any(arrays[name].dtype != kind for name, kind in ARRAYS.items()):
            return None
        forest = cls(**arrays)
        return forest if forest._is_sound(features) else None

    def _is_sound(self, features: int) -> bool:
        """Every node of every tree is reached once and points inside its own tree."""
        start, per_node = self.start, (self.feature, self.threshold, self.left, self.right, self.missing_left)
        if len(start) < 2 or start[0] != 0 or start[-1] != self.nodes or (np.diff(start) < 1).any():
            return False
        if any(array.shape != self.value.shape for array in per_node) or self.baseline.shape != (1,):
            return False
        if ((self.feature < -1) | (self.feature >= features)).any():
            return False
        size = np.repeat(np.diff(start), np.diff(start))
        inner = self.feature >= 0
        own = np.arange(self.nodes) - np.repeat(start[:-1], np.diff(start))
        for child in (self.left, self.right):  # children come after their parent: no circle is possible
            if ((child <= own) | (child >= size))[inner].any():
                return False
        return bool((np.isfinite(self.value[~inner])).all() and np.isfinite(self.baseline).all())

    def log_odds(self, planes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds (pixels,) of features (features, pixels)."""
        pixels = planes.shape[1]
        total = np.full(pixels, self.baseline[0])
        for first in range(0, pixels, CHUNK):
            part = np.ascontiguousarray(planes[:, first : first + CHUNK])
            _add(self._words, part, total[first : first + CHUNK])
        return total

    @cached_property
    def _words(self) -> list["_Tree"]:
        return [self._tree(tree) for tree in range(self.trees)]

    def _tree(self, tree: int) -> "_Tree":
        nodes = slice(self.start[tree], self.start[tree + 1])
        feature, left, right = self.feature[nodes], self.left[nodes], self.right[nodes]
        leaves = [node for node in _in_order(left, right, feature) if feature[node] < 0]
        if len(leaves) > MAX_LEAVES:
            raise InputError(f"a tree has {len(leaves)} leaves; this casbah reads trees of up to {MAX_LEAVES}")
        word = np.uint32 if len(leaves) <= 32 else np.uint64
        under = dict(zip(leaves, (1 << bit for bit in range(len(leaves))), strict=True))
        for node in range(len(feature) - 1, -1, -1):
            if feature[node] >= 0:
                under[node] = under[int(left[node])] | under[int(right[node])]
        splits = [
            _Split(
                int(feature[node]),
                _not_above(self.threshold[nodes][node]),
                bool(self.missing_left[nodes][node]),
                word(under[int(left[node])]),
            )
            for node in np.flatnonzero(feature >= 0)
        ]
        return _Tree(splits, self.value[nodes][leaves], word)


@dataclass(frozen=True)
class _Split:
    feature: int
    threshold: np.float32
    missing_left: bool
    left_leaves: Any


@dataclass(frozen=True)
class _Tree:
    splits: list[_Split]
    values: NDArray[np.float64]
    word: Any


def _in_order(left: NDArray[np.int32], right: NDArray[np.int32], feature: NDArray[np.int32]) -> Iterator[int]:
    """Nodes of a tree from left to right."""
    path: list[int] = []
    node = 0
    while True:
        while feature[node] >= 0:
            path.append(node)
            node = int(left[node])
        yield node
        if not path:
            return
        parent = path.pop()
        yield parent
        node = int(right[parent])


def _not_above(threshold: np.float64) -> np.float32:
    """The largest float32 at or below a threshold: `x <= threshold` is then the same for every float32 x."""
    near = np.float32(threshold)
    return near if near <= threshold else np.nextafter(near, np.float32(-np.inf))


def _add(trees: list[_Tree], planes: NDArray[np.float32], total: NDArray[np.float64]) -> None:
    """Add what each tree says of the pixels to `total`, in place.

    After QuickScorer (Lucchese et al. 2015, doi:10.1145/2766462.2767733): every split that sends a pixel to the right
    rules out the leaves on its left; the leftmost leaf still possible is the pixel's. Each split is then a few
    operations on whole rows of pixels, in place of a walk from node to node.
    """
    right = np.empty(planes.shape[1], bool)
    for tree in trees:
        ruled_out = np.zeros(planes.shape[1], tree.word)
        gone = np.empty_like(ruled_out)
        for split in tree.splits:
            plane = planes[split.feature]
            if split.missing_left:
                np.greater(plane, split.threshold, out=right)
            else:
                np.less_equal(plane, split.threshold, out=right)
                np.logical_not(right, out=right)
            np.multiply(right, split.left_leaves, out=gone)
            np.bitwise_or(ruled_out, gone, out=ruled_out)
        possible = np.bitwise_not(ruled_out)
        lowest = possible & (~possible + tree.word(1))
        total += tree.values[np.frexp(lowest.astype(np.float64))[1] - 1]


@dataclass(frozen=True)
class Stages:
    """All trees of a model: `final`, and the `first` stages whose mean probability it sees around each pixel.

    Without first stages `final` sees the image alone.
    """

    final: Forest
    first: tuple[Forest, ...] = ()

    @property
    def nodes(self) -> int:
        return self.final.nodes + sum(forest.nodes for forest in self.first)

    def save(self, path: Path) -> None:
        """Write the arrays of every forest as safetensors, under `final/` and `first_0/` …"""
        arrays: dict[str, NDArray[Any]] = {}
        for place, forest in self._places():
            arrays |= {f"{place}/{name}": np.ascontiguousarray(getattr(forest, name)) for name in ARRAYS}
        path.write_bytes(save(arrays))  # an OSError where the disk is full, which save_file does not raise

    def _places(self) -> Iterator[tuple[str, Forest]]:
        yield "final", self.final
        yield from ((f"first_{number}", forest) for number, forest in enumerate(self.first))

    @classmethod
    def read(cls, path: Path, features: int, first: int = 0) -> "Stages":
        """Read trees over `features` features of the image, with `first` first stages; `InputError` where the file
        holds something else."""
        try:
            arrays = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} can't be read as trees ({error}): train the model again") from None
        more = len(pixel_features.context_names()) if first else 0
        wanted = {"final": features + more} | {f"first_{number}": features for number in range(first)}
        found = {
            place: Forest.checked(
                {
                    name.removeprefix(f"{place}/"): array
                    for name, array in arrays.items()
                    if name.startswith(f"{place}/")
                },
                count,
            )
            for place, count in wanted.items()
        }
        forests = [forest for forest in found.values() if forest is not None]
        if len(forests) != len(wanted) or len(arrays) != len(wanted) * len(ARRAYS):
            raise InputError(
                f"{path} does not hold trees over the {features} features that its config.yaml describes: "
                "train the model again"
            )
        return cls(forests[0], tuple(forests[1:]))

    def probabilities(self, images: NDArray[np.uint16], bands: Sequence[str], recipe: Recipe) -> NDArray[np.float32]:
        """P(building) (n, rows, cols) of images (n, periods, bands, rows, cols); 0 where no period was observed."""
        planes = pixel_features.features(images, bands, recipe)
        if self.first:
            opinions = np.stack([_chance(forest, planes, images) for forest in self.first])
            chances = np.asarray(opinions.mean(axis=0), np.float32)
            planes = np.concatenate([planes, pixel_features.context(chances)])
        return _chance(self.final, planes, images)


def _chance(forest: Forest, planes: NDArray[np.float32], images: NDArray[np.uint16]) -> NDArray[np.float32]:
    odds = forest.log_odds(planes.reshape(len(planes), -1)).reshape(planes.shape[1:])
    return np.where(pixel_features.observed(images), expit(odds), 0).astype(np.float32)


class BoostedPredictor:
    """`casbah.models.Predictor` of boosted trees."""

    def __init__(self, training: Training, stages: Stages, recipe: Recipe) -> None:
        self.training = training
        self.stages = stages
        self.recipe = recipe

    def probabilities(self, images: NDArray[np.uint16]) -> NDArray[np.float32]:
        """P(building) per pixel, (n, rows, cols); see `casbah.models.Predictor`.

        Pixels that were observed in no period get 0.
        """
        check_images(self.training, images)
        return predict(self.stages, images, self.training.bands, self.recipe)


def predict(stages: Stages, images: NDArray[np.uint16], bands: Sequence[str], recipe: Recipe) -> NDArray[np.float32]:
    """P(building) (n, rows, cols) of any number of images, a few of them in memory at once."""
    found = np.empty((len(images), *images.shape[-2:]), np.float32)
    step = max(1, PIXELS_AT_ONCE // max(1, images.shape[-1] * images.shape[-2]))
    for start in range(0, len(images), step):
        part = np.asarray(images[start : start + step])
        found[start : start + step] = stages.probabilities(part, bands, recipe)
    return found


def load(bundle: ModelBundle) -> BoostedPredictor:
    """The trees of a bundle, checked against the features that its config.yaml describes."""
    training = bundle.training
    config = yaml.safe_load(bundle.config_path.read_text(encoding="utf-8"))
    try:
        recipe, first = Recipe(**config["features"]), int(config["context"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{bundle.config_path} does not describe the features of boosted trees: train the model again"
        ) from None
    count = len(pixel_features.names(training.bands, training.periods, recipe))
    return BoostedPredictor(training, Stages.read(bundle.weights_path, count, first), recipe)
