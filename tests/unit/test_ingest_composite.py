"""What a composite's pixels are: medians of clear observations, offsets taken off, nodata never mixed in."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
from affine import Affine
from catalogues import AREA, TILE, make_item, ramp
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from casbah.bands import band
from casbah.grid import Grid
from casbah.ingest.composite import STACK_BYTES, Step, block_edge, clear_of, composite, median, take_off
from casbah.ingest.reading import Files
from casbah.ingest.selection import source_of
from casbah.patience import Patience
from casbah.tile.lattice import GUARD

FOUR = ("B02", "B04", "B8A", "B12")


def load(directory: Path, name: str, **made: object) -> dict:
    import json

    path = directory / make_item(directory, name, "2023-06-01", **made)  # type: ignore[arg-type]
    item = json.loads(path.read_text())
    for asset in item["assets"].values():
        asset["href"] = str(path.parent / asset["href"])
    return item


def in_degrees(item: dict) -> None:
    """Bring every file of an item to a lattice of degrees, pixels of a little less than its own."""
    for asset in item["assets"].values():
        with rasterio.open(asset["href"]) as metres:
            west, south, east, north = transform_bounds(metres.crs, "EPSG:4326", *metres.bounds)
            step = metres.transform.a * 0.8e-5
            grid = {"transform": Affine(step, 0, west, 0, -step, north), "crs": "EPSG:4326"}
            size = {"width": round((east - west) / step), "height": round((north - south) / step)}
            with WarpedVRT(metres, **grid, **size) as degrees:
                asset["href"] = asset["href"].replace(".tif", "_degrees.tif")
                rasterio.shutil.copy(degrees, asset["href"], driver="GTiff")


def composed(
    looks: list[list[tuple[dict, int]]], bands: tuple[str, ...] = FOUR, grid: Grid = AREA
) -> tuple[np.ndarray, np.ndarray]:
    step = Step(tuple(tuple(source_of(item, bands, offset) for item, offset in look) for look in looks), bands)
    with Files(Patience()) as files, ThreadPoolExecutor(2) as pool:
        return composite(step, grid, files, pool)


def expected(grid: Grid = AREA, base: float = 1500.0) -> np.ndarray:
    rows, cols = round((TILE.north - grid.north) / 10), round((grid.west - TILE.west) / 10)
    return ramp(TILE, base)[rows : rows + grid.rows, cols : cols + grid.cols]


@pytest.mark.parametrize("looks", [1, 2, 3, 5, 6, 9])
def test_the_median_is_numpys_over_what_is_there(looks: int) -> None:
    rng = np.random.default_rng(looks)
    stack = rng.integers(0, 4, (looks, 40, 50)).astype("uint16") * rng.integers(1, 20_000, (looks, 40, 50)).astype(
        "uint16"
    )
    seen = np.where(stack > 0, stack.astype(float), np.nan)
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning) if np.isnan(seen).all(0).any() else _nothing():
        wanted = np.nan_to_num(np.floor(np.nanmedian(seen, axis=0) + 0.5))
    values, count = median(stack.copy())
    assert np.array_equal(count, (stack > 0).sum(axis=0))
    assert np.array_equal(values, wanted.astype("uint16"))


def test_the_median_survives_the_largest_numbers() -> None:
    values, _ = median(np.full((2, 1, 1), 65_535, "uint16"))
    assert values[0, 0] == 65_535


def test_the_offset_is_taken_off_clipped_at_one_and_nodata_stays_nodata() -> None:
    values = np.array([[0, 1, 999, 1000, 1001, 1500, 65_535]], "uint16")
    take_off(values, 1000)
    assert values.tolist() == [[0, 1, 1, 1, 1, 500, 64_535]]


def test_every_band_lands_on_the_ten_metre_grid_where_the_ground_is(tmp_path: Path) -> None:
    """The ground is linear, so bands of 10, 20 and 60 m must all give it back at each pixel's own place."""
    bands = ("B01", "B04", "B12")
    values, valid = composed([[(load(tmp_path, "a", bands=bands), 0)]], bands)
    assert (valid == 1).all()
    assert np.abs(values - expected()).max() <= 1.01


def test_mixed_baselines_give_the_same_reflectance(tmp_path: Path) -> None:
    old, new = load(tmp_path, "old"), load(tmp_path, "new", inside=1000)
    values, valid = composed([[(old, 0)], [(new, 1000)]])
    alone, _ = composed([[(old, 0)]])
    assert (valid == 2).all()
    assert np.array_equal(values, alone)


def test_an_item_of_another_zone_lands_in_the_same_place(tmp_path: Path) -> None:
    """The tile seen from UTM zone 30, five zones' widths from its meridian, where pixels are turned by some degrees."""
    bounds = transform_bounds(TILE.crs, "EPSG:32630", *TILE.bounds, densify_pts=21)
    other = Grid.covering("EPSG:32630", bounds, 60.0)
    far = Grid(other.crs, other.west, other.north, other.rows * 6, other.cols * 6)
    from rasterio.warp import transform

    x = far.west + (np.arange(far.cols) + 0.5) * 10
    y = far.north - (np.arange(far.rows) + 0.5) * 10
    xx, yy = np.meshgrid(x, y)
    east, north = (np.reshape(v, far.shape) for v in transform(far.crs, TILE.crs, xx.ravel(), yy.ravel()))
    ground = 1500.0 + (east - TILE.west) / 10 * 2.0 + (TILE.north - north) / 10
    values, valid = composed([[(load(tmp_path, "far", tile=far, ground=ground, dark=False), 0)]])
    assert (valid == 1).all()
    assert np.abs(values - expected()).max() <= 2.0


def test_two_items_of_one_day_are_one_observation_the_second_filling_the_first(tmp_path: Path) -> None:
    half = ramp(TILE)
    half[:, 60:] = 0
    west, all_of_it = (
        load(tmp_path, "west", ground=half, dark=False),
        load(tmp_path, "all", ground=ramp(TILE, 2500), dark=False),
    )
    values, valid = composed([[(west, 0), (all_of_it, 0)]], ("B04",))
    assert (valid == 1).all()
    assert np.abs(values[0][:, :45] - expected()[:, :45]).max() <= 1
    assert np.abs(values[0][:, 48:] - expected(base=2500)[:, 48:]).max() <= 1


def test_nodata_takes_no_part_in_an_interpolation(tmp_path: Path) -> None:
    """Beside missing ground a 20 or 60 m band keeps its level; a mixture with 0 would darken the rim."""
    flat = np.full(TILE.shape, 2000.0)
    flat[:, 60:] = 0
    bands = ("B01", "B04", "B12")
    values, valid = composed([[(load(tmp_path, "a", ground=flat, bands=bands, dark=False), 0)]], bands)
    assert set(np.unique(values)) == {0, 2000}
    assert np.array_equal(valid > 0, values[0] > 0)
    assert (values[:, :, 47] == 0).all()
    assert (values[:, :, 40] == 2000).all()


def test_an_interpolation_keeps_a_bright_roof_bright_and_dark_ground_beside_it_is_not_nodata(tmp_path: Path) -> None:
    """A cubic interpolation sharpens: the roof rises above its pixels' own 8000, where a bilinear one only mixes."""
    flat = np.full(TILE.shape, 1.0)
    flat[36:40, 60:64] = 8000.0  # two by two pixels of 20 m
    bands = ("B04", "B12")
    values, valid = composed([[(load(tmp_path, "a", ground=flat, bands=bands, dark=False), 0)]], bands)
    assert (valid == 1).all(), "a cubic undershoot must not become nodata"
    assert values.min() >= 1
    assert values[1].max() > 8400


@pytest.mark.parametrize("gaps", ["scattered", "strips"])
def test_beside_gaps_in_textured_ground_every_band_stays_within_what_is_there(tmp_path: Path, gaps: str) -> None:
    """Weights of both signs that are left over beside masked pixels would sum to anything, or to nothing."""
    rng = np.random.default_rng(0)
    bands = ("B04", "B12")
    ground = np.kron(rng.integers(800, 3000, (60, 60)), np.ones((2, 2)))
    lost = rng.random((60, 60)) < 0.3
    if gaps == "strips":
        lost[:] = np.arange(60)[:, None] % 3 != 1  # what is left is one pixel of 20 m wide
    scl = np.where(lost, 0, 4).astype("uint8")
    item = load(tmp_path, "a", ground=ground, scl=scl, bands=bands, dark=False)
    values, valid = composed([[(item, 0)]], bands)
    assert np.array_equal(valid > 0, (values > 0).all(axis=0))
    assert 0 < (valid > 0).mean() < 1
    seen = values[:, valid > 0]
    assert seen.min() >= 400
    assert seen.max() <= 3400


@pytest.mark.parametrize("degrees", [False, True])
@pytest.mark.parametrize("name", ["B01", "B04", "B12"])
def test_no_sample_reaches_from_one_side_of_the_guard_to_the_other(tmp_path: Path, name: str, degrees: bool) -> None:
    """Else a test block's imagery would reach training through what was interpolated from one sample of both."""
    step = band(name).resolution // 10
    ground = np.full(TILE.shape, 2000.0)
    other = ground.copy()
    other[60 : 60 + step, 60 : 60 + step] = 4000.0
    found = []
    for number, made in enumerate((ground, other)):
        item = load(tmp_path, f"item_{number}", ground=made, scl=None, bands=(name,), dark=False)
        if degrees:
            in_degrees(item)
        found.append(composed([[(item, 0)]], (name,))[0][0])
    rows, cols = np.nonzero(found[0] != found[1])
    assert rows.size
    assert max(np.ptp(rows), np.ptp(cols)) * 10 < GUARD


@pytest.mark.parametrize("nodata", [0, None])
def test_nodata_takes_no_part_when_another_zone_is_resampled(tmp_path: Path, nodata: int | None) -> None:
    """Also where the file's header does not say that 0 is nodata, as those of some catalogues do not."""
    bounds = transform_bounds(TILE.crs, "EPSG:32630", *TILE.bounds, densify_pts=21)
    coarse = Grid.covering("EPSG:32630", bounds, 60.0)
    far = Grid(coarse.crs, coarse.west, coarse.north, coarse.rows * 6, coarse.cols * 6)
    flat = np.full(far.shape, 2000.0)
    flat[:, far.cols // 12 * 6 :] = 0
    item = load(tmp_path, "a", tile=far, ground=flat, dark=False, nodata=nodata)
    values, valid = composed([[(item, 0)]])
    assert set(np.unique(values)) == {0, 2000}
    assert 0.2 < (valid > 0).mean() < 0.8


@pytest.mark.parametrize(
    ("kind", "clear"),
    [(2, 1), (4, 1), (5, 1), (6, 1), (7, 1), (0, 0), (1, 0), (3, 0), (8, 0), (9, 0), (10, 0), (11, 0)],
)
def test_which_classes_are_clear(kind: int, clear: int) -> None:
    assert clear_of(np.full((8, 8), kind, "uint8"), 20.0).all() == bool(clear)


def test_a_cloud_is_widened_by_forty_metres_and_a_bright_roof_is_not() -> None:
    scl = np.full((40, 40), 4, "uint8")
    scl[10:15, 10:15] = 9
    scl[30, 30] = 8
    clear = clear_of(scl, 20.0)
    assert not clear[8:17, 8:17].any()
    assert clear[7, 10:15].all()
    assert (~clear[25:36, 25:36]).sum() == 1


def test_clouds_of_one_date_are_filled_from_the_other(tmp_path: Path) -> None:
    scl = np.full((60, 60), 4, "uint8")
    scl[10:30, 10:30] = 9
    cloudy = load(tmp_path, "cloudy", ground=9000.0, scl=scl)
    clear = load(tmp_path, "clear")
    values, valid = composed([[(cloudy, 0)], [(clear, 0)]], ("B04",))
    covered = valid == 1
    assert 40 * 40 <= covered.sum() <= 50 * 50
    assert np.abs(values[0] - expected())[covered].max() <= 1


def test_a_coarse_pixel_partly_under_cloud_is_not_clear(tmp_path: Path) -> None:
    """A 60 m pixel holds the light of nine SCL cells: one cloudy cell spoils it."""
    scl = np.full((60, 60), 4, "uint8")
    scl[30, 30] = 9
    _, valid = composed([[(load(tmp_path, "a", scl=scl, bands=("B01",)), 0)]], ("B01",))
    assert (valid == 0).sum() == 36


def test_blocks_meet_without_a_seam(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bands = ("B01", "B04", "B12")
    scl = rng.choice([4, 4, 4, 9], (60, 60)).astype("uint8")
    item = load(tmp_path, "a", ground=rng.integers(1, 9000, TILE.shape).astype(float), scl=scl, bands=bands)
    whole, counted = composed([[(item, 0)]], bands)
    for window in AREA.windows(33):
        part = AREA.part(window.row_off, window.col_off, window.height, window.width)
        values, valid = composed([[(item, 0)]], bands, part)
        rows, cols = window.toslices()
        assert np.array_equal(valid, counted[rows, cols])
        assert np.abs(values.astype(int) - whole[:, rows, cols]).max() <= 1


def test_pixels_of_files_in_degrees_stay_the_same_when_the_area_grows(tmp_path: Path) -> None:
    """Whatever GDAL derives from the window that it is asked for: the width of its filter, and its coordinates."""
    tile = Grid(TILE.crs, TILE.west, TILE.north, 300, 300)
    noise = np.random.default_rng(0).integers(1, 9000, tile.shape).astype(float)
    item = load(tmp_path, "a", tile=tile, ground=noise, scl=None)
    in_degrees(item)
    area = Grid(tile.crs, tile.west + 130, tile.north - 70, 250, 260)
    whole, counted = composed([[(item, 0)]], grid=area)
    for row, col, rows, cols in ((0, 0, 250, 33), (7, 110, 140, 90), (50, 3, 23, 171)):
        values, valid = composed([[(item, 0)]], grid=area.part(row, col, rows, cols))
        assert np.array_equal(values, whole[:, row : row + rows, col : col + cols])
        assert np.array_equal(valid, counted[row : row + rows, col : col + cols])


def _nothing() -> object:
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("looks", [1, 6, 8, 9, 32, 33, 128, 129, 512, 513, 2048, 8192])
def test_one_bands_observations_of_a_block_fit_their_memory_however_many_there_are(looks: int) -> None:
    edge = block_edge(looks)
    assert looks * np.zeros((edge, edge), np.uint16).nbytes <= STACK_BYTES
    wider = looks * (2 * edge) ** 2 * 2
    assert edge == 2048 or wider > STACK_BYTES
