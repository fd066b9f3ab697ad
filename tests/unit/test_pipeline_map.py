"""The compiled pipeline that draws a map: one model for all cells, one map of them all, credentials where needed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from casbah.pipeline import compiled

Document = dict[str, Any]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled.compile_pipeline(tmp_path_factory.mktemp("map") / "map.yaml", pipeline=compiled.MAP)


@pytest.fixture(scope="module")
def documents(package: Path) -> list[Document]:
    return list(yaml.safe_load_all(package.read_text()))


def test_all_cells_are_predicted_by_the_version_that_was_fetched_once(documents: list[Document]) -> None:
    outside = documents[0]["root"]["dag"]["tasks"]
    inside = documents[0]["components"]["comp-for-loop-1"]["dag"]["tasks"]
    assert set(outside) == {"fetch", "plan", "for-loop-1", "merge", "footprints", "publish"}
    assert set(inside) == {"ingest", "predict"}
    handed = inside["predict"]["inputs"]["artifacts"]["model"]["componentInputArtifact"]
    source = outside["for-loop-1"]["inputs"]["artifacts"][handed]["taskOutputArtifact"]
    assert source["producerTask"] == "fetch"
    assert outside["fetch"]["cachingOptions"] == {}, "an alias moves"
    assert inside["predict"]["cachingOptions"] == {"enableCache": True}


def test_cells_are_read_beyond_their_borders_and_laid_together(documents: list[Document]) -> None:
    inside = documents[0]["components"]["comp-for-loop-1"]["dag"]["tasks"]
    margin = inside["ingest"]["inputs"]["parameters"]["cell_margin"]["runtimeValue"]["constant"]
    assert margin >= 640, "metres, what two windows share"
    merge = documents[0]["root"]["dag"]["tasks"]["merge"]["inputs"]["artifacts"]["predictions"]["taskOutputArtifact"]
    assert merge["producerTask"] == "for-loop-1"


def test_only_what_leaves_its_pod_gets_credentials(documents: list[Document]) -> None:
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    secret = {name.removeprefix("exec-") for name, facts in executors.items() if facts.get("secretAsEnv")}
    assert secret == {"fetch", "plan", "ingest", "publish"}
    for name, facts in executors.items():
        assert facts["securityContext"]["runAsNonRoot"], name


def test_every_parameter_has_a_default_that_runs_and_a_description(package: Path) -> None:
    declared = compiled.parameters(package)
    assert set(declared) > {"aoi", "model", "to", "periods"}
    for name, facts in declared.items():
        assert "defaultValue" in facts, name
        assert len(facts["description"]) > 20, name
