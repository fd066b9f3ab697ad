"""Grid cells: a large area cut into squares of the UTM lattice, each to be read by a process of its own.

A cell is named as a block is, `<epsg>_<side in metres>_<column>_<row>` (see `casbah.blocks`), so that its name alone
says which ground it is. Its side is a whole number of blocks: no block, and so no tile, is cut by a cell's border.
"""

import math
from dataclasses import replace

import geopandas
import numpy as np
import shapely

from casbah.addresses import shown
from casbah.blocks import named, place
from casbah.errors import InputError
from casbah.grid import RESOLUTION, Grid
from casbah.ingest.area import Area
from casbah.ingest.catalogue import MOST_ITEMS, find, named_few
from casbah.ingest.choose import parse_dates
from casbah.patience import Patience
from casbah.progress import say

SIDE = 30_000.0
"""Metres, about: nine million pixels, which one pod reads and composites in minutes."""

LARGEST = 60_000.0
"""Metres: an area with no side longer than this is read as one, unless cells are asked for."""

MOST = 2_000
"""Cells of one run: more of them, and a workflow of Kubernetes grows too large to be kept."""


def plan(area: Area, *, block: float, side: float | None = None, margin: float = 0.0, least: float = 0.0) -> list[str]:
    """The cells that an area is read in, from the north-west, row by row; `[""]`: the area as a whole.

    Args:
        area: The whole area.
        block: Side of the blocks that splits are made of, in metres.
        side: Side of a cell in metres, rounded to whole blocks; without one, an area of at most `LARGEST` is one.
        margin: Metres around each cell that are read too: a cell of which the others' margins hold all is left out.
        least: Metres: a cell whose part of the area is narrower is left out, since nothing of it would be used. A strip
            of two pixels that happens to be cloudy must not end a run of hundreds of cells.

    Raises:
        InputError: The side is no length, shorter than a block, or gives too many cells.
    """
    if side is None:
        west, south, east, north = area.grid.bounds
        if max(east - west, north - south) <= LARGEST:
            return [""]
        side = SIDE
    if not block <= side < math.inf:
        raise InputError(
            f"cell_size is {side:g} m; at least the side of a block is wanted ({block:g} m), or 0 to let it be chosen"
        )
    size = max(1, round(side / block)) * block
    found = _needed(area, _over(area, size), margin, least)
    if len(found) > MOST:
        raise InputError(
            f"the area {area.name} has {len(found):,} cells of {size:g} m, and a run takes at most {MOST:,}: give a "
            "larger cell_size, or a smaller area"
        )
    say(f"{area.name} is read in {len(found)} cells of {size / 1000:g} km")
    return found


def part(area: Area, cell: str, margin: float = 0.0) -> Area:
    """What of an area lies in a cell and within `margin` metres around it; the area itself for the empty name.

    Cells that are to be predicted from see a margin, so that what is said at a border is said from both sides.

    `InputError` where the margin is no length, or the name is none of a cell, or one of another zone or of ground that
    the area does not touch.
    """
    if not 0 <= margin < math.inf:
        raise InputError(f"cell_margin is {margin:g} m; 0 or more is wanted")
    if not cell:
        return area
    try:
        epsg, (west, south, east, north) = place(cell)
    except InputError:
        raise InputError(
            f"{cell!r} is no cell; <epsg>_<side in metres>_<column>_<row> is wanted, such as 32631_30000_14_135"
        ) from None
    if area.grid.crs != f"EPSG:{epsg}":
        raise InputError(
            f"the cell {cell} lies in EPSG:{epsg}, and the grid of the area {area.name} in {area.grid.crs}"
        )
    metres = _polygons(
        shapely.intersection(area.metres, shapely.box(west - margin, south - margin, east + margin, north + margin))
    )
    if not metres:
        raise InputError(f"the cell {cell} does not meet the area {area.name}: nothing is to be read there")
    whole = shapely.MultiPolygon(metres)
    lonlat = geopandas.GeoSeries(metres, crs=area.grid.crs).to_crs("EPSG:4326")
    return replace(
        area,
        name=f"{area.name}, cell {cell}",
        cell=cell,
        lonlat=shapely.MultiPolygon(list(lonlat)),
        metres=whole,
        grid=Grid.covering(area.grid.crs, whole.bounds),
    )


def with_imagery(
    area: Area, names: list[str], *, start: str, end: str, stac: str, patience: Patience | None = None
) -> list[str]:
    """Those of an area's cells over which a catalogue has an item from `start` to `end` (ISO days), however cloudy.

    Of the open sea there is no imagery, and a cell of it must not end a run of hundreds. Which cells are left out is
    said. All are given back where the catalogue has an item over none of them: who reads one says what to change then.
    Raises as `casbah.ingest.catalogue.find` does.
    """
    if len(names) < 2:
        return names
    span = parse_dates(start, end)
    patience = patience or Patience()
    most = MOST_ITEMS * len(names)  # as many for each cell as one that is read alone may have
    found = find(stac, area, span.start, span.end, collection=None, level=None, patience=patience, most=most)
    seen = shapely.union_all([shapely.make_valid(shapely.geometry.shape(item["geometry"])) for item in found.items])
    shapely.prepare(seen)
    kept = [name for name in names if shapely.intersects(seen, part(area, name).lonlat)]
    if not kept or len(kept) == len(names):
        return names
    gone = [name for name in names if name not in kept]
    say(
        f"{shown(stac)} has no item from {span} over {len(gone)} of {len(names)} cells of {area.name}, as over the "
        f"open sea: they are left out ({named_few(gone)})"
    )
    return kept


def _needed(area: Area, names: list[str], margin: float, least: float) -> list[str]:
    """The cells without those of which nothing is lost."""
    wanted = {name: _inside(area, name) for name in names}
    kept = {name for name in names if _narrowest(wanted[name]) >= least} or set(names)
    if margin:
        boxes = [shapely.buffer(shapely.box(*place(name)[1]), margin, join_style="mitre") for name in names]
        near = shapely.STRtree(boxes)
        for name in sorted(kept, key=lambda one: (wanted[one].area, one)):
            found = (names[at] for at in near.query(wanted[name]))
            others = [boxes[names.index(other)] for other in found if other in kept and other != name]
            if others and shapely.covers(shapely.union_all(others), wanted[name]):
                kept.remove(name)
    return [name for name in names if name in kept]


def _inside(area: Area, cell: str) -> shapely.MultiPolygon:
    """What of an area lies in a cell, in metres."""
    return shapely.MultiPolygon(_polygons(shapely.intersection(area.metres, shapely.box(*place(cell)[1]))))


def _narrowest(shape: shapely.Geometry) -> float:
    west, south, east, north = shape.bounds
    return min(east - west, north - south)


def _over(area: Area, size: float) -> list[str]:
    west, south, east, north = area.grid.bounds
    shapely.prepare(area.metres)
    return [
        named(area.grid.crs, size, col, row)
        for row in range(math.ceil(north / size) - 1, math.floor(south / size) - 1, -1)
        for col in range(math.floor(west / size), math.ceil(east / size))
        if _polygons(
            shapely.intersection(area.metres, shapely.box(col * size, row * size, (col + 1) * size, (row + 1) * size))
        )
    ]


def _polygons(shape: shapely.Geometry) -> list[shapely.Polygon]:
    """The parts of a geometry that are at least half a pixel wide and high.

    A border that only touches leaves lines, and one drawn along the lattice in degrees slivers of millimetres.
    """
    parts = shapely.get_parts(shape)
    west, south, east, north = shapely.bounds(parts).T
    wide = np.minimum(east - west, north - south) >= RESOLUTION / 2
    return list(parts[wide & (shapely.area(parts) > 0)])
