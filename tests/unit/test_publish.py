"""A published map is a STAC collection whose links resolve, and nobody else's is written over."""

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
from builders import make_prediction

from casbah.errors import InputError
from casbah.footprints import footprints
from casbah.grid import Grid
from casbah.products.footprints import FootprintSet
from casbah.products.prediction import Prediction
from casbah.publish import publish

GRID = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 60, 80)


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
    assert Prediction.open(tmp_path / "pisa" / "prediction").digest == prediction.digest
    assert FootprintSet.open(tmp_path / "pisa" / "footprints").digest == drawn.digest


def test_the_collection_says_whom_to_name_and_what_is_simulated(
    made: tuple[Prediction, FootprintSet], tmp_path: Path
) -> None:
    prediction, _ = made
    written = json.loads(Path(publish(prediction=prediction.path, to=tmp_path / "pisa")).read_text())
    assert [one["name"] for one in written["providers"]] == list(prediction.info.attribution)
    assert written["summaries"]["casbah:model"] == [prediction.info.model.digest]
    assert written["description"].startswith("SIMULATED") == prediction.info.simulated
    assert [link["href"] for link in written["links"] if link["rel"] == "item"] == ["./items/prediction.json"]


def test_a_later_map_takes_the_place_of_an_earlier_one(made: tuple[Prediction, FootprintSet], tmp_path: Path) -> None:
    prediction, _ = made
    publish(prediction=prediction.path, to=tmp_path / "pisa")
    later = make_prediction(tmp_path / "later", np.full(GRID.shape, 0.2, np.float32), GRID)
    publish(prediction=later.path, to=tmp_path / "pisa")
    assert Prediction.open(tmp_path / "pisa" / "prediction").digest == later.digest


@pytest.mark.parametrize("there", ["collection.json", "notes.txt"])
def test_what_somebody_else_keeps_there_is_never_written_over(
    there: str, made: tuple[Prediction, FootprintSet], tmp_path: Path
) -> None:
    (tmp_path / "pisa").mkdir()
    (tmp_path / "pisa" / there).write_text('{"type": "Collection", "id": "mine"}')
    with pytest.raises(InputError, match="name another place"):
        publish(prediction=made[0].path, to=tmp_path / "pisa")
    assert [path.name for path in (tmp_path / "pisa").iterdir()] == [there]


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
