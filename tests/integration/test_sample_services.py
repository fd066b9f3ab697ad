"""The sample as real clients meet it: pystac-client and GDAL over HTTP, the object store, and the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pystac_client
import pytest
import rasterio
from pystac_client.exceptions import APIError

from casbah.errors import InputError
from casbah.sample import COLLECTION, END, START, Town, publish
from casbah.sample.api import serve
from casbah.storage import Location, gdal_options

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def address(town: Town) -> Iterator[str]:
    with serve(town.path) as address:
        yield address


@pytest.fixture
def client(address: str) -> pystac_client.Client:
    return pystac_client.Client.open(address)


def test_pystac_client_opens_it_and_reads_the_collection(client: pystac_client.Client) -> None:
    assert client.conforms_to("ITEM_SEARCH")
    assert client.conforms_to("QUERY")
    assert client.conforms_to("FILTER")
    assert [collection.id for collection in client.get_collections()] == [COLLECTION]
    assert "SIMULATED" in client.title
    assert client.get_collection(COLLECTION).extra_fields["casbah:simulated"] is True
    assert len(list(client.get_collection(COLLECTION).get_items())) == 12


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_search_by_place_dates_and_clouds_page_by_page(client: pystac_client.Client, town: Town, method: str) -> None:
    aoi = json.loads(town.aoi.read_text())["features"][0]["geometry"]
    search = client.search(
        method=method,
        collections=[COLLECTION],
        intersects=aoi,
        datetime=f"{START}/{END}",
        query={"eo:cloud_cover": {"lt": 30}},
        limit=3,
    )
    assert [len(page.items) for page in search.pages()] == [3, 3, 3, 1]
    found = list(search.items())
    assert search.matched() == 10
    assert len({item.id for item in found}) == 10
    assert not [item.id for item in found if "20210823" in item.id]


def test_text_queries_and_filters_of_pystac_client_work(client: pystac_client.Client) -> None:
    cloudy = {item.id for item in client.search(query=["eo:cloud_cover>=30"]).items()}
    assert {re.search(r"\d{8}", name).group() for name in cloudy} == {"20210823"}
    condition = {"op": ">=", "args": [{"property": "eo:cloud_cover"}, 30]}
    assert {item.id for item in client.search(filter=condition).items()} == cloudy


def test_a_bad_search_is_answered_with_its_reason(client: pystac_client.Client) -> None:
    with pytest.raises(APIError, match="not a comparison of query"):
        list(client.search(query={"eo:cloud_cover": {"about": 3}}).items())


def test_assets_are_read_over_http_in_ranges(client: pystac_client.Client, town: Town) -> None:
    item = next(client.search(query=["grid:code=MGRS-31SEA"]).items())
    href = item.assets["red"].href
    with urllib.request.urlopen(urllib.request.Request(href, headers={"Range": "bytes=0-99"})) as answer:
        assert answer.status == 206
        assert len(answer.read()) == 100
    with rasterio.open(href) as remote, rasterio.open(town.path / COLLECTION / item.id / "B04.tif") as local:
        assert (remote.read(1) == local.read(1)).all()


def test_what_is_not_there_is_404(address: str) -> None:
    for path in ("/collections/landsat", f"/collections/{COLLECTION}/items/none", "/assets/../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(address + path)
        assert caught.value.code == 404


def test_hrefs_follow_the_asset_base(town: Town) -> None:
    with serve(town.path, asset_base="s3://casbah/sample") as address:
        item = next(pystac_client.Client.open(address).search().items())
        assert item.assets["red"].href == f"s3://casbah/sample/{COLLECTION}/{item.id}/B04.tif"
    with serve(town.path, asset_base=str(town.path)) as address:
        item = next(pystac_client.Client.open(address).search().items())
        assert Path(item.assets["red"].href).is_file()


def test_it_is_served_on_this_machine_only_and_says_so(town: Town) -> None:
    with pytest.raises(InputError, match="could be reached from outside"), serve(town.path, host="0.0.0.0"):
        pass


def test_a_port_in_use_is_named(town: Town, address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 can't be used"), serve(town.path, port=port):
        pass


def test_nothing_answers_after_the_block(town: Town) -> None:
    with serve(town.path) as address:
        urllib.request.urlopen(f"{address}/conformance").close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/conformance", timeout=2)


def test_the_published_catalogue_is_whole_in_a_real_store(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah import stack

    running = stack.up(tmp_path / "stack")
    try:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        place = Location("casbah", "sample")
        assert publish(town.path, place) == len(town.manifest.files)
        assert publish(town.path, place) == 0
        name = sorted(path.name for path in town.path.glob(f"{COLLECTION}/SIM_*"))[0]
        with rasterio.Env(**gdal_options()), rasterio.open(f"s3://casbah/sample/{COLLECTION}/{name}/B02.tif") as remote:
            far = remote.read(1)
        with rasterio.open(town.path / COLLECTION / name / "B02.tif") as local:
            assert np.array_equal(far, local.read(1))
    finally:
        stack.down(tmp_path / "stack")


def test_the_command_makes_serves_and_stops(tmp_path: Path) -> None:
    def casbah(*words: str) -> list[str]:
        return [sys.executable, "-c", "from casbah.cli import main; main()", *words]

    make = casbah("sample", "make", "--output", str(tmp_path / "town"), "--size-km", "1.2", "1.2", "--seed", "4")
    made = subprocess.run(make, capture_output=True, text=True, check=True)
    printed = dict(re.findall(r"^(.+?)\s{2,}(\S+)$", made.stdout, re.MULTILINE))
    assert set(printed) == {"catalogue", "aoi", "footprints", "labelled area"}
    assert all(Path(path).is_file() for path in printed.values())

    command = casbah("sample", "serve", str(tmp_path / "town"))
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # A shell that runs the tests in the background ignores SIGINT, which a child would inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        try:
            address = run.stdout.readline().strip()
            assert len(list(pystac_client.Client.open(address).search().items())) == 12
            run.send_signal(signal.SIGINT)
            assert run.wait(timeout=20) == 130
        finally:
            run.kill()

    refused = subprocess.run(casbah("sample", "serve", str(tmp_path)), capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "has no manifest.json" in refused.stderr
    assert "Traceback" not in refused.stderr
    odd = subprocess.run(casbah("sample", "publish", str(tmp_path / "town"), "/mnt/x"), capture_output=True, text=True)
    assert odd.returncode == 2
    assert "s3://bucket/key is wanted" in odd.stderr
