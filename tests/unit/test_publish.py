"""A published map is a STAC collection whose links resolve, and nobody else's is written over."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from builders import make_prediction
from test_sample_publish import Shelf

from casbah.errors import InputError, WorldError
from casbah.footprints import footprints
from casbah.grid import Grid
from casbah.products.footprints import FootprintSet
from casbah.products.prediction import Prediction
from casbah.publish import publish
from casbah.storage import Location

GRID = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 60, 80)
TO = "s3://casbah/maps/pisa"
ROOT = "maps/pisa/"


class Kept(Shelf):
    """A shelf that calls `look` after every change."""

    look: Callable[[], None] | None = None
    stuck = False

    def put(self, source: Path, target: Location) -> None:
        super().put(source, target)
        self._changed()

    def write(self, content: bytes, target: Location) -> None:
        super().write(content, target)
        self._changed()

    def remove(self, location: Location) -> None:
        if self.stuck and location.key.endswith(".tif"):
            raise WorldError("the object store failed")
        super().remove(location)
        self._changed()

    def _changed(self) -> None:
        if self.look is not None:
            self.look()

    def seen(self) -> dict[str, bytes]:
        """What lies under the address."""
        return {key.removeprefix(ROOT): content for key, content in self.objects.items() if key.startswith(ROOT)}


def led_to(held: dict[str, bytes]) -> dict[str, bytes]:
    """Everything that the collection among these files leads to, with the products' manifests; each has to be there."""
    found = {"collection.json": held["collection.json"]}
    for link in json.loads(held["collection.json"])["links"]:
        if link["rel"] != "item":
            continue
        name = os.path.normpath(link["href"])
        found[name] = held[name]
        item = json.loads(held[name])
        hrefs = [asset["href"] for asset in item["assets"].values()]
        hrefs += [other["href"] for other in item["links"] if not other["href"].startswith("urn:")]
        for href in hrefs:
            target = os.path.normpath(Path(name).parent / href)
            found[target] = held[target]
        folder = f"{name.split('/')[0]}/{Path(name).stem}"
        manifest = json.loads(held[f"{folder}/manifest.json"])
        found |= {f"{folder}/{file}": held[f"{folder}/{file}"] for file in [*manifest["files"], "manifest.json"]}
    return found


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(address: str, kind: str) -> Path:
    """Where the product of a collection in a folder lies."""
    (folder,) = Path(address).parent.glob(f"*/{kind}")
    return folder


@pytest.fixture
def made(tmp_path: Path) -> tuple[Prediction, FootprintSet]:
    probability = np.zeros(GRID.shape, np.float32)
    probability[10:20, 10:30] = 0.9
    prediction = make_prediction(tmp_path / "map", probability, GRID)
    return prediction, footprints(prediction.path, tmp_path / "footprints")


def test_the_collection_leads_to_every_file(made: tuple[Prediction, FootprintSet], tmp_path: Path) -> None:
    prediction, drawn = made
    address = publish(prediction=prediction.path, footprints=drawn.path, to=tmp_path / "pisa")
    assert address == str(tmp_path / "pisa" / "collection.json")
    collection = pystac.Collection.from_file(address)
    assert collection.id == "pisa"
    items = {item.id: item for item in collection.get_items()}
    assert len(items) == 2
    for item in items.values():
        assert item.collection_id == "pisa"
        assert item.get_root() is not None
        for asset in item.get_assets().values():
            assert Path(asset.get_absolute_href() or "").is_file(), asset.href
        for link in item.get_links("derived_from"):
            assert str(link.href).startswith("urn:") or Path(str(link.absolute_href)).is_file(), link
        assert collection.extent.spatial.bboxes[0][0] <= item.bbox[0]
        assert collection.extent.spatial.bboxes[0][3] >= item.bbox[3]
    assert Prediction.open(published(address, "prediction")).digest == prediction.digest
    assert FootprintSet.open(published(address, "footprints")).digest == drawn.digest


def test_the_collection_says_whom_to_name_and_what_is_simulated(
    made: tuple[Prediction, FootprintSet], tmp_path: Path
) -> None:
    prediction, _ = made
    written = json.loads(Path(publish(prediction=prediction.path, to=tmp_path / "pisa")).read_text())
    assert [one["name"] for one in written["providers"]] == list(prediction.info.attribution)
    assert written["summaries"]["casbah:model"] == [prediction.info.model.digest]
    assert written["description"].startswith("SIMULATED") == prediction.info.simulated
    (link,) = [link["href"] for link in written["links"] if link["rel"] == "item"]
    assert link.startswith("./")
    assert link.endswith("/items/prediction.json")


@pytest.fixture
def later(tmp_path: Path) -> tuple[Prediction, FootprintSet]:
    probability = np.full(GRID.shape, 0.2, np.float32)
    probability[30:50, 10:30] = 0.8
    prediction = make_prediction(tmp_path / "later", probability, GRID)
    return prediction, footprints(prediction.path, tmp_path / "later_footprints")


def test_a_later_map_takes_the_place_of_an_earlier_one(
    made: tuple[Prediction, FootprintSet], later: tuple[Prediction, FootprintSet], tmp_path: Path
) -> None:
    publish(prediction=made[0].path, footprints=made[1].path, to=tmp_path / "pisa")
    address = publish(prediction=later[0].path, to=tmp_path / "pisa")
    assert Prediction.open(published(address, "prediction")).digest == later[0].digest
    held = files_below(tmp_path / "pisa")
    assert held == led_to(held), "nothing is left of the earlier map and its footprints"
    assert len(list((tmp_path / "pisa").iterdir())) == 2, "nor an empty folder"


def test_without_footprints_none_are_left_in_the_store(made: tuple[Prediction, FootprintSet]) -> None:
    shelf = Kept()
    publish(prediction=made[0].path, footprints=made[1].path, to=TO, store=shelf)
    assert any("footprints" in name for name in shelf.seen())
    publish(prediction=made[0].path, to=TO, store=shelf)
    assert not any("footprints" in name for name in shelf.seen())
    assert shelf.seen() == led_to(shelf.seen())


def test_readers_see_one_map_or_the_other_while_it_is_replaced(
    made: tuple[Prediction, FootprintSet], later: tuple[Prediction, FootprintSet]
) -> None:
    shelf = Kept()
    publish(prediction=made[0].path, footprints=made[1].path, to=TO, store=shelf)
    before, seen = led_to(shelf.seen()), []
    shelf.look = lambda: seen.append(led_to(shelf.seen()))
    publish(prediction=later[0].path, footprints=later[1].path, to=TO, store=shelf)
    after = led_to(shelf.seen())
    assert before != after
    assert len(seen) > len(before), "a look after every file"
    assert seen == sorted(seen, key=lambda one: one == after), "the old one, then the new one"
    assert all(one in (before, after) for one in seen)


@pytest.mark.parametrize("before", [False, True])
def test_a_publishing_to_the_store_that_broke_off_is_finished_by_the_next(
    before: bool, made: tuple[Prediction, FootprintSet], later: tuple[Prediction, FootprintSet]
) -> None:
    whole = Kept()
    publish(prediction=later[0].path, footprints=later[1].path, to=TO, store=whole)
    for room in range(len(whole.puts)):
        shelf = Kept()
        if before:
            publish(prediction=made[0].path, footprints=made[1].path, to=TO, store=shelf)
        shelf.room = len(shelf.puts) + room
        with pytest.raises(WorldError):
            publish(prediction=later[0].path, footprints=later[1].path, to=TO, store=shelf)
        shelf.room = 10**9
        publish(prediction=later[0].path, footprints=later[1].path, to=TO, store=shelf)
        assert shelf.seen() == whole.seen(), f"after {room} files"


def test_another_map_clears_away_what_a_broken_off_publishing_left(
    made: tuple[Prediction, FootprintSet], later: tuple[Prediction, FootprintSet]
) -> None:
    shelf = Kept()
    shelf.room = 5
    with pytest.raises(WorldError):
        publish(prediction=made[0].path, footprints=made[1].path, to=TO, store=shelf)
    left = set(shelf.objects)
    assert len(left) == 5
    shelf.room = 10**9
    publish(prediction=later[0].path, to=TO, store=shelf)
    assert not left & set(shelf.objects)


@pytest.mark.parametrize("killed", [False, True])
def test_a_publishing_to_a_folder_that_broke_off_is_finished_by_the_next(
    killed: bool, made: tuple[Prediction, FootprintSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, remove = shutil.copyfile, shutil.rmtree

    def full(source: Path, target: Path) -> Any:
        if Path(source).name == "footprints.gpkg":
            Path(target).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    if killed:  # Then nobody clears away the directory that was being written.
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(WorldError, match="No space left"):
        publish(prediction=made[0].path, footprints=made[1].path, to=tmp_path / "pisa")
    assert (sum(content == b"half" for content in files_below(tmp_path / "pisa").values()) == 1) == killed
    monkeypatch.setattr(shutil, "copyfile", copy)
    monkeypatch.setattr(shutil, "rmtree", remove)
    publish(prediction=made[0].path, footprints=made[1].path, to=tmp_path / "pisa")
    held = files_below(tmp_path / "pisa")
    assert held == led_to(held)


@pytest.mark.parametrize(
    "left", [".collection.json.partial", "0123456789abcdef/items/.prediction.json.partial", "0123456789abcdef/items/"]
)
def test_small_files_that_a_killed_publishing_left_half_written_are_no_obstacle(
    left: str, made: tuple[Prediction, FootprintSet], tmp_path: Path
) -> None:
    file = tmp_path / "pisa" / left
    (file if left.endswith("/") else file.parent).mkdir(parents=True)
    if not left.endswith("/"):
        file.write_bytes(b"{")
    publish(prediction=made[0].path, to=tmp_path / "pisa")
    held = files_below(tmp_path / "pisa")
    assert held == led_to(held)
    assert len(list((tmp_path / "pisa").iterdir())) == 2


def test_the_same_map_published_again_uploads_nothing(
    made: tuple[Prediction, FootprintSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Kept()
    publish(prediction=made[0].path, footprints=made[1].path, to=TO, store=shelf)
    publish(prediction=made[0].path, footprints=made[1].path, to=tmp_path / "pisa")
    shelf.puts.clear()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a file was written")

    monkeypatch.setattr(shutil, "copyfile", never)
    monkeypatch.setattr(Path, "write_bytes", never)
    publish(prediction=made[0].path, footprints=made[1].path, to=TO, store=shelf)
    publish(prediction=made[0].path, footprints=made[1].path, to=tmp_path / "pisa")
    assert shelf.puts == []


def test_what_can_not_be_removed_is_said_and_removed_by_the_next(
    made: tuple[Prediction, FootprintSet],
    later: tuple[Prediction, FootprintSet],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shelf = Kept()
    publish(prediction=made[0].path, footprints=made[1].path, to=TO, store=shelf)
    shelf.stuck = True
    publish(prediction=later[0].path, to=TO, store=shelf)
    assert "could not all be removed (the object store failed)" in capsys.readouterr().err
    assert shelf.seen() != led_to(shelf.seen())
    shelf.stuck = False
    publish(prediction=later[0].path, to=TO, store=shelf)
    assert shelf.seen() == led_to(shelf.seen())


def test_a_map_that_was_published_without_a_prefix_is_replaced_too(made: tuple[Prediction, FootprintSet]) -> None:
    shelf = Kept()
    item = json.dumps({"collection": "pisa", "properties": {"casbah": {}}}).encode()
    # The footprints' own item was lost: the link to it tells whose they are.
    links = [{"rel": "item", "href": f"./items/{kind}.json"} for kind in ("prediction", "footprints")]
    shelf.objects = {
        f"{ROOT}collection.json": json.dumps({"summaries": {"casbah:model": ["d1"]}, "links": links}).encode(),
        f"{ROOT}items/prediction.json": item,
        f"{ROOT}prediction/mask.tif": b"pixels",
        f"{ROOT}footprints/footprints.gpkg": b"polygons",
    }
    publish(prediction=made[0].path, to=TO, store=shelf)
    assert shelf.seen() == led_to(shelf.seen())


def test_beside_a_map_everything_of_others_is_kept(
    made: tuple[Prediction, FootprintSet], later: tuple[Prediction, FootprintSet], tmp_path: Path
) -> None:
    shelf = Kept()
    publish(prediction=made[0].path, to=TO, store=shelf)
    publish(prediction=made[0].path, to=tmp_path / "pisa")
    theirs = ["notes.txt", "0123456789abcdef/prediction/mask.tif", "prediction/mask.tif", "items/other.json"]
    for name in theirs:
        shelf.objects[f"{ROOT}{name}"] = b"theirs"
        (tmp_path / "pisa" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pisa" / name).write_bytes(b"theirs")
    publish(prediction=later[0].path, to=TO, store=shelf)
    publish(prediction=later[0].path, to=tmp_path / "pisa")
    for held in (shelf.seen(), files_below(tmp_path / "pisa")):
        assert held == led_to(held) | dict.fromkeys(theirs, b"theirs")


@pytest.mark.parametrize(
    "there",
    [
        "collection.json",
        "notes.txt",
        "town/collection.json",
        "0123456789abcdef/prediction/mask.tif",
        "prediction/mask.tif",
    ],
)
def test_what_somebody_else_keeps_there_is_never_written_over(
    there: str, made: tuple[Prediction, FootprintSet], tmp_path: Path
) -> None:
    theirs = {there: b'{"type": "Collection", "id": "mine"}'}
    shelf = Kept()
    shelf.objects = {f"{ROOT}{there}": theirs[there]}
    (tmp_path / "pisa" / there).parent.mkdir(parents=True)
    (tmp_path / "pisa" / there).write_bytes(theirs[there])
    places: Iterable[dict[str, Any]] = ({"to": tmp_path / "pisa"}, {"to": TO, "store": shelf})
    for place in places:
        with pytest.raises(InputError, match="name another place"):
            publish(prediction=made[0].path, **place)
    assert files_below(tmp_path / "pisa") == shelf.seen() == theirs


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"to": "s3://casbah"}, "s3://casbah/ is a whole bucket; an address in it is wanted"),
        ({"name": "../secrets"}, r"'\.\./secrets' is no name of a collection"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    given: dict[str, str],
    sentence: str,
    made: tuple[Prediction, FootprintSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    with pytest.raises(InputError, match=sentence):
        publish(prediction=made[0].path, **{"to": str(tmp_path / "pisa"), **given})
    assert not (tmp_path / "pisa").exists()


def test_footprints_of_another_map_are_refused(made: tuple[Prediction, FootprintSet], tmp_path: Path) -> None:
    other = make_prediction(tmp_path / "other", np.full(GRID.shape, 0.2, np.float32), GRID)
    with pytest.raises(InputError, match="were drawn from another prediction than"):
        publish(prediction=other.path, footprints=made[1].path, to=tmp_path / "pisa")
