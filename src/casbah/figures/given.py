"""What a picture is to be made of: products, opened and held against each other, and read no finer than it shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from casbah.bands import band
from casbah.blocks import place
from casbah.errors import InputError
from casbah.figures.backdrop import Raster
from casbah.figures.charts import BlockOutline
from casbah.figures.colour import TRUE_COLOUR, stretch_limits, stretched
from casbah.grid import Grid
from casbah.products.comparison import Comparison
from casbah.products.evaluation import Evaluation
from casbah.products.footprints import FootprintSet
from casbah.products.labels import IGNORE, LabelSet
from casbah.products.manifest import Product
from casbah.products.prediction import Prediction
from casbah.products.scene import Period, Scene
from casbah.products.tiles import TileSet, holds_folds

if TYPE_CHECKING:
    import geopandas

KINDS: dict[str, type[Product]] = {
    "scene": Scene,
    "labels": LabelSet,
    "tiles": TileSet,
    "prediction": Prediction,
    "footprints": FootprintSet,
    "evaluation": Evaluation,
    "comparison": Comparison,
}

STRIP = 512
"""Rows read at once at full resolution: a row of a COG's tiles, of which none is decoded twice."""


@dataclass(frozen=True)
class Given:
    """The products that were named; whatever has pixels lies on one grid, but a raster in the place of a scene."""

    scene: Scene | Raster | None = None
    labels: LabelSet | None = None
    tiles: TileSet | None = None
    prediction: Prediction | None = None
    footprints: FootprintSet | None = None
    evaluation: Evaluation | None = None
    comparison: Comparison | None = None
    period: int = 0
    bands: tuple[str, ...] = TRUE_COLOUR

    @classmethod
    def open(cls, paths: dict[str, Path], period: int, bands: Sequence[str]) -> "Given":
        """Open what was named; `InputError` where one is no such product, or where they do not fit together."""
        if (tiles := paths.get("tiles")) is not None and holds_folds(tiles):
            raise InputError(f"{tiles} holds one tile set a fold: name one of them, as {tiles / 'fold_0'}")
        opened: dict[str, Any] = {
            name: Raster.open(path) if name == "scene" and path.is_file() else KINDS[name].open(path)
            for name, path in paths.items()
        }
        given = cls(**opened, period=period, bands=tuple(bands))
        given._check()
        return given

    def _check(self) -> None:
        scene = self.scene if isinstance(self.scene, Scene) else None
        whole = [one for one in (scene, self.prediction, self.labels) if one is not None]
        for other in whole[1:]:
            if other.grid != whole[0].grid:
                made = {"labels": "casbah label", "prediction": "casbah predict"}[other.schema]
                again = f"make the {other.schema} for this scene with `{made} --scene {whole[0].path}`"
                end = again if scene is not None else "draw products of one scene together"
                raise InputError(f"{other.path} lies on another grid than {whole[0].path}: {end}")
        if self.scene is not None:
            self._check_bands(self.scene)
        if self.prediction is not None and self.footprints is not None:
            self._same_model("footprints", self.footprints.info.model.digest, self.footprints.path)
        if (
            self.prediction is not None
            and self.evaluation is not None
            and not self.evaluation.metrics.extra.get("folds")
        ):
            self._same_model("evaluation", self.evaluation.metrics.model, self.evaluation.path)

    def _same_model(self, what: str, digest: str, path: Path) -> None:
        assert self.prediction is not None
        if digest != (own := self.prediction.info.model.digest):
            raise InputError(
                f"the {what} {path} is of model {digest[:12]}, the prediction {self.prediction.path} of {own[:12]}: "
                "name two of the same model"
            )

    def _check_bands(self, scene: Scene | Raster) -> None:
        if not 0 <= self.period < scene.periods:
            raise InputError(f"{scene.path} has periods 0 to {scene.periods - 1}, not {self.period}")
        names = [band(name).name for name in self.bands]
        missing = [name for name in names if name not in scene.bands]
        if len(names) != 3 or missing:
            found = f"lacks {', '.join(missing)}" if missing else f"cannot be drawn from {len(names)} bands"
            raise InputError(
                f"{scene.path} {found}; give three of its bands ({', '.join(scene.bands)}) as red,green,blue"
            )

    @cached_property
    def grid(self) -> Grid:
        """The ground that a map of these shows."""
        if isinstance(self.scene, Scene):
            return self.scene.grid
        for one in (self.prediction, self.labels, None if self.footprints else self.scene):
            if one is not None:
                return one.grid
        assert self.footprints is not None
        polygons, info = self.footprints.footprints(), self.footprints.info
        if polygons.empty:
            raise InputError(f"{self.footprints.path} holds no polygon: name a scene too, to see where none was found")
        epsg = polygons.crs.to_epsg()
        west, south, east, north = polygons.total_bounds
        room = 0.03 * max(east - west, north - south)
        return Grid.covering(f"EPSG:{epsg}", (west - room, south - room, east + room, north + room), info.resolution)

    @property
    def simulated(self) -> bool:
        """Whether anything shown is simulated."""
        infos = [one.info for one in (self.scene, self.labels, self.tiles, self.prediction, self.footprints) if one]
        facts = [self.evaluation.metrics] if self.evaluation else []
        return any(one.simulated for one in (*infos, *facts, *([self.comparison.facts] if self.comparison else [])))

    @property
    def attribution(self) -> list[str]:
        """Every sentence that a picture of these must print, once."""
        said: list[str] = [self.scene.info.attribution] if self.scene else []
        said += [self.labels.info.credit] if self.labels else []
        if "unknown" in said:
            assert self.labels is not None
            said = [line for line in said if line != "unknown"] + [
                f"labels: {self.labels.info.source}, licence unknown"
            ]
        for part in (self.tiles, self.prediction, self.footprints):
            said += part.info.attribution if part else ()
        said += self.evaluation.metrics.attribution if self.evaluation else ()
        said += self.comparison.facts.attribution if self.comparison else ()
        return list(dict.fromkeys(line for line in said if line not in ("", "unknown")))

    @property
    def seen(self) -> dict[str, tuple[str, ...]]:
        """`train` and `val`: the blocks that the model behind prediction or footprints learned from."""
        made = self.prediction or self.footprints
        return dict(made.info.model.blocks) if made else {}


@dataclass(frozen=True)
class View:
    """A grid read every `step` pixels, so that memory is bounded; all arrays that it gives have one shape."""

    grid: Grid
    step: int

    @classmethod
    def of(cls, grid: Grid, longest: int) -> "View":
        """The finest view of a grid whose longer side has at most `longest` pixels."""
        return cls(grid, max(1, -(-max(grid.shape) // longest)))

    @property
    def shape(self) -> tuple[int, int]:
        return -(-self.grid.rows // self.step), -(-self.grid.cols // self.step)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """For `imshow`: everything is drawn in pixels of the grid, (0, 0) its upper left corner."""
        return 0.0, float(self.grid.cols), float(self.grid.rows), 0.0

    def averaged(self, path: Path, indexes: Sequence[int]) -> NDArray[Any]:
        """Means of bands of a raster on this grid, (bands, rows, cols), through its overviews where it has them."""
        with rasterio.open(path) as dataset:
            return dataset.read(list(indexes), out_shape=(len(indexes), *self.shape), resampling=Resampling.average)

    def picked(self, path: Path) -> NDArray[Any]:
        """The first band of a raster on this grid, (rows, cols): of each pixel shown the one in its middle, as it is.

        Two rasters picked are of the same pixels. Overviews would not do: each raster has its own, or none, and GDAL
        reads them for the nearest pixel too.
        """
        rows, cols = (
            (2 * np.arange(shown) + 1) * length // (2 * shown)
            for shown, length in zip(self.shape, self.grid.shape, strict=True)
        )
        found = []
        with rasterio.open(path) as dataset:
            for top in range(0, self.grid.rows, STRIP):
                strip = Window(0, top, self.grid.cols, min(STRIP, self.grid.rows - top))
                inside = rows[(rows >= top) & (rows < top + strip.height)] - top
                found.append(dataset.read(1, window=strip)[np.ix_(inside, cols)])
        return np.concatenate(found)

    def picture(self, given: Given) -> NDArray[np.uint8]:
        """The scene in the bands asked for as (rows, cols, 3), stretched."""
        assert given.scene is not None
        names = [band(name).name for name in given.bands]
        if isinstance(given.scene, Raster):
            pixels = given.scene.on(self.grid, self.shape, given.period, names)
        else:
            indexes = [given.scene.bands.index(name) + 1 for name in names]
            pixels = self.averaged(given.scene.reflectance_path(given.period), indexes)
        return stretched(pixels, stretch_limits(pixels.reshape(3, -1)))

    def cover(self, labels: LabelSet) -> NDArray[np.uint8]:
        """Percent of each pixel under buildings, 255 unknown."""
        return self.averaged(labels.coverage_path, [1])[0]

    def truth(self, labels: LabelSet) -> NDArray[np.uint8]:
        """0 background, 1 building, 255 unknown, of the pixels picked."""
        return self.picked(labels.mask_path)

    def called(self, prediction: Prediction) -> NDArray[np.uint8]:
        """0 background, 1 building, 255 not observed, of the pixels picked."""
        return self.picked(prediction.mask_path)

    def outcomes(self, prediction: Prediction, labels: LabelSet) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        """What is called building, and the truth, unknown too where nothing was observed."""
        called, truth = self.called(prediction), self.truth(labels)
        truth[called == IGNORE] = IGNORE
        return called == 1, truth

    def probability(self, prediction: Prediction) -> NDArray[np.float32]:
        """P(building) of the pixels picked, NaN where nothing was observed."""
        return prediction.info.probability_of(self.picked(prediction.probability_path))

    def unlike(self, prediction: Prediction) -> NDArray[np.bool_]:
        """Which of the pixels picked lie in cells that look unlike the training data."""
        found: NDArray[np.bool_] = self.picked(prediction.path / "unlike.tif") == 1
        return found

    def inside(self, outlines: Sequence[BlockOutline]) -> NDArray[np.bool_]:
        """Which pixels of the view lie in any of the blocks."""
        found = np.zeros(self.shape, bool)
        for b in outlines:
            left, top = (max(0, round(edge / self.step)) for edge in (b.left, b.top))
            found[
                top : max(0, round((b.top + b.rows) / self.step)), left : max(0, round((b.left + b.cols) / self.step))
            ] = True
        return found


def lattice_outlines(blocks: Mapping[str, Sequence[str]], grid: Grid) -> list[BlockOutline]:
    """Blocks by split (ids of the UTM lattice) as outlines in pixels of a grid; those that lie off it are left out.

    Of a block of another zone the box around it is taken.
    """
    found = []
    for split, names in blocks.items():
        for name in names:
            epsg, bounds = place(name)
            if f"EPSG:{epsg}" != grid.crs:
                bounds = _moved(f"EPSG:{epsg}", grid.crs, bounds)
            found += _outline(name, split, bounds, grid)
    return found


def tile_outlines(tiles: TileSet, grid: Grid) -> list[BlockOutline]:
    """The tiles of each block together as an outline in pixels of a grid; `InputError` where none lies on it."""
    table = tiles.table.to_crs(grid.crs)
    bounds = table.geometry.bounds.assign(block=table["block"], split=table["split"])
    ends = bounds.groupby(["block", "split"]).agg({"minx": "min", "miny": "min", "maxx": "max", "maxy": "max"})
    found = []
    for (block, split), row in ends.iterrows():
        found += _outline(str(block), str(split), (row.minx, row.miny, row.maxx, row.maxy), grid)
    if not found:
        raise InputError("none of the tiles lies in the scene: name the scene that they were cut from")
    return found


def polygons_on(given: Given, grid: Grid) -> "geopandas.GeoDataFrame":
    """The footprints that touch a grid, in its CRS; `InputError` where there are some and none does."""
    from shapely.geometry import box

    assert given.footprints is not None
    found = given.footprints.footprints()
    if found.empty:
        return found
    found = found.to_crs(grid.crs)
    inside = found[found.intersects(box(*grid.bounds))]
    if inside.empty:
        raise InputError(
            f"none of the footprints of {given.footprints.path} lies in the area drawn: name its own scene"
        )
    return inside.reset_index(drop=True)


def dates_of(periods: Sequence[Period]) -> str:
    """The span of some periods: `2018-06-12`, `2018-04-01 to 2018-09-30`, or nothing where there is none."""
    if not periods:
        return ""
    start, end = min(one.start for one in periods), max(one.end for one in periods)
    return start if start == end else f"{start} to {end}"


def _outline(name: str, split: str, bounds: Sequence[float], grid: Grid) -> list[BlockOutline]:
    west, south, east, north = bounds
    left, top = (west - grid.west) / grid.resolution, (grid.north - north) / grid.resolution
    cols, rows = (east - west) / grid.resolution, (north - south) / grid.resolution
    off = left >= grid.cols or top >= grid.rows or left + cols <= 0 or top + rows <= 0
    return [] if off else [BlockOutline(name, left, top, cols, rows, split)]


def _moved(source: str, target: str, bounds: Sequence[float]) -> tuple[float, float, float, float]:
    from rasterio.warp import transform_bounds

    return transform_bounds(source, target, *bounds)
