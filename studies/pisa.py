"""The study on Pisa: real Sentinel-2 imagery and real footprints, every experiment on the same spatial folds.

    python studies/pisa.py --shared ../shared --output runs/pisa

runs the stages by their own commands (each is printed), skips what is there already, and prints the table of
`docs/pisa.md` as markdown, to standard output and to OUTPUT/table.md. Two CPU cores need a few minutes for the trees of
one row, and an hour or more for the networks of one; `--experiments boosted_pixels` leaves the networks out.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from casbah.errors import CasbahError, InputError
from casbah.products.evaluation import Evaluation, EvaluationMetrics
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileFolds
from casbah.scoring import Counts, paired_block_bootstrap

FOLDS = 4
TILE_SIZE = 64
"""Pixels: eight whole tiles of 224 px fit the labelled area, which is too few for folds."""

VAL_FRACTION = 0.15
"""Of all blocks: about five of 32, enough buildings to choose a threshold by, at the price of training pixels."""

DATES = {
    "one": ("--start", "2018-02-11", "--end", "2018-02-11"),
    "two": ("--start", "2015-07-04", "--end", "2018-02-11", "--periods", "2"),
}
DATES_IN_WORDS = {"one": "2018", "two": "2015 and 2018"}
LABELS = {"published": (), "aligned": ("--align",)}
TREES = ("boosted_pixels", "boosted_context")
EXPERIMENTS = (*TREES, "unet_scratch_small", "prithvi_tiny_upernet")
FLOOR = "boosted_pixels"

ATTRIBUTION = "Presidenza del Consiglio dei Ministri - Dipartimento della Protezione Civile; Regione Toscana"
VINTAGE = "1988-2013"


@dataclass(frozen=True)
class Row:
    """One row of the table: an experiment on `dates`, its footprints as `labels` says."""

    experiment: str
    dates: str
    labels: str

    def tiles(self, output: Path) -> Path:
        return output / self.dates / f"tiles_{self.labels}"

    def models(self, output: Path) -> Path:
        return output / self.dates / f"models_{self.labels}" / self.experiment

    def evaluation(self, output: Path) -> Path:
        return output / self.dates / f"evaluation_{self.labels}" / self.experiment


def main() -> None:
    arguments = _arguments()
    try:
        data = data_of(arguments.shared)
        rows = [
            Row(experiment, dates, labels)
            for experiment in arguments.experiments
            for labels in arguments.labels
            for dates in arguments.dates
        ]
        for row in rows:
            _make(row, data, arguments.output, arguments.set)
        text = _table(rows, arguments.output)
    except CasbahError as error:
        print(f"pisa: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    (arguments.output / "table.md").write_text(text, encoding="utf-8")
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the folder of real data")
    parser.add_argument("--output", type=Path, default=Path("runs/pisa"), help="where everything is written")
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS, metavar="NAME")
    parser.add_argument("--dates", nargs="+", default=list(DATES), choices=list(DATES))
    parser.add_argument("--labels", nargs="+", default=["aligned", "published"], choices=list(LABELS))
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings that replace those of networks"
    )
    return parser.parse_args()


def data_of(shared: Path) -> Path:
    data = shared / "data"
    for needed in ("sentinel-2/catalog.json", "footprints/pisa/buildings.gpkg"):
        if not (data / needed).is_file():
            raise InputError(f"{data / needed} does not exist; --shared names the folder that holds data/{needed}")
    return data


def _make(row: Row, data: Path, output: Path, settings: list[str]) -> None:
    """Run every stage of a row that has not left its product yet."""
    scene, labels = scene_and_labels(output / row.dates, data, DATES[row.dates])
    tiles = row.tiles(output)
    sizes = ("--tile-size", TILE_SIZE, "--folds", FOLDS, "--val-fraction", VAL_FRACTION)
    stage(tiles, "tile", "--scene", scene, "--labels", labels, *sizes, *LABELS[row.labels])
    settings = [] if row.experiment in TREES else settings
    overrides = [word for setting in settings for word in ("--set", setting)]
    for fold in range(FOLDS):  # not the refit: the study scores the protocol, and registers nothing
        model = row.models(output) / f"fold_{fold}"
        config = ("--config", row.experiment, "--resume", *overrides)
        stage(model, "finetune", *config, "--tiles", tiles / f"fold_{fold}")
    stage(row.evaluation(output), "evaluate", "--model", row.models(output), "--tiles", tiles)


def scene_and_labels(place: Path, data: Path, days: tuple[str, ...]) -> tuple[Path, Path]:
    """The scene of these days and its footprints, below `place`."""
    scene, labels, footprints = place / "scene", place / "labels", data / "footprints" / "pisa"
    area = footprints / "labelled_area.geojson"
    catalogue = ("--stac", data / "sentinel-2" / "catalog.json", "--level", "L1C")
    stage(scene, "ingest", "--aoi", area, *catalogue, *days)
    words = ("--licence", "CC-BY-4.0", "--attribution", ATTRIBUTION, "--vintage", VINTAGE)
    source = ("--source", footprints / "buildings.gpkg", "--labelled-area", area)
    stage(labels, "label", "--scene", scene, *source, *words)
    return scene, labels


def stage(product: Path, name: str, *options: object) -> None:
    """Run `casbah <name>` unless its product is there."""
    if (product / "manifest.json").is_file():
        return
    words = [name, *(str(option) for option in options), "--output", str(product)]
    print(f"$ casbah {shlex.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-c", "from casbah.cli import main; main()", *words], stdout=sys.stderr)
    if done.returncode:
        raise InputError(f"`casbah {name}` ended with exit code {done.returncode}; what is done is kept, run it again")


def _table(rows: list[Row], output: Path) -> str:
    """Markdown: a row each, the baseline, and the differences that the blocks can tell."""
    found = {row: Evaluation.open(row.evaluation(output)).metrics for row in rows}
    lines = [
        "| Model | Dates | Footprints | Building IoU (95 %) | F1 | Precision | Recall | IoU, footprints as published | "
        "Training a fold |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row, metrics, output) for row, metrics in found.items()]
    first = next(iter(found.items()))
    lines += [_baseline(*first)] if "built-up index" in first[1].baselines else []
    lines += ["", *_protocol(first[0], output), "", *_differences(found), ""]
    return "\n".join(lines)


def _line(row: Row, metrics: EvaluationMetrics, output: Path) -> str:
    scores, published = metrics.building, metrics.unaligned
    seconds = [ModelBundle.open(row.models(output) / f"fold_{fold}").training.seconds for fold in range(FOLDS)]
    cells = [
        row.experiment,
        DATES_IN_WORDS[row.dates],
        row.labels,
        scores.iou.text(),
        *(
            f"{score.value:.3f}" if score.value is not None else "–"
            for score in (scores.f1, scores.precision, scores.recall)
        ),
        published.iou.text() if published else scores.iou.text(),
        f"{sum(seconds) / FOLDS:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _baseline(row: Row, metrics: EvaluationMetrics) -> str:
    scores = metrics.baselines["built-up index"]
    numbers = [f"{score.value:.3f}" for score in (scores.f1, scores.precision, scores.recall)]
    cells = ["built-up index", DATES_IN_WORDS[row.dates], row.labels, scores.iou.text(), *numbers, "–", "–"]
    return f"| {' | '.join(cells)} |"


def _protocol(row: Row, output: Path) -> list[str]:
    folds = TileFolds.open(row.tiles(output), verify=False)
    info = folds.fold(0).info
    tiles = sum(fold.info.summary["splits"]["test"]["tiles"] for fold in folds.folds)
    blocks = sum(len(fold.info.blocks["test"]) for fold in folds.folds)
    return [
        f"{tiles} tiles of {info.tile_size} px in {blocks} blocks of {info.block_size / 1000:g} km, {FOLDS} folds; "
        f"tiles of different blocks are {info.guard:g} m apart or more; building = cover >= {info.building_cover} %; "
        "counts pooled over all test blocks, thresholds from the validation blocks of each fold."
    ]


def _differences(found: dict[Row, EvaluationMetrics]) -> Iterator[str]:
    """Pairs that differ in one thing, on the blocks of both (the same lattice and seed, so the same blocks)."""
    yield "| Difference in building IoU, on the same blocks | (95 %) |"
    yield "|---|---|"
    for row, metrics in found.items():
        for other, others in found.items():
            pair = _pair(row, other)
            if pair:
                difference = paired_block_bootstrap(_counts(metrics), _counts(others))
                value = f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
                yield f"| {pair} | {value} |"


def _pair(row: Row, other: Row) -> str | None:
    """In words, where the first is the interesting one of two rows that differ in dates or experiment alone."""
    if row.labels != other.labels:
        return None
    if row.experiment == other.experiment and (row.dates, other.dates) == ("two", "one"):
        return f"{row.experiment}, {row.labels} footprints: two dates against one"
    if row.dates == other.dates and other.experiment == FLOOR != row.experiment:
        return f"{row.experiment} against {FLOOR}: {row.labels} footprints, {DATES_IN_WORDS[row.dates]}"
    return None


def _counts(metrics: EvaluationMetrics) -> dict[str, Counts]:
    return {block.block: Counts(block.tp, block.fp, block.fn, block.tn) for block in metrics.blocks}


if __name__ == "__main__":
    main()
