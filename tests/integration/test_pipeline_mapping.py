"""The registered model draws a map through the compiled pipeline: real MLflow, real object store, a tiny town."""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import yaml

from casbah import experiments, sample
from casbah.errors import InputError
from casbah.evaluate import evaluate
from casbah.finetune import finetune
from casbah.ingest import ingest
from casbah.label import label
from casbah.pipeline import compiled, inputs, local
from casbah.pipeline.session import Session, request
from casbah.products.footprints import FootprintSet
from casbah.products.prediction import Prediction
from casbah.register import register
from casbah.sample import END, START
from casbah.storage import Location, Store
from casbah.tile import tile

pytestmark = [pytest.mark.integration, pytest.mark.long]

NAME = "casbah-mapped"
TO = "s3://casbah/maps/town"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("map")


@pytest.fixture(scope="module")
def package(place: Path) -> Path:
    return compiled.compile_pipeline(place / "map.yaml", pipeline=compiled.MAP)


@pytest.fixture(scope="module")
def session(place: Path) -> Iterator[Session]:
    """Services, the town in the store, and a champion of few trees in the registry."""
    with Session(place / "casbah") as opened:
        town = sample.make(place / "town", size=(2.6, 1.8))
        sample.publish(town.path, inputs.SAMPLE)
        scene = ingest(aoi=town.aoi, start=START, end=END, stac=str(town.catalog), output=place / "scene")
        known = label(
            scene=scene.path, source=town.footprints, labelled_area=town.labelled_area, output=place / "labels"
        )
        tiles = tile(scenes=[scene.path], labels=[known.path], output=place / "tiles", tile_size=16, block_size=440)
        content = yaml.safe_load(experiments.find("boosted_pixels").read_text())
        content["trees"]["rounds"] = 20
        (place / "few_trees.yaml").write_text(yaml.safe_dump(content))
        model = finetune(config=place / "few_trees.yaml", tiles=tiles.path, output=place / "model")
        scored = evaluate(model=model.path, tiles=tiles.path, output=place / "test")
        register(model=model.path, evaluation=scored.path, tiles=tiles.path, name=NAME)
        yield opened


@pytest.fixture(autouse=True)
def _services(_no_surprises: None, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in session.environment.items():
        monkeypatch.setenv(name, value)


def drawn(session: Session, package: Path, output: Path, **more: str) -> dict[str, Path | str]:
    given = {
        "aoi": "sample", "stac": "sample", "start": START, "end": END, "model": f"models:/{NAME}@champion", "to": TO,
    }  # fmt: skip
    with request(given | more, package, output=output) as wanted:
        return session.map(wanted, output=output)


@pytest.fixture(scope="module")
def told(session: Session, package: Path, place: Path) -> tuple[dict[str, Path | str], str]:
    """The town mapped in grid cells of about a kilometre, and what was said of it."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        for name, value in session.environment.items():
            patch.setenv(name, value)
        return drawn(session, package, place / "cells", cell_size="1280"), said.getvalue()


@pytest.fixture(scope="module")
def cells(told: tuple[dict[str, Path | str], str]) -> dict[str, Path | str]:
    return told[0]


def test_messages_name_the_area_as_it_was_given_and_each_cell(told: tuple[dict[str, Path | str], str]) -> None:
    said = told[1]
    assert re.search(r"plan: sample@\w+ is read in \d cells", said)
    names = set(re.findall(r"… ingest (\S+)", said))
    assert len(names) > 1
    assert set(re.findall(r"… predict few_trees (\S+)", said)) == names


def test_a_map_of_several_cells_is_the_map_of_the_whole(
    cells: dict[str, Path | str], session: Session, package: Path, place: Path
) -> None:
    made = Prediction.open(cells["prediction"])
    assert len(made.manifest.inputs) > 1, "it was made of several cells"
    whole = Prediction.open(drawn(session, package, place / "whole", to="s3://casbah/maps/whole")["prediction"])
    assert made.grid == whole.grid
    np.testing.assert_array_equal(np.isnan(made.probability()), np.isnan(whole.probability()))
    apart = np.abs(made.probability() - whole.probability())
    # Each cell picks its own best items, so a pixel can show another date; borders must not show.
    assert np.nanmean(apart) < 0.01
    one, other = FootprintSet.open(cells["footprints"]), FootprintSet.open(place / "whole" / "footprints")
    assert one.info.area == pytest.approx(other.info.area, rel=0.05)
    polygons = one.footprints().geometry
    assert polygons.is_valid.all()
    assert polygons.union_all().area == pytest.approx(polygons.area.sum(), rel=1e-6), "no polygon lies on another"


def test_the_map_says_which_version_drew_it(cells: dict[str, Path | str]) -> None:
    made = FootprintSet.open(cells["footprints"])
    assert made.info.model.registered == f"{NAME} version 1"
    assert set(made.footprints()["model"]) == {f"{NAME} version 1"}
    assert made.info.simulated


def test_the_collection_in_the_store_leads_to_every_file(cells: dict[str, Path | str]) -> None:
    assert cells["collection"] == f"{TO}/collection.json"
    store = Store.from_environment()
    held = {found.key for found in store.list(Location.parse(f"{TO}/"))}
    collection = json.loads(store.read(Location.parse(str(cells["collection"]))))
    pystac.Collection.from_dict(collection)
    items = [link["href"].removeprefix("./") for link in collection["links"] if link["rel"] == "item"]
    (prefix,) = {name.split("/")[0] for name in items}
    assert items == [f"{prefix}/items/prediction.json", f"{prefix}/items/footprints.json"]
    for name in items:
        item = json.loads(store.read(Location.parse(f"{TO}/{name}")))
        pystac.Item.from_dict(item)
        for asset in item["assets"].values():
            assert f"maps/town/{prefix}/{asset['href'].removeprefix('../')}" in held, asset


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"periods": 2}, "plan: periods is 2, and the model few_trees learned from 1: give periods=1"),
        ({"model": "models:/nobody@champion"}, "nobody has no version with the alias champion"),
        (
            {"to": "s3://casbah/maps/taken"},
            r"plan: .* already holds something else than a published map \(notes\.txt\)",
        ),
    ],
)
def test_what_can_not_be_mapped_is_one_sentence_before_any_imagery_is_read(
    given: dict[str, Any], sentence: str, session: Session, package: Path, place: Path
) -> None:
    Store.from_environment().write(b"mine", Location.parse("s3://casbah/maps/taken/notes.txt"))
    events: list[dict[str, Any]] = []
    values = {"aoi": "sample", "stac": "sample", "model": f"models:/{NAME}@champion", "to": TO} | given
    with pytest.raises(InputError, match=sentence):
        local.run(package, values, directory=place / "refused", environment=session.environment, watch=events.append)
    steps = {event["step"] for event in events if event["event"] == "start"}
    assert "fetch" in steps
    assert "ingest" not in steps


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"to": "runs/map"}, r"^to is 'runs/map'; an address in a bucket is wanted"),
        ({"model": "runs/unet"}, "'runs/unet' is no address of a registered model"),
        ({"minimum_area": "-5"}, "minimum_area is -5; 0 square metres or more is wanted"),
        ({"cell_size": "-3"}, "cell_size is -3; 0 metres or more is wanted"),
    ],
)
def test_a_parameter_that_no_step_takes_is_told_before_anything_is_started(
    given: dict[str, str], sentence: str, session: Session, package: Path, place: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        drawn(session, package, place / "bad", **given)
