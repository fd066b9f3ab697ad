"""Products as one picture to look at or to print, or as one page to move about in."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rasterio.errors import RasterioError

from casbah.errors import InputError
from casbah.figures.charts import reliability
from casbah.figures.colour import TRUE_COLOUR
from casbah.figures.comparison import curves_of, efficiency, forest
from casbah.figures.given import KINDS, Given, View
from casbah.figures.maps import (
    error_map,
    footprints_map,
    labels_map,
    panels_map,
    prediction_map,
    scene_map,
    splits_map,
)
from casbah.figures.page import page
from casbah.figures.saving import METADATA, encoded, write_whole
from casbah.patience import complaint

LONGEST = 2100
"""Pixels of the longer side of a map: what 300 dpi show of it. A larger scene is read thinned, so memory is bounded."""

PAGE = ".html"

NEEDED = {
    "scene": ("scene",),
    "labels": ("scene", "labels"),
    "tiles": ("tiles",),
    "prediction": ("prediction",),
    "footprints": ("footprints",),
    "error": ("prediction", "labels"),
    "panels": ("scene", "labels", "prediction"),
    "calibration": ("evaluation",),
    "comparison": ("comparison",),
    "curve": ("comparison",),
}
"""Figure -> the products without which there is none."""

POSSIBLE = {
    "scene": ("tiles",),
    "labels": ("tiles",),
    "tiles": (),
    "prediction": ("scene", "tiles", "footprints"),
    "footprints": ("scene", "labels", "tiles"),
    "error": ("scene", "tiles"),
    "panels": ("tiles", "footprints"),
    "calibration": (),
    "comparison": (),
    "curve": (),
}
"""Figure -> what else it shows where that is named too."""

DEFAULTS = ("panels", "error", "prediction", "labels", "footprints", "scene", "tiles", "calibration", "comparison")
"""What is drawn where nothing else was asked for: the first that shows all that was named."""


def visualize(
    *,
    output: str | Path,
    scene: str | Path | None = None,
    labels: str | Path | None = None,
    tiles: str | Path | None = None,
    prediction: str | Path | None = None,
    footprints: str | Path | None = None,
    evaluation: str | Path | None = None,
    comparison: str | Path | None = None,
    what: str | None = None,
    period: int = 0,
    bands: Sequence[str] | None = None,
) -> Path:
    """Write a figure (`.png`, `.pdf`, `.svg`) or an interactive map (`.html`) of the products that are named.

    What is named decides what is drawn, the figure that shows all of it (`what` asks for another): a scene (or a raster
    whose bands have ESA's names, warped to the map's grid) in true colour or three other `bands`, labels over it,
    blocks by split, probability, errors against labels, all four as panels, footprints, calibration, or a comparison of
    models. Maps carry a scale bar and a north arrow, all figures the attribution, and the word SIMULATED where it is.
    Raises `InputError` where nothing fits what was named, where grids, models, bands or periods do not fit, or where
    `output` can't be written; `WorldError` for a full disk.
    """
    output = Path(output)
    suffix = output.suffix.lower()
    if suffix != PAGE and suffix.removeprefix(".") not in METADATA:
        raise InputError(f"{output} ends in no format of a figure: give an --output of .png, .pdf, .svg or .html")
    named = {"scene": scene, "labels": labels, "tiles": tiles, "prediction": prediction, "footprints": footprints,
             "evaluation": evaluation, "comparison": comparison}  # fmt: skip
    paths = {name: Path(path) for name, path in named.items() if path is not None}
    chosen = _check_page(paths, what) if suffix == PAGE else choose(set(paths), what)
    given = Given.open(paths, period, list(TRUE_COLOUR if bands is None else bands))
    try:
        content = page(given).encode() if suffix == PAGE else encoded(draw(chosen, given), suffix.removeprefix("."))
    except RasterioError as error:
        shown = " and ".join(str(path) for path in paths.values())
        raise InputError(
            f"a raster of {shown} could not be read ({complaint(error)}): it is cut short or damaged; make it again"
        ) from None
    write_whole(output, content)
    return output


def choose(named: set[str], what: str | None) -> str:
    """The figure to draw of what was named; one sentence where there is none."""
    if what is not None and what not in NEEDED:
        raise InputError(f"a figure {what!r} is unknown; choose from {', '.join(NEEDED)}")
    if not named:
        raise InputError(f"there is nothing to draw: name a {', '.join(list(KINDS)[:-1])} or comparison")
    if what is None:
        for figure in DEFAULTS:
            if set(NEEDED[figure]) <= named <= {*NEEDED[figure], *POSSIBLE[figure]}:
                return figure
        raise InputError(_advice(named))
    if missing := [name for name in NEEDED[what] if name not in named]:
        raise InputError(f"a figure of {what} needs {_options(NEEDED[what])}: {_options(missing)} is missing")
    if extra := sorted(named - {*NEEDED[what], *POSSIBLE[what]}):
        raise InputError(
            f"a figure of {what} does not show {_options(extra)}: leave that out, or ask for another --what"
        )
    return what


def _advice(named: set[str]) -> str:
    if named == {"labels"} or named == {"labels", "tiles"}:
        return "labels can only be drawn over their scene, or against a prediction: name --scene or --prediction too"
    if alone := sorted(named & {"evaluation", "comparison"}):
        rest = sorted(named - set(alone[:1]))
        return f"a figure of {_options(alone[:1])} is drawn alone: leave {_options(rest)} out"
    return f"no figure shows {_options(sorted(named))} together: leave some out, or write an interactive map (.html)"


def _options(names: Sequence[str]) -> str:
    return " and ".join(f"--{name}" for name in names)


def _check_page(paths: dict[str, Path], what: str | None) -> str:
    if what is not None:
        raise InputError(f"an interactive map shows all that is named: leave --what {what} out")
    if "comparison" in paths:
        raise InputError("a comparison has no place on a map: give an --output of .png, .pdf or .svg for it")
    if not paths.keys() & {"scene", "prediction", "labels", "footprints"}:
        raise InputError("an interactive map needs --prediction, --footprints, --scene or --labels")
    return "page"


def draw(what: str, given: Given) -> Figure:
    """One of the figures of `NEEDED`."""
    if what == "tiles" and given.scene is None:
        return splits_map(given)
    if what == "calibration":
        assert given.evaluation is not None
        metrics = given.evaluation.metrics
        return reliability(metrics.reliability, metrics.ece, metrics.simulated, metrics.attribution)
    if what in ("comparison", "curve"):
        assert given.comparison is not None
        return _comparison(what, given)
    drawings: dict[str, Callable[[Given, View], Figure]] = {
        "scene": scene_map,
        "labels": labels_map,
        "prediction": prediction_map,
        "footprints": footprints_map,
        "error": error_map,
        "panels": panels_map,
    }
    return drawings[what](given, View.of(given.grid, LONGEST))


def _comparison(what: str, given: Given) -> Figure:
    assert given.comparison is not None
    facts, path = given.comparison.facts, given.comparison.path
    if what == "comparison":
        if not any(row.iou.value is not None for row in facts.rows):
            raise InputError(f"{path} holds no score on test blocks: there is nothing to compare")
        return forest(facts)
    if len({one.budget for one in facts.budgets}) < 2:
        raise InputError(f"{path} holds one number of labels, a curve needs two: compare with --budgets 50,all")
    return efficiency(*curves_of(facts), facts.simulated, facts.attribution)
