"""Which dates make a time step, and which items make its composite."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray

from casbah.errors import InputError
from casbah.ingest.area import Area
from casbah.ingest.assets import Item, acquired, cloud_cover, solar_day
from casbah.progress import say

LOOKS = 6
"""Clear observations wanted at each place of a period: a median of fewer keeps unmasked cloud, of more gains little."""

CELLS = 64
"""The area is covered by at most this many cells a side when items are weighed against each other."""

LEAST_GAIN = 0.005
"""An item that improves less than this share of the area is not worth reading."""

MOST_PROBES = 40
"""Cloud masks looked at per period before the rest is judged by its metadata alone."""

UNKNOWN_CLOUD = 50.0
"""Percent assumed for an item without `eo:cloud_cover`: behind every clear one, before every overcast one."""


@dataclass(frozen=True)
class Span:
    """A time step that is wanted: from `start` to `end`, both inclusive."""

    start: date
    end: date

    def __str__(self) -> str:
        return f"{self.start} to {self.end}"


def parse_dates(start: str, end: str) -> Span:
    """`start` and `end` as ISO dates (YYYY-MM-DD); `InputError` where one is none or they are reversed."""
    parsed = []
    for name, text in (("start", start), ("end", end)):
        try:
            parsed.append(date.fromisoformat(str(text).strip()))
        except ValueError:
            raise InputError(
                f"the {name} date {text!r} is not an ISO date; write it as YYYY-MM-DD, like 2023-06-01"
            ) from None
    if parsed[0] > parsed[1]:
        raise InputError(f"the start date {parsed[0]} lies after the end date {parsed[1]}; exchange them")
    return Span(*parsed)


def below_cloud(items: Sequence[Item], most: float) -> list[Item]:
    """The items whose cloud cover is at most `most` percent, or unknown."""
    return [item for item in items if (cover := cloud_cover(item)) is None or cover <= most]


def split(span: Span, items: Sequence[Item], periods: int) -> list[tuple[Span, list[Item]]]:
    """Divide the dates into `periods` time steps and give each its items.

    The range is cut into equal parts; where one of them would be empty (a catalogue of few dates), the acquisition days
    themselves are dealt out in order instead, so that each part has some. `InputError` where there are fewer days
    than periods.
    """
    equal = equal_parts(span, periods)
    dealt = [(part, [item for item in items if part.start <= _day(item, span) <= part.end]) for part in equal]
    if all(found for _, found in dealt):
        return dealt
    days = sorted({_day(item, span) for item in items})
    if len(days) < periods:
        raise InputError(
            f"{periods} periods were asked for, and from {span} there are only {len(days)} days with imagery "
            f"({', '.join(map(str, days))}); ask for --periods {len(days)}, widen the dates or raise --max-cloud"
        )
    say(
        f"an equal cut into {periods} periods would leave one empty, so the {len(days)} days with imagery are dealt out"
    )
    firsts = [group[0] for group in np.array_split(np.array(days, dtype=object), periods)]
    starts = [span.start, *firsts[1:]]
    ends = [*(first - timedelta(days=1) for first in firsts[1:]), span.end]
    parts = [Span(*ends_of) for ends_of in zip(starts, ends, strict=True)]
    return [(part, [item for item in items if part.start <= _day(item, span) <= part.end]) for part in parts]


def equal_parts(span: Span, periods: int) -> list[Span]:
    """The dates cut into `periods` spans of equal length; `InputError` where there are fewer days than that."""
    days = (span.end - span.start).days + 1
    if periods < 1 or periods > days:
        raise InputError(f"{periods} periods from {span} can't be: give between 1 and {days}")
    edges = [span.start + timedelta(days=days * i // periods) for i in range(periods + 1)]
    return [Span(first, after - timedelta(days=1)) for first, after in pairwise(edges)]


def cells_of(area: Area) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (x, y) in metres, spread evenly over the area's polygons: what coverage is counted on."""
    west, south, east, north = area.grid.bounds
    step = max(area.grid.rows, area.grid.cols) * area.grid.resolution / CELLS
    x, y = np.meshgrid(np.arange(west + step / 2, east, step), np.arange(north - step / 2, south, -step))
    inside = shapely.contains_xy(area.metres, x.ravel(), y.ravel())
    if not inside.any():
        points = [polygon.representative_point() for polygon in shapely.get_parts(area.metres)]
        return np.array([p.x for p in points]), np.array([p.y for p in points])
    return x.ravel()[inside], y.ravel()[inside]


def greedy(
    items: Sequence[Item],
    inside: Sequence[NDArray[np.bool_]],
    look: Callable[[int], NDArray[np.bool_] | None],
    looks: int = LOOKS,
) -> list[int]:
    """Choose items one by one, each time the one that adds most new clear area, until each cell has `looks` of them.

    `inside[i]` tells which cells item i covers. A first clear observation of a cell counts 1, each further one half of
    the one before. Items of one day are one look, since tiles overlap: of a cell that the day has seen, a second item
    adds nothing. Cloud cover of the whole item is only a promise, so an item is judged by `look(i)`, the cells
    that its own cloud mask shows clear (None without a mask), before it is taken. Returns indices in order of choice.
    """
    count = np.zeros(len(inside[0]) if inside else 0, int)
    days = [solar_day(item) for item in items]
    unseen = {day: np.ones(len(count), bool) for day in days}
    clear = [_share(item) * cells for item, cells in zip(items, inside, strict=True)]
    probed = [False] * len(items)
    left, chosen, probes = set(range(len(items))), [], 0
    while left:
        worth = np.where(count < looks, 0.5**count, 0.0)
        gains = {i: float((worth * unseen[days[i]]) @ clear[i]) for i in left}
        best = max(left, key=lambda i: (gains[i], -i))
        new = (clear[best] > 0) & unseen[days[best]]
        useful = new & (count < looks)
        if not gains[best] or useful.sum() < LEAST_GAIN * len(count):
            break
        if not probed[best] and probes < MOST_PROBES:
            seen = look(best)
            probed[best], probes = True, probes + 1
            if seen is not None:
                clear[best] = (seen & inside[best]).astype(float)
                continue
        left.remove(best)
        chosen.append(best)
        count += new
        unseen[days[best]] &= ~new
    return chosen


def covered_cells(item: Item, area: Area, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the cells at (x, y), metres of the area's CRS, lie inside the item's footprint."""
    import geopandas

    footprint = shapely.make_valid(shapely.geometry.shape(item["geometry"]))
    dense = shapely.segmentize(footprint, 0.1)
    return shapely.contains_xy(geopandas.GeoSeries([dense], crs="EPSG:4326").to_crs(area.grid.crs).iloc[0], x, y)


def describe(items: Sequence[Item], span: Span, most: int = 8) -> str:
    """The items nearest to `span`, as dates with their cloud cover, for a person who has to widen a search."""

    def distance(item: Item) -> tuple[int, float]:
        day = acquired(item).date()
        return max((span.start - day).days, (day - span.end).days, 0), cloud_cover(item) or 0.0

    nearest = sorted(items, key=distance)[:most]
    words = []
    for item in sorted(nearest, key=acquired):
        cover = cloud_cover(item)
        words.append(f"{acquired(item).date()} ({'cloud unknown' if cover is None else f'{cover:.0f} % cloud'})")
    return ", ".join(words)


def _day(item: Item, span: Span) -> date:
    # The solar day may fall beside the UTC dates that were searched.
    return min(max(solar_day(item), span.start), span.end)


def _share(item: Item) -> float:
    cover = cloud_cover(item)
    return 1.0 - min(max(UNKNOWN_CLOUD if cover is None else cover, 0.0), 99.0) / 100.0
