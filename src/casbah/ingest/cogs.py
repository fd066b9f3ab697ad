"""A scene's rasters, joined from the blocks that ingest has finished."""

from collections.abc import Sequence
from pathlib import Path

from rasterio.windows import Window

from casbah.grid import Grid
from casbah.workplace import blocks_vrt, write_cog


def write_cogs(
    blocks: Sequence[tuple[Path, Window]], grid: Grid, bands: Sequence[str], reflectance: Path, valid: Path
) -> None:
    """Join blocks into two Cloud-Optimized GeoTIFFs; where no block lies there is nodata.

    The last band of a block is its valid count. Raises as `casbah.workplace.write_cog` does.
    """
    pixels = blocks_vrt(blocks, grid, {name: number for number, name in enumerate(bands, start=1)}, "UInt16")
    counts = blocks_vrt(blocks, grid, {"clear observations": len(bands) + 1}, "Byte")
    write_cog(pixels, reflectance, "average")
    write_cog(counts, valid, "nearest")
