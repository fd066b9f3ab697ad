"""What the STAC items of Casbah's products share: versions, where a grid lies, and its outline in degrees."""

import json
from typing import Any

import rasterio.warp
import shapely

from casbah.grid import Grid

STAC_VERSION = "1.1.0"

COG = "image/tiff; application=geotiff; profile=cloud-optimized"

EXTENSIONS = {
    "projection": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "eo": "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "file": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
}
"""Extension -> the schema of the version that the items are written in."""


def projection(grid: Grid) -> dict[str, Any]:
    """The properties of the projection extension."""
    return {
        "proj:code": grid.crs,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
        "proj:bbox": list(grid.bounds),
    }


def outline(grid: Grid) -> shapely.Polygon:
    """The grid's outline in degrees, its edges bent as they are there."""
    edge = shapely.segmentize(shapely.box(*grid.bounds), max(grid.shape) * grid.resolution / 8)
    x, y = shapely.get_coordinates(edge).T
    longitude, latitude = rasterio.warp.transform(grid.crs, "EPSG:4326", x.tolist(), y.tolist())
    return shapely.Polygon([(round(a, 7), round(b, 7)) for a, b in zip(longitude, latitude, strict=True)])


def as_geojson(geometry: shapely.Geometry) -> dict[str, Any]:
    """A geometry as a GeoJSON mapping of plain lists and numbers."""
    return json.loads(shapely.to_geojson(geometry))
