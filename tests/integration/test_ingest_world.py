"""Ingest against a world that fails: servers that hang, refuse or vanish, and a process that is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from catalogues import TILE, Site, make_catalogue, make_item, serve, wait_until, write_area

from casbah.errors import InputError, WorldError
from casbah.grid import Grid
from casbah.ingest import Patience, cells, ingest
from casbah.ingest.area import read_area
from casbah.ingest.catalogue import find
from casbah.products.scene import Scene

if TYPE_CHECKING:
    from casbah.sample import Town

pytestmark = pytest.mark.integration

SHORT = Patience(connect=1.0, read=0.4, attempts=3, pause=0.02)
FOUR = ("B02", "B04", "B8A", "B12")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static catalogue of two items with mixed baselines, and an area."""
    folder = tmp_path_factory.mktemp("tiny")
    new = {"s2:processing_baseline": "05.09"}
    items = [
        make_item(folder, "A_L2A", "2023-06-05"),
        make_item(folder, "B_L2A", "2023-06-15", inside=1000, properties=new),
    ]
    make_catalogue(folder, items)
    write_area(folder / "aoi.geojson")
    return folder


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    with serve(folder) as site:
        yield site


def run(site: Site, folder: Path, output: Path, stac: str = "/catalog.json") -> Scene:
    return ingest(
        aoi=folder / "aoi.geojson",
        start="2023-06-01",
        end="2023-06-30",
        stac=site.url + stac,
        output=output,
        bands=FOUR,
        patience=SHORT,
        workers=2,
    )


def left_behind(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize(
    ("fault", "words"),
    [(404, "404"), (503, "503"), ("hang", "timed out")],
)
def test_an_asset_that_fails_for_good_is_named_after_bounded_attempts(
    site: Site, folder: Path, tmp_path: Path, fault: Any, words: str
) -> None:
    site.faults = {"A_L2A/B8A.tif": fault}
    began = time.monotonic()
    with pytest.raises(
        WorldError, match=rf"B8A of item A_L2A .* could not be read after 3 attempts: .*{words}"
    ) as caught:
        run(site, folder, tmp_path / "scene")
    assert caught.value.exit_code == 3
    assert site.asked["A_L2A/B8A.tif"] == 3
    assert time.monotonic() - began < 10
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("faults", [["hang", "hang"], [503, 500], [404]])
def test_an_asset_that_fails_for_a_while_is_read_in_the_end(
    site: Site, folder: Path, tmp_path: Path, faults: list[Any]
) -> None:
    site.faults = {"A_L2A/B04.tif": list(faults)}
    scene = run(site, folder, tmp_path / "scene")
    assert (scene.valid() == 2).all()


@pytest.mark.parametrize(
    ("path", "fault", "kind", "words"),
    [
        ("/catalog.json", "hang", WorldError, "did not answer after 3 attempts"),
        ("/catalog.json", 500, WorldError, "did not answer after 3 attempts"),
        ("/catalog.json", 404, InputError, "answered 404: .* check --stac"),
        ("B_L2A.json", 502, WorldError, "B_L2A.json.* did not answer after 3 attempts"),
    ],
)
def test_a_static_catalogue_that_fails_is_told_from_one_that_is_not_there(
    site: Site, folder: Path, tmp_path: Path, path: str, fault: Any, kind: type[Exception], words: str
) -> None:
    site.faults = {path: fault}
    with pytest.raises(kind, match=words):
        run(site, folder, tmp_path / "scene")
    assert left_behind(tmp_path) == []


def test_a_server_that_is_not_there_is_a_fault_of_the_world(folder: Path, site: Site, tmp_path: Path) -> None:
    for site.url, reason in (
        ("http://127.0.0.1:9", "connection refused"),
        ("http://nowhere.invalid", "no machine of that name is known"),
    ):
        with pytest.raises(WorldError) as caught:
            run(site, folder, tmp_path / "scene")
        assert str(caught.value) == (
            f"the STAC catalogue {site.url}/catalog.json did not answer after 3 attempts ({reason}); try again later"
        )


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_a_file_is_not_asked_again(site: Site, folder: Path, tmp_path: Path, status: int) -> None:
    site.faults = {"A_L2A/B8A.tif": status}
    words = rf"B8A of item A_L2A .* its server refused it \({status}\); check the user, password or signature"
    with pytest.raises(WorldError, match=words):
        run(site, folder, tmp_path / "scene")
    assert site.asked["A_L2A/B8A.tif"] == 1


def test_a_file_that_is_gone_for_good_can_be_left_out_and_its_reason_is_said_once(
    site: Site, folder: Path, tmp_path: Path
) -> None:
    site.faults = {"A_L2A/B8A.tif": 404}
    with pytest.raises(WorldError, match="leave the item out with --exclude A_L2A") as caught:
        run(site, folder, tmp_path / "scene")
    assert str(caught.value).count("404") == 1


# A STAC API


def landing(site: Site, collections: tuple[str, ...] = ("sentinel-2-l2a",)) -> None:
    """Answers of a STAC API whose search finds the two items."""
    root = {"rel": "root", "href": site.url + "/api"}
    conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
    conforms.append("https://api.stacspec.org/v1.0.0/collections")
    search = {"rel": "search", "href": site.url + "/api/search", "type": "application/geo+json", "method": "POST"}
    data = {"rel": "data", "href": site.url + "/api/collections"}
    about = json.loads((site.root / "collection.json").read_text())
    named = [about | {"id": name, "links": [root]} for name in collections]
    features = []
    for name in ("A_L2A", "B_L2A"):
        item = json.loads((site.root / name / f"{name}.json").read_text())
        for asset in item["assets"].values():
            asset["href"] = f"{site.url}/{name}/{asset['href']}"
        features.append(item | {"collection": collections[0]})
    catalogue = {"type": "Catalog", "id": "api", "stac_version": "1.0.0", "description": "made up"}
    site.answers = {
        "/api": catalogue | {"conformsTo": conforms, "links": [root, search, data]},
        "/api/collections": {"collections": named, "links": []},
        "/api/search": {"type": "FeatureCollection", "features": features, "links": []},
    } | {f"/api/collections/{one['id']}": one for one in named}


def test_a_search_of_an_api_makes_the_scene_of_the_static_catalogue(site: Site, folder: Path, tmp_path: Path) -> None:
    landing(site)
    scene = run(site, folder, tmp_path / "scene", "/api")
    assert [source["collection"] for source in scene.info.sources] == ["sentinel-2-l2a"] * 2
    assert (scene.valid() == 2).all()


@pytest.mark.parametrize(
    ("path", "fault", "kind", "words"),
    [
        ("/search", "hang", WorldError, "did not answer after 3 attempts"),
        ("/search", 503, WorldError, "did not answer after 3 attempts"),
        ("/search", 400, InputError, "answered 400: .* check --stac and --collection"),
        ("/collections", 502, WorldError, "did not answer after 3 attempts"),
    ],
)
def test_an_api_that_fails_ends_after_bounded_attempts(
    site: Site, folder: Path, tmp_path: Path, path: str, fault: Any, kind: type[Exception], words: str
) -> None:
    landing(site)
    site.faults = {path: fault}
    with pytest.raises(kind, match=words):
        run(site, folder, tmp_path / "scene", "/api")
    assert site.asked[path] <= 3
    assert left_behind(tmp_path) == []


def test_an_api_without_an_item_says_how_far_it_was_asked_and_of_the_sea(
    site: Site, folder: Path, tmp_path: Path
) -> None:
    landing(site)
    site.answers["/api/search"]["features"] = []
    with pytest.raises(InputError, match=r"from 2023-06-01 to 2023-06-30, nor within 180 days of it; .*the open sea"):
        run(site, folder, tmp_path / "scene", "/api")


def test_an_api_is_asked_for_as_many_items_as_all_cells_of_an_area_may_have(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing(site)  # of two items
    area = read_area(write_area(tmp_path / "area.geojson", Grid(TILE.crs, TILE.west, TILE.north, 120, 500)))
    names = cells.plan(area, block=1000, side=4000)
    stac, first, last = f"{site.url}/api", date(2023, 6, 1), date(2023, 6, 30)
    with pytest.raises(InputError, match="holds more than 2 items"):
        find(stac, area, first, last, collection=None, level=None, patience=SHORT, most=2)
    monkeypatch.setattr(cells, "MOST_ITEMS", 2)
    kept = cells.with_imagery(area, names, start=first.isoformat(), end=last.isoformat(), stac=stac, patience=SHORT)
    assert 0 < len(kept) < len(names)


def test_an_api_of_unknown_collections_lists_them(site: Site, folder: Path, tmp_path: Path) -> None:
    landing(site, ("landsat", "modis"))
    with pytest.raises(
        InputError, match=r"no collection that is plainly Sentinel-2 L2A; .* --collection: landsat, modis"
    ):
        run(site, folder, tmp_path / "scene", "/api")


def test_the_sample_towns_api_gives_the_scene_of_its_files(town: "Town", tmp_path: Path) -> None:
    from casbah.sample.api import serve as serve_api

    usual: dict[str, Any] = {"aoi": town.aoi, "start": "2021-06-01", "end": "2021-07-31", "bands": FOUR, "workers": 2}
    near = ingest(stac=str(town.catalog), output=tmp_path / "near", **usual)
    with serve_api(town.path) as address:
        far = ingest(stac=address, output=tmp_path / "far", **usual)
    assert (far.reflectance() == near.reflectance()).all()
    assert far.info.simulated


def test_the_town_is_ingested_from_the_object_store(
    town: "Town", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah import stack
    from casbah.sample import publish
    from casbah.storage import Location

    usual: dict[str, Any] = {"start": "2021-06-01", "end": "2021-07-31", "bands": FOUR, "workers": 2}
    near = ingest(aoi=town.aoi, stac=str(town.catalog), output=tmp_path / "near", **usual)
    running = stack.up(tmp_path / "stack")
    try:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        publish(town.path, Location("casbah", "sample"))
        place = "s3://casbah/sample"
        far = ingest(aoi=f"{place}/aoi.geojson", stac=f"{place}/catalog.json", output=tmp_path / "far", **usual)
        with pytest.raises(InputError, match=r"s3://casbah/elsewhere/catalog\.json does not exist in the object store"):
            ingest(aoi=town.aoi, stac="s3://casbah/elsewhere/catalog.json", output=tmp_path / "none", **usual)
        _assets_of_a_store_that_fails(town, far, tmp_path, monkeypatch)
    finally:
        stack.down(tmp_path / "stack")
    assert (far.reflectance() == near.reflectance()).all()
    # GDAL keeps what it read of an address: the store that is down is asked for another one's.
    with pytest.raises(WorldError, match=r"B0\d of item .*: the object store at .* failed 4 times on .*: is it up\?"):
        replayed(town, far, tmp_path, "away")


def _assets_of_a_store_that_fails(town: "Town", scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"does not exist in the object store; copy it .* --exclude SIM"):
        replayed(town, scene, tmp_path, "gone")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(
            WorldError, match=r"B0\d of item .*: the object store at .* refused the credentials for s3://"
        ):
            replayed(town, scene, tmp_path, "sample2")


def replayed(town: "Town", scene: Scene, tmp_path: Path, prefix: str) -> Scene:
    """The scene made again from files of another prefix, for which GDAL has nothing in its cache."""
    moved = (scene.path / "items.json").read_text().replace("s3://casbah/sample/", f"s3://casbah/{prefix}/")
    (tmp_path / "moved.json").write_text(moved)
    output = tmp_path / prefix
    return ingest(aoi=town.aoi, items=tmp_path / "moved.json", output=output, bands=FOUR, workers=2, patience=SHORT)


# kill -9

SLOWLY = """
import sys, time
from casbah.ingest import stage
from casbah.cli import main
composite = stage.composite
def slowly(*given):
    time.sleep(0.3)
    return composite(*given)
stage.composite = slowly
stage.block_edge = lambda looks: 32
main(sys.argv[1:])
"""
"""The real command, in blocks of 32 pixels, slow enough to be killed in the middle."""


def command(folder: Path, output: Path) -> list[str]:
    area, catalogue = str(folder / "aoi.geojson"), str(folder / "catalog.json")
    dates = ["--start", "2023-06-01", "--end", "2023-06-30", "--bands", ",".join(FOUR)]
    words = ["ingest", "--aoi", area, "--stac", catalogue, "--output", str(output), *dates]
    return [sys.executable, "-c", SLOWLY, *words]


def test_a_killed_ingest_leaves_nothing_that_opens_and_its_rerun_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    undisturbed = subprocess.run(command(folder, tmp_path / "whole"), capture_output=True, text=True, check=False)
    assert undisturbed.returncode == 0, undisturbed.stderr
    output = tmp_path / "scene"
    with subprocess.Popen(command(folder, output), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as victim:
        wait_until(lambda: len(list(tmp_path.glob(".scene.ingest-*/block_*.tif"))) >= 3)
        os.kill(victim.pid, signal.SIGKILL)
    blocks = len(list(tmp_path.glob(".scene.ingest-*/block_*.tif")))
    assert 3 <= blocks < 9
    with pytest.raises(InputError, match="does not exist"):
        Scene.open(output)
    rerun = subprocess.run(command(folder, output), capture_output=True, text=True, check=False)
    assert rerun.returncode == 0, rerun.stderr
    assert f"{blocks} of 9 blocks are there from an earlier run" in rerun.stderr
    assert Scene.open(output).digest == Scene.open(tmp_path / "whole").digest
    assert sorted(left_behind(tmp_path)) == ["scene", "whole"]


WRITES_SLOWLY = SLOWLY.replace("    time.sleep(0.3)\n", "").replace(
    "stage.block_edge",
    """
write_cogs = stage.write_cogs
def slowly_written(*given):
    write_cogs(*given)
    time.sleep(60)
stage.write_cogs = slowly_written
stage.block_edge""",
)
"""The real command, which stops for a minute when the first COGs of a scene lie there."""


def test_an_ingest_killed_while_it_writes_the_scene_leaves_nothing_that_its_rerun_does_not_clear(
    folder: Path, tmp_path: Path
) -> None:
    words = command(folder, tmp_path / "scene")
    stuck = [*words[:2], WRITES_SLOWLY, *words[3:]]
    with subprocess.Popen(stuck, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as victim:
        wait_until(lambda: list(tmp_path.rglob("valid_0.tif")))
        os.kill(victim.pid, signal.SIGKILL)
    assert not (tmp_path / "scene").exists()
    rerun = subprocess.run(words, capture_output=True, text=True, check=False)
    assert rerun.returncode == 0, rerun.stderr
    assert left_behind(tmp_path) == ["scene"]


def test_the_command_ends_with_2_for_bad_input_and_3_for_the_world(folder: Path, tmp_path: Path, site: Site) -> None:
    site.faults = {"B04.tif": 404}
    words = command(folder, tmp_path / "scene")
    bad = subprocess.run([*words, "--max-cloud", "900"], capture_output=True, text=True, check=False)
    words[words.index("--stac") + 1] = f"{site.url}/catalog.json"
    world = subprocess.run([*words, "--timeout", "5"], capture_output=True, text=True, check=False)
    assert (bad.returncode, world.returncode) == (2, 3)
    assert "max-cloud is 900" in bad.stderr
    assert "B04 of item" in world.stderr
    assert "Traceback" not in bad.stderr + world.stderr
    shutil.rmtree(tmp_path / "scene", ignore_errors=True)


# A full disk

LIMITED = """
import resource, signal, sys
from casbah.ingest import stage
from casbah.cli import main
stage.block_edge = lambda looks: 32
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
main(sys.argv[2:])
"""
"""The real command, which can write no file larger than its first argument says."""


def test_a_full_disk_ends_with_3_and_a_sentence_and_leaves_nothing_that_opens(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 9000, TILE.shape).astype(float)
    make_catalogue(tmp_path, [make_item(tmp_path, "A_L2A", "2023-06-05", ground=noise)])
    write_area(tmp_path / "aoi.geojson")
    output = tmp_path / "scene"

    def limited(size: int, output: Path) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", LIMITED, str(size), *command(tmp_path, output)[3:]]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    whole = limited(10**9, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    sizes = {name: record.size for name, record in Scene.open(tmp_path / "whole").manifest.files.items()}
    item_list, cog = sizes["items.json"], sizes["reflectance_0.tif"]
    block = 32 * 32 * 5 * 2
    assert item_list < block < cog
    # Too small for the item list, a block's header, a block's end, a COG, and its last tile (of which GDAL is silent).
    for size in (item_list // 2, item_list + 10, block, block + 2000, cog - 200):
        run = limited(size, output)
        assert run.returncode == 3, (size, run.stderr)
        assert f"casbah: {output} could not be written: " in run.stderr, (size, run.stderr)
        assert "Free space and run the same command again" in run.stderr
        assert not output.exists()
        assert not list(tmp_path.glob(".scene.partial-*"))
    rerun = limited(10**9, output)
    assert "9 of 9 blocks are there from an earlier run" in rerun.stderr
    assert Scene.open(output).digest == Scene.open(tmp_path / "whole").digest


def test_the_command_takes_an_item_list_without_its_own_defaults_in_the_way(folder: Path, tmp_path: Path) -> None:
    def told(*words: str) -> subprocess.CompletedProcess[str]:
        usual = ["ingest", "--aoi", str(folder / "aoi.geojson"), "--bands", ",".join(FOUR)]
        line = [sys.executable, "-c", "from casbah.cli import main; main()", *usual, *words]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    catalogue = str(folder / "catalog.json")
    first = ["--stac", catalogue, "--start", "2023-06-01", "--end", "2023-06-30", "--output", str(tmp_path / "a")]
    assert told(*first).returncode == 0
    again = ["--items", str(tmp_path / "a"), "--output", str(tmp_path / "b")]
    assert told(*again).returncode == 0
    assert Scene.open(tmp_path / "b").digest == Scene.open(tmp_path / "a").digest
    refused = told(*again, "--periods", "1", "--stac", catalogue)
    assert (refused.returncode, "--stac, --periods can't be given with --items" in refused.stderr) == (2, True)
