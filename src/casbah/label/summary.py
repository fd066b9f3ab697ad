"""What a person wants to know about labels before trusting them, as numbers and as text."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely

from casbah.grid import Grid
from casbah.label.found import UNKNOWN, Area, Found
from casbah.label.repair import Repairs
from casbah.label.vintage import year_of, years_of
from casbah.products.labels import IGNORE, LabelInfo, Shift
from casbah.products.scene import Scene

if TYPE_CHECKING:
    import geopandas

EMPTY_CELL = 500.0
"""Metres on a side of the cells that are counted as without any building. A town has few; gaps in the labels, many."""

STALE = 2.0
"""Years between footprints and image from which on a person is warned."""

FAR = 0.5
"""Pixels of shift from which on a person is told of `--align`."""


AGREED = 0.1
"""Share of the cells that must be reliable before a period is given a shift: of pure noise, one in a hundred is."""


def summarise(
    found: Found,
    repairs: Repairs,
    footprints: "geopandas.GeoDataFrame",
    area: Area,
    coverage: Path,
    building_cover: int,
    shifts: tuple[Shift, ...],
    scene: Scene,
) -> dict[str, Any]:
    """Counts, areas (km2) and shares (0-1) of finished labels, as JSON can hold them."""
    shapes = footprints.geometry.to_numpy()
    areas = shapely.area(shapes)
    inside = shapely.intersects(shapes, area.inside)
    return {
        "read": repairs.read,
        "repaired": repairs.repaired,
        "multi_part": repairs.multi_part,
        "dropped": {reason: count for reason, count in sorted(repairs.dropped.items()) if count},
        "polygons": len(footprints),
        "polygons_only_in_margin": int((~inside).sum()),
        "footprint_km2": round(float(areas[inside].sum()) / 1e6, 6),
        "median_footprint_m2": round(float(np.median(areas)), 1) if len(areas) else 0.0,
        "largest_footprint_m2": round(float(areas.max(initial=0.0)), 1),
        **_pixels(coverage, area.grid, building_cover),
        "vintage": _vintage(found.vintage, scene),
        "shifts": shift_summary(shifts, scene.periods),
        "notes": list(found.notes),
    }


def _pixels(coverage: Path, grid: Grid, building_cover: int) -> dict[str, Any]:
    """Sums over the cover raster, read by rows of cells so that memory stays small."""
    size = max(1, round(EMPTY_CELL / grid.resolution))
    known = covered = building = bare = cells = empty = 0
    with rasterio.open(coverage) as dataset:
        for top in range(0, grid.rows, size):
            height = min(size, grid.rows - top)
            band = dataset.read(1, window=((top, top + height), (0, grid.cols)))
            valid = band != IGNORE
            known += int(valid.sum())
            covered += int(band[valid].sum(dtype=np.int64))
            building += int((band[valid] >= building_cover).sum())
            bare += int((band[valid] == 0).sum())
            starts = np.arange(0, grid.cols, size)
            seen = np.add.reduceat(valid.sum(axis=0), starts)
            built = np.add.reduceat((valid & (band > 0)).sum(axis=0), starts)
            # A cell of which less than half is labelled says little about gaps.
            counts = seen * 2 >= height * np.diff(np.append(starts, grid.cols))
            cells += int(counts.sum())
            empty += int((counts & (built == 0)).sum())
    pixel = grid.resolution**2 / 1e6
    return {
        "labelled_km2": round(known * pixel, 4),
        "unlabelled_km2": round((grid.rows * grid.cols - known) * pixel, 4),
        "cover": round(covered / 100 / max(known, 1), 6),
        "building_pixels": round(building / max(known, 1), 6),
        "pixels_without_any_building": round(bare / max(known, 1), 6),
        "cells_without_any_building": round(empty / max(cells, 1), 6),
        "cell_metres": EMPTY_CELL,
    }


def _vintage(vintage: str, scene: Scene) -> dict[str, Any]:
    """How many years lie between the footprints and each period's image (0 where the span holds it)."""
    span = years_of(vintage)
    dates = [sorted(period.dates) or [period.start, period.end] for period in scene.info.periods]
    gaps: list[float | None] = [None] * len(dates)
    if span is not None:
        gaps = [round(max(0.0, year_of(seen[0]) - span[1], span[0] - year_of(seen[-1])), 2) for seen in dates]
    return {"footprints": vintage, "images": dates, "years_apart": gaps}


def shift_summary(shifts: tuple[Shift, ...], periods: int) -> list[dict[str, Any]]:
    """Per period: how many cells, how many of them reliable, and the medians of those (metres) where enough are."""
    rows = []
    for period in range(periods):
        mine = [shift for shift in shifts if shift.period == period]
        good = [shift for shift in mine if shift.reliable]
        row: dict[str, Any] = {"period": period, "cells": len(mine), "reliable": len(good)}
        row["told"] = bool(good) and len(good) >= AGREED * len(mine)
        if row["told"]:
            for name in ("east", "north"):
                values = np.array([getattr(shift, name) for shift in good])
                row[name] = round(float(np.median(values)), 1)
                row[f"{name}_spread"] = round(float(np.median(np.abs(values - np.median(values)))), 1)
            row["correlation_before"] = round(float(np.mean([shift.correlation_before for shift in good])), 3)
            row["correlation_after"] = round(float(np.mean([shift.correlation_after for shift in good])), 3)
        rows.append(row)
    return rows


def describe(info: LabelInfo, resolution: float) -> str:
    """The summary as lines for a person."""
    s = info.summary
    percent = {name: f"{100 * s[name]:.2f} %" for name in s if isinstance(s[name], float)}
    lines = [
        f"footprints   {info.footprints:,} polygons from {info.source}" + (" (SIMULATED)" if info.simulated else ""),
        f"             {s['read']:,} read, {s['repaired']:,} repaired, {s['multi_part']:,} of several parts, "
        f"{sum(s['dropped'].values()):,} dropped" + (f" ({reasons(s['dropped'])})" if s["dropped"] else ""),
        f"area         {s['footprint_km2']:.3f} km2 of footprints, overlaps counted twice (median "
        f"{s['median_footprint_m2']:,.0f} m2, largest {s['largest_footprint_m2']:,.0f} m2)",
        f"labelled     {s['labelled_km2']:.2f} km2; {s['unlabelled_km2']:.2f} km2 of the scene are unknown (255)",
        f"cover        {percent['cover']} of the labelled area; {percent['building_pixels']} of its pixels are "
        f"building (cover >= {info.building_cover} %)",
        f"no building  {percent['pixels_without_any_building']} of the pixels, {percent['cells_without_any_building']} "
        f"of the cells of {s['cell_metres']:.0f} m",
        f"vintage      {info.vintage}; images of " + "; ".join(_dates(dates) for dates in s["vintage"]["images"]),
        f"licence      {info.licence}; attribution: {info.attribution}",
    ]
    lines += [_shift_line(row) for row in s["shifts"]]
    return "\n".join(lines + [f"note         {note}" for note in s["notes"]] + warnings(info, resolution))


def warnings(info: LabelInfo, resolution: float) -> list[str]:
    """What a person should not overlook, one line each."""
    s, lines = info.summary, []
    if UNKNOWN in (info.licence, info.attribution):
        lines.append("the licence or attribution of the footprints is unknown: give --licence and --attribution")
    gaps = [gap for gap in s["vintage"]["years_apart"] if gap is not None]
    if not gaps:
        lines.append("nobody knows how old the footprints are: give --vintage to compare them with the image")
    elif max(gaps) >= STALE:
        lines.append(f"footprints and image are {max(gaps):.1f} years apart: some buildings are missing or gone")
    for row in s["shifts"]:
        if row["told"] and np.hypot(row["east"], row["north"]) >= FAR * resolution:
            far = np.hypot(row["east"], row["north"])
            lines.append(f"period {row['period']}: the footprints lie {far:.0f} m off the image: `casbah tile --align`")
    if s["cells_without_any_building"] > 0.5:
        lines.append("more than half of the cells hold no building: are the labels complete? (see --labelled-area)")
    return [f"WARNING      {line}" for line in lines]


def reasons(dropped: Mapping[str, int]) -> str:
    """Counts of what was dropped, for a sentence."""
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)


def _dates(dates: list[str]) -> str:
    return dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def _shift_line(row: dict[str, Any]) -> str:
    head = f"shift        period {row['period']}: "
    if not row["told"]:
        return head + f"can't be told ({row['reliable']} of {row['cells']} cells are reliable)"
    return head + (
        f"move footprints {row['east']:+.1f} m east, {row['north']:+.1f} m north (median of {row['reliable']} of "
        f"{row['cells']} cells, spread {row['east_spread']:.1f} and {row['north_spread']:.1f} m; correlation "
        f"{row['correlation_before']:.2f} -> {row['correlation_after']:.2f})"
    )
