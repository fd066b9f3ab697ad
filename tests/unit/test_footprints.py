"""Footprints: sub-pixel outlines with right areas, the same from any window, that say what they are and how good."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet
import pyogrio
import pystac
import pytest
import rasterio
import shapely
from builders import make_labels, make_prediction
from geopandas.testing import assert_geodataframe_equal
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from shapely.affinity import rotate, translate
from shapely.geometry import Point, box, mapping

from casbah import cli
from casbah.blocks import place
from casbah.cover import exact_fractions
from casbah.errors import InputError, WorldError
from casbah.footprints import footprints
from casbah.footprints.contours import SNAP
from casbah.footprints.drawing import Drawing
from casbah.grid import Grid
from casbah.label.found import Area
from casbah.label.vector import read_vector
from casbah.products.footprints import FootprintSet
from casbah.products.manifest import sha256_of
from casbah.products.prediction import Prediction

GRID = Grid("EPSG:32631", 499_500.0, 4_060_750.0, 150, 140)
"""Half a kilometre off the lattice of 1 km blocks, so that several are cut."""


def at(east: float, north: float) -> tuple[float, float]:
    """Metres of a point so many metres east and south of the grid's corner."""
    return GRID.west + east, GRID.north - north


def block_of(east: float, south: float, width: float, height: float) -> shapely.Polygon:
    """A rectangle whose north-west corner lies so many metres east and south of the grid's."""
    x, y = at(east, south)
    return box(x, y - height, x + width, y)


def covered(*shapes: shapely.Geometry) -> NDArray[np.float64]:
    """The share of each pixel under shapes: a probability as sharp as 10 m can be."""
    return exact_fractions(shapely.get_parts(shapely.union_all(shapes)), GRID)


def patches(seed: int = 0, unseen: bool = True) -> NDArray[np.float64]:
    """A smooth random probability with many saddles and holes, of which some was not observed."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=GRID.shape), 1.3)
    field = (field - field.min()) / np.ptp(field)
    if unseen:
        field[rng.random(GRID.shape) < 0.003] = np.nan
        field[40:75, 60:90] = np.nan
    return field


def drawn(folder: Path, probability: NDArray[np.float64], **options: Any) -> FootprintSet:
    """The footprints of a probability at threshold 0.5; `values` is handed to the prediction."""
    given = {name: options.pop(name) for name in ("values", "blocks", "simulated") if name in options}
    if not (folder / "prediction").exists():
        make_prediction(folder / "prediction", probability, GRID, **given)
    return footprints(folder / "prediction", folder / options.pop("name", "made"), **options)


def only(made: FootprintSet) -> shapely.Polygon:
    (shape,) = made.footprints().geometry
    return shape


@pytest.mark.parametrize("radius", [25.0, 60.0, 150.0, 400.0])
@pytest.mark.parametrize("shape", [{}, {"simplify": 0.0, "square": False}])
def test_a_disc_keeps_its_area_and_its_place_below_the_size_of_a_pixel(
    radius: float, shape: dict[str, Any], tmp_path: Path
) -> None:
    disc = Point(at(703.7, 716.2)).buffer(radius, quad_segs=64)
    found = only(drawn(tmp_path, covered(disc), **shape))
    assert found.area == pytest.approx(disc.area, rel=0.02 if radius < 50 else 0.01)
    assert found.centroid.distance(disc.centroid) < 1
    assert shapely.hausdorff_distance(found.exterior, disc.exterior) < 2, "a fifth of a pixel, not a stair of one"


@pytest.mark.parametrize("values", ["uint8", "uint16"])
def test_the_result_is_the_same_whatever_the_window(
    values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of outlines that are simplified so much that many lie over others before they are told apart."""
    whole = drawn(tmp_path, patches(), values=values, simplify=20)
    assert len(whole.footprints()) > 100
    monkeypatch.setattr("casbah.footprints.stage.SQUARE", 1)
    for window in (64, 37, 8):
        made = drawn(tmp_path, patches(), window=window, simplify=20, name=f"window-{window}")
        assert made.digest == whole.digest, "every file has the same bytes"


@pytest.mark.parametrize("values", ["uint8", "uint16"])
@pytest.mark.parametrize("window", [16, 1024])
def test_every_pixel_at_or_above_the_threshold_lies_in_one_polygon_and_no_other_pixel_does(
    values: str, window: int, tmp_path: Path
) -> None:
    probability = patches(seed=1)
    # Many pixels exactly at the threshold, plateaus of them and lone ones.
    probability[np.abs(probability - 0.5) < 0.03] = 0.5
    made = drawn(tmp_path, probability, values=values, simplify=0, square=False, minimum_area=0, window=window)
    prediction = Prediction.open(tmp_path / "prediction")
    col, row = np.meshgrid(np.arange(GRID.cols) + 0.5, np.arange(GRID.rows) + 0.5)
    points = shapely.points(GRID.west + col * 10, GRID.north - row * 10).ravel()
    point, polygon = shapely.STRtree(points).query(made.footprints().geometry.to_numpy(), predicate="contains")[::-1]
    held = np.bincount(point, minlength=len(points)).reshape(GRID.shape)
    assert (held == (prediction.mask() == 1)).all()
    assert made.info.area_of_pixels == 100 * (prediction.mask() == 1).sum()
    mean = np.bincount(polygon, weights=prediction.probability().ravel()[point]) / np.bincount(polygon)
    np.testing.assert_allclose(made.footprints().probability, mean, atol=1e-5)


def test_polygons_are_valid_and_apart_and_have_no_seam_of_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casbah.footprints.stage.SQUARE", 1)
    for metres in (0, 1, 20):
        made = drawn(tmp_path, patches(), window=16, minimum_area=0, simplify=metres)
        shapes = made.footprints().geometry.to_numpy()
        assert shapely.is_valid(shapes).all()
        assert (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON).all()
        first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
        over = shapely.area(shapely.intersection(shapes[first], shapes[second]))[first != second]
        assert over.max(initial=0) < 1e-3, f"simplified by {metres} m"
    whole = covered(block_of(100, 100, 600, 300))
    found = only(drawn(tmp_path / "one", whole, window=16, simplify=0, square=False))
    x, y = shapely.get_coordinates(found).T - [[GRID.west], [GRID.north]]
    # A straight side across many windows: no vertex but those near its corners, where the contour is round.
    assert not ((x > 130) & (x < 670) | (y < -130) & (y > -370)).any()


def test_shaping_keeps_the_area_of_every_polygon_within_five_percent(tmp_path: Path) -> None:
    plain = drawn(tmp_path, patches(), simplify=0, square=False, minimum_area=0).footprints().set_index("id")
    for metres in (1, 8, 40):
        made = drawn(tmp_path, patches(), simplify=metres, minimum_area=0, name="shaped")
        shaped = made.footprints().set_index("id")
        assert set(shaped.index) == set(plain.index)
        ratio = shaped.geometry.area / plain.geometry.area.loc[shaped.index]
        assert ((ratio > 0.95) & (ratio < 1.05)).all(), f"{ratio.min()} to {ratio.max()} at {metres} m"
        assert shapely.is_valid(shaped.geometry.to_numpy()).all()
        assert made.info.area_of_contours == pytest.approx(plain.geometry.area.sum())
        assert shapely.get_num_coordinates(shaped.geometry).sum() < shapely.get_num_coordinates(plain.geometry).sum()


def angles(polygon: shapely.Polygon) -> NDArray[np.float64]:
    """Degrees by which each corner differs from a right angle."""
    edges = np.diff(shapely.get_coordinates(polygon.exterior), axis=0)
    direction = np.degrees(np.arctan2(edges[:, 1], edges[:, 0]))
    turn = np.abs(np.diff(np.append(direction, direction[0]))) % 180
    return np.abs(turn - 90)


def test_a_turned_rectangle_and_an_l_get_right_angles_and_a_disc_does_not(tmp_path: Path) -> None:
    hall = rotate(block_of(200, 200, 120, 70), 25)
    ell = rotate(shapely.union(block_of(600, 200, 160, 60), block_of(600, 200, 60, 160)), -12)
    disc = Point(at(400, 900)).buffer(70)
    found = drawn(tmp_path, covered(hall, ell, disc)).footprints().geometry.to_numpy()
    by_place = {name: found[shapely.intersects(found, shape.centroid)] for name, shape in
                {"hall": hall, "disc": disc}.items()}  # fmt: skip
    by_place["ell"] = found[shapely.intersects(found, Point(ell.exterior.coords[0]).buffer(30))]
    for name, corners, truth in (("hall", 4, hall), ("ell", 6, ell)):
        (shape,) = by_place[name]
        assert len(shape.exterior.coords) == corners + 1, name
        assert angles(shape).max() < 0.1, name
        shared = shape.intersection(truth).area
        assert shared / (shape.area + truth.area - shared) > 0.93, name
    octagon = rotate(Point(at(700, 700)).buffer(90, quad_segs=2), 30)
    corners = drawn(tmp_path / "octagon", covered(octagon)).footprints().geometry.iloc[0]
    assert angles(corners).max() > 20, "eight corners have no direction"
    (round_,) = by_place["disc"]
    assert len(round_.exterior.coords) > 8
    raw = drawn(tmp_path, covered(), square=False, name="raw").footprints().geometry.to_numpy()
    assert len(raw[shapely.intersects(raw, hall.centroid)][0].exterior.coords) > 5


def test_a_courtyard_is_a_hole_and_what_stands_in_it_a_polygon_of_its_own(tmp_path: Path) -> None:
    ring = block_of(200, 200, 300, 300).difference(block_of(250, 250, 200, 200))
    kiosk = block_of(325, 325, 50, 50)
    found = drawn(tmp_path, covered(ring, kiosk), window=32).footprints().geometry.to_numpy()
    assert sorted(shapely.get_num_interior_rings(found)) == [0, 1]
    big = found[np.argmax(shapely.get_num_interior_rings(found))]
    assert big.area == pytest.approx(ring.area, rel=0.02)
    assert not big.contains(kiosk.centroid)


@pytest.mark.parametrize("window", [20, 1024])
def test_outlines_close_along_the_edge_of_what_was_observed(window: int, tmp_path: Path) -> None:
    """The value of a pixel at the edge holds for the whole of it, and nothing is drawn beyond."""
    probability = np.zeros(GRID.shape)
    probability[0:20, 0:30] = 1  # in the scene's corner
    probability[60:80, 50:90] = 1  # half of it not observed
    probability[:, 70:] = np.nan
    found = drawn(tmp_path, probability, window=window).footprints()
    wanted = [GRID.west, GRID.north - 800, GRID.west + 700, GRID.north]
    np.testing.assert_allclose(found.total_bounds, wanted, rtol=0, atol=0.5)
    assert found.total_bounds[2] == GRID.west + 700
    corner, half = found.geometry
    assert corner.area == pytest.approx(300 * 200, abs=10)
    assert half.area == pytest.approx(200 * 200, abs=10)


def test_nothing_smaller_than_the_minimum_is_kept(tmp_path: Path) -> None:
    every = drawn(tmp_path, patches(), minimum_area=0).footprints()
    for least in (60.0, 500.0):
        made = drawn(tmp_path, patches(), minimum_area=least, name="large")
        kept = made.footprints()
        assert kept.area_m2.min() >= least
        assert set(kept.id) == set(every.id[every.area_m2 >= least])
        assert made.info.polygons == len(kept)
    lone = np.zeros(GRID.shape)
    lone[30, 30] = 1
    assert only(drawn(tmp_path / "lone", lone)).area == pytest.approx(100, rel=0.15), "one sure pixel is enough"


def test_a_hole_is_kept_down_to_the_minimum_area_and_filled_below(tmp_path: Path) -> None:
    probability = covered(block_of(200, 200, 200, 200))
    probability[30, 30] = 0
    plain: dict[str, Any] = {"simplify": 0, "square": False}
    yard = only(drawn(tmp_path, probability, minimum_area=80, **plain))
    assert len(yard.interiors) == 1
    assert yard.area == pytest.approx(200 * 200 - 100, abs=30)
    filled = only(drawn(tmp_path, probability, minimum_area=120, name="filled", **plain))
    assert filled.equals(shapely.Polygon(yard.exterior))


def test_a_hole_that_is_much_of_its_polygon_stays_open_and_the_area_of_contours_is_without_it(tmp_path: Path) -> None:
    ring = block_of(200, 200, 110, 110).difference(block_of(220, 220, 70, 70))
    made = drawn(tmp_path, covered(ring), minimum_area=6000)
    (yard,) = made.footprints().geometry
    assert len(yard.interiors) == 1
    assert made.info.area_of_contours == pytest.approx(ring.area, rel=0.05)
    assert yard.area == pytest.approx(made.info.area_of_contours, rel=0.05)


def test_a_polygon_says_what_it_is_and_keeps_its_id_in_another_scene(tmp_path: Path) -> None:
    probability = np.zeros(GRID.shape)
    probability[20:24, 30:36] = 0.9
    probability[22, 33] = 0.6
    (row,) = drawn(tmp_path, probability).footprints().itertuples()
    assert row.id == "32631_499805_4060545"
    assert row.probability == pytest.approx((23 * 0.9 + 0.6) / 24, abs=1e-5)
    assert row.area_m2 == pytest.approx(row.geometry.area)
    assert row.model == "tests d1d1d1d1d1d1"
    assert row.dates == "2023-06-10"
    assert row.attribution == "Contains modified Copernicus Sentinel data 2023; Buildings: Casbah's tests (CC0-1.0)"
    assert row.simulated
    part = GRID.part(10, 20, 60, 60)
    make_prediction(tmp_path / "part", probability[10:70, 20:80], part)
    (again,) = footprints(tmp_path / "part", tmp_path / "again").footprints().itertuples()
    assert again.id == row.id
    assert again.geometry.equals_exact(row.geometry, 10 / SNAP)


def test_every_format_opens_with_the_same_polygons_and_says_what_they_are(tmp_path: Path) -> None:
    made = drawn(tmp_path, patches(), flatgeobuf=True)
    frames = {path.suffix: geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)
              for path in sorted(made.path.glob("footprints.[!j]*"))}  # fmt: skip
    assert set(frames) == {".parquet", ".gpkg", ".fgb"}
    wanted = frames[".parquet"].sort_values("id", ignore_index=True)
    assert wanted.crs == GRID.crs
    for frame in frames.values():
        assert_geodataframe_equal(
            frame.sort_values("id", ignore_index=True), wanted, check_dtype=False, check_like=True
        )
    parquet = {k.decode(): v.decode() for k, v in pyarrow.parquet.read_schema(made.parquet_path).metadata.items()}
    others = [pyogrio.read_info(made.path / f"footprints.{kind}")["layer_metadata"] for kind in ("gpkg", "fgb")]
    for said in (parquet, *({key.lower(): value for key, value in other.items()} for other in others)):
        assert "count polygons as built-up patches, not as buildings" in said["description"]
        assert said["description"].startswith("SIMULATED. A polygon bounds ground where the model's probability")
        assert "is 0.5 or more" in said["description"]
        assert "Copernicus Sentinel data 2023; Buildings: Casbah's tests (CC0-1.0)" in said["attribution"]
        assert said["licence"] == "as the sources named in the attribution ask"
    assert parquet["casbah:simulated"] == "true"
    assert all(other["casbah"] == "simulated=true" for other in others), "as GDAL splits a key with a colon"
    for name in ("footprints.parquet", "footprints.gpkg", "footprints.fgb"):
        assert read_vector(made.path / name, Area(GRID)).simulated, "made of simulated data, and read back as such"


def test_what_is_not_simulated_is_not_called_so(tmp_path: Path) -> None:
    made = drawn(tmp_path, patches(), simulated=False)
    assert not made.info.simulated
    assert not made.footprints().simulated.any()
    assert not read_vector(made.path / "footprints.gpkg", Area(GRID)).simulated


def test_blocks_hold_all_polygons_and_the_share_that_is_built(tmp_path: Path) -> None:
    made = drawn(tmp_path, patches(), window=64)
    table, shapes = made.blocks(), made.footprints()
    assert table.polygons.sum() == len(shapes)
    assert table.area_m2.sum() == pytest.approx(shapes.geometry.area.sum())
    assert table.observed_m2.sum() == 100 * np.isfinite(patches()).sum()
    assert len(table) == 4, "1.4 x 1.5 km from half a kilometre off the lattice"
    for row in table.itertuples():
        assert row.geometry.equals(box(*place(row.block)[1]))
        assert row.area_m2 == pytest.approx(shapes.geometry.intersection(row.geometry).area.sum())
        assert row.built == pytest.approx(row.area_m2 / row.observed_m2)
    small = drawn(tmp_path, patches(), block_size=250, name="small").blocks()
    assert set(small.geometry.area) == {250.0**2}
    assert small.area_m2.sum() == pytest.approx(table.area_m2.sum())


def test_the_item_leads_to_the_prediction_and_vouches_for_its_files(tmp_path: Path) -> None:
    made = drawn(tmp_path, patches())
    item = pystac.Item.from_file(str(made.path / "item.json"))
    assert item.to_dict()["stac_version"] == "1.1.0"
    (origin,) = item.get_links("derived_from")
    assert json.loads(Path(origin.absolute_href).read_text())["id"].startswith("casbah-prediction-")
    for asset in item.assets.values():
        file = Path(str(asset.get_absolute_href()))
        assert asset.extra_fields["file:checksum"] == f"1220{sha256_of(file)}"
        assert asset.extra_fields["file:size"] == file.stat().st_size
        assert asset.roles == ["data", "vector"]
    west, south, east, north = item.bbox or []
    assert west < 3 < east
    assert south < 36.69 < north
    assert item.properties["start_datetime"] == "2023-06-10T00:00:00Z"


def test_nothing_above_the_threshold_is_an_empty_set_that_opens_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = drawn(tmp_path, np.full(GRID.shape, 0.3), flatgeobuf=True)
    assert "so that the set holds no polygon (the highest probability is 0.300)" in capsys.readouterr().err
    assert made.info.polygons == 0
    for path in ("footprints.gpkg", "footprints.fgb"):
        assert len(geopandas.read_file(made.path / path)) == 0
    assert len(made.footprints()) == 0
    assert made.footprints().crs == GRID.crs
    assert made.blocks().area_m2.sum() == 0
    assert made.blocks().observed_m2.sum() == 100 * GRID.rows * GRID.cols


def test_a_scene_without_an_observed_pixel_is_an_empty_set(tmp_path: Path) -> None:
    made = drawn(tmp_path, np.full(GRID.shape, np.nan))
    assert len(made.footprints()) == len(made.blocks()) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 0.0}, "the threshold is 0; a probability between 0 and 1, both excluded, is wanted"),
        ({"threshold": 1.0}, "the threshold is 1; a probability between 0 and 1"),
        ({"threshold": float("nan")}, "the threshold is nan; a probability"),
        ({"minimum_area": -1.0}, "the minimum area is -1; 0 square metres or more"),
        ({"simplify": float("inf")}, "the simplification is inf; 0 metres or more"),
        ({"block_size": 0.0}, "the block size is 0 m; more than 0"),
        ({"window": 0}, "the window is 0 pixels; at least 1"),
    ],
)
def test_what_can_not_be_met_is_one_sentence_and_nothing_is_written(
    options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        drawn(tmp_path, patches(), **options)
    assert not (tmp_path / "made").exists()


def test_what_is_no_prediction_is_refused(tmp_path: Path) -> None:
    labels = make_labels(tmp_path / "labels", GRID)
    for path, sentence in (
        (labels.path, "is a labels; a prediction is wanted here"),
        (tmp_path / "nothing", "does not exist; a prediction directory is wanted"),
    ):
        with pytest.raises(InputError, match=sentence):
            footprints(path, tmp_path / "made")
    newer = make_prediction(tmp_path / "newer", patches(), GRID).path / "manifest.json"
    newer.write_text(json.dumps(json.loads(newer.read_text()) | {"version": 9}))
    with pytest.raises(InputError, match=r"is a prediction of schema 9, written by casbah .*: upgrade it"):
        footprints(tmp_path / "newer", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_labels_of_other_ground_are_refused(tmp_path: Path) -> None:
    for name, grid, sentence in (
        ("zone", Grid("EPSG:32632", GRID.west, GRID.north, 64, 64), r"is in EPSG:32632 and .*prediction in EPSG:32631"),
        ("far", Grid(GRID.crs, GRID.west + 50_000, GRID.north, 64, 64), r"share no ground: in EPSG:32631 the labels"),
    ):  # fmt: skip
        make_labels(tmp_path / name, grid)
        with pytest.raises(InputError, match=sentence):
            drawn(tmp_path, patches(), labels=tmp_path / name)
    assert not (tmp_path / "made").exists()


@pytest.fixture
def disk() -> Iterator[Callable[[int], None]]:
    """Called with a number, it makes whatever is written beyond so many bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("missing", [3000, 200_000])
def test_a_disk_that_fills_under_the_geopackage_is_a_fault_of_the_world(
    missing: int, tmp_path: Path, disk: Callable[[int], None]
) -> None:
    """Also where its spatial index is lost while it is closed, of which GDAL says nothing."""
    size = (drawn(tmp_path, patches()).path / "footprints.gpkg").stat().st_size
    shutil.rmtree(tmp_path / "made")
    disk(size - missing)
    with pytest.raises(WorldError, match=r"made could not be written: .*nothing was left there"):
        drawn(tmp_path, patches())
    assert [path.name for path in tmp_path.iterdir()] == ["prediction"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(OSError(errno.EIO, "Input/output error"), WorldError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_what_goes_wrong_while_polygons_stream_into_a_file_is_told_as_it_is(
    fault: BaseException, kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow's streams say of it that something went wrong, and no more."""
    plain, passes = Drawing.chunks, iter(range(9))

    def broken(drawing: Drawing) -> Any:
        if next(passes) == 2:  # after the blocks and the GeoParquet
            raise fault
        return plain(drawing)

    monkeypatch.setattr(Drawing, "chunks", broken)
    with pytest.raises(kind):
        drawn(tmp_path, patches())
    assert [path.name for path in tmp_path.iterdir()] == ["prediction"]


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (errno.ENOSPC, "could not be written: No space left", WorldError),
        (errno.EACCES, "can't be written: Permission denied", InputError),
        (errno.EROFS, "can't be written: Read-only", InputError),
    ],
)
def test_a_disk_that_can_not_be_written_keeps_the_older_set(
    code: int, words: str, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = drawn(tmp_path, patches())

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, words.partition(": ")[2])

    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    with pytest.raises(kind, match=f"made {words}"):
        drawn(tmp_path, patches(), threshold=0.6)
    assert FootprintSet.open(tmp_path / "made").digest == older.digest


def test_something_else_at_the_output_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="already holds something else than a footprints"):
        footprints(tmp_path / "no prediction", tmp_path / "made")


TRUTH = {
    "pair, west": block_of(100, 100, 60, 60),
    "pair, east": block_of(165, 100, 60, 60),
    "alone": block_of(600, 100, 60, 60),
    "small": block_of(900, 100, 8, 8),
    "unseen by the model": block_of(300, 900, 100, 100),
}
PREDICTED = {
    "the pair as one": block_of(100, 100, 125, 60),
    "alone": block_of(600, 100, 60, 60),
    "invented": block_of(1000, 500, 40, 60),
    "unseen by the model": block_of(300, 900, 100, 100),
}


def judged(tmp_path: Path, truth: dict[str, shapely.Polygon] = TRUTH, **options: Any) -> dict[str, Any]:
    """The object scores of PREDICTED against a truth."""
    info = {name: options.pop(name) for name in ("labelled_area", "summary") if name in options}
    frame = geopandas.GeoDataFrame({"id": list(truth)}, geometry=list(truth.values()), crs=GRID.crs)
    make_labels(tmp_path / "labels", GRID, footprints=frame, **info)
    return drawn(tmp_path, covered(*PREDICTED.values()), labels=tmp_path / "labels", **options).info.objects


def test_merged_missed_and_invented_objects_are_told_apart_by_size(tmp_path: Path) -> None:
    objects = judged(tmp_path)
    told = objects["ground"]["undeclared"]
    assert (told["buildings"], told["polygons"]) == (5, 4)
    found, invented = told["found"], told["invented"]
    assert {key: found["all"][key] for key in ("found", "missed", "merged")} == {"found": 4, "missed": 1, "merged": 2}
    assert found["below 100 m2"]["missed"] == 1
    assert found["below 100 m2"]["share"]["value"] == 0
    assert found["2000 m2 and more"]["share"]["value"] == 1
    assert found["100-500 m2"]["share"]["value"] is None, "of no building there is no share"
    assert invented["all"]["invented"] == invented["2000 m2 and more"]["invented"] == 1
    assert invented["all"]["share"]["value"] == pytest.approx(1 / 4)
    one = told["one_to_one"]
    assert one["matched"] == 2, "the pair is under one polygon, which is neither of the two"
    assert one["precision"]["value"] == pytest.approx(2 / 4)
    assert one["recall"]["value"] == pytest.approx(2 / 5)
    assert one["f1"]["value"] == pytest.approx(2 * 2 / (4 + 5))
    assert one["f1"]["low"] is None, "so few blocks give no interval"
    assert any("at least 50% of its area lies under polygons" in rule for rule in objects["rules"])
    assert objects["simulated"]


def test_labels_that_lie_off_the_image_are_moved_onto_it_where_asked(tmp_path: Path) -> None:
    off = {name: translate(shape, -40, 40) for name, shape in TRUTH.items()}
    found = [{"period": 0, "told": True, "east": 40.0, "north": -40.0}]
    asked = {"truth": off, "summary": {"shifts": found}}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    as_published = judged(tmp_path / "a", **asked)
    aligned = judged(tmp_path / "b", align=True, **asked)
    assert as_published["ground"]["undeclared"]["one_to_one"]["matched"] == 0
    assert aligned["ground"]["undeclared"]["one_to_one"]["matched"] == 2
    assert aligned["moved"] == [40.0, -40.0]
    assert "moved by +40.0 m east and -40.0 m north" in aligned["rules"][-1]
    assert not any("were moved" in rule for rule in as_published["rules"])


def test_a_shift_that_nobody_can_tell_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lies off its image can't be told .* leave out --align"):
        judged(tmp_path, align=True, summary={"shifts": [{"period": 0, "told": False}]})
    with pytest.raises(InputError, match="--align moves labels, and none are given"):
        drawn(tmp_path, patches(), align=True)


def test_ground_that_the_model_has_seen_is_scored_apart_and_never_mixed_in(tmp_path: Path) -> None:
    """It learned from the blocks of the north, cut on another lattice."""
    learned = {"train": ("32631_2000_249_2030",), "val": ("32631_500_1000_8120", "32631_500_1001_8120")}
    ground = judged(tmp_path, blocks=learned)["ground"]
    assert set(ground) == {"unseen", "seen"}
    assert (ground["unseen"]["buildings"], ground["seen"]["buildings"]) == (1, 4)
    assert ground["unseen"]["one_to_one"]["f1"]["value"] == 1
    assert ground["seen"]["found"]["all"]["missed"] == 1
    assert ground["seen"]["invented"]["all"]["invented"] == 1


def test_outside_of_the_labelled_and_observed_ground_nothing_is_judged(tmp_path: Path) -> None:
    west, south, _, north = GRID.bounds
    area = mapping(box(west, south, west + 700, north))
    told = judged(tmp_path, labelled_area=area)["ground"]["undeclared"]
    assert (told["buildings"], told["polygons"]) == (4, 3)
    assert told["invented"]["all"]["invented"] == 0, "it may be a building that nobody has mapped"
    # A polygon that reaches over the border is judged by what lies inside.
    over = {**TRUTH, "unseen by the model": block_of(300, 900, 40, 100)}
    inside = mapping(box(west, south, west + 360, north))
    told = judged(tmp_path / "over", over, labelled_area=inside)["ground"]["undeclared"]
    assert (told["buildings"], told["polygons"]) == (3, 2)
    assert told["one_to_one"]["matched"] == 1


def test_a_cloud_over_a_building_makes_it_no_miss(tmp_path: Path) -> None:
    probability = covered(*PREDICTED.values())
    probability[8:18, 58:70] = np.nan  # over "alone"
    make_prediction(tmp_path / "prediction", probability, GRID)
    told = judged(tmp_path)["ground"]["undeclared"]
    assert told["found"]["all"]["missed"] == 1, "the small one alone"
    assert told["buildings"] == 4


def test_without_any_polygon_every_building_is_missed(tmp_path: Path) -> None:
    make_prediction(tmp_path / "prediction", np.full(GRID.shape, 0.2), GRID)
    told = judged(tmp_path)["ground"]["undeclared"]
    assert told["found"]["all"]["missed"] == 5
    assert told["invented"]["all"]["share"]["value"] is None
    assert told["one_to_one"]["recall"]["value"] == 0


def test_the_command_prints_what_was_made_and_how_good_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(tmp_path)
    shutil.rmtree(tmp_path / "made")
    words = ["--prediction", str(tmp_path / "prediction"), "--output", str(tmp_path / "made")]
    with pytest.raises(SystemExit) as end:
        cli.main(["footprints", *words, "--labels", str(tmp_path / "labels"), "--flatgeobuf", "--no-square"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "polygons     4, 0.023 km2 (SIMULATED)" in said
    assert "undeclared: 5 labelled buildings, 4 polygons" in said
    assert "Buildings: Casbah's tests (CC0-1.0)" in said
    assert (tmp_path / "made" / "footprints.fgb").is_file()
    with pytest.raises(SystemExit) as end:
        cli.main(["footprints", *words, "--threshold", "1.5"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("casbah: the threshold is 1.5; a probability between 0 and 1")


def test_memory_for_pixels_is_bounded_by_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = rasterio.io.DatasetReader.read

    def counted(self: Any, *given: Any, **named: Any) -> Any:
        values = plain(self, *given, **named)
        read.append(values.size)
        return values

    make_prediction(tmp_path / "prediction", patches(), GRID)
    monkeypatch.setattr("casbah.footprints.stage.rasterio.open", _opened(counted))
    footprints(tmp_path / "prediction", tmp_path / "made", window=16)
    assert max(read) <= (16 + 9) ** 2, "four pixels more on each side, and a line of pixels shared"
    assert sum(read) >= GRID.rows * GRID.cols


KILLED = """
import os, signal, sys
from casbah.footprints import drawing, stage
drawing.Drawing.settle = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
stage.footprints(*sys.argv[1:])
"""


def test_what_a_killed_run_left_is_removed_by_the_next_one_but_not_what_another_run_is_at(tmp_path: Path) -> None:
    make_prediction(tmp_path / "prediction", patches(), GRID)
    words = [sys.executable, "-c", KILLED, str(tmp_path / "prediction"), str(tmp_path / "made")]
    assert subprocess.run(words, check=False, capture_output=True).returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".made.partial-*")
    old = time.time() - 3600
    with FootprintSet.write(tmp_path / "made", parameters={}) as other:
        for path in (left, other.directory):
            os.utime(path, (old, old))
        drawn(tmp_path, patches())
        assert not left.exists()
        assert other.directory.is_dir()
        shutil.copytree(tmp_path / "made", other.directory, dirs_exist_ok=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


MEASURED = """
import re, sys
import casbah.footprints.stage as stage
from casbah.footprints import drawing
drawing.CHUNK = 1000
stage.footprints(*sys.argv[1:], square=False, window=64)
# Not ru_maxrss, which begins with what the parent held.
print(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])
"""


def test_memory_hardly_grows_with_the_polygons(tmp_path: Path) -> None:
    """Of 19,200 more polygons all forms in memory were 100 MB more."""
    peaks = []
    for side in (240, 480):
        dots = np.zeros((side, side))
        dots[1::3, 1::3] = 0.9
        make_prediction(tmp_path / f"{side}", dots, Grid(GRID.crs, GRID.west, GRID.north, side, side))
        words = [sys.executable, "-c", MEASURED, str(tmp_path / f"{side}"), str(tmp_path / f"made{side}")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) * 1024)
    assert FootprintSet.open(tmp_path / "made480").info.polygons == 160**2
    assert peaks[1] - peaks[0] < 25e6, f"{peaks[0] / 1e6:.0f} MB, then {peaks[1] / 1e6:.0f} MB"


def _opened(read: Any) -> Any:
    """`rasterio.open` whose datasets read by `read`."""
    plain = rasterio.open

    class Watched:
        def __init__(self, *given: Any, **named: Any) -> None:
            self.dataset = plain(*given, **named)

        def __enter__(self) -> "Watched":
            return self

        def __exit__(self, *_: object) -> None:
            self.dataset.close()

        def read(self, *given: Any, **named: Any) -> Any:
            return read(self.dataset, *given, **named)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.dataset, name)

    return Watched
