"""`report.html`, `report.md`, `map.html` and `figures/` of an evaluation: its numbers in words and pictures."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casbah.evaluate.cases import Cases
from casbah.evaluate.scored import Scored, Shot, areas
from casbah.figures.charts import BlockOutline, Panel, block_map, panels, reliability_chart
from casbah.figures.colour import (
    data_uri,
    error_colours,
    probability_colours,
    stretch_limits,
    stretched,
    truth_colours,
)
from casbah.figures.webmap import Canvas, environment, render_map
from casbah.products.evaluation import EvaluationMetrics
from casbah.scoring import FEWEST_BLOCKS, SCORES, SCORES_IN_WORDS, iou

ENOUGH = 30
"""Building pixels that a block needs to be shown as best, median or worst: fewer make an IoU of chance."""

PANEL_SIDE = 256
"""Pixels of a block that a figure shows; of a larger one its middle."""

SAMPLE = 400
"""Pixels a block that the colour stretch is taken from."""


def write_report(directory: Path, metrics: EvaluationMetrics, scored: Scored, cases: Cases) -> None:
    """Write all that a person reads of an evaluation into `directory`."""
    resolution = cases.cases[0].tiles.info.resolution
    limits = {scene: _limits(shots) for scene, shots in areas(scored.shots)}
    pictures = _pictures(metrics, scored, limits, resolution)
    (directory / "figures").mkdir()
    for name, picture in pictures.items():
        (directory / "figures" / f"{name}.png").write_bytes(picture)
    context = _context(metrics, cases)
    for template, target in (("report.html.j2", "report.html"), ("report.md.j2", "report.md")):
        text = (
            environment("casbah.evaluate", markdown=target.endswith(".md"))
            .get_template(template)
            .render(**context, pictures={name: data_uri(picture, "png") for name, picture in pictures.items()})
        )
        (directory / target).write_text(text, encoding="utf-8")
    (directory / "map.html").write_text(_map(metrics, scored, limits, resolution), encoding="utf-8")


def _pictures(
    metrics: EvaluationMetrics, scored: Scored, limits: Mapping[str, NDArray[np.float64]], resolution: float
) -> dict[str, bytes]:
    pictures = {}
    chosen = examples(metrics, scored.shots)
    if chosen:
        rows = [_panel(title, shot, limits[shot.scene]) for title, shot in chosen]
        pictures["examples"] = panels(rows, resolution, metrics.simulated, metrics.attribution)
    pictures["reliability"] = reliability_chart(metrics.reliability, metrics.ece, metrics.simulated)
    found = list(areas(scored.shots))
    for number, (scene, shots) in enumerate(found):
        name = "blocks" if len(found) == 1 else f"blocks_{number}"
        pictures[name] = block_map(scene, outlines(metrics, shots), resolution, metrics.simulated, metrics.attribution)
    return pictures


def examples(metrics: EvaluationMetrics, shots: Sequence[Shot]) -> list[tuple[str, Shot]]:
    """The best, the median and the worst scored block by building IoU, among those with enough building pixels."""
    rated = sorted((value, b.block) for b in metrics.blocks if b.tp + b.fn >= ENOUGH and (value := _iou(b)) is not None)
    if not rated:
        return []
    places = {"best": len(rated) - 1, "median": (len(rated) - 1) // 2, "worst": 0}
    titles: dict[int, list[str]] = {}
    for title, place in places.items():
        titles.setdefault(place, []).append(title)
    found = []
    for place, words in titles.items():
        value, block = rated[place]
        shot = max((s for s in shots if s.block == block and s.scored), key=lambda s: s.rows * s.cols)
        found.append((f"{', '.join(words)}: IoU {value:.3f}\n{block}", shot))
    return found


def outlines(metrics: EvaluationMetrics, shots: Sequence[Shot]) -> list[BlockOutline]:
    """The shots of one scene as outlines with their split (or fold) and score."""
    score_of = {b.block: _iou(b) for b in metrics.blocks}
    return [
        BlockOutline(
            shot.block,
            shot.left,
            shot.top,
            shot.cols,
            shot.rows,
            shot.split if shot.fold is None else f"fold {shot.fold}",
            score_of.get(shot.block) if shot.scored else None,
        )
        for shot in shots
    ]


def _iou(block: Any) -> float | None:
    return iou((block.tp, block.fp, block.fn, block.tn))


def _limits(shots: Sequence[Shot]) -> NDArray[np.float64]:
    samples = []
    for shot in shots:
        pixels = shot.load()["colour"].reshape(3, -1)
        samples.append(pixels[:, :: max(1, pixels.shape[1] // SAMPLE)])
    return stretch_limits(np.concatenate(samples, axis=1))


def _panel(title: str, shot: Shot, limits: NDArray[np.float64]) -> Panel:
    arrays = {name: _middle(array) for name, array in shot.load().items()}
    return Panel(
        title=title,
        colour=stretched(arrays["colour"], limits),
        truth=truth_colours(arrays["mask"]),
        probability=arrays["probability"].astype(np.float32),
        error=error_colours(arrays["predicted"], arrays["mask"]),
    )


def _middle(array: NDArray[Any]) -> NDArray[Any]:
    rows, cols = array.shape[-2:]
    top, left = max(0, (rows - PANEL_SIDE) // 2), max(0, (cols - PANEL_SIDE) // 2)
    return array[..., top : top + PANEL_SIDE, left : left + PANEL_SIDE]


def _map(
    metrics: EvaluationMetrics, scored: Scored, limits: Mapping[str, NDArray[np.float64]], resolution: float
) -> str:
    canvases = []
    for scene, shots in areas(scored.shots):
        canvas = Canvas.over(scene, outlines(metrics, shots), resolution)
        for shot in shots:
            arrays = shot.load()
            canvas.paint("colour", shot.left, shot.top, stretched(arrays["colour"], limits[scene]))
            canvas.paint("truth", shot.left, shot.top, truth_colours(arrays["mask"]))
            if shot.scored:
                probability = arrays["probability"].astype(np.float32)
                canvas.paint("probability", shot.left, shot.top, probability_colours(probability))
                canvas.paint("error", shot.left, shot.top, error_colours(arrays["predicted"], arrays["mask"]))
        canvases.append(canvas)
    return render_map(
        canvases,
        title=f"{metrics.experiment} on {metrics.split} blocks",
        attribution=metrics.attribution,
        simulated=metrics.simulated,
        note=f"Made by Casbah; error at threshold {metrics.threshold:.3f} from {metrics.threshold_source}",
    )


def _context(metrics: EvaluationMetrics, cases: Cases) -> dict[str, Any]:
    names = {"model": metrics.experiment, "unaligned": f"{metrics.experiment}, footprints as published"}
    rows = [(names["model"], metrics.building)]
    if metrics.unaligned is not None:
        rows.append((names["unaligned"], metrics.unaligned))
    rows += [(_baseline_name(name, metrics), scores) for name, scores in metrics.baselines.items()]
    total = sum(b.tp + b.fn + b.fp + b.tn for b in metrics.blocks)
    return {
        "m": metrics,
        "rows": [(name, [getattr(scores, s).text() for s in SCORES]) for name, scores in rows],
        "heads": [SCORES_IN_WORDS[s] for s in SCORES],
        "blocks": [
            {"block": b.block, "fold": b.fold, "building": b.tp + b.fn, "pixels": b.tp + b.fp + b.fn + b.tn}
            | {"iou": _number(_iou(b)), "tp": b.tp, "fp": b.fp, "fn": b.fn, "tn": b.tn}
            for b in sorted(metrics.blocks, key=lambda b: -(_iou(b) or 0.0))
        ],
        "share": sum(b.tp + b.fn for b in metrics.blocks) / total,
        "pixels": total,
        "verdict": verdict(metrics),
        "caution": caution(metrics),
        "training": cases.cases[0].model.training,
        "formulas": sorted({entry["formula"] for entry in metrics.extra["built_up_index"]}),
        "lineage": metrics.extra["lineage"],
    }


def _baseline_name(name: str, metrics: EvaluationMetrics) -> str:
    kinds = sorted({entry["index"] for entry in metrics.extra["built_up_index"]})
    return f"{name} ({', '.join(kinds)})" if name == "built-up index" and kinds else name


def caution(metrics: EvaluationMetrics) -> str:
    """What to say of intervals over too few blocks; empty where there are enough."""
    count = len(metrics.blocks)
    if count >= FEWEST_BLOCKS:
        return ""
    return (
        f"The intervals are over {count} block{'' if count == 1 else 's'} only: fewer than {FEWEST_BLOCKS} are too few "
        "to be trusted, and such intervals are too short."
    )


def without_pictures(text: str) -> str:
    """A `report.md` to be read away from its `figures/`."""
    return re.sub(r"^!\[.*\]\(figures/.*\)\n\n?", "", text, flags=re.MULTILINE)


def verdict(metrics: EvaluationMetrics) -> str:
    """One plain sentence: does the model beat the built-up index, as far as the intervals can tell?"""
    model, index = metrics.building.iou, metrics.baselines.get("built-up index")
    if model.value is None:
        return "There is nothing to score: no building lies in these blocks and none was predicted."
    if index is None:
        return "These bands allow no built-up index, so the model is only held against calling nothing a building."
    against = index.iou
    if against.value is None or model.low is None or against.high is None:
        return f"Its building IoU is {model.value:.3f}; there are too few blocks for an interval."
    if model.low > against.high and len(metrics.blocks) >= FEWEST_BLOCKS:
        return f"It is clearly better than the built-up index ({model.value:.3f} against {against.value:.3f})."
    if model.value > against.value:
        why = "the intervals overlap" if model.low <= against.high else f"{len(metrics.blocks)} blocks are few"
        return (
            f"Its IoU is above that of the built-up index ({model.value:.3f} against {against.value:.3f}), but {why}: "
            "more test blocks would be needed to be sure."
        )
    return f"It does not beat the built-up index ({model.value:.3f} against {against.value:.3f})."


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
