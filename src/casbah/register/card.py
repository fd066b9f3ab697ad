"""The model card: what a version is for, what it takes, what it learned from and how well it does, for people."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import casbah
from casbah.blocks import place
from casbah.products.evaluation import EvaluationMetrics, Scores
from casbah.register.candidate import Candidate
from casbah.scoring import SCORES_IN_WORDS

CARD = "model_card.md"


DAY = re.compile(r"(?<![0-9])(20[0-9]{2})(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])(?=T|[^0-9]|$)")
"""The day of acquisition in the id of a Sentinel-2 item."""


def write_card(path: Path, name: str, candidate: Candidate) -> None:
    """Write the card of a candidate for the registered model `name` as Markdown."""
    from casbah.figures.webmap import environment

    template = environment("casbah.register", markdown=True).get_template("model_card.md.j2")
    path.write_text(template.render(**_context(name, candidate)), encoding="utf-8")


def in_short(candidate: Candidate) -> str:
    """What a version is, for its description in MLflow."""
    training, metrics = candidate.model.training, candidate.metrics
    simulated = "SIMULATED data: nothing here says anything about a real place. " if _simulated(candidate) else ""
    bands = f"{len(training.bands)} bands" if len(training.bands) > 1 else training.bands[0]
    return (
        f"{simulated}{training.experiment} ({training.kind}) maps buildings from Sentinel-2 {training.level}, "
        f"{_periods(training.periods)} of {bands} at {training.resolution:g} m. Building IoU "
        f"{metrics.building.iou.text()} on {len(candidate.tested)} test blocks ({metrics.protocol}). "
        f"Its card: artifacts/{CARD}."
    )


def _simulated(candidate: Candidate) -> bool:
    return candidate.model.training.simulated or candidate.metrics.simulated


def _periods(count: int) -> str:
    return f"{count} period{'s' * (count > 1)}"


def _context(name: str, candidate: Candidate) -> dict[str, Any]:
    training, metrics = candidate.model.training, candidate.metrics
    items = list(metrics.extra.get("lineage", {}).get("stac_items", []))
    return {
        "name": name,
        "t": training,
        "m": metrics,
        "casbah": casbah.__version__,
        "model": candidate.model.digest,
        "evaluation": candidate.evaluation.digest,
        "simulated": _simulated(candidate),
        "periods": _periods(training.periods),
        "ranges": [
            (band, *map(round, training.input_range[band])) for band in training.bands if band in training.input_range
        ],
        "areas": _areas(
            {"training": training.blocks.get("train", ()), "validation": training.blocks.get("val", ())}
            | {"test": tuple(candidate.tested)}
        ),
        "split": candidate.split,
        "items": items,
        "days": _days(items),
        "rows": _rows(metrics),
        "heads": list(SCORES_IN_WORDS.values()),
        "aligned": candidate.aligned,
        "seen": bool(training.refit),
        "pixels": sum(block.tp + block.fp + block.fn + block.tn for block in metrics.blocks),
        "attribution": list(dict.fromkeys((*training.attribution, *metrics.attribution))),
        "compute": _compute(candidate),
    }


def _areas(blocks: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    """Per part and UTM zone: how many blocks of which side, and their bounds in metres (west, south, east, north)."""
    found: dict[tuple[str, int, float], list[tuple[float, ...]]] = defaultdict(list)
    for part, names in blocks.items():
        for block in names:
            epsg, bounds = place(block)
            found[part, epsg, bounds[2] - bounds[0]].append(bounds)
    return [
        {
            "part": part,
            "epsg": epsg,
            "side": side,
            "count": len(bounds),
            "bounds": [
                round(edge(values))
                for edge, values in zip((min, min, max, max), zip(*bounds, strict=True), strict=True)
            ],
        }
        for (part, epsg, side), bounds in found.items()
    ]


def _days(items: list[str]) -> list[str]:
    """First and last day of acquisition that the ids of STAC items say; empty where they say none."""
    found = sorted("-".join(match.groups()) for item in items if (match := DAY.search(item)))
    return [found[0], found[-1]] if found else []


def _rows(metrics: EvaluationMetrics) -> list[tuple[str, list[str]]]:
    def cells(scores: Scores) -> list[str]:
        return [getattr(scores, score).text() for score in SCORES_IN_WORDS]

    rows = [(metrics.experiment, cells(metrics.building))]
    if metrics.unaligned is not None:
        rows.append(("against the footprints as published", cells(metrics.unaligned)))
    return rows + [(name, cells(scores)) for name, scores in metrics.baselines.items()]


def _compute(candidate: Candidate) -> dict[str, str]:
    """What training took, as far as the bundle says it."""
    t = candidate.model.training
    found = {"learned numbers": f"{t.parameters:,}", "started from": t.weights_origin}
    if t.device:
        found["device"] = t.device + (f", {t.precision}" if t.precision else "")
    if t.seconds:
        found["time"] = f"{t.seconds / 60:.1f} minutes"
    if t.peak_memory:
        found["memory at the peak"] = f"{t.peak_memory / 2**20:,.0f} MiB"
    if t.epochs is not None:
        found["epochs"] = f"{t.epochs}" + (f", the best of them {t.best_epoch}" if t.best_epoch is not None else "")
    if t.trials:
        found["settings"] = f"the best of {t.trials} trials on validation (their time is not counted here)"
    return found
