"""`comparison.html`, `.md`, `.json`, `cells.csv` and `figures/`: a comparison in words and pictures."""

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from casbah.compare.results import Results
from casbah.compare.shown import Picture, pictures, read_probabilities
from casbah.compare.tables import COLUMNS, cells, facts
from casbah.figures.colour import data_uri
from casbah.figures.comparison import curves_of, label_curve, side_by_side
from casbah.figures.webmap import environment
from casbah.products.comparison import ComparedRow, ComparisonFacts, Failed, LabelBudget
from casbah.products.evaluation import Interval
from casbah.products.manifest import Draft
from casbah.scoring import FEWEST_BLOCKS

GIB = 2**30

VERDICTS = {
    "best": "the best on validation",
    "within noise": "within noise",
    "worse": "worse",
    "better": "better on test",
    "undefined": "too few blocks to tell",
}


def write(draft: Draft, results: Results) -> None:
    """Write all files of the product into `draft`."""
    found = facts(results)
    draft.write_json("comparison.json", found.model_dump(mode="json"))
    with open(draft.directory / "cells.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        table.writerows(cells(results))
    drawn = _pictures(found, results)
    (draft.directory / "figures").mkdir()
    for name, picture in drawn.items():
        (draft.directory / "figures" / f"{name}.png").write_bytes(picture)
    context = _context(found)
    for template in ("comparison.html", "comparison.md"):
        text = (
            environment("casbah.compare", markdown=template.endswith(".md"))
            .get_template(f"{template}.j2")
            .render(**context, pictures={name: data_uri(picture, "png") for name, picture in drawn.items()})
        )
        (draft.directory / template).write_text(text, encoding="utf-8")


def _pictures(found: ComparisonFacts, results: Results) -> dict[str, bytes]:
    drawn = {}
    if len({one.budget for one in found.budgets}) > 1:
        drawn["curve"] = label_curve(*curves_of(found), found.simulated)
    blocks = pictures(results.ground)
    if blocks and found.rows:
        columns = [(_title(one), one.colour, one.truth) for one in blocks]
        maps = _maps(found, results, blocks)
        drawn["maps"] = side_by_side(columns, maps, found.extra["resolution"], found.simulated, found.attribution)
    return drawn


def _title(picture: Picture) -> str:
    return f"{picture.place.block}\n{100 * picture.place.share:.0f} % building"


def _maps(found: ComparisonFacts, results: Results, blocks: list[Picture]) -> dict[str, list[Any]]:
    """Each row's probabilities of the shown blocks, of its first seed with the first table's budget."""
    maps = {}
    for row in found.rows:
        seed = row.draws[0].seed
        wanted = (row.experiment, seed, found.headline)
        one = next(one for one in results.measured if (one.experiment, one.seed, one.budget) == wanted)
        probabilities = read_probabilities(one.shown)
        maps[row.experiment] = [probabilities.get(block.place.key) for block in blocks]
    return maps


def _context(found: ComparisonFacts) -> dict[str, Any]:
    measured = {row.experiment for row in found.rows}
    lost = [one for one in found.failed if one.experiment not in measured]
    return {
        "f": found,
        "rows": [_row(row, found) for row in found.rows],
        "failed": _failed(found.failed),
        "lost": list({one.experiment: one for one in reversed(lost)}.values())[::-1],
        "budgets": [_budget(one) for one in found.budgets],
        "seeds": max((len(row.draws) for row in found.rows), default=0),
        "curve": len({one.budget for one in found.budgets}) > 1,
        "caution": _caution(found),
        "headline": "all training tiles" if found.headline is None else f"{found.headline} training tiles",
    }


def _failed(failed: Sequence[Failed]) -> list[dict[str, str]]:
    """Those that failed alike in one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in failed:
        fold = "" if one.fold is None else f", fold {one.fold}"
        groups.setdefault((one.experiment, one.why), []).append(f"seed {one.seed}, {one.budget or 'all'} tiles{fold}")
    return [{"name": name, "why": why, "which": "; ".join(which)} for (name, why), which in groups.items()]


def _row(row: ComparedRow, found: ComparisonFacts) -> dict[str, Any]:
    failed = [one for one in found.failed if one.experiment == row.experiment and one.budget == found.headline]
    best = row.verdict == "best"
    return {
        "name": row.experiment,
        "best": best,
        "backbone": row.backbone,
        "pretrained_on": row.pretrained_on,
        "starts_from": row.starts_from,
        "validation": _number(row.validation_iou),
        "f1": row.f1.text(),
        "iou": row.iou.text(),
        "spread": "–" if row.spread is None else f"±{row.spread:.3f} ({len(row.draws)} seeds)",
        "parameters": f"{row.parameters:,}",
        "difference": "" if best else _signed(row.difference),
        "verdict": VERDICTS[row.verdict],
        "failed": f"{len(failed)} of its trainings failed: {failed[0].why}" if failed else "",
    }


def _budget(one: LabelBudget) -> Mapping[str, str]:
    unit = " rounds" if one.convergence_unit == "rounds" else ""
    return {
        "name": one.experiment,
        "tiles": f"{one.tiles:.0f}" if one.tiles.is_integer() else f"{one.tiles:.1f}",
        "all": "all" if one.budget is None else "",
        "km2": "–" if one.km2 is None else f"{one.km2:.2f}",
        "draws": str(one.draws),
        "iou": one.iou.text(),
        "convergence": "–" if one.convergence is None else f"{one.convergence:.3g}{unit}",
        "hours": f"{one.device_hours:.3f}" if one.device_hours >= 0.001 else "< 0.001",
        "device": one.device,
        "memory": f"{one.peak_memory / GIB:.2f}",
    }


def _caution(found: ComparisonFacts) -> str:
    if not found.rows or found.blocks >= FEWEST_BLOCKS:
        return ""
    return (
        f"There are {found.blocks} test blocks only: intervals over fewer than {FEWEST_BLOCKS} are too short to be "
        "trusted."
    )


def _signed(value: Interval) -> str:
    if value.value is None:
        return "–"
    if value.low is None or value.high is None:
        return f"{value.value:+.3f}"
    return f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
