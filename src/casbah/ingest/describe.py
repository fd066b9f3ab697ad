"""The scene's `item.json`: a STAC item that says what is in the scene and where it came from."""

import hashlib
import json
from typing import Any

from casbah.bands import NODATA, band
from casbah.grid import Grid
from casbah.ingest.assets import acquired, baseline_of, cloud_cover
from casbah.ingest.selection import FILE, Selection
from casbah.products.scene import Period, SceneInfo
from casbah.stac import COG, EXTENSIONS, STAC_VERSION, as_geojson, outline, projection


def scene_info(selection: Selection, bands: tuple[str, ...]) -> SceneInfo:
    """What a later stage asks of the scene."""
    periods = tuple(
        Period(start=p.start, end=p.end, dates=tuple(sorted({c.day for c in p.items})))
        for p in selection.choice.periods
    )
    sources = [
        {
            "id": chosen.id,
            "collection": selection.items[chosen.id].get("collection"),
            "datetime": acquired(selection.items[chosen.id]).isoformat(),
            "period": t,
            "cloud_cover": cloud_cover(selection.items[chosen.id]),
            "baseline": baseline_of(selection.items[chosen.id]),
            "offset": chosen.offset,
            "offset_reason": chosen.reason,
        }
        for t, period in enumerate(selection.choice.periods)
        for chosen in period.items
    ]
    return SceneInfo(
        level=selection.choice.level,
        bands=bands,
        periods=periods,
        attribution=_attribution(selection),
        simulated=selection.choice.simulated,
        sources=tuple(sources),
    )


def stac_item(info: SceneInfo, grid: Grid) -> str:
    """The text of `item.json`. It holds nothing that differs between two runs on the same items."""
    footprint = outline(grid)
    moments = sorted(source["datetime"] for source in info.sources)
    properties = {
        "datetime": None,
        "start_datetime": moments[0],
        "end_datetime": moments[-1],
        "gsd": grid.resolution,
        "constellation": "sentinel-2",
        "processing:level": info.level,
        **projection(grid),
        "attribution": info.attribution,
        "casbah": json.loads(info.model_dump_json()),
    }
    identity = json.dumps([properties["casbah"], grid.to_dict()], sort_keys=True)
    item = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EXTENSIONS[name] for name in ("projection", "eo", "raster", "processing")],
        "id": f"casbah-{info.level.lower()}-{moments[0][:10]}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}",
        "geometry": as_geojson(footprint),
        "bbox": list(footprint.bounds),
        "properties": properties,
        "links": [],
        "assets": _assets(info),
    }
    return json.dumps(item, indent=2, allow_nan=False) + "\n"


def _assets(info: SceneInfo) -> dict[str, Any]:
    described = [
        {
            "name": name,
            "eo:common_name": band(name).common_name,
            "eo:center_wavelength": band(name).wavelength / 1000,
            "eo:full_width_half_max": band(name).width / 1000,
        }
        for name in info.bands
    ]
    assets: dict[str, Any] = {}
    for t, period in enumerate(info.periods):
        when = f"{period.start} to {period.end}"
        assets[f"reflectance_{t}"] = {
            "href": f"./reflectance_{t}.tif",
            "type": COG,
            "title": f"Median reflectance x 10000, {when}",
            "roles": ["data", "reflectance"],
            "data_type": "uint16",
            "nodata": NODATA,
            "raster:scale": 0.0001,
            "bands": described,
        }
        assets[f"valid_{t}"] = {
            "href": f"./valid_{t}.tif",
            "type": COG,
            "title": f"Clear observations per pixel, {when}",
            "roles": ["data-mask"],
            "data_type": "uint8",
            "nodata": NODATA,
        }
    assets["items"] = {
        "href": f"./{FILE}",
        "type": "application/geo+json",
        "title": "Source items",
        "roles": ["metadata"],
    }
    return assets


def _attribution(selection: Selection) -> str:
    if selection.choice.attributions:
        return "; ".join(selection.choice.attributions)
    years = sorted({acquired(item).year for item in selection.items.values()})
    if selection.choice.simulated:
        return "Simulated imagery, not taken by any satellite"
    return f"Contains modified Copernicus Sentinel data {years[0]}" + (f"-{years[-1]}" if len(years) > 1 else "")
