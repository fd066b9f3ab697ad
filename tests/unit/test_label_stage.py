"""Labels on a scene: cover and mask from any vector file, what is unknown, what is said, and what is refused."""

import errno
import json
import re
import resource
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from builders import GRID, houses, make_scene, write_raster
from label_sources import Answer, boxes, overpass, serving, square, way, write
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from casbah import cli
from casbah.cover import exact_cover
from casbah.errors import InputError, WorldError
from casbah.grid import Grid
from casbah.label import describe, label
from casbah.label.found import Area
from casbah.label.rasters import write_rasters
from casbah.label.summary import shift_summary
from casbah.products.labels import LabelSet, Shift
from casbah.products.manifest import sha256_of
from casbah.products.scene import Scene

SMALL = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 64, 64)
FOUR = ((100, 100, 40, 30), (203, 97, 25, 44), (300, 300, 12, 12), (410, 520, 60, 60))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 64 x 64 pixels with two periods; the first three columns were never observed."""
    path = tmp_path_factory.mktemp("scene") / "scene"
    cover = exact_cover(boxes(SMALL, *FOUR), SMALL)
    made = make_scene(path.with_name("whole"), SMALL, periods=2, bands=("B02", "B03", "B04", "B08"), cover=cover)
    parameters = {"made for": "tests"}
    with Scene.write(path, parameters=parameters) as draft:
        for t in range(2):
            image, valid = made.reflectance()[t], made.valid()[t][None]
            image[:, :, :3], valid[:, :, :3] = 0, 0
            if t == 1:
                valid[:, :5] = 0  # clouds in one period only: known from the other
            write_raster(draft.directory / f"reflectance_{t}.tif", image, SMALL)
            write_raster(draft.directory / f"valid_{t}.tif", valid, SMALL)
        draft.write_json("item.json", made.item)
    return path


@pytest.fixture
def footprints() -> geopandas.GeoDataFrame:
    return boxes(SMALL, *FOUR, osm_id=[11, 12, 13, 14], building=["yes", "house", "yes", "mosque"])


def run(scene: Path, source: object, tmp_path: Path, **options: object) -> LabelSet:
    return label(scene=scene, source=str(source), output=tmp_path / "labels", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["b.gpkg", "b.geojson", "b.parquet", "b.shp", "b.fgb"])
@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:4326", "EPSG:3857"])
def test_every_vector_format_in_any_crs_gives_the_same_cover(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, name: str, crs: str
) -> None:
    if name == "b.geojson" and crs == "EPSG:3857":
        pytest.skip("GeoJSON is in longitude and latitude")
    made = run(scene, write(footprints.to_crs(crs), tmp_path / name), tmp_path)
    expected = exact_cover(footprints, SMALL)
    expected[:, :3] = 255
    # Shapefile and GeoJSON round coordinates: a centimetre moves cover by a tenth of a percent.
    assert np.abs(made.coverage().astype(int) - expected).max() <= 1
    assert made.info.footprints == 4
    assert set(made.footprints()["id"]) == {"11", "12", "13", "14"}
    assert set(made.footprints()["building"]) == {"yes", "house", "mosque"}


def test_the_mask_is_building_from_the_asked_cover_on(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    source = write(footprints, tmp_path / "b.gpkg")
    for percent in (1, 50, 100):
        made = run(scene, source, tmp_path, building_cover=percent)
        cover, mask = made.coverage(), made.mask()
        assert ((cover == 255) == (mask == 255)).all()
        assert (mask[mask < 255] == (cover[mask < 255] >= percent)).all()
        assert made.info.building_cover == percent


def test_a_pixel_is_unknown_only_where_no_period_observed_it(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    mask = run(scene, write(footprints, tmp_path / "b.gpkg"), tmp_path).mask()
    assert (mask[:, :3] == 255).all()
    assert (mask[:, 3:] != 255).all()


def test_outside_of_the_labelled_area_nothing_is_known(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    west, _, _, north = SMALL.bounds
    drawn = box(west + 95, north - 405, west + 355, north - 60)
    area = write(geopandas.GeoDataFrame(geometry=[drawn], crs=SMALL.crs), tmp_path / "area.gpkg")
    made = run(scene, write(footprints, tmp_path / "b.gpkg"), tmp_path, labelled_area=area)
    known = np.zeros(SMALL.shape, bool)
    known[6:40, 10:35] = True  # pixels wholly inside
    assert ((made.mask() != 255) == known).all()
    assert ((made.coverage() != 255) == known).all()
    assert shapely.geometry.shape(made.info.labelled_area).equals(drawn)
    assert made.info.summary["labelled_km2"] == pytest.approx(known.sum() * 1e-4)
    assert made.info.summary["polygons"] == 3, "the fourth lies outside"


def test_a_labelled_area_in_degrees_keeps_its_borders(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    west, south, east, north = SMALL.bounds
    drawn = geopandas.GeoSeries([box(west - 500, south - 500, east + 500, north + 500)], crs=SMALL.crs).to_crs(4326)
    area = write(geopandas.GeoDataFrame(geometry=drawn), tmp_path / "area.geojson")
    made = run(scene, write(footprints, tmp_path / "b.gpkg"), tmp_path, labelled_area=area)
    assert (made.mask()[:, 3:] != 255).all()


def test_broken_geometries_are_repaired_or_counted_and_never_vanish(scene: Path, tmp_path: Path) -> None:
    west, north = SMALL.west, SMALL.north
    good = box(west + 100, north - 140, west + 140, north - 100)
    bow_tie = Polygon(
        [(west + 200, north - 200), (west + 220, north - 220), (west + 220, north - 200), (west + 200, north - 220)]
    )
    twins = MultiPolygon(
        [box(west + 300, north - 320, west + 320, north - 300), box(west + 330, north - 320, west + 350, north - 300)]
    )
    sliver = Polygon([(west + 400, north - 400), (west + 420, north - 400), (west + 400, north - 400)])
    shapes = [
        good,
        bow_tie,
        twins,
        sliver,
        None,
        Point(west + 9, north - 9),
        LineString([(west, north), (west + 9, north)]),
        good,
    ]
    source = write(geopandas.GeoDataFrame(geometry=shapes, crs=SMALL.crs), tmp_path / "b.parquet")
    made = run(scene, source, tmp_path)
    summary = made.info.summary
    assert summary["read"] == 8
    assert (summary["repaired"], summary["multi_part"]) == (1, 2)
    assert summary["dropped"] == {"duplicate": 1, "empty": 1, "no area": 1, "points or lines": 2}
    assert made.info.footprints == len(made.footprints()) == 5, "good, both wings, both twins"
    assert made.footprints().is_valid.all()
    assert (made.footprints().geom_type == "Polygon").all()
    assert made.footprints().groupby("id")["part"].max().tolist() == [0, 1, 1]
    assert "8 read, 1 repaired, 2 of several parts, 5 dropped" in describe(made.info, 10.0)


def test_overlapping_footprints_are_not_counted_twice(scene: Path, tmp_path: Path) -> None:
    source = write(boxes(SMALL, (100, 100, 35, 40), (105, 100, 35, 40), (100, 105, 40, 15)), tmp_path / "b.gpkg")
    cover = run(scene, source, tmp_path).coverage()
    assert (cover[10:14, 10:14] == 100).all()
    assert cover[:, 3:].sum() == 1600


def test_footprints_around_the_scene_are_kept_for_moving_into_it(scene: Path, tmp_path: Path) -> None:
    source = write(boxes(SMALL, (100, 100, 40, 40), (-35, 300, 20, 20), (-400, 300, 20, 20)), tmp_path / "b.gpkg")
    made = run(scene, source, tmp_path)
    assert made.info.footprints == 2
    assert made.info.summary["polygons_only_in_margin"] == 1


def test_the_same_input_gives_the_same_bytes(scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path) -> None:
    source = write(footprints, tmp_path / "b.gpkg")
    first = label(scene=scene, source=source, output=tmp_path / "first")
    second = label(scene=scene, source=source, output=tmp_path / "second")
    assert first.digest == second.digest


def test_the_record_names_everything_that_the_labels_were_made_from(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    source = write(footprints, tmp_path / "b.gpkg")
    area = write(boxes(SMALL, (0, 0, 640, 640)), tmp_path / "area.gpkg")
    said = {"licence": "CC-BY-4.0", "attribution": "Regione Toscana", "vintage": "1988-2013"}
    made = run(scene, source, tmp_path, labelled_area=area, **said)
    assert made.manifest.inputs == {
        "scene": Scene.open(scene).digest,
        "footprints": sha256_of(source),
        "labelled_area": sha256_of(area),
    }
    assert made.manifest.parameters.items() >= said.items()
    with serving(lambda *_: Answer(overpass([way(1, square(100, 100, 60))]))) as server:
        asked = run(scene, "osm", tmp_path, overpass=server.url)
    assert asked.manifest.parameters["overpass"] == server.url
    assert set(asked.manifest.inputs) == {"scene"}


def test_the_shift_of_each_period_is_reported_by_cell(tmp_path: Path) -> None:
    buildings = houses(GRID, 400, 3)
    first, second = (12.0, -7.0), (-4.0, 9.0)
    images = [make_scene(tmp_path / f"p{t}", GRID, cover=exact_cover(buildings, GRID, east=e, north=n), seed=t)
              for t, (e, n) in enumerate((first, second))]  # fmt: skip
    both = make_scene(tmp_path / "both", GRID, periods=2)
    with Scene.write(tmp_path / "scene", parameters={}) as draft:
        for t, image in enumerate(images):
            write_raster(draft.directory / f"reflectance_{t}.tif", image.reflectance()[0], GRID)
            write_raster(draft.directory / f"valid_{t}.tif", image.valid(), GRID)
        draft.write_json("item.json", both.item)
    made = run(tmp_path / "scene", write(buildings, tmp_path / "b.gpkg"), tmp_path)
    cells = {shift.cell for shift in made.info.shifts}
    assert len(made.info.shifts) == 2 * len(cells) == 8
    for shift in made.info.shifts:
        assert shift.reliable
        assert (shift.east, shift.north) == pytest.approx((first, second)[shift.period], abs=2.0)
        assert shift.correlation_after > shift.correlation_before
    text = describe(made.info, 10.0)
    assert "period 0: the footprints lie 14 m off the image: `casbah tile --align`" in text


def test_a_shift_that_few_cells_pretend_to_know_is_not_told(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    info = run(scene, write(footprints, tmp_path / "b.gpkg"), tmp_path).info
    fit = {"correlation_before": 0.0, "correlation_after": 0.1}
    chance = Shift(period=0, cell=(0, 0, 1, 1), east=25.0, north=0.0, reliable=True, **fit)
    others = (chance.model_copy(update={"reliable": False}),) * 49
    row = shift_summary((chance, *others), 1)[0]
    assert (row["reliable"], row["cells"], row["told"]) == (1, 50, False)
    text = describe(info.model_copy(update={"summary": info.summary | {"shifts": [row]}}), 10.0)
    assert "period 0: can't be told (1 of 50 cells are reliable)" in text
    assert "off the image" not in text


def test_the_summary_says_what_a_person_wants_to_know(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    said = {"licence": "CC-BY-4.0", "attribution": "Regione Toscana", "vintage": "1988-2013"}
    made = run(scene, write(footprints, tmp_path / "b.gpkg"), tmp_path, **said)
    summary = made.info.summary
    assert (made.info.licence, made.info.attribution, made.info.vintage) == tuple(said.values())
    assert summary["footprint_km2"] == pytest.approx(footprints.area.sum() / 1e6, abs=1e-6)
    known = made.coverage() != 255
    assert summary["cover"] == pytest.approx(made.coverage()[known].mean() / 100, abs=1e-6)
    assert summary["pixels_without_any_building"] == pytest.approx((made.coverage()[known] == 0).mean(), abs=1e-6)
    assert summary["vintage"]["years_apart"][0] == pytest.approx(9.5, abs=0.1)
    text = describe(made.info, 10.0)
    for part in ("4 polygons from b.gpkg (SIMULATED)", "CC-BY-4.0", "Regione Toscana", "9.5 years apart", "2023-06-10"):
        assert part in text


def test_an_empty_half_of_a_scene_shows_in_the_share_of_empty_cells(tmp_path: Path) -> None:
    grid = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 100, 200)
    scene = make_scene(tmp_path / "scene", grid, bands=("B02", "B03", "B04"))
    places = [(x, y, 20, 20) for x in range(50, 1000, 100) for y in range(50, 1000, 100)]
    made = run(tmp_path / "scene", write(boxes(grid, *places), tmp_path / "b.gpkg"), tmp_path)
    assert scene.grid == grid
    assert made.info.summary["cells_without_any_building"] == 0.5


SAID = {"licence": "CC-BY-4.0", "attribution": "Regione Toscana", "vintage": "2013"}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("source", ["osm", "file"])
def test_what_a_source_says_of_itself_can_not_be_said_over(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, source: str, name: str
) -> None:
    with serving(lambda *_: Answer(overpass([way(1, square(100, 100, 60))]))) as server:
        where = "osm" if source == "osm" else write(footprints.assign(**SAID), tmp_path / "b.gpkg")
        own = run(scene, where, tmp_path, overpass=server.url).info
        for value in (getattr(own, name), None):
            again = run(scene, where, tmp_path, overpass=server.url, **{name: value}).info
            assert getattr(again, name) == getattr(own, name)
        shutil.rmtree(tmp_path / "labels")
        other = "1999" if name == "vintage" else "me"
        message = rf"the {name} of .* is '{re.escape(getattr(own, name))}', and '{other}' was given: leave out --{name}"
        refused(scene, where, tmp_path, message, overpass=server.url, **{name: other})


@pytest.mark.parametrize(
    "vintage", ["20130401", "2023-02-30", "2023-06-00", "2013-13", "spring 2013", "2013-", "1850", "June"]
)
def test_a_vintage_that_is_no_date_is_refused_before_anything_is_read(
    scene: Path, tmp_path: Path, vintage: str
) -> None:
    message = rf"the vintage is '{vintage}'; a year, a month, a day or a span that the calendar has is wanted: 2013,"
    refused(scene, "nowhere.gpkg", tmp_path, message, vintage=vintage)


@pytest.mark.parametrize("vintage", ["2013", "2013-04", "2013-04-30", "1988-2013", "2013-04-01/2014-03-31"])
def test_every_form_of_a_vintage_gives_an_age(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, vintage: str
) -> None:
    made = run(scene, write(footprints, tmp_path / "b.gpkg"), tmp_path, vintage=vintage)
    assert 9 < made.info.summary["vintage"]["years_apart"][0] < 10.5


@pytest.mark.parametrize("vintage", ["2023-02-30", "20130401", "last spring"])
def test_a_files_vintage_that_is_no_date_is_unknown_and_said(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str], vintage: str
) -> None:
    source = write(footprints.assign(vintage=vintage), tmp_path / "b.gpkg")
    info = run(scene, source, tmp_path).info
    assert info.vintage == "unknown"
    said = capsys.readouterr().err
    assert f"the source's vintage '{vintage}' is no date, year or span, and is taken as unknown" in said
    assert "b.gpkg does not say how old its footprints are: give --vintage" in said
    assert f"note         the source's vintage '{vintage}'" in describe(info, 10.0)
    assert run(scene, source, tmp_path, vintage="2013").info.vintage == "2013"


def test_footprints_that_overlap_are_said_to_count_twice_in_their_area(scene: Path, tmp_path: Path) -> None:
    made = run(scene, write(boxes(SMALL, (100, 100, 40, 40), (120, 100, 40, 40)), tmp_path / "b.gpkg"), tmp_path)
    assert made.info.summary["footprint_km2"] == pytest.approx(0.0032)
    assert "0.003 km2 of footprints, overlaps counted twice" in describe(made.info, 10.0)


def test_an_unknown_licence_is_said_aloud(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(scene, write(footprints, tmp_path / "b.gpkg"), tmp_path)
    assert (made.info.licence, made.info.attribution) == ("unknown", "unknown")
    assert (
        "b.gpkg does not say its licence or whom to name: give --licence and --attribution" in capsys.readouterr().err
    )
    assert "WARNING      the licence or attribution of the footprints is unknown" in describe(made.info, 10.0)


@pytest.mark.parametrize("how", ["scene", "gpkg", "geojson", "parquet"])
def test_what_is_simulated_stays_simulated(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, how: str
) -> None:
    source = tmp_path / f"b.{'gpkg' if how == 'scene' else how}"
    about = {"casbah:simulated": "true"}
    if how == "gpkg":
        footprints.to_file(source, engine="pyogrio", layer_metadata=about)
    elif how == "geojson":
        source.write_text(json.dumps(json.loads(footprints.to_crs(4326).to_json()) | {"casbah:simulated": True}))
    elif how == "parquet":
        footprints.assign(simulated=True).to_parquet(source)
    else:
        write(footprints, source)
    real = _real(scene, tmp_path)
    made = run(scene if how == "scene" else real, source, tmp_path)
    assert made.info.simulated
    assert not label(scene=real, source=write(footprints, tmp_path / "r.gpkg"), output=tmp_path / "real").info.simulated


def _real(scene: Path, tmp_path: Path) -> Path:
    """The same scene, said to be observed."""
    opened = Scene.open(scene)
    item = json.loads(json.dumps(opened.item))
    item["properties"]["casbah"]["simulated"] = False
    with Scene.write(tmp_path / "observed", parameters={}) as draft:
        for name in opened.manifest.files:
            (draft.directory / name).write_bytes((opened.path / name).read_bytes())
        draft.write_json("item.json", item)
    return tmp_path / "observed"


def test_memory_is_bounded_by_blocks_that_change_nothing(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(footprints, tmp_path / "b.gpkg")
    whole = run(scene, source, tmp_path).coverage()
    monkeypatch.setattr("casbah.label.rasters.BLOCK", 16)
    assert (run(scene, source, tmp_path).coverage() == whole).all()


def test_a_file_is_fetched_from_an_address(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write(footprints, tmp_path / "b.gpkg").read_bytes()
    monkeypatch.setattr("casbah.label.sources.FIRST_PAUSE", 0.01)

    def reply(path: str, number: int) -> Answer:
        return Answer(status=503) if number == 0 else Answer(content)

    with serving(reply) as server:
        made = run(scene, f"{server.url}/towns.gpkg", tmp_path)
    assert (made.info.source, made.info.footprints) == ("towns.gpkg", 4)
    with serving(lambda *_: Answer(status=404)) as server, pytest.raises(InputError, match=r"can't be fetched \(404"):
        run(scene, f"{server.url}/towns.gpkg", tmp_path)


@pytest.mark.parametrize("address", ["http:///b.gpkg", "http://[bad/b.gpkg", "http://exa_mple..x/b.gpkg"])
def test_an_address_that_names_no_server_is_refused(scene: Path, tmp_path: Path, address: str) -> None:
    refused(scene, address, tmp_path, re.escape(f"{address} is no address that can be asked"))


def test_a_full_temporary_disk_is_a_fault_of_the_world_that_names_it(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("casbah.label.sources.open", full, raising=False)
    message = r"towns\.gpkg could not be kept in .*casbah-label-.* \(No space left on device\): .* point TMPDIR to a la"
    with serving(lambda *_: Answer(b"x")) as server, pytest.raises(WorldError, match=message):
        run(scene, f"{server.url}/towns.gpkg", tmp_path)


@pytest.fixture
def tiny_disk() -> Iterator[None]:
    """Whatever is written beyond two hundred bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("tiny_disk")
def test_a_disk_that_fills_under_the_rasters_says_why_and_nothing_else(
    scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shapes = boxes(SMALL, *FOUR).geometry.to_numpy()
    with pytest.raises(OSError, match="File too large"):
        write_rasters(tmp_path, shapes, Area(SMALL), Scene.open(scene), 50)
    assert "tiff" not in capfd.readouterr().err.lower()


def test_a_file_is_fetched_from_the_object_store(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write(footprints, tmp_path / "b.gpkg").read_bytes()
    headers = {"ETag": '"0123"', "Last-Modified": formatdate(usegmt=True)}
    with serving(lambda *_: Answer(content, headers=headers)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.removesuffix("/api/interpreter"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        made = run(scene, "s3://towns/osm/b.gpkg", tmp_path)
    assert (made.info.source, made.info.footprints) == ("b.gpkg", 4)
    assert {path.partition("?")[0] for _, path in server.asked} == {"/towns/osm/b.gpkg"}


@pytest.mark.parametrize("name", ["b.gpkg", "b.shp", ""])
def test_a_password_or_token_of_a_source_is_never_said(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with serving(lambda *_: Answer(b"no", status=404)) as server:
        place = server.url.replace("http://", "http://me:hunter2@").removesuffix("/api/interpreter")
        with pytest.raises(InputError) as raised:
            run(scene, f"{place}/{name}?token=hunter2", tmp_path)
    said = str(raised.value) + capsys.readouterr().err
    assert "http://127.0.0.1" in said
    assert "hunter2" not in said


# What is refused: each message names the input, what was found, and what is wanted.


def refused(scene: Path, source: object, tmp_path: Path, message: str, **options: object) -> None:
    with pytest.raises(InputError, match=message):
        run(scene, source, tmp_path, **options)
    assert not (tmp_path / "labels").exists()
    assert not list(tmp_path.glob(".labels*"))


@pytest.mark.parametrize("name", ["b.gpkg", "b.parquet", "b.shp"])
def test_footprints_without_a_crs_are_refused(scene: Path, tmp_path: Path, name: str) -> None:
    frame = boxes(SMALL, *FOUR).set_crs(None, allow_override=True)
    refused(
        scene, write(frame, tmp_path / name), tmp_path, rf"{name} does not say its CRS, so nobody knows where it lies"
    )


def test_footprints_in_a_wrong_crs_are_refused_with_both_extents(scene: Path, tmp_path: Path) -> None:
    frame = boxes(SMALL, *FOUR).set_crs("EPSG:32632", allow_override=True)
    message = (
        r"b\.gpkg does not overlap the scene: in EPSG:32632 it spans west 500100, south 4059420, east 500470, north "
        r"4059903, and the labelled part of the scene west -36\d+, south 407\d+, east -35\d+, north 407\d+; .*right\?"
    )
    refused(scene, write(frame, tmp_path / "b.gpkg"), tmp_path, message)


@pytest.mark.parametrize("shape", [None, Polygon(), MultiPolygon(), MultiPolygon([Polygon()])], ids=str)
@pytest.mark.parametrize("name", ["b.gpkg", "b.geojson", "b.shp", "b.parquet", "b.gml", "b.sqlite", 'a "b".gpkg'])
def test_rows_without_a_geometry_are_counted_in_every_format(
    scene: Path, tmp_path: Path, name: str, shape: shapely.Geometry | None
) -> None:
    frame = boxes(SMALL, *FOUR, building=["yes"] * 4).to_crs(4326)
    frame.loc[1, "geometry"] = shape
    made = run(scene, write(frame, tmp_path / name), tmp_path)
    assert (made.info.footprints, made.info.summary["read"], made.info.summary["dropped"]) == (3, 4, {"empty": 1})


@pytest.mark.parametrize("how", ["byte order mark", "a feature a line", "a feature a line in .json"])
def test_every_way_of_writing_geojson_is_read(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, how: str
) -> None:
    whole = json.loads(footprints.to_crs(4326).to_json()) | {"licence": "CC0-1.0"}
    path = tmp_path / ("b.json" if how.endswith(".json") else "b.geojson")
    if how == "byte order mark":
        path.write_text(json.dumps(whole), encoding="utf-8-sig")
    else:
        path.write_text("".join(json.dumps(feature) + "\n" for feature in whole["features"]))
    made = run(scene, path, tmp_path)
    assert made.info.footprints == 4
    assert made.info.licence == ("CC0-1.0" if how == "byte order mark" else "unknown")


@pytest.mark.parametrize("name", ["b.gpkg", "b.geojson"])
def test_a_building_of_several_parts_of_which_one_is_empty_is_kept(scene: Path, tmp_path: Path, name: str) -> None:
    frame = boxes(SMALL, *FOUR).to_crs(4326)
    frame.loc[1, "geometry"] = MultiPolygon([frame.geometry[1], Polygon()])
    made = run(scene, write(frame, tmp_path / name), tmp_path)
    assert (made.info.footprints, made.info.summary["read"]) == (4, 4)


@pytest.mark.parametrize("shape", [None, Polygon()], ids=str)
@pytest.mark.parametrize("name", ["b.gpkg", "b.geojson", "b.parquet"])
def test_a_file_of_rows_without_any_geometry_is_refused(
    scene: Path, tmp_path: Path, name: str, shape: shapely.Geometry | None
) -> None:
    frame = boxes(SMALL, *FOUR).to_crs(4326)
    frame["geometry"] = geopandas.GeoSeries([shape] * 4, crs=4326)
    message = rf"{name} holds rows without a geometry only; building footprints \(polygons\) are wanted"
    refused(scene, write(frame, tmp_path / name), tmp_path, message)


@pytest.mark.parametrize("name", ["b.gpkg", "b.geojson", "b.parquet"])
def test_a_file_without_any_building_is_refused(scene: Path, tmp_path: Path, name: str) -> None:
    refused(
        scene, write(boxes(SMALL), tmp_path / name), tmp_path, rf"{name} holds no building: it has no feature at all"
    )


def test_a_scene_without_any_building_is_refused_though_the_file_has_some_around_it(
    scene: Path, tmp_path: Path
) -> None:
    source = write(boxes(SMALL, (-900, -900, 20, 20), (1500, 1500, 20, 20)), tmp_path / "b.gpkg")
    refused(scene, source, tmp_path, r"b\.gpkg holds no building in the labelled part of the scene \(west 2\.99")


def test_points_in_place_of_polygons_are_refused(scene: Path, tmp_path: Path) -> None:
    frame = boxes(SMALL, *FOUR)
    frame = frame.set_geometry(frame.centroid)
    refused(
        scene, write(frame, tmp_path / "b.gpkg"), tmp_path, r"b\.gpkg holds no polygon but 4 of type point; building"
    )


def test_a_missing_file_is_refused(scene: Path, tmp_path: Path) -> None:
    refused(scene, tmp_path / "b.gpkg", tmp_path, r"b\.gpkg does not exist; a file of building footprints is wanted")
    refused(scene, tmp_path / "b.osm.pbf", tmp_path, r"b\.osm\.pbf does not exist; an OpenStreetMap extract")


@pytest.mark.parametrize("name", ["b.gpkg", "b.geojson", "b.parquet", "b.osm.pbf"])
def test_a_file_that_can_not_be_read_is_refused(scene: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not what it seems" * 10)
    refused(scene, tmp_path / name, tmp_path, rf"{name} can't be read as")


def _polyhedral(frame: geopandas.GeoDataFrame, path: Path) -> Path:
    """A GeoPackage whose first geometry is a polyhedral surface, as exports of 3D city models hold them."""
    frame.to_file(path, engine="pyogrio")
    corners = [(500_100, 4_059_900, 0), (500_140, 4_059_900, 0), (500_140, 4_059_860, 9), (500_100, 4_059_900, 0)]
    face = struct.pack("<BIII", 1, 1003, 1, len(corners)) + b"".join(struct.pack("<ddd", *point) for point in corners)
    with sqlite3.connect(path) as base:
        for (trigger,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            base.execute(f'DROP TRIGGER "{trigger}"')
        (blob,) = base.execute("SELECT geom FROM b WHERE fid = 1").fetchone()
        header = blob[: 8 + (32 if blob[3] & 2 else 0)]
        base.execute("UPDATE b SET geom = ? WHERE fid = 1", (header + struct.pack("<BII", 1, 1015, 1) + face,))
    return path


def test_a_kind_of_geometry_that_nothing_here_knows_is_refused_by_file(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    surface = _polyhedral(footprints, tmp_path / "b.gpkg")
    message = r"b\.gpkg can't be read as a vector file \(.*Unknown WKB type"
    refused(scene, surface, tmp_path, message)
    refused(scene, write(footprints, tmp_path / "good.gpkg"), tmp_path, message, labelled_area=surface)


@pytest.mark.parametrize("name", ["b.gpkg", "b.parquet"])
def test_a_crs_of_a_building_site_is_refused_by_file(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    site = 'LOCAL_CS["Building site",UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]'
    local = write(footprints.set_crs(site, allow_override=True), tmp_path / name)
    message = rf"{re.escape(name)}: the scene's grid \(EPSG:32631\) can't be put into the CRS 'Building site'; one that"
    refused(scene, local, tmp_path, message)
    good = write(footprints, tmp_path / "good.gpkg")
    refused(scene, good, tmp_path, rf"{re.escape(name)} can't be put into the scene's CRS", labelled_area=local)
    assert "ERROR" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["b.gpkg", "b.fgb", "b.parquet"])
def test_an_infinite_coordinate_costs_its_own_building_only(scene: Path, tmp_path: Path, name: str) -> None:
    frame = boxes(SMALL, *FOUR, (-5000, 0, 20, 20))
    west, _, _, north = SMALL.bounds
    frame.loc[0, "geometry"] = Polygon([(west + 9, north - 9), (np.inf, north - 9), (west + 20, north - 20)])
    made = run(scene, write(frame, tmp_path / name), tmp_path)
    assert (made.info.footprints, made.info.summary["read"], made.info.summary["dropped"]) == (3, 4, {"not finite": 1})
    refused(scene, write(frame[:1], tmp_path / f"o{name}"), tmp_path / "o", "geometries whose coordinates are not fin")


def test_a_labelled_area_of_several_layers_is_refused_by_their_names(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    source, area = write(footprints, tmp_path / "b.gpkg"), tmp_path / "area.gpkg"
    for layer in ("mapped", "sea"):
        boxes(SMALL, (0, 0, 640, 640)).to_file(area, layer=layer, engine="pyogrio")
    message = (
        r"area\.gpkg has 2 layers \(mapped, sea\); a file of one layer .* is wanted: ogr2ogr area.gpkg area.gpkg m"
    )
    refused(scene, source, tmp_path, message, labelled_area=area)


def test_a_labelled_area_in_which_no_pixel_is_known_is_refused(scene: Path, tmp_path: Path) -> None:
    source = write(boxes(SMALL, (20, 100, 90, 40)), tmp_path / "b.gpkg")
    touching = write(boxes(SMALL, (640, 0, 100, 640)), tmp_path / "touching.gpkg")
    refused(scene, source, tmp_path, r"touching\.gpkg misses the scene", labelled_area=touching)
    message = r"no pixel of .*scene is observed and lies wholly inside .*gpkg, so nothing could be learned or scored"
    for name, place in (("thin", (103, 95, 6, 300)), ("unseen", (0, 0, 30, 640))):
        refused(scene, source, tmp_path, message, labelled_area=write(boxes(SMALL, place), tmp_path / f"{name}.gpkg"))


def test_one_of_several_layers_has_to_be_picked(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "b.gpkg"
    footprints.to_file(path, layer="roofs", engine="pyogrio")
    footprints[:1].to_file(path, layer="sheds", engine="pyogrio")
    refused(scene, path, tmp_path, r"b\.gpkg has 2 layers \(roofs, sheds\); pick the footprints by --layer")
    refused(scene, path, tmp_path, r"b\.gpkg has no layer 'walls'; it has roofs, sheds", layer="walls")
    assert run(scene, path, tmp_path, layer="sheds").info.footprints == 1


def test_a_labelled_area_that_misses_the_scene_is_refused_with_both_extents(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    area = write(boxes(SMALL, (5000, 0, 100, 100)), tmp_path / "area.gpkg")
    source = write(footprints, tmp_path / "b.gpkg")
    message = r"area\.gpkg misses the scene: in EPSG:32631 it spans west 505000, .*, and the scene west 500000, "
    refused(scene, source, tmp_path, message, labelled_area=area)


def test_a_labelled_area_that_is_no_polygon_in_a_crs_is_refused(
    scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    source = write(footprints, tmp_path / "b.gpkg")
    points = footprints.set_geometry(footprints.centroid)
    refused(
        scene,
        source,
        tmp_path,
        r"p\.gpkg holds other things than polygons",
        labelled_area=write(points, tmp_path / "p.gpkg"),
    )
    bare = write(footprints.set_crs(None, allow_override=True), tmp_path / "n.gpkg")
    refused(scene, source, tmp_path, r"n\.gpkg does not say its CRS", labelled_area=bare)
    refused(
        scene, source, tmp_path, r"m\.gpkg does not exist; a file with a polygon", labelled_area=tmp_path / "m.gpkg"
    )


@pytest.mark.parametrize("percent", [0, 101])
def test_a_cover_that_is_no_percentage_is_refused(scene: Path, tmp_path: Path, percent: int) -> None:
    refused(scene, "osm", tmp_path, rf"building_cover is {percent}; a percentage from 1 to 100", building_cover=percent)


def test_a_snapshot_of_a_file_is_refused(scene: Path, footprints: geopandas.GeoDataFrame, tmp_path: Path) -> None:
    source = write(footprints, tmp_path / "b.gpkg")
    refused(scene, source, tmp_path, r"a snapshot can't be asked of the file", snapshot="2023-01-01")


def test_a_scene_that_is_none_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "osm", tmp_path, r"nowhere does not exist; a scene directory is wanted")


def test_something_else_at_the_output_is_left_alone(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"already holds something else than a labels"):
        run(scene, "osm", tmp_path)
    assert (tmp_path / "labels" / "thesis.txt").read_text() == "precious"


# The command.


def test_the_command_prints_the_summary_and_the_place(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda *_: Answer(overpass([way(1, square(100, 100, 60)), way(2, square(300, 300, 80))]))) as server:
        cli.app(
            [
                "label",
                "--scene",
                str(scene),
                "--source",
                "osm",
                "--output",
                str(tmp_path / "l"),
                "--overpass",
                server.url,
            ],
            standalone_mode=False,
        )
    out = capsys.readouterr().out
    assert "2 polygons from osm" in out
    assert "ODbL-1.0; attribution: (c) OpenStreetMap contributors" in out
    assert f"labels       {tmp_path / 'l'}" in out
    with rasterio.open(tmp_path / "l" / "mask.tif") as mask:
        assert mask.nodata == 255
        assert Grid.of(mask) == SMALL


@pytest.mark.parametrize(
    ("source", "code", "message"), [("nowhere.gpkg", 2, "nowhere.gpkg does not exist"), ("osm", 3, "failed 5 times")]
)
def test_the_command_ends_with_the_code_of_the_fault(
    scene: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr("casbah.label.overpass.time.sleep", lambda seconds: None)
    words = [
        "label",
        "--scene",
        str(scene),
        "--source",
        source,
        "--output",
        str(tmp_path / "l"),
        "--overpass",
        "http://127.0.0.1:9",
    ]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "l").exists()
