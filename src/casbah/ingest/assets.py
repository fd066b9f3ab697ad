"""What an item says about itself: which asset holds which band, its level, its processing baseline, its tile.

Catalogues differ. Earth Search v1 names assets `red`, `nir08`, `scl`; its older COG collection and Planetary Computer
`B04`, `B8A`, `SCL`; Copernicus Data Space `B04_10m`; and items carry `eo:bands` (STAC 1.0) or `bands` (STAC 1.1).
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import shapely

from casbah.bands import BANDS, LEVELS
from casbah.errors import InputError

Item = dict[str, Any]
"""A STAC item as GeoJSON, its asset hrefs absolute."""

SCL = "SCL"
"""The scene classification of L2A, resolved beside the bands."""

_SPELLINGS = {name.lower(): band.name for band in BANDS for name in (band.name, band.common_name, band.asset)} | {
    "scl": SCL
}
_NOT_BANDS = {"thumbnail", "overview", "visual", "metadata", "tiles"}
"""Roles of assets that are pictures or text, even where they carry a band's name."""

_SUFFIX = re.compile(r"[-_](jp2|\d+m)$")
"""`red-jp2`, `B04_20m`: the same band in another format or at another resolution."""


def resolve(item: Item) -> dict[str, str]:
    """ESA's band name (and `SCL`) -> asset key, for every band that the item offers.

    Where several assets hold a band, the one at the finest resolution is taken, and a GeoTIFF before a JPEG 2000.
    """
    best: dict[str, tuple[tuple[float, bool, int], str]] = {}
    for order, (key, asset) in enumerate(item["assets"].items()):
        name = _band_of(key, asset)
        if name is None:
            continue
        rank = (_metres(key, asset), "tif" not in _format(asset), order)
        if name not in best or rank < best[name][0]:
            best[name] = (rank, key)
    return {name: key for name, (_, key) in best.items()}


def require(item: Item, bands: Sequence[str]) -> dict[str, str]:
    """`resolve`, of which every one of `bands` must be there; `InputError` names what is missing and what there is."""
    found = resolve(item)
    missing = [name for name in bands if name not in found]
    if missing:
        offered = [name for name in bands if name in found]
        raise InputError(
            f"item {item['id']} has no asset for {', '.join(missing)} (its assets: "
            f"{', '.join(sorted(item['assets']))}); "
            f"choose the bands that it has with --bands {','.join(offered) or '…'}, or another --collection"
        )
    return {name: found[name] for name in (*bands, SCL) if name in found}


def level_of(item: Item) -> str | None:
    """`L1C` or `L2A` from the item's own words, None where it does not say."""
    said = item["properties"]
    words = [
        said.get("processing:level", ""),
        said.get("s2:product_type", ""),
        said.get("s2:product_uri", said.get("sentinel:product_id", "")),
        item.get("collection") or "",
        item["id"],
    ]
    for word in words:
        flat = str(word).upper().replace("MSI1C", "L1C").replace("MSI2A", "L2A").replace("LEVEL-", "L")
        hits = [level for level in LEVELS if level in flat]
        if len(hits) == 1:
            return hits[0]
    return None


def baseline_of(item: Item) -> str | None:
    """ESA's processing baseline as `NN.NN`, None where the item does not say."""
    said = item["properties"]
    for key in ("s2:processing_baseline", "sentinel2:processing_baseline", "processing:version"):
        if re.fullmatch(r"\d\d\.\d\d", str(said.get(key, ""))):
            return str(said[key])
    for text in (said.get("s2:product_uri"), said.get("sentinel:product_id"), item["id"]):
        match = re.search(r"_N(\d\d)(\d\d)_", str(text))
        if match:
            return f"{match[1]}.{match[2]}"
    return None


def tile_of(item: Item) -> str | None:
    """The MGRS tile (`31SDA`), None where the item does not say."""
    said = item["properties"]
    if "grid:code" in said:
        return str(said["grid:code"]).removeprefix("MGRS-")
    if "s2:mgrs_tile" in said:
        return str(said["s2:mgrs_tile"])
    match = re.search(r"(?:^|_)T?(\d{2}[C-X][A-Z]{2})(?:_|$)", item["id"])
    return match[1] if match else None


def acquired(item: Item) -> datetime:
    """When the item was taken, in UTC; `InputError` where it does not say."""
    said = item["properties"].get("datetime") or item["properties"].get("start_datetime")
    try:
        moment = datetime.fromisoformat(str(said))
    except ValueError:
        raise InputError(
            f"item {item['id']} has no readable datetime ({said!r}); take it out of the catalogue or leave it out with "
            f"--exclude {item['id']}"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def solar_day(item: Item) -> date:
    """The local day of the acquisition: one overpass stays one day, also where UTC's midnight falls into it."""
    longitude = shapely.geometry.shape(item["geometry"]).centroid.x
    return (acquired(item).astimezone(UTC) + timedelta(hours=longitude / 15)).date()


def cloud_cover(item: Item) -> float | None:
    """Percent of the whole item under cloud, None where it does not say; `InputError` where it says no number."""
    said = item["properties"].get("eo:cloud_cover")
    try:
        cover = None if said is None else float(said)
    except (TypeError, ValueError):
        cover = math.nan
    if cover is not None and not math.isfinite(cover):
        raise InputError(
            f"item {item['id']} has an eo:cloud_cover of {said!r}, which is no percentage; correct it or leave the "
            f"item out with --exclude {item['id']}"
        )
    return cover


def _band_of(key: str, asset: dict[str, Any]) -> str | None:
    bands = asset.get("eo:bands") or asset.get("bands") or []
    if _NOT_BANDS & set(asset.get("roles") or ()) or len(bands) > 1 or "image" not in _format(asset):
        return None
    named = bands[0] if bands else {}
    words = (_SUFFIX.sub("", key), named.get("name", ""), named.get("common_name", named.get("eo:common_name", "")))
    for word in words:
        if str(word).lower() in _SPELLINGS:
            return _SPELLINGS[str(word).lower()]
    return None


def _metres(key: str, asset: dict[str, Any]) -> float:
    said = asset.get("gsd")
    match = re.search(r"[-_](\d+)m$", key)
    return float(said if said is not None else match[1] if match else 0)


def _format(asset: dict[str, Any]) -> str:
    said = str(asset.get("type") or "")
    return said or ("image/tiff" if asset["href"].split("?")[0].lower().endswith((".tif", ".tiff")) else "image/other")
