"""The scenes and labels that one TileSet is cut from, checked against each other at the door."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from casbah.bands import NODATA
from casbah.errors import InputError
from casbah.grid import Grid
from casbah.products.labels import IGNORE, LabelSet
from casbah.products.scene import Scene

READ_CACHE = 256 * 2**20
"""Bytes of decoded raster that GDAL keeps, so that neighbouring blocks do not decode the same internal tile again."""


@dataclass(frozen=True)
class Source:
    """A scene with its labels; `name` is the scene's item id (its directory's name where ids repeat)."""

    name: str
    scene: Scene
    labels: LabelSet

    @property
    def grid(self) -> Grid:
        return self.scene.grid


def open_sources(scenes: Sequence[str | Path], labels: Sequence[str | Path]) -> list[Source]:
    """Open scenes and labels, paired in order; `InputError` where a pair, or two scenes, can't be tiled together."""
    if not scenes:
        raise InputError("no scene was given; name at least one --scene with its --labels")
    if len(scenes) != len(labels):
        raise InputError(
            f"{len(scenes)} scenes and {len(labels)} label sets were given; give one --labels for each --scene"
        )
    opened = [Scene.open(path) for path in scenes]
    names = _names(opened)
    sources = [
        Source(name, scene, LabelSet.open(path)) for name, scene, path in zip(names, opened, labels, strict=True)
    ]
    for source in sources:
        _check_pair(source)
        _check_alike(sources[0], source)
    return sources


def _names(scenes: Sequence[Scene]) -> list[str]:
    for names in ([str(s.item.get("id", s.path.name)) for s in scenes], [s.path.name for s in scenes]):
        if len(set(names)) == len(names):
            return names
    raise InputError(
        f"two scenes have the same item id and directory name ({', '.join(names)}); give each scene once, in a "
        "directory of its own name"
    )


def _check_pair(source: Source) -> None:
    """`InputError` unless the labels are the scene's own, on its grid, and its pixels are what a model learns from.

    What a scene did not observe is unknown in its labels, and how far the footprints lie off is measured on its image,
    so labels of another scene do not do, not even on the same grid.
    """
    ours, theirs = source.grid, source.labels.grid
    if ours != theirs:
        raise InputError(
            f"the labels {source.labels.path} lie on another grid than the scene {source.scene.path}: "
            f"{_words(theirs)} against {_words(ours)}; make them with `casbah label --scene {source.scene.path}`"
        )
    if source.labels.manifest.inputs.get("scene", source.scene.digest) != source.scene.digest:
        raise InputError(
            f"the labels {source.labels.path} were made for another scene than {source.scene.path}, on the same grid: "
            f"make this one's with `casbah label --scene {source.scene.path}`"
        )
    for period in range(source.scene.periods):
        with rasterio.open(source.scene.reflectance_path(period)) as dataset:
            kinds = set(dataset.dtypes)
            if kinds != {"uint16"}:
                raise InputError(
                    f"{dataset.name} holds {', '.join(sorted(kinds))}; uint16 reflectance x 10000 is wanted (a float "
                    "can be NaN, which no model learns from): make the scene with `casbah ingest`"
                )


def _words(grid: Grid) -> str:
    size = f"{grid.rows} x {grid.cols} px of {grid.resolution:g} m"
    return f"{grid.crs}, corner ({grid.west:.10g}, {grid.north:.10g}), {size}"


def _check_alike(first: Source, other: Source) -> None:
    compared: tuple[tuple[str, Any, Any], ...] = (
        ("level", first.scene.info.level, other.scene.info.level),
        ("bands", " ".join(first.scene.bands), " ".join(other.scene.bands)),
        ("number of periods", first.scene.periods, other.scene.periods),
        ("resolution (m)", first.grid.resolution, other.grid.resolution),
        (
            "percent of cover that makes a building",
            first.labels.info.building_cover,
            other.labels.info.building_cover,
        ),
    )
    for what, ours, theirs in compared:
        if ours != theirs:
            raise InputError(
                f"the scenes {first.name} and {other.name} can't share a TileSet: they differ in {what} ({ours} and "
                f"{theirs}); make one of them again, or tile them apart"
            )


def check_apart(sources: Sequence[Source], guard: float) -> None:
    """`InputError` where scenes of different UTM zones come closer than `guard` metres to each other.

    Two zones have two lattices, so the same ground could be train in one and test in the other.
    """
    for i, first in enumerate(sources):
        for other in sources[i + 1 :]:
            if first.grid.crs == other.grid.crs:
                continue
            west, south, right, top = transform_bounds(other.grid.crs, first.grid.crs, *other.grid.bounds)
            ours = shapely.box(*first.grid.bounds)
            if ours.distance(shapely.box(west, south, right, top)) <= guard:
                raise InputError(
                    f"the scenes {first.name} ({first.grid.crs}) and {other.name} ({other.grid.crs}) meet on the "
                    "ground but lie in different UTM zones, so a place could be in two splits; ingest them on one grid"
                )


class Reader:
    """Reads parts of a source; what lies outside of the scene is nodata and ignored."""

    def __init__(self, source: Source, datasets: dict[str, list[Any]]) -> None:
        self.source = source
        self._datasets = datasets

    def images(self, part: Grid) -> NDArray[np.uint16]:
        """Reflectance x 10000, (periods, bands, rows, cols)."""
        return np.stack([self._read(dataset, part, NODATA) for dataset in self._datasets["images"]])

    def valid(self, part: Grid) -> NDArray[np.uint8]:
        """Clear observations, (periods, rows, cols)."""
        return np.stack([self._read(dataset, part, 0)[0] for dataset in self._datasets["valid"]])

    def mask(self, part: Grid) -> NDArray[np.uint8]:
        """0 background, 1 building, 255 ignore, (rows, cols)."""
        return self._read(self._datasets["mask"][0], part, IGNORE)[0]

    def cover(self, part: Grid) -> NDArray[np.uint8]:
        """Percent under buildings, 255 unknown, (rows, cols)."""
        return self._read(self._datasets["cover"][0], part, IGNORE)[0]

    def _read(self, dataset: Any, part: Grid, fill: int) -> NDArray[Any]:
        grid = self.source.grid
        top, left = offset(part, grid)
        row, col = max(top, 0), max(left, 0)
        rows, cols = min(top + part.rows, grid.rows) - row, min(left + part.cols, grid.cols) - col
        data = np.full((dataset.count, part.rows, part.cols), fill, dataset.dtypes[0])
        if rows > 0 and cols > 0:
            inside = dataset.read(window=Window(col, row, cols, rows))
            data[:, row - top : row - top + rows, col - left : col - left + cols] = inside
        return data


def offset(part: Grid, grid: Grid) -> tuple[int, int]:
    """(row, col) of the first pixel of `part` on `grid`."""
    return round((grid.north - part.north) / grid.resolution), round((part.west - grid.west) / grid.resolution)


@contextmanager
def reading(source: Source) -> Iterator[Reader]:
    """Open the rasters of a source for as long as the block lasts."""
    scene, labels = source.scene, source.labels
    paths = {
        "images": [scene.reflectance_path(t) for t in range(scene.periods)],
        "valid": [scene.valid_path(t) for t in range(scene.periods)],
        "mask": [labels.mask_path],
        "cover": [labels.coverage_path],
    }
    with rasterio.Env(GDAL_CACHEMAX=READ_CACHE):
        datasets = {kind: [rasterio.open(path) for path in files] for kind, files in paths.items()}
        try:
            yield Reader(source, datasets)
        finally:
            for dataset in (d for kind in datasets.values() for d in kind):
                dataset.close()
