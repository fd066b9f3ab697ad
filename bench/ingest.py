"""Ingest: wall time against reading and decoding alone, and against a plain odc-stac median, on the same items.

python -m bench.ingest [--pixels 2000] [--dates 6] [--workers 2]

On a simulated L2A catalogue (12 bands at 10, 20 and 60 m and SCL as COGs of 1024-pixel tiles), taking turns:
  decode  every asset's window over the area read and decoded once, by as many threads, nothing kept;
  encode  the finished scene's pixels compressed as COGs with overviews, nothing else;
  ingest  the whole stage: search, offsets, masks, medians, COGs with overviews, checksums;
  odc     `odc.stac.load(...).median("time")` of the 12 bands at 10 m in memory: no mask, no offset, nothing written.
"""

import argparse
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pystac
import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile
from rasterio.warp import transform_geom
from rasterio.windows import Window, from_bounds
from scipy.ndimage import gaussian_filter

from bench._turns import measure
from casbah.bands import BANDS
from casbah.grid import Grid
from casbah.ingest import ingest
from casbah.workplace import DEFLATE_LEVEL, TILE

MARGIN = 37
"""Pixels of 10 m by which the area lies off the corner of its tile, so that its blocks straddle COG tiles."""


def make_catalogue(directory: Path, pixels: int, dates: int) -> tuple[Path, Grid]:
    """A static catalogue of one MGRS-like tile a little larger than the area, and the area's grid."""
    rng = np.random.default_rng(0)
    side = -(-(pixels + 2 * MARGIN) // 6) * 6
    tile = Grid("EPSG:32631", 499_980.0, 4_100_040.0, side, side)
    ground = gaussian_filter(rng.normal(size=(side, side)).astype("float32"), 3) * 9000 + 1800
    links = []
    for day in range(dates):
        name = f"S2A_31SEA_202306{day + 1:02d}_0_L2A"
        folder = directory / name
        folder.mkdir()
        assets = {}
        for band in BANDS:
            step = band.resolution // 10
            part = ground[::step, ::step]
            values = np.clip(part + rng.normal(0, 40, part.shape), 1, 12_000).astype("uint16")
            assets[band.asset] = _asset(folder / f"{band.name}.tif", values, tile, band.resolution)
        scl = np.full((side // 2, side // 2), 5, "uint8")
        top, left = rng.integers(0, side // 4, 2)
        scl[top : top + side // 8, left : left + side // 8] = 9
        assets["scl"] = _asset(folder / "SCL.tif", scl, tile, 20)
        links.append({"rel": "item", "href": f"./{name}/{name}.json"})
        (folder / f"{name}.json").write_text(json.dumps(_item(name, tile, assets, day)))
    catalogue = {"type": "Catalog", "id": "bench", "stac_version": "1.0.0", "description": "simulated", "links": links}
    (directory / "catalog.json").write_text(json.dumps(catalogue))
    return directory / "catalog.json", tile.part(MARGIN, MARGIN, pixels, pixels)


def _asset(path: Path, values: np.ndarray, tile: Grid, resolution: int) -> dict[str, Any]:
    grid = Grid(tile.crs, tile.west, tile.north, *values.shape, float(resolution))
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, dtype=values.dtype, nodata=0, **grid.profile()) as raster:
            raster.write(values, 1)
        rasterio.shutil.copy(memory.name, path, driver="COG", compress="deflate", predictor=2, blocksize=1024)
    bands = [{"data_type": values.dtype.name, "nodata": 0, "scale": 0.0001, "offset": 0}]
    return {
        "href": f"./{path.name}",
        "type": "image/tiff; application=geotiff",
        "roles": ["data"],
        "raster:bands": bands,
    }


def _item(name: str, tile: Grid, assets: dict[str, Any], day: int) -> dict[str, Any]:
    west, south, east, north = tile.bounds
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": transform_geom(tile.crs, "EPSG:4326", {"type": "Polygon", "coordinates": [corners]}),
        "bbox": [],
        "properties": {
            "datetime": f"2023-06-{day + 1:02d}T10:30:00Z",
            "eo:cloud_cover": float(day),
            "proj:epsg": int(tile.crs[5:]),
            "s2:processing_baseline": "03.01",
        },
        "links": [],
        "assets": assets,
    }


def write_area(path: Path, grid: Grid) -> Path:
    """The area, half a pixel inside of its grid."""
    west, south, east, north = grid.bounds
    ring = [(west + 5, south + 5), (east - 5, south + 5), (east - 5, north - 5), (west + 5, north - 5)]
    polygon = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{grid.crs[5:]}"}}
    feature = {"type": "Feature", "properties": {}, "geometry": polygon}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    return path


def decode(catalogue: Path, grid: Grid, workers: int) -> None:
    """Read and decode every asset over the area once."""

    def read(path: Path) -> None:
        with rasterio.open(path) as dataset:
            window = from_bounds(*grid.bounds, dataset.transform)
            left, top = int(window.col_off), int(window.row_off)
            dataset.read(1, window=Window(left, top, int(np.ceil(window.width)), int(np.ceil(window.height))))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(read, sorted(catalogue.parent.glob("*/*.tif"))))


def odc_median(catalogue: Path, grid: Grid, workers: int) -> None:
    """A plain median of the 12 bands."""
    items = list(pystac.Catalog.from_file(str(catalogue)).get_items(recursive=True))
    west, south, east, north = grid.bounds
    loaded = odc.stac.load(
        items,
        bands=[band.asset for band in BANDS],
        crs=grid.crs,
        resolution=10,
        x=(west, east),
        y=(south, north),
        resampling="cubic",
        pool=workers,
    )
    loaded.median("time")


def encode(scene: Path) -> Callable[[], None]:
    """What compresses the scene's pixels (held uncompressed) as COGs again."""
    with rasterio.open(scene / "reflectance_0.tif") as dataset:
        pixels, profile = dataset.read(), {"crs": dataset.crs, "transform": dataset.transform, "nodata": 0}
    memory = MemoryFile()
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint16"}
    with memory.open(driver="GTiff", interleave="band", **shape, **profile) as raster:
        raster.write(pixels)
    options = {"driver": "COG", "compress": "deflate", "level": DEFLATE_LEVEL, "predictor": 2, "blocksize": TILE}

    def run() -> None:
        rasterio.shutil.copy(memory.name, scene.parent / "encoded.tif", overview_resampling="average", **options)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, default=2000)
    parser.add_argument("--dates", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        catalogue, grid = make_catalogue(directory, wanted.pixels, wanted.dates)
        area = write_area(directory / "area.geojson", grid)

        def run_ingest() -> None:
            shutil.rmtree(directory / "scene", ignore_errors=True)
            ingest(
                aoi=area,
                output=directory / "scene",
                start="2023-06-01",
                end="2023-06-30",
                stac=str(catalogue),
                workers=wanted.workers,
            )

        with contextlib.redirect_stderr(io.StringIO()):
            run_ingest()
        runs: dict[str, Callable[[], None]] = {
            "decode": lambda: decode(catalogue, grid, wanted.workers),
            "encode": encode(directory / "scene"),
            "ingest": run_ingest,
            "odc": lambda: odc_median(catalogue, grid, wanted.workers),
        }
        wall, cpu = measure(runs, wanted.rounds)
    print(
        f"{wanted.dates} dates x 12 bands and SCL, {wanted.pixels} x {wanted.pixels} pixels, {wanted.workers} threads"
    )
    print(f"{'':8}{'wall s':>8}{'/ decode':>10}{'/ odc':>8}{'CPU s':>8}{'/ decode':>10}")
    for name in runs:
        ratios = wall[name] / wall["decode"], wall[name] / wall["odc"], cpu[name] / cpu["decode"]
        print(f"{name:8}{wall[name]:8.2f}{ratios[0]:10.2f}{ratios[1]:8.2f}{cpu[name]:8.2f}{ratios[2]:10.2f}")


if __name__ == "__main__":
    main()
