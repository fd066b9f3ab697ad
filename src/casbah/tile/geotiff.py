"""The folders that TerraTorch's `GenericNonGeoSegmentationDataModule` reads."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from numpy.typing import NDArray

from casbah.grid import Grid
from casbah.products.tiles import SPLITS, TileInfo

CLASS = "terratorch.datamodules.GenericNonGeoSegmentationDataModule"


def write_geotiff(directory: Path, info: TileInfo, statistics: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write `geotiff/<split>/images/<name>.tif` and `geotiff/<split>/masks/<name>.tif` from the arrays of a TileSet.

    An image holds all bands of period 0, then all of period 1, and so on, as TerraTorch's `expand_temporal_dimension`
    takes them; `geotiff/datamodule.yaml` is the `data:` part of a TerraTorch configuration that reads them, with paths
    relative to the TileSet. No nodata tag is set, because TerraTorch turns tagged pixels into NaN.
    """
    for split in SPLITS:
        images = np.load(directory / split / "images.npy", mmap_mode="r", allow_pickle=False)
        masks = np.load(directory / split / "masks.npy", mmap_mode="r", allow_pickle=False)
        target = directory / "geotiff" / split
        (target / "images").mkdir(parents=True)
        (target / "masks").mkdir()
        for row in (row for row in rows if row["split"] == split):
            grid: Grid = row["grid"]
            name = f"{row['scene']}_{row['block']}_{row['tile_row']}_{row['tile_col']}"
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", name) + ".tif"
            _write(target / "images" / name, images[row["row"]].reshape(-1, *grid.shape), grid)
            _write(target / "masks" / name, masks[row["row"]][None], grid)
    text = yaml.safe_dump({"data": _configuration(info, statistics)}, sort_keys=False)
    (directory / "geotiff" / "datamodule.yaml").write_text(f"# Run from the TileSet's directory.\n{text}", "utf-8")


def _write(path: Path, data: NDArray[Any], grid: Grid) -> None:
    profile = grid.profile(driver="GTiff", count=len(data), dtype=data.dtype.name, compress="deflate", predictor=2)
    # Through a file of Python's, a full disk is an error with its number; libtiff would print its own and drop it.
    with open(path, "wb") as file, rasterio.open(file, "w", **profile) as target:
        target.write(data)


def _configuration(info: TileInfo, statistics: dict[str, Any]) -> dict[str, Any]:
    roots = {f"{split}_data_root": f"geotiff/{split}/images" for split in SPLITS}
    masks = {f"{split}_label_data_root": f"geotiff/{split}/masks" for split in SPLITS}
    # The class takes one mean per band, so those of several periods are averaged for it.
    mean, std = np.mean(statistics["mean"], axis=0), np.mean(statistics["std"], axis=0)
    arguments: dict[str, Any] = {
        "batch_size": 8,
        "num_workers": 2,
        "num_classes": 2,
        **roots,
        **masks,
        "dataset_bands": list(info.bands),
        "output_bands": list(info.bands),
        "expand_temporal_dimension": info.periods > 1,
        "means": [round(float(value), 3) for value in mean],
        "stds": [round(float(value), 3) for value in std],
        "drop_last": False,
    }
    return {"class_path": CLASS, "init_args": arguments}
