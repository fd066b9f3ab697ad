"""The whole stage on static catalogues of made-up items: what a scene holds, and what is refused with which words."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from catalogues import AREA, TILE, Site, make_catalogue, make_item, ramp, serve, write_area, write_geojson
from rasterio._err import CPLE_AppDefinedError
from rasterio.errors import RasterioError

from casbah.errors import CasbahError, InputError, WorldError
from casbah.grid import Grid
from casbah.ingest import Patience, ingest
from casbah.ingest.composite import composite
from casbah.ingest.reading import Files
from casbah.ingest.stage import Maker
from casbah.products.scene import Scene

if TYPE_CHECKING:
    from casbah.sample import Town

FOUR = ("B02", "B04", "B8A", "B12")
NEW = {"s2:processing_baseline": "05.09"}

REPLAY = {"start": None, "end": None, "stac": None}
"""What is left out beside an item list."""

QUICK = Patience(connect=1.0, read=0.4, attempts=3, pause=0.01)

Make = Callable[..., Scene]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Ingest June 2023 from the catalogue at `tmp_path`, unless told otherwise."""

    def run(**given: Any) -> Scene:
        usual = {
            "aoi": tmp_path / "aoi.geojson",
            "start": "2023-06-01",
            "end": "2023-06-30",
            "stac": str(tmp_path / "catalog.json"),
            "output": tmp_path / "scene",
            "bands": FOUR,
            "workers": 2,
        }
        return ingest(**(usual | given))

    write_area(tmp_path / "aoi.geojson")
    return run


def listed(tmp_path: Path, *hrefs: str, **collection: Any) -> None:
    make_catalogue(tmp_path, list(hrefs), **collection)


def left_behind(tmp_path: Path) -> list[str]:
    """What a run left beside its inputs: outputs, work directories, partial products."""
    return [path.name for path in tmp_path.iterdir() if path.name.startswith(".") or path.name == "scene"]


def test_a_scene_is_a_stac_item_of_cogs_with_all_that_later_stages_ask(tmp_path: Path, make: Make) -> None:
    listed(
        tmp_path,
        make_item(tmp_path, "S2A_A_L2A", "2023-06-05"),
        make_item(tmp_path, "S2A_B_L2A", "2023-06-15", inside=1000, properties=NEW),
    )
    scene = make()
    assert (scene.grid, scene.bands, scene.periods, scene.info.level) == (AREA, FOUR, 1, "L2A")
    assert scene.info.periods[0].dates == ("2023-06-05", "2023-06-15")
    assert scene.info.attribution == "Contains modified Copernicus Sentinel data 2023"
    assert not scene.info.simulated
    assert {source["id"]: source["offset"] for source in scene.info.sources} == {"S2A_A_L2A": 0, "S2A_B_L2A": 1000}
    assert all("agree" in source["offset_reason"] for source in scene.info.sources)
    assert (scene.valid() == 2).all()
    rows, cols = round((TILE.north - AREA.north) / 10), round((AREA.west - TILE.west) / 10)
    wanted = ramp(TILE)[rows : rows + AREA.rows, cols : cols + AREA.cols]
    assert np.abs(scene.reflectance()[0] - wanted).max() <= 1.01
    item = pystac.Item.from_file(str(scene.path / "item.json"))
    assert item.properties["proj:code"] == AREA.crs
    assert item.properties["proj:transform"] == list(AREA.transform)[:6]
    assert set(item.assets) == {"reflectance_0", "valid_0", "items"}
    for asset in item.assets.values():
        assert Path(asset.get_absolute_href() or "").is_file()
    with rasterio.open(scene.reflectance_path(0)) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (dataset.nodata, dataset.descriptions, dataset.dtypes[0]) == (0, FOUR, "uint16")
    assert left_behind(tmp_path) == ["scene"]


def test_a_scene_says_where_it_was_searched_for(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    made = make(max_cloud=35, collection="tiny", offset=0).manifest.parameters
    wanted = {"stac": str(tmp_path / "catalog.json"), "collection": "tiny", "max_cloud": 35, "offset": 0}
    assert {name: made[name] for name in wanted} == wanted


@pytest.fixture
def far(tmp_path: Path) -> Callable[[str], Any]:
    """A web server of a catalogue whose assets all have `query` in their addresses; each one on a port of its own."""
    folder = tmp_path / "site"
    folder.mkdir()
    make_catalogue(folder, [make_item(folder, "A_L2A", "2023-06-05"), make_item(folder, "B_L2A", "2023-06-15")])
    write_area(folder / "aoi.geojson")

    @contextlib.contextmanager
    def served(query: str) -> Iterator[Site]:
        with serve(folder) as site:
            for name in ("A_L2A", "B_L2A"):
                path = folder / name / f"{name}.json"
                item = json.loads(path.read_text())
                for asset in item["assets"].values():
                    file = Path(asset["href"].split("?")[0]).name
                    asset["href"] = f"{site.url}/{name}/{file}{query}"
                path.write_text(json.dumps(item))
            yield site

    return served


SECRET = "s3cr3t"


def with_secrets(site: Site) -> dict[str, Any]:
    door = site.url.replace("//", f"//me:{SECRET}@")
    return {
        "aoi": f"{door}/aoi.geojson?sig={SECRET}",
        "stac": f"{door}/catalog.json?token={SECRET}",
        "patience": QUICK,
    }


def test_passwords_and_signatures_reach_no_file_of_a_scene_and_no_log(
    tmp_path: Path, make: Make, far: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with far(f"?sig={SECRET}") as site:
        site.faults = {"A_L2A/B04.tif": [503, 503]}
        scene = make(**with_secrets(site))
    assert (scene.valid() == 2).all()
    assert scene.manifest.parameters["stac"] == f"{site.url}/catalog.json"
    assert scene.manifest.parameters["area"] == f"{site.url}/aoi.geojson"
    for file in scene.path.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in capfd.readouterr().err + caplog.text


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("A_L2A/B04.tif", 404),
        ("A_L2A/B04.tif", 403),
        ("catalog.json", 404),
        ("catalog.json", "hang"),
        ("B_L2A.json", 500),
        ("aoi.geojson", 404),
        ("aoi.geojson", 500),
    ],
)
def test_passwords_and_signatures_reach_no_message(
    tmp_path: Path,
    make: Make,
    far: Any,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    path: str,
    fault: Any,
) -> None:
    with far(f"?sig={SECRET}") as site:
        site.faults = {path: fault}
        with pytest.raises(CasbahError, match=path) as caught:
            make(**with_secrets(site))
    told = f"{caught.value} {capfd.readouterr().err} {caplog.text}"
    assert SECRET not in told
    assert "me:" not in told
    assert left_behind(tmp_path) == []


def test_an_address_without_a_secret_is_saved_as_it_is(tmp_path: Path, make: Make, far: Any) -> None:
    with far("?versionId=7") as site:
        scene = make(stac=f"{site.url}/catalog.json", patience=QUICK)
        saved = json.loads((scene.path / "items.json").read_text())["features"][0]["assets"]
        assert saved["B04"]["href"] == f"{site.url}/A_L2A/B04.tif?versionId=7"
        assert make(items=scene.path, output=tmp_path / "again", patience=QUICK, **REPLAY).digest == scene.digest


def test_a_replay_that_lacks_a_signature_says_so(tmp_path: Path, make: Make, far: Any) -> None:
    with far("?X-Amz-Signature=s3cr3t") as site:
        scene = make(stac=f"{site.url}/catalog.json", patience=QUICK)
    with far("") as site:
        site.faults = {"B04.tif": 403}
        moved = re.sub(r"http://127\.0\.0\.1:\d+", site.url, (scene.path / "items.json").read_text())
        (tmp_path / "items.json").write_text(moved)
        with pytest.raises(WorldError, match=r"saved without the password or signature .*: search again with --stac"):
            make(items=tmp_path / "items.json", output=tmp_path / "again", patience=QUICK, **REPLAY)
        assert site.asked["B04.tif"] == 1


def test_a_rerun_asks_the_catalogue_again_for_signatures_that_no_file_holds(
    tmp_path: Path, make: Make, far: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = []

    def gone(step: Any, *_: Any) -> Any:
        raise WorldError("gone")

    def noted(step: Any, *rest: Any) -> Any:
        addresses.extend(layer.href for source in step.sources for layer in source.layers.values())
        return composite(step, *rest)

    monkeypatch.setattr("casbah.workplace.Workplace.clear_unless_useful", lambda _: None)
    with far("?sig=s3cr3t") as site:
        for made in (gone, noted):
            monkeypatch.setattr("casbah.ingest.stage.composite", made)
            with contextlib.suppress(WorldError):
                make(stac=f"{site.url}/catalog.json", patience=QUICK)
            for file in tmp_path.glob(".scene.ingest-*/items.json"):
                assert "s3cr3t" not in file.read_text()
    assert addresses
    assert all(address.endswith("?sig=s3cr3t") for address in addresses)


def test_attribution_and_simulation_are_those_of_the_collection(tmp_path: Path, make: Make) -> None:
    item = make_item(tmp_path, "A_L2A", "2023-06-05")
    listed(tmp_path, item, attribution="(c) Somebody", **{"casbah:simulated": True})
    info = make().info
    assert (info.attribution, info.simulated) == ("(c) Somebody", True)


def test_tiles_of_two_zones_are_mosaicked_and_each_names_its_bands_its_own_way(tmp_path: Path, make: Make) -> None:
    from rasterio.warp import transform, transform_bounds

    west = ramp(TILE)
    west[:, 60:] = 0
    bounds = transform_bounds(TILE.crs, "EPSG:32630", *TILE.bounds, densify_pts=21)
    coarse = Grid.covering("EPSG:32630", bounds, 60.0)
    far = Grid(coarse.crs, coarse.west, coarse.north, coarse.rows * 6, coarse.cols * 6)
    x, y = np.meshgrid(far.west + (np.arange(far.cols) + 0.5) * 10, far.north - (np.arange(far.rows) + 0.5) * 10)
    east, north = (np.reshape(v, far.shape) for v in transform(far.crs, TILE.crs, x.ravel(), y.ravel()))
    ground = 1500.0 + (east - TILE.west) / 10 * 2.0 + (TILE.north - north) / 10
    listed(
        tmp_path,
        make_item(tmp_path, "S2A_31SEA_20230605_0_L2A", "2023-06-05", ground=west),
        make_item(tmp_path, "S2A_30SXX_20230605_0_L2A", "2023-06-05", tile=far, ground=ground, naming="asset"),
    )
    scene = make(bands=("B04", "B12"))
    rows, cols = round((TILE.north - AREA.north) / 10), round((AREA.west - TILE.west) / 10)
    wanted = ramp(TILE)[rows : rows + AREA.rows, cols : cols + AREA.cols]
    assert (scene.valid() == 1).all()
    assert np.abs(scene.reflectance()[0] - wanted).max() <= 3


def test_two_periods_make_two_composites(tmp_path: Path, make: Make) -> None:
    listed(
        tmp_path,
        make_item(tmp_path, "A_L2A", "2023-06-05"),
        make_item(tmp_path, "B_L2A", "2023-06-25", ground=ramp(TILE, 3000)),
    )
    scene = make(periods=2)
    assert [(p.start, p.end, p.dates) for p in scene.info.periods] == [
        ("2023-06-01", "2023-06-15", ("2023-06-05",)),
        ("2023-06-16", "2023-06-30", ("2023-06-25",)),
    ]
    first, second = scene.reflectance().astype(int)
    assert np.abs(second - first - 1500).max() <= 2


def test_a_scene_made_again_from_its_item_list_is_the_same_to_the_byte(tmp_path: Path, make: Make) -> None:
    listed(
        tmp_path,
        make_item(tmp_path, "A_L2A", "2023-06-05"),
        make_item(tmp_path, "B_L2A", "2023-06-15", inside=1000, properties=NEW),
    )
    scene = make()
    (tmp_path / "catalog.json").unlink()
    again = make(items=scene.path, output=tmp_path / "again", **REPLAY)
    assert again.manifest.parameters["again_from"] == str(scene.path)
    for name in ("stac", "collection", "max_cloud", "offset"):
        assert again.manifest.parameters[name] == scene.manifest.parameters[name]
    assert again.digest == scene.digest
    assert {n: r.sha256 for n, r in again.manifest.files.items()} == {
        n: r.sha256 for n, r in scene.manifest.files.items()
    }


def test_the_digest_does_not_depend_on_how_many_threads_read(tmp_path: Path, make: Make) -> None:
    listed(
        tmp_path, *(make_item(tmp_path, f"{i}_L2A", f"2023-06-0{i}", ground=ramp(TILE, 1000 * i)) for i in (1, 2, 3))
    )
    assert make(workers=1).digest == make(workers=4, output=tmp_path / "other").digest


def test_no_more_memory_is_held_for_a_larger_area(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest array is a block's, and blocks joined are the scene that one block would be."""
    from casbah.ingest import stage

    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"), make_item(tmp_path, "B_L2A", "2023-06-15"))
    whole = make(output=tmp_path / "whole")
    largest = []

    def watched(step: Any, block: Grid, *rest: Any) -> Any:
        largest.append(max(block.shape))
        return composite(step, block, *rest)

    monkeypatch.setattr(stage, "composite", watched)
    monkeypatch.setattr(stage, "block_edge", lambda looks: 32)
    parted = make()
    assert max(largest) == 32
    assert len(largest) == 9
    assert np.abs(parted.reflectance().astype(int) - whole.reflectance()).max() <= 1
    assert np.array_equal(parted.valid(), whole.valid())


def test_a_size_and_a_time_are_told_before_the_work(
    tmp_path: Path, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    make()
    told = " ".join(capfd.readouterr().err.split())
    assert re.search(
        r"1 items in 1 period\(s\) over 90 x 80 pixels .* about \d+ kB of pixels to read, .* about 1 s", told
    )
    assert told.index("to read") < told.index("ingest: 1/1")


def test_the_time_told_is_what_the_first_read_took_scaled_to_all_that_is_read(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """B12 alone took 5 s; B8A has as many pixels, B02 and B04 four times as many: (1 + 1 + 4 + 4) x 5 s.

    Several read at once, files of this machine by no more than it has cores.
    """
    clock = [0.0]
    read = Files.read

    def slowly(files: Files, *given: Any) -> Any:
        clock[0] += 5.0
        return read(files, *given)

    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    monkeypatch.setattr(Files, "read", slowly)
    monkeypatch.setattr("casbah.ingest.stage.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    for workers, seconds in ((1, 50), (2, 25), (3, 25)):
        make(workers=workers)
        told = " ".join(capfd.readouterr().err.split())
        assert f"; about {seconds} s at the pace of a first read" in told


def test_of_two_processings_of_one_acquisition_the_newer_is_used(tmp_path: Path, make: Make) -> None:
    listed(
        tmp_path,
        make_item(tmp_path, "S2A_31SEA_20230605_0_L2A", "2023-06-05"),
        make_item(tmp_path, "S2A_31SEA_20230605_1_L2A", "2023-06-05", inside=1000, properties=NEW),
    )
    assert [source["id"] for source in make().info.sources] == ["S2A_31SEA_20230605_1_L2A"]


# What is refused, and with which words


def refused(tmp_path: Path, make: Make, words: str, kind: type[Exception] = InputError, **given: Any) -> None:
    """Ingest raises `kind` with the words, and leaves nothing."""
    with pytest.raises(kind, match=words):
        make(**given)
    assert left_behind(tmp_path) == []


def test_no_item_at_all_and_no_item_in_these_dates_say_what_to_widen(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-08-05", cloud=12.0))
    refused(
        tmp_path,
        make,
        r"no item over .* from 2023-06-01 to 2023-06-30; widen the dates: the nearest are 2023-08-05 \(12 % cloud\)",
    )
    far = write_geojson(
        tmp_path / "far.geojson", {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    )
    refused(tmp_path, make, "has no item over .* at all", aoi=far)


def test_an_area_at_sea_is_refused_and_one_partly_at_sea_is_not(tmp_path: Path, make: Make) -> None:
    listed(
        tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", scl=6), make_item(tmp_path, "B_L2A", "2023-06-15", scl=6)
    )
    refused(
        tmp_path, make, r"the area .* lies at sea or on a lake: at least 99\.5 % .* 2023-06-05, 2023-06-15 is water"
    )
    coast = np.full((60, 60), 6, "uint8")
    coast[:, 40:] = 4
    (tmp_path / "coast").mkdir()
    listed(tmp_path / "coast", make_item(tmp_path / "coast", "C_L2A", "2023-06-05", scl=coast))
    assert (make(stac=str(tmp_path / "coast" / "catalog.json")).valid() == 1).all()


@pytest.mark.parametrize(("infrared", "inside", "sea"), [(300.0, 0, True), (300.0, 1000, True), (2500.0, 0, False)])
def test_without_a_scene_classification_the_sea_is_told_by_green_and_infrared(
    tmp_path: Path, make: Make, infrared: float, inside: int, sea: bool
) -> None:
    six = ("B02", "B03", "B04", "B08", "B8A", "B12")
    for name, ground in (("A_L1C", 900.0), ("dark", infrared)):
        properties = NEW if inside else {}
        item = make_item(
            tmp_path, name, "2023-06-05", ground=ground, scl=None, level="L1C", bands=six, inside=inside,
            properties=properties,
        )  # fmt: skip
        if name == "A_L1C":
            listed(tmp_path, item)
    shutil.copy(tmp_path / "dark" / "B08.tif", tmp_path / "A_L1C" / "B08.tif")
    if sea:
        refused(tmp_path, make, "lies at sea or on a lake")
    else:
        assert (make().valid() == 1).all()


def test_too_cloudy_says_how_cloudy_and_what_to_raise(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", cloud=55.0))
    refused(
        tmp_path, make, r"at most 20 % cloud; raise --max-cloud or widen the dates: there are 2023-06-05 \(55 % cloud\)"
    )


def test_an_area_under_nothing_but_cloud_is_refused(tmp_path: Path, make: Make) -> None:
    listed(
        tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", scl=9), make_item(tmp_path, "B_L2A", "2023-06-15", scl=3)
    )
    refused(tmp_path, make, r"all cloud or empty there \(2023-06-05 .*2023-06-15 .*; widen the dates")


def test_of_several_periods_the_one_under_cloud_is_named(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"), make_item(tmp_path, "B_L2A", "2023-06-25", scl=9))
    refused(tmp_path, make, r"from 2023-06-16 to 2023-06-30 .* is all cloud .* or ask for fewer --periods", periods=2)


def test_a_replay_onto_nothing_but_nodata_is_refused(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    scene = make(output=tmp_path / "first")
    beside = write_area(tmp_path / "b.geojson", Grid(TILE.crs, TILE.west + 3000, TILE.north, 20, 20))
    refused(
        tmp_path,
        make,
        "there is no clear pixel over .*: all is cloud, shadow or nodata on 2023-06-05",
        items=scene.path,
        aoi=beside,
        **REPLAY,
    )


def test_a_part_without_any_clear_observation_is_told_and_is_nodata(
    tmp_path: Path, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    scl = np.full((60, 60), 4, "uint8")
    scl[15:30, 15:30] = 9
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", scl=scl))
    scene = make()
    assert re.search(r"\d+ % of the area has no clear observation", capfd.readouterr().err)
    assert np.array_equal(scene.valid()[0] == 0, (scene.reflectance()[0] == 0).all(axis=0))
    assert np.array_equal(scene.valid()[0] == 0, (scene.reflectance()[0] == 0).any(axis=0))


def test_what_is_said_of_simulated_imagery_says_that_it_is(
    tmp_path: Path, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    scl = np.full((60, 60), 4, "uint8")
    scl[15:30, 15:30] = 9
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", scl=scl), **{"casbah:simulated": True})
    make()
    told = capfd.readouterr().err
    assert re.search(r"SIMULATED imagery: \d+ % of the area has no clear", told)
    assert "SIMULATED imagery: 1 items in 1 period(s)" in told


def test_levels_are_never_mixed_and_the_flag_that_picks_one_is_named(tmp_path: Path, make: Make) -> None:
    listed(
        tmp_path,
        make_item(tmp_path, "A_L2A", "2023-06-05"),
        make_item(tmp_path, "B_L1C", "2023-06-05", level="L1C", scl=None),
    )
    refused(tmp_path, make, "mixes levels .* choose with --level L2A or --level L1C")
    assert make(level="L1C").info.level == "L1C"


def test_an_item_that_does_not_say_its_level_needs_to_be_told(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "chip", "2023-06-05", level=None))
    refused(tmp_path, make, "item chip does not say whether it is L1C or L2A; say it with --level")
    assert make(level="L2A").info.level == "L2A"


def test_a_missing_band_is_named_with_the_item(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    refused(tmp_path, make, r"item A_L2A has no asset for B03 .* choose the bands that it has", bands=("B03", "B04"))
    refused(tmp_path, make, "band 'B99' is not a Sentinel-2 band", bands=("B99",))


def test_a_truncated_cog_is_named_with_its_item(tmp_path: Path, make: Make) -> None:
    noise = np.random.default_rng(0).integers(1, 9000, TILE.shape).astype(float)
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", ground=noise))
    path = tmp_path / "A_L2A" / "B04.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refused(tmp_path, make, r"B04 of item A_L2A \(.*B04\.tif\) could not be read: .* cut short or damaged")


def test_blocks_finished_before_a_damaged_asset_are_kept_until_it_is_fetched_again(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(1, 9000, TILE.shape).astype(float)
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", ground=noise))
    monkeypatch.setattr("casbah.ingest.stage.block_edge", lambda looks: 32)
    whole = make(output=tmp_path / "whole")
    path = tmp_path / "A_L2A" / "B04.tif"
    sound, made = path.read_bytes(), []

    def damaged_after_four(step: Any, block: Grid, files: Files, pool: Any) -> Any:
        made.append(block)
        if len(made) == 5:
            path.write_bytes(sound[: len(sound) // 3])
            files.close()
        return composite(step, block, files, pool)

    with monkeypatch.context() as patch:
        patch.setattr("casbah.ingest.stage.composite", damaged_after_four)
        with pytest.raises(InputError, match=r"B04 of item A_L2A .* fetch it again and run the same"):
            make()
    assert not (tmp_path / "scene").exists()
    path.write_bytes(sound)
    assert make().digest == whole.digest
    assert "4 of 9 blocks are there from an earlier run" in capfd.readouterr().err


def test_an_item_that_is_damaged_for_good_can_be_left_out(
    tmp_path: Path, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"), make_item(tmp_path, "B_L2A", "2023-06-15"))
    whole = make(output=tmp_path / "whole")
    (tmp_path / "A_L2A" / "B04.tif").write_bytes(b"no")
    refused(tmp_path, make, "or leave the item out with --exclude A_L2A")
    scene = make(exclude=["A_L2A", "Z"])
    assert [source["id"] for source in scene.info.sources] == ["B_L2A"]
    assert scene.manifest.parameters["exclude"] == ["A_L2A", "Z"]
    assert "Z of --exclude is not among the items found" in " ".join(capfd.readouterr().err.split())
    again = make(items=whole.path, exclude=["A_L2A"], output=tmp_path / "again", **REPLAY)
    assert (again.reflectance() == scene.reflectance()).all()
    with pytest.raises(InputError, match="--exclude leaves no item from 2023-06-01 to 2023-06-30"):
        make(items=scene.path, exclude=["B_L2A"], output=tmp_path / "none", **REPLAY)


def test_numbers_that_are_no_digital_numbers_are_refused_and_not_cast(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    path = tmp_path / "A_L2A" / "B04.tif"
    with rasterio.open(path) as dataset:
        profile, values = dataset.profile | {"driver": "GTiff", "dtype": "float32"}, dataset.read() / 1e4
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(values.astype("float32"))
    refused(tmp_path, make, r"B04 of item A_L2A \(.*\) holds float32 numbers; .* multiply reflectance by 10000")


def test_what_an_item_says_that_can_not_be_read_is_named_with_the_item(
    tmp_path: Path, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    good = make_item(tmp_path, "A_L2A", "2023-06-05")
    listed(tmp_path, good, make_item(tmp_path, "B_L2A", "2023-06-15", properties={"eo:cloud_cover": "n/a"}))
    refused(tmp_path, make, "item B_L2A has an eo:cloud_cover of 'n/a', which is no percentage; .* --exclude B_L2A")
    path = tmp_path / "B_L2A" / "B_L2A.json"
    item = json.loads(path.read_text())
    broken = {"type": "Polygon", "coordinates": [[[0, 0], [1]]]}
    path.write_text(json.dumps(item | {"geometry": broken}))
    refused(tmp_path, make, "item B_L2A has a geometry that can't be read .* --exclude B_L2A")
    assert [source["id"] for source in make(exclude=["B_L2A"]).info.sources] == ["A_L2A"]
    path.write_text(json.dumps(item | {"geometry": None}))
    assert [source["id"] for source in make(output=tmp_path / "other").info.sources] == ["A_L2A"]
    told = " ".join(capfd.readouterr().err.split())
    assert "1 of 2 items have no geometry or no assets: left out (B_L2A)" in told


def test_a_missing_file_is_named_with_its_item(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    (tmp_path / "A_L2A" / "SCL.tif").unlink()
    refused(tmp_path, make, r"SCL of item A_L2A .* could not be read: .* missing")


def test_an_offset_that_nothing_tells_is_asked_for(tmp_path: Path, make: Make) -> None:
    bright = make_item(
        tmp_path, "A_L2A", "2023-06-05", ground=4000.0, dark=False, properties={"s2:processing_baseline": ""}
    )
    listed(tmp_path, bright)
    refused(tmp_path, make, "say it with --offset 0 or --offset 1000")
    assert make(offset=1000).reflectance().max() == 3000


def test_a_catalogue_that_is_none_is_refused(tmp_path: Path, make: Make) -> None:
    refused(tmp_path, make, r"the catalogue .*catalog\.json lacks .*; check --stac")
    (tmp_path / "catalog.json").write_text("<html>")
    refused(tmp_path, make, "is no STAC catalogue that can be read")
    (tmp_path / "catalog.json").write_text("{}")
    refused(tmp_path, make, "is a STAC document of no type")
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    refused(tmp_path, make, "has no item of collection 'other'; it has tiny", collection="other")
    (tmp_path / "A_L2A" / "A_L2A.json").unlink()
    refused(tmp_path, make, r"lacks .*A_L2A\.json")


@pytest.mark.parametrize(
    ("stac", "words"),
    [
        ("ftp://x/y", "at an address of the kind ftp://, which ingest does not read"),
        (" ", "no catalogue is given"),
        ("empty", "empty is a directory without a catalog.json; give the path"),
        ("aoi.geojson", r"is a FeatureCollection without a STAC item; .* \(an area goes to --aoi\)"),
    ],
)
def test_what_can_not_be_a_catalogue_is_bad_input(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, stac: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, make, words, stac=stac)


def test_a_directory_with_a_catalogue_in_it_is_one(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    assert (make(stac=str(tmp_path)).valid() == 1).all()


def test_items_in_one_file_lie_where_they_say_or_beside_the_file(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = json.loads((tmp_path / make_item(tmp_path, "A_L2A", "2023-06-05")).read_text())
    monkeypatch.chdir(tmp_path)
    selves = {"links": [{"rel": "self", "href": str(tmp_path / "A_L2A" / "A_L2A.json")}]}
    Path("far.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item | selves]}))
    assert (make(stac="far.json").valid() == 1).all()
    beside = Path("A_L2A") / "beside.json"
    beside.write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    monkeypatch.chdir(beside.parent)
    assert (make(stac="beside.json", output=tmp_path / "other").valid() == 1).all()


def test_a_defect_leaves_nothing_either(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a defect")

    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    monkeypatch.setattr("casbah.ingest.stage.choose", broken)
    refused(tmp_path, make, "a defect", RuntimeError)


def test_a_refused_input_leaves_no_directory_that_was_made_for_the_output(tmp_path: Path, make: Make) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", cloud=90.0))
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="raise --max-cloud"):
        make(output=tmp_path / "mine" / "new" / "deep" / "scene")
    assert list((tmp_path / "mine").iterdir()) == []


def test_pixels_that_overrule_metadata_are_told(tmp_path: Path, make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    applied = NEW | {"earthsearch:boa_offset_applied": True}
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", inside=1000, properties=applied))
    make()
    told = " ".join(capfd.readouterr().err.split())
    assert re.search(r"item A_L2A: an offset of 1000 is taken off: pixels \(.*\) decide: the metadata .* say 0", told)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_cloud": 120}, "max-cloud is 120; a percentage"),
        ({"level": "L3"}, "level is 'L3'; L1C or L2A"),
        ({"offset": 7}, "offset is 7; 0 or 1000"),
        ({"periods": 0}, "0 periods from .* can't be"),
        ({"periods": 3}, "only 1 days with imagery"),
        ({"stac": None}, "start, end and stac are needed"),
        ({"start": "2023-07-01"}, "lies after the end date"),
        ({"items": "nowhere.json", **REPLAY}, "item list nowhere.json does not exist"),
    ],
)
def test_numbers_and_dates_out_of_range_are_refused(
    tmp_path: Path, make: Make, given: dict[str, Any], words: str
) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    refused(tmp_path, make, words, **given)


def test_an_item_list_that_is_none_or_of_a_newer_kind_is_refused(tmp_path: Path, make: Make) -> None:
    (tmp_path / "list.json").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    refused(tmp_path, make, "is no item list that `casbah ingest` wrote", items=tmp_path / "list.json", **REPLAY)
    newer = {"features": [], "casbah": {"version": 9, "level": "L2A", "periods": []}}
    (tmp_path / "list.json").write_text(json.dumps(newer))
    refused(tmp_path, make, "item list of version 9; .* upgrade", items=tmp_path / "list.json", **REPLAY)


def test_a_target_that_holds_something_else_is_left_alone(tmp_path: Path, make: Make) -> None:
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "thesis.txt").write_text("mine")
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    with pytest.raises(InputError, match="already holds something else than a scene"):
        make()
    assert (tmp_path / "scene" / "thesis.txt").read_text() == "mine"


def test_a_second_ingest_of_the_same_scene_is_kept_out_while_the_first_runs(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah.ingest import stage

    def meanwhile(*given: Any) -> Any:
        with pytest.raises(InputError, match="another ingest with these arguments is running"):
            make()
        return composite(*given)

    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    monkeypatch.setattr(stage, "composite", meanwhile)
    assert (make().valid() == 1).all()


def test_too_little_disk_is_told_before_anything_is_read(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    refused(tmp_path, make, "has 1 B free and ingest needs up to .*; free some or choose another --output", WorldError)


def test_a_rerun_needs_room_and_time_only_for_what_is_not_there_yet(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    made = []

    def all_but_one(*given: Any) -> Any:
        made.append(given)
        if len(made) == 9:
            raise WorldError("gone")
        return composite(*given)

    monkeypatch.setattr("casbah.ingest.stage.block_edge", lambda looks: 32)
    with monkeypatch.context() as patch:
        patch.setattr("casbah.ingest.stage.composite", all_but_one)
        with pytest.raises(WorldError, match="gone"):
            make()
    files, last_block = 90 * 80 * (2 * 4 + 1), 26 * 16 * (2 * 4 + 2)
    usage = SimpleNamespace(free=files + last_block - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(WorldError, match="free and ingest needs up to"):
        make()
    usage.free += 1
    capfd.readouterr()
    assert (make().valid() == 1).all()
    assert f"about {last_block * 2 * 2.5 / 10 / 1000:.0f} kB of pixels to read" in " ".join(
        capfd.readouterr().err.split()
    )


def test_what_an_unfinished_run_with_other_arguments_left_is_told_and_not_deleted(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def killed(*given: Any) -> Any:
        raise MemoryError

    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    with monkeypatch.context() as patch:
        patch.setattr(Maker, "write", killed)
        with pytest.raises(MemoryError):
            make(bands=("B02",))
    (orphan,) = tmp_path.glob(".scene.ingest-*")
    capfd.readouterr()
    make()
    told = " ".join(capfd.readouterr().err.split())
    assert re.search(
        rf"{re.escape(str(orphan))} \(\d+ kB\) is what an unfinished ingest .* or delete the directory", told
    )
    assert orphan.is_dir()
    make(bands=("B02",))
    assert "is what an unfinished" not in capfd.readouterr().err
    assert left_behind(tmp_path) == ["scene"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"start": "2023-06-01", "max_cloud": 20.0}, "^--start, --max-cloud can't be given with --items"),
        ({"end": "2023-06-30", "stac": "x", "periods": 1}, "^--end, --stac, --periods can't be given with --items"),
        ({"collection": "tiny", "level": "L2A", "offset": 0}, "^--collection, --level, --offset can't"),
    ],
)
def test_an_item_list_beside_a_search_is_refused_and_the_flags_are_named(
    tmp_path: Path, make: Make, given: dict[str, Any], words: str
) -> None:
    refused(tmp_path, make, words, items="items.json", **(REPLAY | given))


@pytest.mark.parametrize(("place", "words"), [("aoi.geojson/scene", "Not a directory"), ("n" * 300, "too long")])
def test_an_output_that_can_not_be_made_is_bad_input(tmp_path: Path, make: Make, place: str, words: str) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    refused(tmp_path, make, rf"the output .* can't be made there: .*{words}; name a dir", output=tmp_path / place)


@pytest.mark.parametrize(
    "fault", [CPLE_AppDefinedError(3, 1, "tile lost"), RasterioError("tile lost"), OSError("tile lost")]
)
def test_whatever_gdal_calls_a_failed_write_it_is_a_fault_of_the_disk(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def failing(*_: Any) -> None:
        raise fault

    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05"))
    monkeypatch.setattr("casbah.ingest.stage.write_cogs", failing)
    with pytest.raises(WorldError, match=r"scene could not be written: .*tile lost.*; is the disk full"):
        make()
    assert not (tmp_path / "scene").exists()


# The sample town


def test_the_sample_town_is_ingested_with_one_and_with_two_periods(town: "Town", tmp_path: Path) -> None:
    for periods in (1, 2):
        scene = ingest(
            aoi=town.aoi,
            start="2021-06-01",
            end="2021-09-30",
            stac=str(town.catalog),
            output=tmp_path / str(periods),
            periods=periods,
            workers=2,
        )
        assert (scene.periods, len(scene.bands), scene.info.simulated) == (periods, 12, True)
        assert {source["offset"] for source in scene.info.sources} == {0, 1000}
        assert (scene.valid() > 0).mean() > 0.97
        assert scene.reflectance().max() < 12_000


def test_a_cell_of_a_larger_area_may_be_all_sea(tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    listed(tmp_path, make_item(tmp_path, "A_L2A", "2023-06-05", scl=6))
    side = 2000
    cell = f"{AREA.crs.removeprefix('EPSG:')}_{side}_{int(AREA.west // side)}_{int(AREA.north // side)}"
    scene = make(cell=cell)
    assert (scene.valid() == 1).all()
    assert f"cell {cell} is nothing but water on 2023-06-05" in capsys.readouterr().err


def test_the_bay_of_the_sample_town_is_refused_as_sea(town: "Town", tmp_path: Path) -> None:
    import geopandas

    land, area = (geopandas.read_file(path).to_crs("EPSG:32631").union_all() for path in (town.labelled_area, town.aoi))
    bay = shapely.buffer(shapely.difference(area, shapely.buffer(land, 100)), -20)
    with pytest.raises(InputError, match="lies at sea or on a lake"):
        ingest(
            aoi=write_geojson(tmp_path / "bay.geojson", shapely.geometry.mapping(bay), crs="EPSG:32631"),
            start="2021-06-01",
            end="2021-09-30",
            stac=str(town.catalog),
            output=tmp_path / "scene",
        )
    assert left_behind(tmp_path) == []
