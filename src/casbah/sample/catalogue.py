"""Writes the simulated passes as a static STAC catalogue of COGs, in the shape that Earth Search publishes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from casbah.bands import BANDS, NODATA, Band
from casbah.grid import Grid
from casbah.sample.sky import Acquisition, sun

COLLECTION = "sentinel-2-l2a"
"""The collection's id, as on Earth Search."""

ATTRIBUTION = "Simulated by Casbah; not an observation"

STAC_VERSION = "1.0.0"
EXTENSIONS = [
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("raster/v1.1.0", "mgrs/v1.0.0", "grid/v1.0.0", "projection/v1.1.0", "eo/v1.1.0", "view/v1.0.0")
]
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
BLOCK = 256

SCL_NODATA, SCL_SHADOW, SCL_VEGETATION, SCL_BARE, SCL_WATER = 0, 3, 4, 5, 6
SCL_UNCLASSIFIED, SCL_CLOUD_MEDIUM, SCL_CLOUD_HIGH, SCL_CIRRUS = 7, 8, 9, 10


@dataclass(frozen=True)
class Tile:
    """One MGRS tile: its name and the outer corner (metres, EPSG:32631) of its 109.8 km square."""

    name: str
    west: float
    north: float = 4_100_040.0
    size: float = 109_800.0

    @property
    def east(self) -> float:
        return self.west + self.size


TILES = (Tile("31SDA", 399_960.0), Tile("31SEA", 499_980.0))
"""The two real tiles whose overlap (from 499 980 to 509 760 m east) holds Algiers."""


@dataclass(frozen=True)
class Look:
    """One pass over one tile, ready to be written: digital numbers by band name, SCL, and where there is data."""

    acquisition: Acquisition
    tile: Tile
    grid: Grid
    """The 10 m grid of the tile's part of the town."""
    bands: Mapping[str, NDArray[np.uint16]]
    scl: NDArray[np.uint8]
    footprint: BaseGeometry
    """Where there is data, in metres of the grid's CRS."""

    @property
    def id(self) -> str:
        platform = {"sentinel-2a": "S2A", "sentinel-2b": "S2B"}[self.acquisition.platform]
        return f"SIM_{platform}_{self.tile.name}_{self.acquisition.time:%Y%m%d}_0_L2A"

    @property
    def cloud_cover(self) -> float:
        """Percent of the pixels with data that SCL calls cloud or cirrus."""
        clouds = np.isin(self.scl, (SCL_CLOUD_MEDIUM, SCL_CLOUD_HIGH, SCL_CIRRUS)).sum()
        return round(100 * float(clouds) / max(1, int((self.scl != SCL_NODATA).sum())), 4)


def write_look(directory: Path, look: Look) -> dict[str, Any]:
    """Write a look's COGs and its item under `directory/<item id>`; returns the item."""
    folder = directory / look.id
    folder.mkdir(parents=True)
    for band in BANDS:
        write_cog(folder / f"{band.name}.tif", look.bands[band.name], look.grid, band.resolution, NODATA)
    write_cog(folder / "SCL.tif", look.scl, look.grid, 20, SCL_NODATA, categories=True)
    item = _item(look)
    write_json(folder / f"{look.id}.json", item)
    return item


def write_cog(
    path: Path, data: NDArray[Any], grid: Grid, resolution: int, nodata: int, *, categories: bool = False
) -> None:
    """Write (rows, cols) as a deflated COG with overviews on the part of `grid` (10 m) that it covers."""
    rows, cols = data.shape
    native = Grid(grid.crs, grid.west, grid.north, rows, cols, float(resolution))
    profile = native.profile(
        driver="COG",
        count=1,
        dtype=data.dtype.name,
        nodata=nodata,
        compress="deflate",
        level=6,
        predictor="standard",
        blocksize=BLOCK,
        resampling="nearest" if categories else "average",
    )
    with rasterio.open(path, "w", **profile) as target:
        target.write(data, 1)
        target.update_tags(CASBAH_SIMULATED="true", IMAGEDESCRIPTION=f"SIMULATED. {ATTRIBUTION}")


def write_catalogue(directory: Path, items: Iterable[dict[str, Any]]) -> None:
    """Write `catalog.json` and the collection above items that `write_look` wrote under `directory/<COLLECTION>`."""
    items = list(items)
    west, south = (min(item["bbox"][i] for item in items) for i in (0, 1))
    east, north = (max(item["bbox"][i] for item in items) for i in (2, 3))
    times = sorted(item["properties"]["datetime"] for item in items)
    title = "SIMULATED Sentinel-2 L2A over a town that does not exist"
    description = (
        "SIMULATED. A made-up coastal town in the UTM zone of Algiers as Sentinel-2 would record it, for "
        f"demonstrations and tests of Casbah. {ATTRIBUTION}."
    )
    collection = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": COLLECTION,
        "title": title,
        "description": description,
        "license": "CC0-1.0",
        "keywords": ["simulated", "sentinel-2", "l2a"],
        "providers": [{"name": ATTRIBUTION, "roles": ["producer"]}],
        "casbah:simulated": True,
        "attribution": ATTRIBUTION,
        "extent": {
            "spatial": {"bbox": [[west, south, east, north]]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        "summaries": {"casbah:simulated": [True], "constellation": ["sentinel-2"], "gsd": [10, 20, 60]},
        "links": [
            _link("root", "../catalog.json"),
            _link("parent", "../catalog.json"),
            *(_link("item", f"./{item['id']}/{item['id']}.json", "application/geo+json") for item in items),
        ],
    }
    write_json(directory / COLLECTION / "collection.json", collection)
    catalogue = {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": "casbah-sample",
        "title": title,
        "description": description,
        "casbah:simulated": True,
        "attribution": ATTRIBUTION,
        "links": [_link("root", "./catalog.json"), _link("child", f"./{COLLECTION}/collection.json")],
    }
    write_json(directory / "catalog.json", catalogue)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def to_degrees(shape: BaseGeometry, crs: str) -> BaseGeometry:
    """A shape in metres of `crs` -> longitude and latitude."""
    transformer = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    return shapely.transform(shape, lambda points: np.column_stack(transformer.transform(*points.T)))


def _item(look: Look) -> dict[str, Any]:
    shape = shapely.set_precision(to_degrees(look.footprint, look.grid.crs), 1e-7)
    middle = shape.centroid
    azimuth, elevation = sun(look.acquisition.time, middle.x, middle.y)
    baseline = look.acquisition.baseline[look.tile.name]
    tile = look.tile.name
    properties = {
        "datetime": _iso(look.acquisition.time),
        "created": _iso(look.acquisition.time),
        "title": "SIMULATED Sentinel-2 L2A",
        "description": f"SIMULATED. {ATTRIBUTION}.",
        "casbah:simulated": True,
        "attribution": ATTRIBUTION,
        "casbah:misregistration_m": list(look.acquisition.shift),
        "platform": look.acquisition.platform,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": 10,
        "eo:cloud_cover": look.cloud_cover,
        "proj:epsg": int(look.grid.crs.removeprefix("EPSG:")),
        "mgrs:utm_zone": int(tile[:2]),
        "mgrs:latitude_band": tile[2],
        "mgrs:grid_square": tile[3:],
        "grid:code": f"MGRS-{tile}",
        "view:sun_azimuth": round(azimuth, 4),
        "view:sun_elevation": round(elevation, 4),
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": baseline,
        "s2:sequence": "0",
        "s2:nodata_pixel_percentage": round(100 * float((look.scl == SCL_NODATA).mean()), 4),
        "s2:water_percentage": round(100 * float((look.scl == SCL_WATER).mean()), 4),
        "s2:cloud_shadow_percentage": round(100 * float((look.scl == SCL_SHADOW).mean()), 4),
        "earthsearch:boa_offset_applied": look.acquisition.applied,
    }
    assets = {band.asset: _asset(band, look, baseline) for band in BANDS}
    assets["scl"] = {
        "href": "./SCL.tif",
        "type": COG,
        "title": "Scene classification map (SCL)",
        "gsd": 20,
        **_placement(look, 20),
        "raster:bands": [{"nodata": 0, "data_type": "uint8", "spatial_resolution": 20}],
        "roles": ["data"],
    }
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": EXTENSIONS,
        "id": look.id,
        "geometry": json.loads(shapely.to_geojson(shape)),
        "bbox": [round(value, 7) for value in shape.bounds],
        "properties": properties,
        "links": [
            _link("root", "../../catalog.json"),
            _link("collection", "../collection.json"),
            _link("parent", "../collection.json"),
        ],
        "assets": assets,
        "collection": COLLECTION,
    }


def _asset(band: Band, look: Look, baseline: str) -> dict[str, Any]:
    # Earth Search states the offset of the baseline even where it says that it took it off the pixels: so do we, as
    # ingest has to cope with it.
    offset = -0.1 if baseline >= "04.00" else 0
    return {
        "href": f"./{band.name}.tif",
        "type": COG,
        "title": f"{band.common_name} ({band.name}) - {band.resolution}m",
        "eo:bands": [
            {
                "name": band.asset,
                "common_name": band.common_name,
                "center_wavelength": band.wavelength / 1000,
                "full_width_half_max": band.width / 1000,
            }
        ],
        "gsd": band.resolution,
        **_placement(look, band.resolution),
        "raster:bands": [
            {
                "nodata": NODATA,
                "data_type": "uint16",
                "bits_per_sample": 15,
                "spatial_resolution": band.resolution,
                "scale": 0.0001,
                "offset": offset,
            }
        ],
        "roles": ["data", "reflectance"],
    }


def _placement(look: Look, resolution: int) -> dict[str, Any]:
    step = resolution // 10
    return {
        "proj:shape": [look.grid.rows // step, look.grid.cols // step],
        "proj:transform": [resolution, 0, look.grid.west, 0, -resolution, look.grid.north],
    }


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _link(rel: str, href: str, kind: str = "application/json") -> dict[str, str]:
    return {"rel": rel, "href": href, "type": kind}
