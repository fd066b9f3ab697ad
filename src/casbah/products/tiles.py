"""`TileSet`: tiles of image and label in spatially separate splits, memory-mapped for training."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from casbah.errors import InputError
from casbah.products.manifest import Product, read_kind

if TYPE_CHECKING:
    import geopandas

SPLITS = ("train", "val", "test")


class TileInfo(BaseModel):
    """`tileset.json`: what a model must know about its input."""

    model_config = ConfigDict(frozen=True)
    bands: tuple[str, ...]
    periods: int
    level: str
    tile_size: int
    """Rows and columns of a tile, in pixels."""
    stride: int
    resolution: float
    """Metres per pixel."""
    block_size: float
    """Metres: side of a block of the UTM lattice."""
    guard: float
    """Metres kept free between blocks of different splits."""
    seed: int
    building_cover: int
    fold: int | None = None
    """Which fold of `folds` is the test split; None for a hold-out split."""
    folds: int = 1
    refit: bool = False
    """True: the set over all blocks that a registered model is refit on; its test split is empty."""
    aligned: bool = False
    """True: footprints were moved by their estimated shift; `masks_unaligned.npy` then holds them as published."""
    align_period: int | None = None
    """The time step whose image the moved footprints follow; None where the set was not aligned."""
    max_ignore: float = 0.5
    """Share of a tile's pixels that may be ignored, or unobserved in a period, before the tile is dropped."""
    scenes: tuple[str, ...] = ()
    """Names of the scenes that the tiles were cut from, as in the table's `scene`."""
    stac_items: tuple[str, ...] = ()
    """Ids of the STAC items that the scenes were made of, sorted."""
    months: tuple[int | None, ...] = ()
    """The calendar month (1 to 12) in which each period was observed; None where scenes differ in it. Empty in sets of
    before 1.1."""
    test_scene: str | None = None
    """The scene that is the test split (all but a few blocks, perhaps); None where blocks were held out."""
    normalise: str = "none"
    """`scene`: the images of every scene were brought to the same mean and deviation by statistics of its own; `none`:
    they are reflectance as it was."""
    simulated: bool = False
    attribution: tuple[str, ...] = ()
    """One sentence each for imagery and labels, to print on every map."""
    blocks: dict[str, tuple[str, ...]]
    """Split -> ids of its blocks that hold at least one tile."""
    summary: dict[str, Any]
    """`splits`: per split tiles, blocks, pixels, building_share, ignore_share, nodata_share and, where aligned,
    `shifts`: scene -> metres `east` and `north` that footprints were moved, `by` whose estimate (own, train, none) and
    the split's own `estimate`; `dropped`: tiles left out by reason; `labelled_pixels_used`: share of all
    labelled pixels that are in a tile."""


class Split:
    """One split, memory-mapped and read-only.

    `images` (tiles, periods, bands, rows, cols) uint16 reflectance x 10000 with 0 nodata; `masks` (tiles, rows, cols)
    uint8 with 0 background, 1 building, 255 ignore; `cover` (tiles, rows, cols) uint8 percent with 255 unknown;
    `masks_unaligned` and `cover_unaligned` as before alignment (None where the set was not aligned). A file of no tiles
    opens as an empty array.
    """

    def __init__(self, tiles: "TileSet", name: str) -> None:
        directory = tiles.path / name
        self.name, self.path = name, directory
        self.images: NDArray[np.uint16] = np.load(directory / "images.npy", mmap_mode="r", allow_pickle=False)
        self.masks: NDArray[np.uint8] = np.load(directory / "masks.npy", mmap_mode="r", allow_pickle=False)
        self.cover: NDArray[np.uint8] = np.load(directory / "cover.npy", mmap_mode="r", allow_pickle=False)
        self.masks_unaligned: NDArray[np.uint8] | None = None
        self.cover_unaligned: NDArray[np.uint8] | None = None
        if tiles.info.aligned:
            self.masks_unaligned = np.load(directory / "masks_unaligned.npy", mmap_mode="r", allow_pickle=False)
            self.cover_unaligned = np.load(directory / "cover_unaligned.npy", mmap_mode="r", allow_pickle=False)
        table = tiles.table
        self.table = table[table["split"] == name].sort_values("row").reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def blocks(self) -> list[str]:
        """The block id of each tile, in the order of the arrays."""
        return list(self.table["block"])

    def check_images(self) -> None:
        """`InputError` where the images are no uint16 reflectance, naming the first tile with a NaN or infinity."""
        if self.images.dtype == np.uint16:
            return
        bad = next((row for row in range(len(self)) if not np.isfinite(self.images[row]).all()), None)
        found = self.images.dtype if bad is None else f"NaN or infinity in tile {bad} (block {self.blocks[bad]})"
        raise InputError(
            f"{self.path / 'images.npy'} holds {found}; uint16 reflectance x 10000 with 0 for nodata is wanted: make "
            "the tiles again"
        )


class TileSet(Product):
    """Files: `train/`, `val/`, `test/` with `images.npy`, `masks.npy`, `cover.npy` (and `masks_unaligned.npy`,
    `cover_unaligned.npy` where aligned); `tiles.parquet` (one row a tile: geometry, split, row in the split's arrays,
    block, scene, tile_row and tile_col of its first pixel in the scene, building_share, ignore_share, nodata_share);
    `statistics.json`; `tileset.json`; `geotiff/` where asked for, the folders that TerraTorch reads."""

    schema = "tiles"
    required = (
        *(f"{split}/{kind}.npy" for split in SPLITS for kind in ("images", "masks", "cover")),
        "tiles.parquet",
        "statistics.json",
        "tileset.json",
    )

    @cached_property
    def info(self) -> TileInfo:
        return TileInfo.model_validate(json.loads((self.path / "tileset.json").read_text(encoding="utf-8")))

    @cached_property
    def table(self) -> "geopandas.GeoDataFrame":
        import geopandas

        return geopandas.read_parquet(self.path / "tiles.parquet")

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """From train alone: `mean`, `std`, `low` and `high` (1st and 99th percentile) as (periods, bands), in
        reflectance x 10000 over observed pixels; `pixels` (observed, same shape), `building_share` of the labelled
        pixels.

        Where scenes were normalised also `scenes`: name -> `mean`, `std`, `high` and `pixels` from before, and the
        split that they are `of`: train, without training tiles val, and of a scene that is tested as a whole test.
        """
        return json.loads((self.path / "statistics.json").read_text(encoding="utf-8"))

    def split(self, name: str) -> Split:
        """Open one of train, val, test."""
        if name not in SPLITS:
            raise InputError(f"split {name!r} is unknown; choose from {', '.join(SPLITS)}")
        return Split(self, name)


class TileFolds(Product):
    """Spatial k-fold: `fold_0` ... `fold_<K-1>`, whole TileSets in which each block is tested exactly once, and
    `refit`, the TileSet over all blocks with an empty test split; `folds.json` says how many."""

    schema = "tile-folds"
    required = ("folds.json", "fold_0/manifest.json", "refit/manifest.json")

    @cached_property
    def count(self) -> int:
        """K."""
        return int(json.loads((self.path / "folds.json").read_text(encoding="utf-8"))["folds"])

    def fold(self, number: int) -> TileSet:
        """The TileSet whose test split is fold `number`. (Its files were checked when the folds were opened.)"""
        if not 0 <= number < self.count:
            raise InputError(f"{self.path} has folds 0 to {self.count - 1}, not {number}")
        return TileSet.open(self.path / f"fold_{number}", verify=False)

    @property
    def folds(self) -> list[TileSet]:
        """Every fold's TileSet, in order."""
        return [self.fold(number) for number in range(self.count)]

    @property
    def refit(self) -> TileSet:
        """The TileSet over all blocks; what is trained on it has the folds' scores, not its own."""
        return TileSet.open(self.path / "refit", verify=False)


def holds_folds(path: Path) -> bool:
    """Whether a directory of tiles holds one TileSet a fold; `InputError` where it holds no product."""
    return read_kind(path, "TileSet").product == TileFolds.schema
