"""Every value of a pipeline parameter that a person may type becomes what a stage takes, or a sentence that helps."""

import errno
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from casbah import areas, experiments
from casbah.errors import InputError, WorldError
from casbah.pipeline import demo, inputs, session
from casbah.products.manifest import FileRecord, Manifest
from casbah.storage import Location


def test_the_built_in_area_is_algiers(tmp_path: Path) -> None:
    import geopandas

    polygon = geopandas.read_file(inputs.area("algiers", tmp_path)).geometry.iloc[0]
    assert polygon.is_valid
    west, south, east, north = polygon.bounds
    assert 2.9 < west < 3.06 < east < 3.4, "the Casbah of Algiers lies at 3.06 E"
    assert 36.6 < south < 36.78 < north < 36.9, "and 36.78 N"


@pytest.mark.parametrize(
    "value", ["town.geojson", "/data/town.geojson", "./town.gpkg", "C:\\town.geojson", "/data/town"]
)
def test_a_path_of_this_machine_is_refused_with_the_reason(value: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist in a pod: upload the file and give its s3:// or https://"):
        inputs.area(value, tmp_path)
    with pytest.raises(InputError, match="does not exist in a pod"):
        inputs.footprints(value, tmp_path)


def test_a_misspelt_name_gets_the_nearest_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="aoi is 'algier'; known here: algiers"):
        inputs.area("algier", tmp_path)
    with pytest.raises(InputError, match="labels is 'overtur'; known here: overture"):
        inputs.footprints("overtur", tmp_path)
    with pytest.raises(InputError, match="experiments is 'unet_scrach'; known here: unet_scratch"):
        inputs.experiment("unet_scrach", tmp_path)


def test_geojson_text_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="upload it and give its s3:// or https:// address"):
        inputs.area('{"type": "Polygon"}', tmp_path)


class Shelf:
    """A store that holds what a simulated town has published: `content` stands for all of its imagery."""

    def __init__(self, content: str) -> None:
        record = FileRecord(sha256=content * 64, size=1)
        self.manifest = Manifest(
            product="sample", version=1, casbah="1", created="now", parameters={}, inputs={}, files={"a.tif": record}
        )

    def read(self, source: Location) -> bytes:
        assert source == inputs.SAMPLE / "manifest.json"
        return self.manifest.model_dump_json(by_alias=True).encode()

    def get(self, source: Location, target: Path) -> None:
        target.write_text(source.key)


@pytest.fixture
def towns(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def publish(content: str) -> None:
        shelf = Shelf(content)
        monkeypatch.setattr(inputs.Store, "from_environment", lambda: shelf)

    return publish


def test_a_replaced_town_is_another_argument_of_every_step_that_reads_it(towns: Callable[[str], None]) -> None:
    def given() -> dict[str, str]:
        return {name: session._placed(name, value) for name, value in demo.arguments("[]").items()}

    towns("a")
    first, again = given(), given()
    towns("b")
    other = given()
    assert first == again, "the same town is reused"
    changed = {name for name in first if first[name] != other[name]}
    assert changed == {"aoi", "labels", "stac"}
    assert first["start"] == demo.arguments("[]")["start"]


def test_a_town_named_by_its_digest_is_read_and_another_one_refused(
    towns: Callable[[str], None], tmp_path: Path
) -> None:
    towns("a")
    value = inputs.published_town()
    for wanted in (value, "sample"):
        assert inputs.area(wanted, tmp_path).name == "aoi.geojson"
        assert inputs.footprints(wanted, tmp_path).endswith("footprints.parquet")
        unsaid = inputs.labelled_area("", wanted, tmp_path)
        assert unsaid is not None
        assert unsaid.name == "labelled_area.geojson"
        assert inputs.catalogue(wanted) == "s3://casbah/sample/catalog.json"
    towns("b")
    for read in (inputs.area, inputs.footprints):
        with pytest.raises(
            InputError, match=r"sample@\w+ names another simulated town than lies at s3://casbah/sample"
        ):
            read(value, tmp_path)
    with pytest.raises(InputError, match="names another simulated town"):
        inputs.catalogue(value)


@pytest.mark.parametrize("value", ["town.shp", "/data/Town.SHP", "s3://casbah/inputs/town.shp"])
def test_a_lone_part_of_a_shapefile_is_refused_before_and_in_the_step(value: str, tmp_path: Path) -> None:
    wanted = r"labels is '.*', one of the several files of a shapefile; give a GeoPackage"
    with pytest.raises(InputError, match=wanted):
        inputs.footprints(value, tmp_path)
    with pytest.raises(InputError, match=wanted), session.request({"labels": value}):
        pass


@pytest.mark.parametrize(("value", "wanted"), [("osm", "osm"), ("overture", "overture"), ("algiers", "osm")])
def test_services_of_footprints_pass(value: str, wanted: str, tmp_path: Path) -> None:
    assert inputs.footprints(value, tmp_path) == wanted


@pytest.mark.parametrize("value", ["2023-06-01", 20230601, 20230601.0, "20230601", " 2023-06-01 "])
def test_a_date_survives_the_kfp_command_line(value: object) -> None:
    assert inputs.iso_date("start", value) == "2023-06-01"


@pytest.mark.parametrize("value", ["2023", 2023, "June", "2023-02-30", None, "2023-06-01T00:00:00"])
def test_what_is_no_date_is_named(value: object) -> None:
    with pytest.raises(InputError, match=r"start is .*; an ISO date is wanted, such as 2023-06-01"):
        inputs.iso_date("start", value)


@pytest.mark.parametrize("value", [["a", "b"], '["a", "b"]', "a,b", "a, b"])
def test_experiments_are_read_from_json_and_from_commas(value: object) -> None:
    assert inputs.experiment_list(value) == ["a", "b"]


@pytest.mark.parametrize("value", ["", [], [1], '["a", "a"]', '["a", "s3://b/a.yaml"]', {"a": 1}, "[]"])
def test_a_list_of_experiments_that_can_not_run_is_an_input_error(value: object) -> None:
    with pytest.raises(InputError, match="experiments"):
        inputs.experiment_list(value)


def test_an_address_that_answers_404_is_named(tmp_path: Path) -> None:
    import threading
    from http.server import HTTPServer, SimpleHTTPRequestHandler

    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/absent-{tmp_path.name}.geojson"
    try:
        with pytest.raises(
            InputError, match=r"absent-.*\.geojson answers 404; an address that gives the file is wanted"
        ):
            inputs.area(address, tmp_path)
    finally:
        server.shutdown()


def test_every_built_in_experiment_and_area_is_found_by_its_name() -> None:
    for name in experiments.names():
        assert experiments.find(name).stem == name
    for name in areas.names():
        assert areas.find(name).is_file()
    with pytest.raises(InputError, match="no built-in area 'tunis'"):
        areas.find("tunis")


class Town(BaseHTTPRequestHandler):
    """Gives `whole` of its bytes for each request in turn, though it says that there are all of them."""

    content = b"0123456789" * 100_000
    whole: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: self.whole.pop(0)])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(inputs, "PAUSE", 0.01)
    server = HTTPServer(("127.0.0.1", 0), Town)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://me:hidden@127.0.0.1:{server.server_port}/footprints.gpkg?signature=hidden"
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off_is_begun_anew(address: str, tmp_path: Path) -> None:
    Town.whole = [10, len(Town.content)]
    assert inputs.fetch(address, tmp_path).read_bytes() == Town.content


def test_a_download_that_always_breaks_off_leaves_nothing(address: str, tmp_path: Path) -> None:
    Town.whole = [10] * inputs.ATTEMPTS
    with pytest.raises(WorldError, match=r"footprints\.gpkg could not be fetched") as raised:
        inputs.fetch(address, tmp_path)
    assert "hidden" not in str(raised.value)
    assert not list(tmp_path.iterdir())
    assert not Town.whole, "tried as often as it says, and no more"


def test_a_download_is_streamed_to_the_disk(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Town.whole = [len(Town.content)]
    tracemalloc.start()
    try:
        inputs.fetch(address, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(Town.content), "a country's extract does not fit in memory"


def test_a_download_that_fills_the_disk_is_one_sentence(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    Town.whole = [len(Town.content)]
    monkeypatch.setattr(inputs.shutil, "copyfileobj", full)
    with pytest.raises(WorldError, match=r"could not be kept in .*No space left on device"):
        inputs.fetch(address, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["https://me:hunter2@host/b.shp?sig=hunter2", "ftp://me:hunter2@host/b.gpkg"])
def test_a_password_or_token_of_an_address_that_is_refused_is_not_repeated(value: str) -> None:
    with pytest.raises(InputError, match=r"labels is '[a-z]+://host/b") as raised:
        inputs.check({"labels": value})
    assert "hunter2" not in str(raised.value)
