"""`FootprintSet`: polygons of what a model calls building, drawn from its probabilities."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from casbah.products.manifest import Product
from casbah.products.prediction import Predictor
from casbah.products.scene import Period

if TYPE_CHECKING:
    import geopandas

PARQUET, GEOPACKAGE, FLATGEOBUF, BLOCKS = (
    "footprints.parquet",
    "footprints.gpkg",
    "footprints.fgb",
    "blocks.parquet",
)

MEANING = (
    "A polygon bounds ground where the model's probability that buildings cover at least {cover} % of a pixel of "
    "{resolution:g} m is {threshold:g} or more. Buildings that stand closer than about two pixels merge into one "
    "polygon, and small ones are missed: count polygons as built-up patches, not as buildings."
)
"""What a polygon is, for whoever opens the file without having read anything."""


class FootprintInfo(BaseModel):
    """`footprints.json`."""

    model_config = ConfigDict(frozen=True)
    model: Predictor
    meaning: str
    threshold: float
    building_cover: int
    resolution: float
    """Metres of the pixels that the polygons were drawn from."""
    minimum_area: float
    """Square metres below which no polygon is kept, and a hole is filled where its polygon's area stays within 5 %."""
    simplified: float
    """Metres that an outline may have moved by simplification; 0 for the contour as it is."""
    squared: bool
    """Whether shapes with right angles were given them."""
    block_size: float
    """Metres: side of the blocks of `blocks.parquet`."""
    periods: tuple[Period, ...]
    polygons: int
    area: float
    """Square metres of all polygons together."""
    area_of_contours: float
    """Square metres of the contours that they were drawn from, all holes left out: each polygon has its own's within
    5 %."""
    area_of_pixels: float
    """Square metres of the pixels that the model calls building, also of those in polygons below the minimum. Contours
    cut the corners of what is a few pixels large, so that it has less area than its pixels."""
    attribution: tuple[str, ...] = ()
    simulated: bool = False
    objects: dict[str, Any] = {}
    """Scores against labels, object by object, where labels were given."""


class FootprintSet(Product):
    """Files: `footprints.parquet` (GeoParquet) and `footprints.gpkg` (and `footprints.fgb` where asked for), all with
    the same polygons in the CRS of the prediction's grid; `blocks.parquet`, area and count by block of the UTM lattice;
    `footprints.json`; `item.json`, a STAC item.

    Columns of the polygons: `id` (`<epsg>_<easting>_<northing>` of the middle of the polygon's northernmost pixel, of
    several the westernmost), `probability` (0-1: the mean over the pixels whose centres lie in its contour), `area_m2`,
    `model`, `dates`, `attribution`, `simulated`. Rows run from the north to the south.
    """

    schema = "footprints"
    required = (PARQUET, GEOPACKAGE, BLOCKS, "footprints.json", "item.json")

    @cached_property
    def info(self) -> FootprintInfo:
        return FootprintInfo.model_validate_json((self.path / "footprints.json").read_text(encoding="utf-8"))

    @property
    def parquet_path(self) -> Path:
        return self.path / PARQUET

    def footprints(self) -> "geopandas.GeoDataFrame":
        """The polygons, one a row."""
        import geopandas

        return geopandas.read_parquet(self.parquet_path)

    def blocks(self) -> "geopandas.GeoDataFrame":
        """Block by block: `block`, `polygons` (whose first pixel lies in it), `area_m2` (of what lies in it),
        `observed_m2`, `built` (the share of the one in the other), and the block's square."""
        import geopandas

        return geopandas.read_parquet(self.path / BLOCKS)
