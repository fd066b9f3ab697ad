"""What every source of footprints gives: geometries as they were found, with who made them and when."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from casbah.errors import InputError
from casbah.grid import Grid

if TYPE_CHECKING:
    import geopandas

MARGIN = 50.0
"""Metres around the labelled part of the scene from which footprints are kept, so that moving them into place (a few
pixels) leaves no empty rim."""

UNKNOWN = "unknown"
OSM_LICENCE = "ODbL-1.0"
OSM_ATTRIBUTION = "(c) OpenStreetMap contributors"


@dataclass(frozen=True)
class Area:
    """Where footprints are wanted: the part of a scene's grid that is labelled, in metres of the grid's CRS.

    A `cell` is a scene that is one of several of a larger area: that it holds no building, or lies outside of what is
    labelled, is nothing to stop at.
    """

    grid: Grid
    labelled: shapely.Geometry | None = None
    cell: bool = False

    @property
    def inside(self) -> shapely.Geometry:
        """The polygon inside of which every footprint counts."""
        whole = shapely.box(*self.grid.bounds)
        return whole if self.labelled is None else shapely.intersection(whole, self.labelled)

    @property
    def around(self) -> shapely.Geometry:
        """The same with the margin."""
        return shapely.buffer(self.inside, MARGIN, join_style="mitre")

    def bounds_in(self, crs: str) -> tuple[float, float, float, float]:
        """West, south, east, north of the area with its margin in another CRS (degrees for EPSG:4326)."""
        try:
            there = Transformer.from_crs(self.grid.crs, crs, always_xy=True)
            west, south, east, north = shapely.bounds(self.around)
            return there.transform_bounds(west, south, east, north, errcheck=True)
        except ProjError:
            raise InputError(
                f"the scene's grid ({self.grid.crs}) can't be put into the CRS {CRS.from_user_input(crs).name!r}; one "
                "that is tied to the Earth is wanted"
            ) from None


@dataclass
class Found:
    """Footprints before repair: a frame with a column `id` (text), whatever tags the source has, and its CRS.

    `sha256` is that of the file that was read, None where a service was asked. `dropped` counts what the source itself
    could not make a polygon of, by reason; `read` counts everything it looked at in the area. `licence`, `attribution`
    and `vintage` are `unknown` where the source does not say.
    """

    source: str
    frame: "geopandas.GeoDataFrame"
    licence: str = UNKNOWN
    attribution: str = UNKNOWN
    vintage: str = UNKNOWN
    simulated: bool = False
    sha256: str | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def extent(bounds: tuple[float, ...]) -> str:
    """Bounds for a sentence: three decimals for degrees, whole metres else."""
    places = 4 if max(abs(value) for value in bounds) <= 360 else 0
    west, south, east, north = (f"{value:.{places}f}" for value in bounds)
    return f"west {west}, south {south}, east {east}, north {north}"
