"""What is told about a TileSet: the table for a person, and the summary in `tileset.json`."""

import math
from collections.abc import Sequence
from typing import Any

import geopandas

from casbah.products.tiles import SPLITS, TileInfo

COLUMNS = ("split", "tiles", "blocks", "Mpx", "building", "ignored", "nodata")


def summarise(table: geopandas.GeoDataFrame, tile_size: int) -> dict[str, dict[str, Any]]:
    """Split -> tiles, blocks, pixels, and the shares of building (of labelled pixels), ignored and nodata pixels.

    Shares are None for a split without tiles.
    """
    summary: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        part = table[table["split"] == split]
        labelled = 1 - part["ignore_share"]
        built = (part["building_share"].fillna(0) * labelled).sum()
        summary[split] = {
            "tiles": len(part),
            "blocks": int(part["block"].nunique()),
            "pixels": len(part) * tile_size**2,
            "building_share": _share(built, labelled.sum()),
            "ignore_share": _share(part["ignore_share"].sum(), len(part)),
            "nodata_share": _share(part["nodata_share"].sum(), len(part)),
        }
    return summary


def _share(part: float, whole: float) -> float | None:
    share = part / whole if whole else math.nan
    return None if math.isnan(share) else round(float(share), 6)


def table_of(info: TileInfo) -> str:
    """The summary as lines of text: one row a split, under a line that says so where the data are simulated."""
    rows = [COLUMNS, *(_row(split, info.summary["splits"][split]) for split in SPLITS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    warning = ["SIMULATED DATA: no number here says anything about a real town"] if info.simulated else []
    return "\n".join([*warning, *lines, *_notes(info)])


def _row(split: str, values: dict[str, Any]) -> tuple[str, ...]:
    shares = (values["building_share"], values["ignore_share"], values["nodata_share"])
    sizes = (f"{values['tiles']}", f"{values['blocks']}", f"{values['pixels'] / 1e6:.2f}")
    return (split, *sizes, *("-" if share is None else f"{100 * share:.1f} %" for share in shares))


def _notes(info: TileInfo) -> Sequence[str]:
    used = info.summary["labelled_pixels_used"]
    notes = [f"{100 * used:.0f} % of the labelled pixels lie in a tile" if used is not None else "no pixel is labelled"]
    notes += [f"left out: {count} tiles ({reason})" for reason, count in info.summary["dropped"].items()]
    for split in SPLITS:
        values = info.summary["splits"][split]
        if values["tiles"] and not values["building_share"]:
            notes.append(f"WARNING: no tile of {split} holds a building: another --seed, or more labels, may help")
        for scene, shift in values.get("shifts", {}).items():
            notes.append(f"{split}, {scene}: footprints {_moved(shift)}")
    return notes


def _moved(shift: dict[str, Any]) -> str:
    metres = f"moved {shift['east']:+.1f} m east, {shift['north']:+.1f} m north"
    if shift["by"] == "own":
        return metres
    if shift["by"] == "train":
        return f"{metres} as in train (too little is built in this split's blocks to tell by itself)"
    return "not moved: too little is built in these blocks to tell by how much"
