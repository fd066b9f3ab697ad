"""What a set of footprints is: as a STAC item, and as lines for a person."""

import os
from pathlib import Path
from typing import Any

import shapely
from rasterio.warp import transform_bounds

from casbah.footprints.objects import ALL, SIZES
from casbah.products.evaluation import Interval
from casbah.products.footprints import BLOCKS, FLATGEOBUF, GEOPACKAGE, PARQUET, FootprintInfo
from casbah.products.manifest import sha256_of
from casbah.products.prediction import Prediction
from casbah.stac import EXTENSIONS, STAC_VERSION, as_geojson

ASSETS = {
    PARQUET: ("application/vnd.apache.parquet", "Polygons as GeoParquet"),
    GEOPACKAGE: ("application/geopackage+sqlite3", "Polygons as GeoPackage"),
    FLATGEOBUF: ("application/vnd.flatgeobuf", "Polygons as FlatGeobuf"),
    BLOCKS: ("application/vnd.apache.parquet", "Polygons, their area and the observed area by block"),
}


def stac_item(info: FootprintInfo, prediction: Prediction, folder: Path, output: Path) -> dict[str, Any]:
    """`item.json` of the files that lie in `folder` and will lie in `output`."""
    grid = prediction.grid
    bounds = transform_bounds(grid.crs, "EPSG:4326", *grid.bounds, densify_pts=21)
    origin = str(prediction.item["id"])
    properties = {
        **_times(info, prediction),
        "title": "SIMULATED footprints" if info.simulated else "Footprints of built-up patches",
        "description": info.meaning,
        "license": "other",
        "attribution": "; ".join(info.attribution),
        "gsd": info.resolution,
        "proj:code": grid.crs,
        "proj:bbox": list(grid.bounds),
        "processing:lineage": f"Contours at {info.threshold:g} of the probabilities of {info.model.name}",
        "casbah": info.model_dump(mode="json") | {"prediction": prediction.digest},
    }
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EXTENSIONS[name] for name in ("projection", "file", "processing")],
        "id": f"{origin}-footprints",
        "geometry": as_geojson(shapely.box(*bounds)),
        "bbox": list(bounds),
        "properties": properties,
        "links": [
            {
                "rel": "derived_from",
                "href": Path(os.path.relpath(prediction.path.resolve() / "item.json", output.resolve())).as_posix(),
                "type": "application/geo+json",
                "title": origin,
            }
        ],
        "assets": {
            name: _asset(folder / name, media, title)
            for name, (media, title) in ASSETS.items()
            if (folder / name).is_file()
        },
    }


def _asset(path: Path, media: str, title: str) -> dict[str, Any]:
    return {
        "href": f"./{path.name}",
        "type": media,
        "title": title,
        "roles": ["data", "vector"],
        "file:size": path.stat().st_size,
        # A multihash: 12 says sha256, 20 that 32 bytes follow.
        "file:checksum": f"1220{sha256_of(path)}",
    }


def _times(info: FootprintInfo, prediction: Prediction) -> dict[str, str | None]:
    """When the imagery was taken; of a raster that does not say it, what the prediction's own item has."""
    days = sorted(day[:10] for period in info.periods for day in (period.dates or (period.start, period.end)))
    if not days:
        return {"datetime": prediction.item["properties"]["datetime"]}
    return {
        "datetime": None,
        "start_datetime": f"{days[0]}T00:00:00Z",
        "end_datetime": f"{days[-1]}T23:59:59Z",
    }


def describe(info: FootprintInfo) -> str:
    """The set as lines for a person."""
    share = 100 * (info.area / info.area_of_contours - 1) if info.area_of_contours else 0.0
    lines = [
        f"polygons     {info.polygons:,}, {info.area / 1e6:.3f} km2" + (" (SIMULATED)" if info.simulated else ""),
        f"area         {info.area_of_contours / 1e6:.3f} km2 of contours (outlines {share:+.2f} %), "
        f"{info.area_of_pixels / 1e6:.3f} km2 of building pixels",
        f"drawn        at probability {info.threshold:g}; {info.minimum_area:g} m2 and more; moved by up to "
        f"{info.simplified:g} m" + ("; right angles where the shape has them" if info.squared else ""),
        f"model        {info.model.name}",
        f"meaning      {info.meaning}",
        *(f"attribution  {line}" for line in info.attribution),
    ]
    for ground, told in info.objects.get("ground", {}).items():
        lines += ["", *_table(ground, told)]
    if info.objects:
        lines += ["", *(f"             {rule}" for rule in info.objects["rules"])]
    return "\n".join(lines)


def _table(ground: str, told: dict[str, Any]) -> list[str]:
    one = told["one_to_one"]
    lines = [
        f"objects      {ground}: {told['buildings']:,} labelled buildings, {told['polygons']:,} polygons in "
        f"{told['blocks']} blocks",
        f"             one to one  F1 {_shown(one['f1'])}, precision {_shown(one['precision'])}, recall "
        f"{_shown(one['recall'])}",
    ]
    for size in (ALL, *SIZES):
        found, made = told["found"][size], told["invented"][size]
        lines.append(
            f"             {size:16} found {found['found']:,} of {found['buildings']:,} ({_shown(found['share'])}), "
            f"{found['merged']:,} of them merged; invented {made['invented']:,} of {made['polygons']:,} polygons"
        )
    return lines


def _shown(score: dict[str, float | None]) -> str:
    return Interval.model_validate(score).text()
