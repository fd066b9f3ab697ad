"""Publishing the sample: complete, cheap the second time, and never vouching for what is not there."""

import json
from pathlib import Path

import pytest

from casbah.errors import InputError, WorldError
from casbah.sample import Town, make, publish
from casbah.storage import Location

PLACE = Location("casbah", "sample")


class Shelf:
    """A store in memory with the methods of `casbah.storage.Store` that publishing calls."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.room = 10**9

    def ensure_bucket(self, bucket: str) -> None:
        assert bucket == "casbah"

    def put(self, source: Path, target: Location) -> None:
        if len(self.puts) >= self.room:
            raise WorldError("the object store failed")
        self.puts.append(target.key)
        self.objects[target.key] = source.read_bytes()

    def write(self, content: bytes, target: Location) -> None:
        if len(self.puts) >= self.room:
            raise WorldError("the object store failed")
        self.puts.append(target.key)
        self.objects[target.key] = content

    def exists(self, location: Location) -> bool:
        return location.key in self.objects

    def read(self, source: Location) -> bytes:
        if source.key not in self.objects:
            raise InputError(f"{source} does not exist")
        return self.objects[source.key]

    def list(self, prefix: Location) -> list[Location]:
        return [Location(prefix.bucket, key) for key in self.objects if key.startswith(prefix.key)]

    def remove(self, location: Location) -> None:
        self.objects.pop(location.key, None)


def test_every_file_arrives_and_every_relative_link_resolves(town: Town) -> None:
    shelf = Shelf()
    assert publish(town.path, PLACE, store=shelf) == len(town.manifest.files)
    for name in town.manifest.files:
        assert shelf.objects[f"sample/{name}"] == (town.path / name).read_bytes()
    seen, queue = set(), ["sample/catalog.json"]
    while queue:
        key = queue.pop()
        document = json.loads(shelf.objects[key])
        links = [link["href"] for link in document["links"] if link["rel"] in ("root", "child", "item", "parent")]
        links += [asset["href"] for asset in document.get("assets", {}).values()]
        for href in links:
            target = str((Path("/") / key).parent.joinpath(href).resolve())[1:]
            assert target in shelf.objects, f"{key} links to {href}"
            if target not in seen and target.endswith("json"):
                queue.append(target)
            seen.add(target)
    assert sum(key.endswith(".tif") for key in seen) == 12 * 13


def test_a_second_publish_uploads_nothing_and_a_lost_object_comes_back(town: Town) -> None:
    shelf = Shelf()
    publish(town.path, PLACE, store=shelf)
    shelf.puts.clear()
    assert publish(town.path, PLACE, store=shelf) == 0
    assert shelf.puts == []
    del shelf.objects["sample/aoi.geojson"]
    assert publish(town.path, PLACE, store=shelf) == 1
    assert shelf.puts == ["sample/aoi.geojson", "sample/manifest.json"]


def test_another_town_replaces_the_one_before(town: Town, tmp_path: Path) -> None:
    shelf = Shelf()
    other = make(tmp_path / "other", size=(1.2, 1.2), seed=5)
    publish(other.path, PLACE, store=shelf)
    shelf.objects["sample/left-by-someone.txt"] = b"theirs"
    publish(town.path, PLACE, store=shelf)
    ours = {f"sample/{name}" for name in town.manifest.files} | {"sample/manifest.json"}
    assert set(shelf.objects) == ours | {"sample/left-by-someone.txt"}


def test_an_upload_that_was_cut_off_is_finished_by_the_next(town: Town, tmp_path: Path) -> None:
    shelf = Shelf()
    other = make(tmp_path / "other", size=(1.2, 1.2), seed=5)
    publish(other.path, PLACE, store=shelf)
    shelf.room = len(shelf.puts) + 7
    with pytest.raises(WorldError):
        publish(town.path, PLACE, store=shelf)
    shelf.room = 10**9
    publish(other.path, PLACE, store=shelf)
    for name in other.manifest.files:
        assert shelf.objects[f"sample/{name}"] == (other.path / name).read_bytes()


def test_what_is_no_town_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no manifest.json"):
        publish(tmp_path, PLACE, store=Shelf())
