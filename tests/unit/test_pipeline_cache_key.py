"""A step of a Kubeflow run is answered from the cache where nothing has changed that it depends on, and only there.

`cache_keys` works out the keys of the server, version 2.17, from the compiled YAML. That it does so rightly is tested
on the fingerprints in the server's own tests (`backend/src/v2/cacheutils/cache_test.go`); no server was there.
"""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cache_keys import fingerprint, steps
from cache_keys import keys as keys_of

from casbah.pipeline import compiled

Documents = list[dict[str, Any]]
Compile = Callable[..., Documents]

CONTAINER = {"image": "python:3.9"}

TWO_EXPERIMENTS = {"experiments": ["unet_scratch_small", "boosted_pixels"]}
FIRST, SECOND = (f"for-loop-2[{name}]/" for name in TWO_EXPERIMENTS["experiments"])
FINETUNE = {f"{FIRST}finetune", f"{SECOND}finetune"}
VALIDATE = {f"{FIRST}evaluate", f"{SECOND}evaluate"}
AFTER_TRAINING = FINETUNE | VALIDATE | {"select", "evaluate-2"}

OTHER = {
    "aoi": "sample", "start": "2022-06-01", "end": "2023-10-31", "stac": "sample", "labels": "overture",
    "labelled_area": "s3://casbah/a.geojson", "experiments": ["boosted_context"], "periods": 2, "max_cloud": 10.0,
    "tile_size": 128, "block_size": 1280.0, "cell_size": 20000.0, "align": True, "seed": 1, "trials": 3, "name": "mine",
    "snapshot": "2026-12-01", "licence": "CC-BY-4.0", "attribution": "Regione Toscana", "vintage": "2013",
}  # fmt: skip
"""For each parameter a value that is not its default."""

CONCERNED: dict[str, set[str]] = {
    **{name: {"ingest"} for name in ("aoi", "start", "end", "stac", "periods", "max_cloud")},
    **{name: {"label"} for name in ("labels", "labelled_area", "licence", "attribution", "vintage")},
    **{name: {"tile"} for name in ("tile_size", "block_size", "align")},
    "trials": FINETUNE,
    "snapshot": {"ingest", "label"} | FINETUNE,
    "seed": {"tile", "evaluate-2"} | FINETUNE | VALIDATE,
    "cell_size": set(),
    "name": set(),
}
"""Parameter -> the steps that are given it; only what is registered has a name, and registering is never cached.
The size of cells reaches what reads by their names alone, which preflight tells."""

WHOLE = {"preflight": [""]}
"""What preflight says of an area that is read as one."""


AGAIN: dict[str, set[str]] = {
    "ingest": {"ingest", "label", "tile"} | AFTER_TRAINING,
    "label": {"label", "tile"} | AFTER_TRAINING,
    "tile": {"tile"} | AFTER_TRAINING,
    "finetune": AFTER_TRAINING,
    "evaluate": VALIDATE | {"select", "evaluate-2"},
    "select": {"select", "evaluate-2"},
    "register": set(),
}
"""Stage -> the steps that run again where its image is another."""


@pytest.fixture(scope="module")
def compile_(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    def call(**settings: Any) -> Documents:
        target = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
        return list(compiled.documents(compiled.compile_pipeline(target, **settings)))

    return call


@pytest.fixture(scope="module")
def of(compile_: Compile) -> Callable[[str], Documents]:
    """The documents of each pipeline, compiled once. Never change them."""
    return functools.cache(lambda pipeline: compile_(pipeline=pipeline))


@pytest.fixture(scope="module")
def documents(of: Callable[[str], Documents]) -> Documents:
    return of(compiled.FOOTPRINTS)


@pytest.fixture(scope="module")
def pinned(compile_: Compile) -> Documents:
    """Compiled with a digest for the image of each stage."""
    return compile_(images={stage: image(stage, "a") for stage in AGAIN})


def image(stage: str, digit: str) -> str:
    return f"ghcr.io/me/casbah-{stage}@sha256:{digit * 64}"


def keys(*given: Any, said: dict[str, Any] = WHOLE, **named: Any) -> dict[str, str | None]:
    """The keys of a run, its steps named as in the part of the pipeline that holds all but the last, and those that
    read an area as one without their loop."""
    found = keys_of(*given, said=said, **named)
    return {name.removeprefix("train-and-register/").replace("for-loop-1[]/", ""): key for name, key in found.items()}


def changed(before: dict[str, str | None], after: dict[str, str | None]) -> set[str]:
    """The steps that run again."""
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_fingerprints_are_those_of_the_server_s_own_tests() -> None:
    titled = "title: kfp.Model\ntype: object\nproperties:\n  framework:\n    type: string\n"
    assert (
        fingerprint(
            {
                "inputArtifactNames": {
                    "dataset_one": {"artifactNames": ["1"]},
                    "dataset_two": {"artifactNames": ["2"]},
                },
                "inputParameterValues": {"message": "Some string value", "num_steps": 5.0},
                "outputArtifactsSpec": {
                    "model": {
                        "name": "model",
                        "type": {"instanceSchema": f"{titled}  framework_version:\n    type: string\n"},
                        "metadata": {"name": "model"},
                    },
                    "metrics": {
                        "name": "metrics",
                        "type": {"schemaTitle": "kfp.Metrics"},
                        "metadata": {"name": "metrics"},
                    },
                },
                "outputParametersSpec": {"output_parameter_one": "STRING", "output_parameter_two": "INT"},
                "containerSpec": CONTAINER | {"cmdArgs": ["sh", "ec", "test"]},
            }
        )
        == "4e8a5d7d70997b0a35429fcd481af8fcd5b9f58ef4391bdb6ad900fd1c63622b"
    )
    assert (
        fingerprint(
            {
                "inputArtifactNames": {"dataset": {"artifactNames": ["10"]}},
                "outputParametersSpec": {"output_parameter": "DOUBLE"},
                "containerSpec": CONTAINER | {"cmdArgs": ["sh", "ec", "run"]},
            }
        )
        == "0a4cc1f15cdfad5170e1358518f7128c5278500a670db1b9a3f3d83b93db396e"
    )


def test_an_equal_run_of_a_pipeline_compiled_again_is_answered_from_the_cache(
    compile_: Compile, documents: Documents
) -> None:
    first, again = keys(documents, TWO_EXPERIMENTS), keys(compile_(), TWO_EXPERIMENTS)
    assert changed(first, again) == set()
    assert {name for name, key in first.items() if key} == {"ingest", "label", "tile"} | AFTER_TRAINING


def test_a_default_that_is_given_is_the_same_as_one_that_is_left_out(documents: Documents, tmp_path: Path) -> None:
    package = tmp_path / "pipeline.yaml"
    package.write_text(yaml.safe_dump_all(documents))
    assert changed(keys(documents, {}), keys(documents, compiled.defaults(package))) == set()


def test_every_parameter_is_known_here(documents: Documents) -> None:
    declared = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert declared.keys() == OTHER.keys() == CONCERNED.keys() | {"experiments"}
    assert not [name for name, facts in declared.items() if facts["defaultValue"] == OTHER[name]]


@pytest.mark.parametrize("parameter", sorted(CONCERNED))
def test_a_parameter_changes_the_key_of_the_steps_that_it_concerns(parameter: str, documents: Documents) -> None:
    other = TWO_EXPERIMENTS | {parameter: OTHER[parameter]}
    assert changed(keys(documents, TWO_EXPERIMENTS, own=True), keys(documents, other, own=True)) == CONCERNED[parameter]


@pytest.mark.parametrize(
    ("parameter", "again"),
    [
        ("snapshot", {"ingest", "label", "tile"} | AFTER_TRAINING),
        ("labels", {"label", "tile"} | AFTER_TRAINING),
        ("tile_size", {"tile"} | AFTER_TRAINING),
        ("trials", AFTER_TRAINING),
        ("name", set()),
    ],
)
def test_what_follows_runs_again_and_what_comes_before_does_not(
    parameter: str, again: set[str], documents: Documents
) -> None:
    other = TWO_EXPERIMENTS | {parameter: OTHER[parameter]}
    assert changed(keys(documents, TWO_EXPERIMENTS), keys(documents, other)) == again


def test_a_cell_more_is_read_alone_and_tiled_with_the_others(documents: Documents) -> None:
    cells = ["32631_30000_14_135", "32631_30000_15_135", "32631_30000_16_135"]
    before = keys(documents, TWO_EXPERIMENTS, said={"preflight": cells[:2]})
    after = keys(documents, TWO_EXPERIMENTS, said={"preflight": cells})
    assert after.keys() - before.keys() == {f"for-loop-1[{cells[2]}]/{name}" for name in ("ingest", "label")}
    assert changed(before, {name: after[name] for name in before}) == {"tile"} | AFTER_TRAINING


def test_an_experiment_more_trains_that_one_alone(documents: Documents) -> None:
    before = keys(documents, TWO_EXPERIMENTS)
    after = keys(documents, {"experiments": [*TWO_EXPERIMENTS["experiments"], "unet_scratch"]})
    assert after.keys() - before.keys() == {f"for-loop-2[unet_scratch]/{name}" for name in ("finetune", "evaluate")}
    assert changed(before, {name: after[name] for name in before}) == {"select", "evaluate-2"}


def test_a_digest_is_that_of_the_steps_of_its_stage(pinned: Documents) -> None:
    executors = pinned[0]["deploymentSpec"]["executors"]
    found: dict[str, set[str]] = {stage: set() for stage in AGAIN}
    for name, _, label in steps(pinned):
        for stage in AGAIN:
            if executors[label]["container"]["image"] == image(stage, "a"):
                found[stage].add(name)
    assert found == {stage: {stage} for stage in AGAIN} | {"evaluate": {"evaluate", "evaluate-2"}}


@pytest.mark.parametrize("stage", AGAIN)
def test_another_digest_of_an_image_runs_its_stage_again(stage: str, pinned: Documents) -> None:
    other = json.loads(json.dumps(pinned).replace(image(stage, "a"), image(stage, "b")))
    assert other != pinned
    assert changed(keys(pinned, TWO_EXPERIMENTS), keys(other, TWO_EXPERIMENTS)) == AGAIN[stage]


def test_neither_variables_nor_secrets_are_in_a_key(documents: Documents) -> None:
    other = copy.deepcopy(documents)
    for executor in other[0]["deploymentSpec"]["executors"].values():
        executor["container"]["env"] = [{"name": "CASBAH_MODE", "value": "another"}]
    for executor in other[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        executor.pop("configMapAsEnv", None)
        executor["secretAsEnv"] = [{"secretName": "another", "keyToEnv": []}]
    assert changed(keys(documents, TWO_EXPERIMENTS), keys(other, TWO_EXPERIMENTS)) == set()


@pytest.mark.parametrize("pipeline", compiled.PIPELINES)
def test_so_no_cached_step_is_given_by_its_environment_what_its_result_depends_on(
    pipeline: str, of: Callable[[str], Documents]
) -> None:
    """Only where services are, and who may use them."""
    specification, platform = found = of(pipeline)
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    named = set()
    for name, task, label in steps(found):
        if task["cachingOptions"].get("enableCache"):
            assert "env" not in specification["deploymentSpec"]["executors"][label]["container"], name
            sources = [*placed.get(label, {}).get("configMapAsEnv", ()), *placed.get(label, {}).get("secretAsEnv", ())]
            named |= {pair["envVar"] for source in sources for pair in source["keyToEnv"]}
    assert named <= {
        "AWS_ENDPOINT_URL", "AWS_REGION", "MLFLOW_TRACKING_URI", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
    }  # fmt: skip


def test_what_looks_at_the_world_or_changes_it_has_no_key(documents: Documents) -> None:
    found = keys(documents, TWO_EXPERIMENTS)
    assert {name for name, key in found.items() if not key} == {"preflight", "register", "conclude"}


def test_every_parameter_of_the_comparison_changes_a_key(of: Callable[[str], Documents]) -> None:
    found = of(compiled.COMPARISON)
    before = keys(found, {})
    assert {name for name, key in before.items() if not key} == {"preflight"}, "each other step can come from the cache"
    for parameter in found[0]["root"]["inputDefinitions"]["parameters"].keys() - {"cell_size"}:
        assert keys(found, {parameter: OTHER[parameter]}) != before, parameter
