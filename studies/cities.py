"""The study on cities: train on all but one, test on that one. What travels, and what helps where it does not?

    python studies/cities.py --output runs/cities
    python studies/cities.py --pisa --shared ../shared --output runs/cities_pisa

The first makes four SIMULATED towns that differ in air, light and roofs, and holds each one out. The second takes the
one real city that there are labels of on its two dates as two "cities": trained on the image of one date, tested on the
image of the other, fold by fold on blocks whose ground no part of training has seen. The stages run by their own
commands (each is printed), what is there already is skipped, and the table goes to standard output and to
OUTPUT/table.md. Two CPU cores need some ten minutes for each with the trees.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pisa import FOLDS, VAL_FRACTION, data_of, scene_and_labels, stage

from casbah.errors import CasbahError, InputError
from casbah.evaluate.cases import check_unseen
from casbah.models.mosaics import mosaics
from casbah.models.on_tiles import added, check_fit, model_layer
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet
from casbah.scoring import (
    Counts,
    Estimate,
    ThresholdSearch,
    block_bootstrap,
    called_building,
    confusion,
    iou,
    paired_block_bootstrap,
)

TILE_SIZE = 64
"""Pixels: blocks of one tile and the guard, so that a small town has some twenty."""

SIZE = ("3.6", "3.6")
"""Kilometres of a simulated town."""

TOWNS: dict[str, tuple[str, ...]] = {
    "clear": ("--seed", "1", "--south-km", "0"),
    "hazy": ("--seed", "2", "--south-km", "8", "--haze", "0.05", "--gain", "0.9"),
    "dim": ("--seed", "3", "--south-km", "16", "--gain", "0.7"),
    "dark roofs": ("--seed", "4", "--south-km", "24", "--roofs", "0.7"),
}
"""What a town is made with: two that differ in what a scene's own statistics can take away, one in what they can't."""

SUMMER = ("--start", "2021-06-01", "--end", "2021-09-15")
DATES = {"2015": "2015-07-04", "2018": "2018-02-11"}

SIZES = ("--tile-size", TILE_SIZE, "--block-size", 760, "--val-fraction", 0.2)

FEW = 0.2
"""Share of the held-out town's blocks that count as labelled: about four of some twenty."""

OWN_FOLDS = 3

QUICK = ("trees.rounds=60", "trees.learning_rate=0.2")
"""Settings of the trees, so that a row takes a minute or less; the same for every row."""


class Way(NamedTuple):
    """What is done for the city that was held out."""

    words: str
    normalise: str = "none"
    few: bool = False
    """Whether its few labelled blocks are trained on."""
    threshold: str = "validation"
    """`validation` of the other cities, `few` labelled blocks of this one, or `oracle`: the scored blocks."""
    own: bool = False
    """Trained on the city itself, in folds: what there is to be had."""


WAYS = (
    Way("nothing: the model as it is"),
    Way("threshold from a few labelled blocks", threshold="few"),
    Way("each scene by its own mean and deviation", normalise="scene"),
    Way("the same, and threshold from a few labelled blocks", normalise="scene", threshold="few"),
    Way("a few labelled blocks trained on too", few=True),
    Way("each scene by its own mean and deviation, a few labelled blocks trained on too", normalise="scene", few=True),
    Way("*best threshold for the scored blocks (not to be had)*", threshold="oracle"),
    Way("*the same, each scene by its own mean and deviation (not to be had)*", normalise="scene", threshold="oracle"),
    Way("*trained on the city itself, in folds*", own=True),
)
AS_IS = WAYS[0]


class Part(NamedTuple):
    """A model and tiles that it is scored on; `learned` are the blocks whose labels the way has, in `split`."""

    model: Path
    tiles: Path
    scored: frozenset[str]
    learned: frozenset[str] = frozenset()
    split: str = "test"


Pixels = Mapping[str, tuple[NDArray[np.float32], NDArray[np.uint8]]]
"""Block -> P(building) and mask of its pixels, (n,) each."""


@dataclass(frozen=True)
class Outcome:
    """Counts of the scored blocks, and the thresholds that gave them."""

    counts: dict[str, Counts]
    thresholds: tuple[float, ...]


def main() -> None:
    arguments = _arguments()
    try:
        study = Pisa(arguments) if arguments.pisa else Towns(arguments)
        table = {city: {way: outcome(study.parts(city, way), way) for way in study.ways} for city in study.cities}
        text = _table(table, study.title)
    except CasbahError as error:
        print(f"cities: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    (arguments.output / "table.md").write_text(text, encoding="utf-8")
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/cities"), help="where everything is written")
    parser.add_argument("--pisa", action="store_true", help="the two dates of the real city, in place of towns")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the folder of real data")
    parser.add_argument("--experiment", default="boosted_pixels", metavar="NAME")
    parser.add_argument("--cities", nargs="+", metavar="NAME", help="hold out these alone")
    parser.add_argument("--set", nargs="+", default=None, metavar="KEY=VALUE", help="settings of the experiment")
    return parser.parse_args()


class _Study:
    """Where things lie, and what every study does with a TileSet."""

    ways: tuple[Way, ...] = WAYS

    def __init__(self, arguments: argparse.Namespace, known: Iterable[str]) -> None:
        self.output, self.experiment = arguments.output, arguments.experiment
        quick = QUICK if self.experiment == "boosted_pixels" else ()
        settings = quick if arguments.set is None else arguments.set
        self.settings = [word for setting in settings for word in ("--set", setting)]
        self.cities = tuple(arguments.cities or known)
        if strange := set(self.cities) - set(known):
            raise InputError(f"--cities names {', '.join(sorted(strange))}; known are {', '.join(known)}")

    def model(self, tiles: Path) -> Path:
        place = tiles.parent / f"{self.experiment}_{tiles.name}"
        stage(place, "finetune", "--config", self.experiment, "--tiles", tiles, "--resume", *self.settings)
        return place


class Towns(_Study):
    """Simulated towns, each held out from a model of the others."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments, TOWNS)
        self.title = "SIMULATED towns: each held out from a model of the three others"

    def parts(self, city: str, way: Way) -> list[Part]:
        few = self.tiles(city, way.normalise, few=True)
        scored = frozenset(TileSet.open(few).info.blocks["test"])
        if way.own:
            return [Part(self.model(fold), fold, scored) for fold in self.folds(city)]
        if way.few:
            return [Part(self.model(few), few, scored)]
        tiles = self.tiles(city, way.normalise, few=False)
        learned = frozenset(TileSet.open(tiles).info.blocks["test"]) - scored
        return [Part(self.model(tiles), tiles, scored, learned)]

    def scene(self, town: str) -> Path:
        place = self.output / town.replace(" ", "_")
        made, scene = place / "town", place / place.name
        if not (made / "manifest.json").is_file():
            stage(made, "sample", "make", "--size-km", *SIZE, *TOWNS[town])
        stage(scene, "ingest", "--aoi", made / "aoi.geojson", "--stac", made / "catalog.json", *SUMMER)
        labelled = ("--labelled-area", made / "labelled_area.geojson")
        stage(place / "labels", "label", "--scene", scene, "--source", made / "footprints.gpkg", *labelled)
        return scene

    def tiles(self, city: str, normalise: str, few: bool) -> Path:
        """All towns in one TileSet, with `city` as its test scene."""
        tiles = self.output / city.replace(" ", "_") / f"tiles_{normalise}{'_few' if few else ''}"
        scenes = [self.scene(town) for town in TOWNS]
        pairs = [word for one in scenes for word in ("--scene", one, "--labels", one.parent / "labels")]
        share = ("--few-labels", FEW) if few else ()
        held = ("--test-scene", self.scene(city).name, "--normalise", normalise, *share)
        stage(tiles, "tile", *pairs, *SIZES, *held)
        return tiles

    def folds(self, city: str) -> list[Path]:
        scene = self.scene(city)
        tiles = scene.parent / "tiles_own"
        pair = ("--scene", scene, "--labels", scene.parent / "labels")
        stage(tiles, "tile", *pair, *SIZES, "--folds", OWN_FOLDS)
        return [tiles / f"fold_{fold}" for fold in range(OWN_FOLDS)]


class Pisa(_Study):
    """One real city on two dates, each date held out from a model of the other, on blocks held out as well."""

    # The few blocks choose rounds and threshold on the date that is trained: they are no new ground to train on.
    ways = tuple(way for way in WAYS if not way.few)

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments, DATES)
        self.data = data_of(arguments.shared)
        self.title = f"Real imagery and footprints of Pisa: each date held out from a model of the other, {FOLDS} folds"

    def parts(self, city: str, way: Way) -> list[Part]:
        (other,) = set(DATES) - {city}
        return list(self._folds(city if way.own else other, city, way.normalise))

    def _folds(self, learned: str, tested: str, normalise: str) -> Iterator[Part]:
        trained, target = self.tiles(learned, normalise), self.tiles(tested, normalise)
        for fold in range(FOLDS):
            tiles = target / f"fold_{fold}"
            blocks = TileSet.open(tiles).info.blocks
            few = frozenset(blocks["val"])
            yield Part(self.model(trained / f"fold_{fold}"), tiles, frozenset(blocks["test"]), few, "val")

    def tiles(self, date: str, normalise: str) -> Path:
        place = self.output / date
        scene_and_labels(place, self.data, ("--start", DATES[date], "--end", DATES[date]))
        sizes = ("--tile-size", TILE_SIZE, "--folds", FOLDS, "--val-fraction", VAL_FRACTION)
        tiles = place / f"tiles_{normalise}"
        pair = ("--scene", place / "scene", "--labels", place / "labels")
        stage(tiles, "tile", *pair, *sizes, "--normalise", normalise)
        return tiles


def outcome(parts: list[Part], way: Way) -> Outcome:
    """Score a way on the blocks of its parts, each part at a threshold of its own."""
    counts: dict[str, Counts] = {}
    thresholds = []
    for part in parts:
        model, tiles = ModelBundle.open(part.model), TileSet.open(part.tiles)
        check_fit(model, tiles)
        check_unseen(model, tiles, "test")
        scored = _pixels(model, tiles, "test", part.scored)
        few = _pixels(model, tiles, part.split, part.learned) if way.threshold == "few" else {}
        thresholds.append(_threshold(way, model.training.threshold, few, scored))
        counts |= counted(scored, thresholds[-1])
    return Outcome(counts, tuple(thresholds))


def _pixels(model: ModelBundle, tiles: TileSet, split: str, blocks: Iterable[str]) -> Pixels:
    found = {}
    for mosaic in mosaics(tiles, split, {"probability": model_layer(model, tiles)}, blocks):
        known = ~np.isnan(mosaic.layers["probability"])
        found[mosaic.block] = mosaic.layers["probability"][known], mosaic.mask[known]
    return found


def _threshold(way: Way, validation: float, few: Pixels, scored: Pixels) -> float:
    """The model's own, or the best one of the blocks that the way may look at."""
    if way.threshold == "validation":
        return validation
    if seen := set(few) & set(scored):
        raise InputError(f"blocks {', '.join(sorted(seen))} would choose the threshold that they are scored at")
    search = ThresholdSearch()
    for probability, mask in (few if way.threshold == "few" else scored).values():
        search.add(probability, mask)
    return search.best()


def counted(pixels: Pixels, threshold: float) -> dict[str, Counts]:
    """Counts of each block at a threshold."""
    return {block: confusion(called_building(found, threshold), mask) for block, (found, mask) in pixels.items()}


def _table(table: Mapping[str, Mapping[Way, Outcome]], title: str) -> str:
    """Markdown: a row a way, a column a city, all of them pooled, and the difference to doing nothing."""
    cities = list(table)
    for city, found in table.items():
        if len({frozenset(one.counts) for one in found.values()}) > 1:
            raise InputError(f"the rows of {city} are not scored on the same blocks: make its tiles again")
    lines = [
        f"**{title}.**",
        "",
        f"| Done for the held-out city | {' | '.join(cities)} | All (95 %) | Against doing nothing (95 %) |",
        f"|---|{'---|' * (len(cities) + 2)}",
    ]
    for way in table[cities[0]]:
        pooled, base = _pooled(table, way), _pooled(table, AS_IS)
        cells = [_number(iou(_sum(table[city][way].counts))) for city in cities]
        difference = "–" if way == AS_IS else _interval(Estimate(*paired_block_bootstrap(pooled, base)[:3]), "+")
        whole = _interval(block_bootstrap(pooled)["iou"], "")
        lines.append(f"| {way.words} | {' | '.join(cells)} | {whole} | {difference} |")
    lines += [
        "",
        "Building IoU. Every row of a column is scored on the same blocks, none of which chose anything (but in the "
        "rows that are not to be had). Thresholds, in the order of the rows:",
    ]
    for city in cities:
        lines.append(f"- {city}: {', '.join(_thresholds(found) for found in table[city].values())}")
    return "\n".join([*lines, ""])


def _pooled(table: Mapping[str, Mapping[Way, Outcome]], way: Way) -> dict[str, Counts]:
    """Of all cities, by block: two dates of one ground are not independent, so they count as one block."""
    pooled: dict[str, Counts] = {}
    for found in table.values():
        for block, counts in found[way].counts.items():
            pooled[block] = added(pooled.get(block), counts)
    return pooled


def _sum(counts: Mapping[str, Counts]) -> Counts:
    return Counts(*(sum(column) for column in zip(*counts.values(), strict=True)))


def _number(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def _interval(found: Estimate, sign: str) -> str:
    return f"{_number(found.value, sign)} ({_number(found.low, sign)} to {_number(found.high, sign)})"


def _thresholds(found: Outcome) -> str:
    low, high = min(found.thresholds), max(found.thresholds)
    return f"{low:.2f}" if low == high else f"{low:.2f}–{high:.2f}"


if __name__ == "__main__":
    main()
