"""Polygons against labelled buildings, object by object: found, missed, merged, invented.

At 10 m buildings merge and small ones vanish, so that three questions are told apart: is a building under polygons,
does a polygon stand on buildings, and which polygons are one building. Only ground that is both labelled and observed
counts. Ground that the model has learned from or was tuned on is scored apart: it says nothing of its skill elsewhere.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from casbah.blocks import seen_among
from casbah.cover import united
from casbah.errors import InputError
from casbah.footprints.ground import Ground
from casbah.grid import Grid
from casbah.products.labels import LabelSet
from casbah.products.prediction import Prediction
from casbah.scoring import FEWEST_BLOCKS, Counts, Estimate, block_bootstrap

Polygons = NDArray[np.object_]

FOUND = 0.5
"""Share of a building's area that must lie under polygons."""

INVENTED = 0.1
"""Share of a polygon's area on labelled buildings below which it is invented. A building that is moved by a pixel, or a
patch of buildings and the yards between them, has more."""

MATCHED = 0.5
"""IoU from which on a polygon is one building, as in COCO and SpaceNet."""

STEPS = (100.0, 500.0, 2000.0)
"""Square metres between classes of size: one pixel, a house of five, a large building."""

SIZES = ("below 100 m2", "100-500 m2", "500-2000 m2", "2000 m2 and more")
ALL = "all"

UNSEEN, SEEN, UNDECLARED = "unseen", "seen", "undeclared"

RULES = (
    f"A labelled building is found where at least {FOUND:.0%} of its area lies under polygons, and merged where the "
    "polygon that holds most of it holds most of another found one as well.",
    f"A polygon is invented where less than {INVENTED:.0%} of its area lies on labelled buildings.",
    f"One to one, a polygon is the building with which it has an IoU of {MATCHED:g} or more, the best pairs first.",
    "Counted is what has its middle on labelled and observed ground; areas outside of the labelled area are left out.",
    "Sizes are square metres of the building (found) and of the polygon (invented).",
    "unseen: 1 km blocks that share no ground with any block that the model learned from or was tuned on; seen: the "
    "others, which say nothing of its skill; undeclared: of a model that does not say what it learned from.",
    f"Intervals (95 %) resample blocks, and are left out for fewer than {FEWEST_BLOCKS}.",
)

MOVED = (
    "The labelled buildings were moved by {:+.1f} m east and {:+.1f} m north, as far as they lie off the image "
    "(the median over cells of labels and image, no model in it)."
)

SIDE = 1000.0
"""Metres: the side of the blocks that are resampled and that tell seen from unseen ground."""


@dataclass(frozen=True)
class _Objects:
    """Polygons of one kind that count: what of them lies in the labelled area."""

    shapes: Polygons
    size: NDArray[np.int64]
    """Index into SIZES, of the whole object."""
    blocks: NDArray[np.object_]

    @classmethod
    def all_of(cls, parts: "list[_Objects]") -> "_Objects":
        """Those of several parts as one."""
        none = cls(np.zeros(0, object), np.zeros(0, np.int64), np.zeros(0, object))
        return cls(*(np.concatenate([getattr(part, one.name) for part in (none, *parts)]) for one in fields(cls)))

    @property
    def areas(self) -> NDArray[np.float64]:
        return np.asarray(shapely.area(self.shapes))


def check(labels: LabelSet, prediction: Prediction) -> None:
    """`InputError` unless the labels lie in the prediction's CRS and meet its ground."""
    ours, theirs = prediction.grid, labels.grid
    if theirs.crs != ours.crs:
        raise InputError(
            f"{labels.path} is in {theirs.crs} and {prediction.path} in {ours.crs}: make the labels on a scene of the "
            "prediction's CRS"
        )
    if shapely.area(_common(ours, theirs)) == 0:
        raise InputError(
            f"{labels.path} and {prediction.path} share no ground: in {ours.crs} the labels span {_extent(theirs)}, "
            f"the prediction {_extent(ours)}"
        )


def shift_of(labels: LabelSet) -> tuple[float, float]:
    """Metres east and north by which the labels must move to fit the last period's image, the median of their cells.

    No model is behind it: label and image were held against each other when the labels were made. `InputError` where it
    can't be told.
    """
    told: dict[str, Any] = next(iter(labels.info.summary.get("shifts", ())[-1:]), {})
    if not told.get("told"):
        raise InputError(
            f"how far {labels.path} lies off its image can't be told (too few of its cells are reliable): leave out "
            "--align"
        )
    return float(told["east"]), float(told["north"])


def object_scores(
    outlines: Iterable[Polygons], labels: LabelSet, prediction: Prediction, moved: tuple[float, float] = (0.0, 0.0)
) -> dict[str, Any]:
    """The scores of polygons (metres; some at a time) against labels, `moved` by metres east and north.

    As JSON can hold them: `rules`, whose labels they are, and by `ground` (unseen, seen, undeclared) the counts and
    scores. Of all polygons those on labelled ground alone are held in memory.
    """
    truth = shapely.make_valid(labels.footprints().geometry.to_numpy(), method="structure", keep_collapsed=False)
    truth = shapely.transform(truth, lambda points: points + np.array(moved))
    area = _common(prediction.grid, labels.grid)
    if labels.info.labelled_area is not None:
        area = shapely.intersection(area, shapely.geometry.shape(labels.info.labelled_area))
    buildings = _counting(truth, area, labels, prediction)
    polygons = _Objects.all_of([_counting(some, area, labels, prediction) for some in outlines])
    under, first, second, shared = _shares(buildings, polygons)
    found = under >= FOUND
    merged = _merged(found, first, second, shared)
    invented = _on_buildings(polygons, _within(truth, area)) < INVENTED
    mine, theirs = _pairs(buildings, polygons, first, second, shared)
    matched, used = np.zeros(len(found), bool), np.zeros(len(invented), bool)
    matched[mine], used[theirs] = True, True
    ground: dict[str, Any] = {}
    for name, chosen in _grounds(np.concatenate([buildings.blocks, polygons.blocks]), prediction).items():
        b, p = np.isin(buildings.blocks, chosen), np.isin(polygons.blocks, chosen)
        ground[name] = {
            "blocks": len(chosen),
            "buildings": int(b.sum()),
            "polygons": int(p.sum()),
            "found": _by_size(buildings, b, lambda which: _found(buildings, which, found, merged)),
            "invented": _by_size(polygons, p, lambda which: _invented(polygons, which, invented)),
            "one_to_one": _one_to_one(buildings, polygons, b, p, matched, used),
        }
    return {
        "rules": [*RULES, *([MOVED.format(*moved)] if any(moved) else [])],
        "moved": list(moved),
        "labels": labels.digest,
        "source": labels.info.source,
        "attribution": labels.info.credit,
        "vintage": labels.info.vintage,
        "simulated": labels.info.simulated or prediction.info.simulated,
        "ground": ground,
    }


def _counting(shapes: Polygons, area: shapely.Geometry, labels: LabelSet, prediction: Prediction) -> _Objects:
    """The objects whose middle (a point inside) is labelled and observed."""
    shapes = shapes[shapely.area(shapes) > 0]
    middle = shapely.point_on_surface(shapes)
    shapely.prepare(area)
    inside = shapely.intersects(area, middle)
    shapes, middle = shapes[inside], middle[inside]
    known = _known(middle, labels.mask_path, labels.grid) & _known(middle, prediction.probability_path, prediction.grid)
    shapes, middle = shapes[known], middle[known]
    size = np.searchsorted(STEPS, shapely.area(shapes), side="right")
    blocks = np.array(Ground(prediction.grid, SIDE).of_points(middle), object)
    return _Objects(_within(shapes, area), size, blocks)


def _within(shapes: Polygons, area: shapely.Geometry) -> Polygons:
    """What of the shapes lies in the area."""
    shapely.prepare(area)
    found = shapes.copy()
    over = ~shapely.covers(area, found)
    found[over] = shapely.intersection(found[over], area)
    return found[shapely.area(found) > 0]


def _known(points: Polygons, path: Any, grid: Grid) -> NDArray[np.bool_]:
    """Whether the pixel under each point has a value, read row by row of windows."""
    x, y = shapely.get_coordinates(points).T
    rows = np.floor((grid.north - y) / grid.resolution).astype(np.int64).clip(0, grid.rows - 1)
    cols = np.floor((x - grid.west) / grid.resolution).astype(np.int64).clip(0, grid.cols - 1)
    known = np.zeros(len(points), bool)
    strip = 512
    with rasterio.open(path) as dataset:
        for top in np.unique(rows // strip) * strip:
            here = (rows >= top) & (rows < top + strip)
            values = dataset.read(1, window=Window(0, int(top), grid.cols, min(strip, grid.rows - int(top))))
            known[here] = values[rows[here] - top, cols[here]] != dataset.nodata
    return known


def _shares(buildings: _Objects, polygons: _Objects) -> tuple[NDArray[Any], ...]:
    """The share of each building under polygons (which do not overlap), and the pairs with the area that they share."""
    first, second = shapely.STRtree(polygons.shapes).query(buildings.shapes, predicate="intersects")
    shared = np.asarray(shapely.area(shapely.intersection(buildings.shapes[first], polygons.shapes[second])))
    under = np.bincount(first, weights=shared, minlength=len(buildings.shapes)) / buildings.areas
    return under, first, second, shared


def _merged(
    found: NDArray[np.bool_], first: NDArray[np.int64], second: NDArray[np.int64], shared: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """The found buildings whose polygon, the one with most of them, is that of another as well."""
    best = np.full(len(found), -1)
    # The last of a building's pairs in this order is the one with the largest share.
    order = np.argsort(shared, kind="stable")
    best[first[order]] = second[order]
    several = np.bincount(best[found], minlength=int(best.max(initial=0)) + 1) > 1
    return found & several[best]


def _on_buildings(polygons: _Objects, truth: Polygons) -> NDArray[np.float64]:
    """The share of each polygon that lies on buildings, of which overlaps count once."""
    parts = united(truth)
    first, second = shapely.STRtree(parts).query(polygons.shapes, predicate="intersects")
    shared = np.asarray(shapely.area(shapely.intersection(polygons.shapes[first], parts[second])))
    return np.bincount(first, weights=shared, minlength=len(polygons.shapes)) / polygons.areas


def _pairs(
    buildings: _Objects,
    polygons: _Objects,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    shared: NDArray[np.float64],
) -> tuple[list[int], list[int]]:
    """Buildings and polygons that are each other's."""
    iou = shared / (buildings.areas[first] + polygons.areas[second] - shared)
    mine: list[int] = []
    theirs: list[int] = []
    taken: tuple[set[int], set[int]] = (set(), set())
    for pair in np.argsort(-iou, kind="stable"):
        if iou[pair] < MATCHED:
            break
        one, other = int(first[pair]), int(second[pair])
        if one not in taken[0] and other not in taken[1]:
            mine.append(one)
            theirs.append(other)
            taken[0].add(one)
            taken[1].add(other)
    return mine, theirs


def _grounds(blocks: NDArray[np.object_], prediction: Prediction) -> dict[str, list[str]]:
    """The blocks of each kind of ground, unseen ground first; none of a kind without a block."""
    there = sorted(set(blocks))
    learned = [name for part in ("train", "val") for name in prediction.info.model.blocks.get(part, ())]
    if not learned:
        return {UNDECLARED: there} if there else {}
    seen = seen_among(there, learned)
    grounds = {UNSEEN: [block for block in there if block not in seen], SEEN: sorted(seen)}
    return {name: found for name, found in grounds.items() if found}


def _by_size(
    objects: _Objects, here: NDArray[np.bool_], told: Callable[[NDArray[np.bool_]], dict[str, Any]]
) -> dict[str, Any]:
    return {ALL: told(here)} | {name: told(here & (objects.size == index)) for index, name in enumerate(SIZES)}


def _found(
    buildings: _Objects, which: NDArray[np.bool_], found: NDArray[np.bool_], merged: NDArray[np.bool_]
) -> dict[str, Any]:
    counts = _counts(buildings.blocks[which], tp=found[which], fn=~found[which])
    return {
        "buildings": int(which.sum()),
        "found": int(found[which].sum()),
        "missed": int((~found[which]).sum()),
        "merged": int(merged[which].sum()),
        "share": _estimate(counts, "recall"),
    }


def _invented(polygons: _Objects, which: NDArray[np.bool_], invented: NDArray[np.bool_]) -> dict[str, Any]:
    # The share of the invented is a precision whose hits are the invented.
    counts = _counts(polygons.blocks[which], tp=invented[which], fp=~invented[which])
    return {
        "polygons": int(which.sum()),
        "invented": int(invented[which].sum()),
        "share": _estimate(counts, "precision"),
    }


def _one_to_one(
    buildings: _Objects,
    polygons: _Objects,
    b: NDArray[np.bool_],
    p: NDArray[np.bool_],
    matched: NDArray[np.bool_],
    used: NDArray[np.bool_],
) -> dict[str, Any]:
    counts = _counts(buildings.blocks[b], tp=matched[b], fn=~matched[b])
    for block, more in _counts(polygons.blocks[p], fp=~used[p]).items():
        counts[block] = Counts(*np.add(counts.get(block, Counts(0, 0, 0, 0)), more).tolist())
    return {
        "matched": int(matched[b].sum()),
        **{name: _estimate(counts, name) for name in ("f1", "precision", "recall")},
    }


def _counts(blocks: NDArray[np.object_], **kinds: NDArray[np.bool_]) -> dict[str, Counts]:
    """Block -> how many objects have each outcome."""
    names, index = np.unique(blocks.astype(str), return_inverse=True)
    columns = {kind: np.bincount(index[is_it], minlength=len(names)) for kind, is_it in kinds.items()}
    return {
        str(name): Counts(**{kind: int(columns[kind][i]) if kind in columns else 0 for kind in Counts._fields})
        for i, name in enumerate(names)
    }


def _estimate(counts: dict[str, Counts], score: str) -> dict[str, float | None]:
    if not counts:
        return Estimate(None, None, None)._asdict()
    estimate = block_bootstrap(counts)[score]
    if len(counts) < FEWEST_BLOCKS:
        estimate = Estimate(estimate.value, None, None)
    return estimate._asdict()


def _common(ours: Grid, theirs: Grid) -> shapely.Geometry:
    return shapely.intersection(shapely.box(*ours.bounds), shapely.box(*theirs.bounds))


def _extent(grid: Grid) -> str:
    west, south, east, north = grid.bounds
    return f"{west:.0f}-{east:.0f} E, {south:.0f}-{north:.0f} N"
