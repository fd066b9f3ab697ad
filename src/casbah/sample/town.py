"""`make`: the whole simulated town as one product, from the plan to the static catalogue."""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from casbah.bands import BANDS
from casbah.errors import InputError
from casbah.grid import Grid
from casbah.products.manifest import MANIFEST, Product, check_target
from casbah.progress import task
from casbah.sample import catalogue, footprints, sensor, spectra
from casbah.sample.catalogue import COLLECTION, TILES, Look, Tile
from casbah.sample.plan import Footprints, plan
from casbah.sample.sky import ACQUISITIONS, Acquisition, Sky, haze_of, sky, sun
from casbah.sample.truth import FINE, MARGIN, Truth, build
from casbah.sample.writing import writing

CRS = "EPSG:32631"
"""UTM zone 31 north: Algiers'."""

PLACE = (3.107, 36.738)
"""Longitude and latitude of the town's middle: the bay of Algiers, on the eastern edge of tile 31SDA."""

SEAM = TILES[0].east
"""Metres east where tile 31SDA ends and only 31SEA goes on."""

NORTH = 4_067_760.0
"""Metres north of the upper edge of the imagery (a multiple of 60 m from the tiles' corner)."""

SIZE = (6.0, 5.04)
"""Kilometres east and north of the default town."""

SMALLEST, LARGEST = 1.2, 12.0
"""Kilometres: below, no room is left for a coast and districts; above, the truth raster outgrows a small machine."""

FARTHEST = 60.0
"""Kilometres: farther south the town would leave its MGRS tiles."""

RECIPE = ("spectra", "surfaces", "typology", "plan", "truth", "sky", "sensor", "catalogue", "footprints", "town")
"""The modules of this package that decide what a town looks like; a town is reused only while none has changed."""


@dataclass(frozen=True)
class Character:
    """What sets one simulated town apart from another, beside its seed, so that a model can be tried on a town unlike
    those that it learned from.

    `south` moves it by so many kilometres, so that two towns share no ground. `gain` multiplies and `haze` adds to what
    every pass sees (see `casbah.sample.sky.Acquisition`): another air or another correction of it. `roofs` multiplies
    the reflectance of every roof: other ways to build.
    """

    south: float = 0.0
    gain: float = 1.0
    haze: float = 0.0
    roofs: float = 1.0

    def check(self) -> None:
        """`InputError` for a figure out of range."""
        ranges = {"south": (0.0, FARTHEST), "gain": (0.2, 2.0), "haze": (-0.02, 0.2), "roofs": (0.2, 2.0)}
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"{name} of a sample town is {value:g}; {least:g} to {most:g} is wanted")

    def seen(self, acquisition: Acquisition) -> Acquisition:
        """A pass as this town's air shows it."""
        return replace(acquisition, gain=acquisition.gain * self.gain, haze=acquisition.haze + self.haze)


PLAIN = Character()


class Town(Product):
    """A finished sample: `catalog.json` and its COGs, the footprints, and the two areas."""

    schema = "sample"
    required = (
        "catalog.json",
        f"{COLLECTION}/collection.json",
        footprints.GEOPACKAGE,
        footprints.PARQUET,
        footprints.PBF,
        "aoi.geojson",
        "labelled_area.geojson",
    )

    @property
    def catalog(self) -> Path:
        """The static STAC catalogue."""
        return self.path / "catalog.json"

    @property
    def footprints(self) -> Path:
        """Every building (GeoPackage, EPSG:4326, OSM's tags as columns)."""
        return self.path / footprints.GEOPACKAGE

    @property
    def pbf(self) -> Path:
        """The same buildings as an OSM extract."""
        return self.path / footprints.PBF

    @property
    def aoi(self) -> Path:
        """The area to ingest: just inside the imagery."""
        return self.path / "aoi.geojson"

    @property
    def labelled_area(self) -> Path:
        """Where every building is mapped: the land."""
        return self.path / "labelled_area.geojson"


def make(
    directory: str | Path, *, size: tuple[float, float] = SIZE, seed: int = 0, character: Character = PLAIN
) -> Town:
    """Write the simulated town of `size` (kilometres east, north) into `directory`, or reuse it where it is there.

    The same size, seed and character give the same pixels and footprints; another town at `directory` is replaced once
    the new one is finished. Everything in it says that it is simulated. Raises `InputError` for a size, a seed or a
    character out of range or where something else lies at `directory`, `WorldError` where the disk is full.
    """
    path = Path(directory)
    if seed < 0:
        raise InputError(f"the seed of a sample town is {seed}; 0 or a larger whole number is wanted")
    for side in size:
        if not SMALLEST <= side <= LARGEST:
            raise InputError(f"a sample town of {side:g} km is out of range; {SMALLEST:g} to {LARGEST:g} km a side")
    character.check()
    grid = grid_of(size, character.south)
    parameters = {"size_km": [grid.cols / 100, grid.rows / 100], "seed": seed, "recipe": _recipe()}
    parameters |= {"character": asdict(character)}
    there = _same(path, parameters)
    if there:
        return there
    check_target(path, Town.schema)
    truth, land, buildings = survey(grid, seed)
    truth.surfaces.brighten(spectra.ROOFS, character.roofs)
    with Town.write(path, parameters=parameters) as draft, writing(path):
        folder = draft.directory
        footprints.write(folder, footprints.frame(buildings, CRS))
        box = shapely.box(*grid.bounds)
        footprints.write_area(folder / "aoi.geojson", box.buffer(-60, join_style="mitre"), CRS, "SIMULATED town")
        labelled = shapely.intersection(land, box)
        footprints.write_area(folder / "labelled_area.geojson", labelled, CRS, "SIMULATED town: mapped land")
        items = []
        with task("sample town", len(ACQUISITIONS)) as progress:
            for acquisition in ACQUISITIONS:
                for look in looks(truth, grid, character.seen(acquisition), seed):
                    items.append(catalogue.write_look(folder / COLLECTION, look))
                progress.advance()
        catalogue.write_catalogue(folder, items)
    return Town.open(path, verify=False)


def grid_of(size: tuple[float, float], south: float = 0.0) -> Grid:
    """The 10 m grid of the imagery: multiples of 60 m, with the seam of the two tiles 3/5 of the way east, `south`
    kilometres south of the default town."""
    cols, rows = (round(side * 1000 / 60) * 6 for side in size)
    west = SEAM - round(cols * 0.6 / 6) * 60
    return Grid(CRS, west, NORTH - round(south * 1000 / 60) * 60, rows, cols)


def survey(grid: Grid, seed: int) -> tuple[Truth, BaseGeometry, Footprints]:
    """The town before anyone looks at it: the fine truth, its land, and the buildings that touch the imagery."""
    factor, margin = round(grid.resolution / FINE), round(MARGIN / FINE)
    fine = Grid(
        grid.crs, grid.west - MARGIN, grid.north + MARGIN, grid.rows * factor + 2 * margin,
        grid.cols * factor + 2 * margin, FINE,
    )  # fmt: skip
    drawing = plan(grid.bounds, MARGIN, seed)
    return build(drawing, fine, seed), drawing.land, drawing.footprints()


def looks(truth: Truth, grid: Grid, acquisition: Acquisition, seed: int) -> list[Look]:
    """One pass as the two tiles deliver it: both from the same data take, so equal where they overlap."""
    overhead = sky(acquisition, grid.shape, sun(acquisition.time, *PLACE), seed)
    bands = record(truth, acquisition, overhead, seed)
    scl = classify(truth, acquisition, overhead)
    return [_look(tile, acquisition, grid, bands, scl) for tile in TILES]


def record(truth: Truth, acquisition: Acquisition, overhead: Sky, seed: int) -> dict[str, NDArray[np.float32]]:
    """Reflectance 0-1 of every band at its own resolution, through the air and the clouds, with noise."""
    rng = np.random.default_rng([seed, 17, acquisition.time.timetuple().tm_yday])
    table = truth.surfaces.reflectance(acquisition.time)
    shade = truth.shade(acquisition.time, PLACE)
    haze = haze_of(acquisition)
    cloud_colour = spectra.TABLE[spectra.index("cloud")]
    recorded = {}
    for position, band in enumerate(BANDS):
        fine = truth.reflectance(position, table, shade)
        ground = sensor.observe(fine, band.resolution, shift=acquisition.shift) * acquisition.gain + haze[position]
        factor = band.resolution // 10
        cloud, cirrus, shadow = (
            sensor.area_average(layer, factor) for layer in (overhead.cloud, overhead.cirrus, overhead.shadow)
        )
        lit = ground * (1 - shadow)
        veil = 1 - (1 - cloud) * (1 - cirrus)
        recorded[band.name] = sensor.add_noise(lit * (1 - veil) + cloud_colour[position] * veil, rng)
    return recorded


def classify(truth: Truth, acquisition: Acquisition, overhead: Sky) -> NDArray[np.uint8]:
    """The scene classification at 20 m: every pixel that a cloud, its fringe or its shadow touches is marked."""
    surfaces = truth.surfaces
    water = sensor.observe(surfaces.water().astype(np.float32)[truth.rows], 20, shift=acquisition.shift, blur=False)
    plants = surfaces.plants(acquisition.time).astype(np.float32)
    green = sensor.observe(plants[truth.rows], 20, shift=acquisition.shift, blur=False)
    scl = np.where(green > 0.45, catalogue.SCL_VEGETATION, catalogue.SCL_BARE).astype(np.uint8)
    scl[water > 0.5] = catalogue.SCL_WATER
    cloud, cirrus, shadow = (_most(layer) for layer in (overhead.cloud, overhead.cirrus, overhead.shadow))
    scl[shadow > 0] = catalogue.SCL_SHADOW
    scl[cirrus > 0] = catalogue.SCL_CIRRUS
    scl[cloud > 0] = catalogue.SCL_CLOUD_MEDIUM
    scl[cloud > 0.6] = catalogue.SCL_CLOUD_HIGH
    return scl


def _most(layer: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest of each 2 x 2 pixels: 10 m -> 20 m."""
    rows, cols = layer.shape
    return layer.reshape(rows // 2, 2, cols // 2, 2).max(axis=(1, 3))


def _look(
    tile: Tile, acquisition: Acquisition, grid: Grid, bands: dict[str, NDArray[np.float32]], scl: NDArray[np.uint8]
) -> Look:
    """The part of a pass that lies on a tile, cut where the swath ends, as digital numbers with the tile's offset."""
    cols = min(grid.cols, round((tile.east - grid.west) / grid.resolution))
    part = grid.part(0, 0, grid.rows, cols)
    seen = _swath(part) if acquisition.swath_edge == tile.name else shapely.box(*part.bounds)
    offset = acquisition.offset(tile.name)
    numbers = {}
    for band in BANDS:
        data = sensor.digital_numbers(bands[band.name][:, : cols * 10 // band.resolution])
        data[~_inside(seen, part, band.resolution)] = 0
        numbers[band.name] = sensor.with_offset(data, offset)
    marked = scl[:, : cols // 2].copy()
    marked[~_inside(seen, part, 20)] = catalogue.SCL_NODATA
    return Look(acquisition, tile, part, numbers, marked, seen)


def _swath(grid: Grid) -> BaseGeometry:
    """What lies east of the edge of a descending swath: a line that leans west on its way south."""
    west, south, east, north = grid.bounds
    top = west + 0.42 * (east - west)
    return shapely.Polygon([(top, north), (east, north), (east, south), (top - 0.2 * (north - south), south)])


def _inside(shape: BaseGeometry, grid: Grid, resolution: int) -> NDArray[np.bool_]:
    """Pixels of `resolution` metres whose centre lies in `shape`, (rows, cols)."""
    step = resolution // 10
    rows, cols = grid.rows // step, grid.cols // step
    x = grid.west + (np.arange(cols) + 0.5) * resolution
    y = grid.north - (np.arange(rows) + 0.5) * resolution
    shapely.prepare(shape)
    return shapely.contains_xy(shape, *np.meshgrid(x, y))


def _recipe() -> str:
    """A digest of the source that makes towns."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / f"{name}.py").read_bytes() for name in RECIPE)).hexdigest()[:16]


def _same(path: Path, parameters: dict[str, object]) -> Town | None:
    """The finished, undamaged town at `path` if it was made with these parameters."""
    if not (path / MANIFEST).is_file():
        return None
    try:
        town = Town.open(path)
    except InputError:
        return None
    return town if town.manifest.parameters == parameters else None
