"""The compiled YAML keeps what it promises to a cluster and to a person who reruns it from the Kubeflow UI."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from kfp.cli.utils.parsing import parse_parameter_value
from kfp.dsl import PipelineTask

from casbah.errors import InputError
from casbah.pipeline import compiled

DIGEST = "ghcr.io/me/casbah-finetune@sha256:" + "a" * 64


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    return compiled.compile_pipeline(target, images={"finetune": DIGEST}, registry="registry.example/casbah")


@pytest.fixture(scope="module")
def documents(package: Path) -> list[dict[str, Any]]:
    return list(compiled.documents(package))


def tasks(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every task of the pipeline, those inside of loops too."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "tasks":
                yield from value.items()
            yield from tasks(value)


def test_every_parameter_has_a_default_and_a_description(package: Path) -> None:
    declared = compiled.parameters(package)
    assert set(declared) >= {
        "aoi", "labels", "start", "end", "stac", "experiments", "periods", "tile_size", "max_cloud", "seed", "name",
        "trials", "snapshot", "licence", "attribution", "vintage",
    }  # fmt: skip
    for name, facts in declared.items():
        assert "defaultValue" in facts, name
        assert len(facts.get("description", "")) > 15, name


def test_every_default_survives_the_kfp_command_line(package: Path) -> None:
    kinds: dict[str, Any] = {
        "STRING": str,
        "LIST": list,
        "NUMBER_INTEGER": int,
        "NUMBER_DOUBLE": (int, float),
        "BOOLEAN": bool,
    }
    import json

    for name, facts in compiled.parameters(package).items():
        default, kind = facts["defaultValue"], facts["parameterType"]
        typed = int(default) if kind == "NUMBER_INTEGER" else default
        word = typed if isinstance(typed, str) else json.dumps(typed)
        parsed = parse_parameter_value(word)
        assert isinstance(parsed, kinds[kind]), f"{name}={word} arrives as {type(parsed).__name__}"
        assert parsed == default, name


def test_a_training_may_ask_for_a_slice_of_a_gpu(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from casbah.cli import pipeline
    from casbah.cli.root import app

    assert pipeline.pipeline
    target = tmp_path / "mig.yaml"
    words = ["pipeline", "compile", "--gpu-resource", "nvidia.com/mig-1g.10gb", "--output", str(target)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    specification, platform = compiled.documents(target)
    container = specification["deploymentSpec"]["executors"]["exec-finetune"]["container"]
    assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/mig-1g.10gb"
    assert container["resources"]["accelerator"]["resourceCount"] == "1"
    node = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-finetune"]
    assert node["tolerations"] == [{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]
    assert "mig-1g" not in compiled.compile_pipeline(tmp_path / "whole.yaml").read_text()


@pytest.mark.parametrize(
    ("gpu", "cpu"), [("mig-1g.10gb", False), ("", False), ("nvidia.com/gpu 2", False), ("nvidia.com/gpu", True)]
)
def test_what_is_no_gpu_to_ask_for_is_refused_and_nothing_is_written(gpu: str, cpu: bool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--gpu-resource .* wanted"):
        compiled.compile_pipeline(tmp_path / "a.yaml", gpu=gpu, cpu=cpu)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "word",
    [
        "aoi=sample", "aoi=s3://casbah/inputs/town.geojson", "aoi=https://example.org/a%20b.geojson?x=1&y=2",
        "start=2023-06-01", "snapshot=2026-12-24", "labels=overture", 'experiments=["unet_scratch"]', "max_cloud=20",
        "max_cloud=12.5", "periods=2", "name=casbah-buildings", "seed=7", "tile_size=64", "labelled_area=",
        "licence=CC-BY-4.0", "attribution=Regione Toscana", "vintage=1988-2013",
    ],
)  # fmt: skip
def test_the_values_that_the_guide_shows_arrive_with_their_type(word: str, package: Path) -> None:
    name, _, value = word.partition("=")
    parsed = parse_parameter_value(value)
    assert compiled.arguments(package, {name: value}) == compiled.arguments(package, {name: parsed})
    if compiled.parameters(package)[name]["parameterType"] == "STRING":
        assert parsed == value


def test_finetune_asks_for_a_gpu_its_node_and_shared_memory(documents: list[dict[str, Any]]) -> None:
    executors = documents[0]["deploymentSpec"]["executors"]
    accelerator = executors["exec-finetune"]["container"]["resources"]["accelerator"]
    assert accelerator["resourceType"] == "nvidia.com/gpu"
    assert accelerator["resourceCount"] == "1"
    node = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-finetune"]
    assert node["nodeSelector"]["labels"] == {"nvidia.com/gpu.present": "true"}
    assert node["tolerations"] == [{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]
    assert node["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
    assert node["emptyDirMounts"][0]["medium"] == "Memory"
    others = set(executors) - {"exec-finetune"}
    assert not any("accelerator" in executors[name]["container"].get("resources", {}) for name in others)


def test_retries_fit_what_can_fail(documents: list[dict[str, Any]]) -> None:
    """The world fails often, a node seldom, and what goes on from its checkpoint costs little to try again."""
    tries = {name: task.get("retryPolicy", {}).get("maxRetryCount", 0) for name, task in tasks(documents[0])}
    assert min(tries[name] for name in ("ingest", "label", "register", "conclude")) == 3
    assert tries["finetune"] > 3
    assert {tries[name] for name in ("tile", "evaluate", "evaluate-2", "select")} == {1}
    assert tries["preflight"] == 1, "what a person typed is not told after many waits"


def test_every_step_asks_for_what_it_needs_and_runs_as_no_root(documents: list[dict[str, Any]]) -> None:
    for name, executor in documents[0]["deploymentSpec"]["executors"].items():
        resources = executor["container"]["resources"]
        assert resources["cpuRequest"] > 0, name
        assert 0 < resources["memoryRequest"] <= resources["memoryLimit"], name
        context = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert int(context["runAsUser"]) > 0
    cheap = documents[0]["deploymentSpec"]["executors"]["exec-select"]["container"]["resources"]
    assert cheap["memoryLimit"] < resources["memoryLimit"]


def test_a_cluster_that_chooses_users_is_told_none_but_that_it_be_no_root(tmp_path: Path) -> None:
    made = compiled.compile_pipeline(tmp_path / "openshift.yaml", any_user=True)
    executors = list(compiled.documents(made))[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        assert executor["securityContext"] == {"runAsNonRoot": True}, name


def test_the_last_word_is_said_whatever_came_before(documents: list[dict[str, Any]]) -> None:
    last = documents[0]["root"]["dag"]["tasks"]["conclude"]
    assert last["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    (inside,) = last["dependentTasks"]
    assert inside == "train-and-register"
    assert last["inputs"]["parameters"]["status"]["taskFinalStatus"]["producerTask"] == inside


def test_preflight_comes_before_anything_is_read(documents: list[dict[str, Any]]) -> None:
    found = documents[0]["components"]["comp-train-and-register"]["dag"]["tasks"]
    assert "dependentTasks" not in found["preflight"]
    assert found["for-loop-1"]["dependentTasks"] == ["preflight"]
    assert [name for name, task in found.items() if not task.get("dependentTasks")] == ["preflight"]


def test_a_large_area_is_read_and_labelled_cell_by_cell_and_tiled_as_one(documents: list[dict[str, Any]]) -> None:
    components = documents[0]["components"]
    found = components["comp-train-and-register"]["dag"]["tasks"]
    loop = components["comp-for-loop-1"]["dag"]["tasks"]
    assert set(loop) == {"ingest", "label"}
    cells = next(
        channel
        for channel, source in found["for-loop-1"]["inputs"]["parameters"].items()
        if source.get("taskOutputParameter", {}).get("producerTask") == "preflight"
    )
    assert found["for-loop-1"]["parameterIterator"]["items"]["inputParameter"] == cells
    assert loop["ingest"]["inputs"]["parameters"]["cell"] == {"componentInputParameter": f"{cells}-loop-item"}
    assert found["for-loop-1"]["iteratorPolicy"]["parallelismLimit"] > 1, "and not one after the other"
    sources = found["tile"]["inputs"]["artifacts"]
    assert {name: one["taskOutputArtifact"]["producerTask"] for name, one in sources.items()} == dict.fromkeys(
        ("scenes", "labels"), "for-loop-1"
    )
    inputs = components["comp-tile"]["inputDefinitions"]["artifacts"]
    assert all(inputs[name]["isArtifactList"] for name in ("scenes", "labels"))


def test_steps_that_leave_their_pod_get_secrets_by_reference(documents: list[dict[str, Any]]) -> None:
    kubernetes = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in ("preflight", "ingest", "label", "finetune", "register", "conclude"):
        assert kubernetes[f"exec-{name}"]["secretAsEnv"][0]["secretName"] == "casbah-store"
        assert kubernetes[f"exec-{name}"]["secretAsEnv"][1]["secretName"] == "casbah-mlflow"
        assert kubernetes[f"exec-{name}"]["secretAsEnv"][1]["optional"], "an MLflow without users has no such Secret"
        assert kubernetes[f"exec-{name}"]["configMapAsEnv"][0]["configMapName"] == "casbah-services"
    for name in ("tile", "evaluate", "select"):
        assert not {"secretAsEnv", "configMapAsEnv"} & kubernetes[f"exec-{name}"].keys(), name


def test_the_yaml_holds_no_secret(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-key")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key-id")
    made = compiled.compile_pipeline(tmp_path / "again.yaml")
    text = made.read_text()
    assert "a-very-secret-key" not in text
    assert "an-access-key-id" not in text
    for document in compiled.documents(made):
        for executor in document.get("deploymentSpec", {}).get("executors", {}).values():
            assert {one["name"] for one in executor["container"].get("env", [])} <= {"CASBAH_IMAGE"}


def test_the_registered_version_can_name_its_run_image_and_commit(
    documents: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registering = dict(tasks(documents[0]))["register"]["inputs"]["parameters"]
    assert registering["run"]["runtimeValue"]["constant"] == "{{$.pipeline_job_uuid}}"
    environment = documents[0]["deploymentSpec"]["executors"]["exec-register"]["container"]["env"]
    assert environment == [{"name": "CASBAH_IMAGE", "value": DIGEST}], "the image that trained; no commit is made up"
    monkeypatch.setenv("CASBAH_GIT_COMMIT", "c0ffee")
    document = next(compiled.documents(compiled.compile_pipeline(tmp_path / "a.yaml")))
    known = document["deploymentSpec"]["executors"]["exec-register"]["container"]["env"]
    assert {"name": "CASBAH_GIT_COMMIT", "value": "c0ffee"} in known


def test_for_a_cluster_without_gpus_nothing_asks_for_one(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from casbah.cli import pipeline
    from casbah.cli.root import app

    assert pipeline.pipeline
    made = tmp_path / "cpu.yaml"
    done = CliRunner().invoke(app, ["pipeline", "compile", "--cpu", "--output", str(made)])
    assert done.exit_code == 0, done.output
    text = made.read_text()
    assert "nvidia.com/gpu" not in text
    assert "accelerator" not in text
    for word in ("nodeSelector", "tolerations"):
        assert word not in text
    node = list(compiled.documents(made))[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-finetune"]
    assert node["emptyDirMounts"][0]["mountPath"] == "/dev/shm", "data loader workers share memory there too"
    again = compiled.compile_pipeline(tmp_path / "gpu.yaml")
    assert "nvidia.com/gpu" in again.read_text(), "the choice ends with its compilation"


def test_what_looks_at_the_world_or_changes_it_is_never_answered_from_the_cache(
    documents: list[dict[str, Any]],
) -> None:
    for name, task in tasks(documents[0]):
        cached = task.get("cachingOptions", {}).get("enableCache", False)
        if not name.startswith(("for-loop", "train-and")):
            assert cached is (name not in ("preflight", "register", "conclude")), name


def test_the_snapshot_date_is_part_of_what_every_reading_step_is_cached_by(documents: list[dict[str, Any]]) -> None:
    found = dict(tasks(documents[0]))
    for name in ("ingest", "label", "finetune"):
        given = found[name]["inputs"]["parameters"]["snapshot"]
        assert given["componentInputParameter"].endswith("snapshot"), name


def test_what_a_person_says_of_the_footprints_reaches_the_labels(documents: list[dict[str, Any]]) -> None:
    given = dict(tasks(documents[0]))["label"]["inputs"]["parameters"]
    for name in ("licence", "attribution", "vintage"):
        assert given[name]["componentInputParameter"].endswith(name), name


def test_experiments_are_compared_on_validation_and_test_is_scored_once(documents: list[dict[str, Any]]) -> None:
    evaluations = {
        name: task["inputs"]["parameters"]["split"]["runtimeValue"]["constant"]
        for name, task in tasks(documents[0])
        if name.startswith("evaluate")
    }
    assert sorted(evaluations.values()) == ["test", "val"]
    inside = documents[0]["components"]["comp-train-and-register"]["dag"]["tasks"]
    outside = {name for name in inside if name.startswith("evaluate")}
    assert [evaluations[name] for name in outside] == ["test"], "the loop never sees the test split"


def test_the_kubeflow_ui_gets_scores_matrix_and_report(documents: list[dict[str, Any]]) -> None:
    outputs = documents[0]["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    titles = {name: facts["artifactType"]["schemaTitle"] for name, facts in outputs.items()}
    assert titles["scores"] == "system.Metrics"
    assert titles["confusion"] == "system.ClassificationMetrics"
    assert titles["report"] == "system.HTML"
    assert titles["summary"] == "system.Markdown"


def test_nothing_is_installed_when_a_step_starts(package: Path) -> None:
    assert not re.search(r"pip[\w ]* install", package.read_text())


def test_images_are_pinned_by_stage_and_come_from_the_registry(documents: list[dict[str, Any]]) -> None:
    executors = documents[0]["deploymentSpec"]["executors"]
    images = {name: executor["container"]["image"] for name, executor in executors.items()}
    assert images["exec-finetune"] == DIGEST
    assert images["exec-ingest"].startswith("registry.example/casbah/casbah-ingest:")


def test_an_image_of_an_unknown_stage_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no stage 'finetnue'"):
        compiled.compile_pipeline(tmp_path / "a.yaml", images={"finetnue": DIGEST})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"aio": "algiers"}, "no parameter 'aio'; did you mean aoi"),
        ({"periods": "two"}, 'periods is "two"; a whole number is wanted'),
        ({"periods": "1.5"}, "a whole number is wanted"),
        ({"max_cloud": "low"}, "a number is wanted"),
        ({"start": "summer"}, "start is 'summer'; an ISO date is wanted"),
        ({"experiments": "[]"}, "a JSON list of names is wanted"),
    ],
)
def test_an_argument_that_does_not_fit_is_one_sentence(given: dict[str, str], sentence: str, package: Path) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        compiled.arguments(package, given)


def test_what_is_no_compiled_pipeline_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("a: 1\n")
    with pytest.raises(InputError, match="is no compiled pipeline"):
        compiled.parameters(tmp_path / "other.yaml")
    with pytest.raises(InputError, match="does not exist"):
        compiled.parameters(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match=r"can't be read \(Is a directory\)"):
        compiled.parameters(tmp_path)


def test_kfp_learns_its_callers_name_without_the_source_of_the_whole_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes the longer the more modules are loaded: seconds a compilation beside PyTorch."""

    class NoContainer:
        container_spec = None

        def set_cpu_request(self) -> None:
            PipelineTask._ensure_container_spec_exists(self)

    def searched(*_: Any) -> NoReturn:
        raise AssertionError("the source of the stack was looked for")

    monkeypatch.setattr(inspect, "getouterframes", searched)
    compiled.compile_pipeline(tmp_path / "a.yaml")
    with compiled._stacks_without_source(), pytest.raises(ValueError, match=r"^set_cpu_request can only be used on"):
        NoContainer().set_cpu_request()
    with pytest.raises(AssertionError, match="was looked for"):
        NoContainer().set_cpu_request()


def test_the_body_of_each_component_is_one_call() -> None:
    import ast

    for file in sorted((compiled.checkout() / "components").glob("*/component.py")):
        function = next(node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef))
        docstring, bring, call = function.body
        assert isinstance(docstring, ast.Expr), file
        assert isinstance(bring, ast.ImportFrom), file
        assert isinstance(call, ast.Expr | ast.Return), file
        assert isinstance(call.value, ast.Call), file
        for name in ("metadata.yaml", "README.md"):
            assert (file.parent / name).is_file(), f"{file.parent} lacks {name}"


def test_what_a_component_says_of_its_retries_is_what_is_compiled(
    documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    others = [compiled.compile_pipeline(tmp_path / f"{name}.yaml", pipeline=name) for name in compiled.PIPELINES[1:]]
    found = [documents[0], *(next(compiled.documents(other)) for other in others)]
    tries = {
        name.removesuffix("-2"): task["retryPolicy"]["maxRetryCount"]
        for document in found
        for name, task in tasks(document)
        if "retryPolicy" in task
    }
    for stage in compiled.STAGES:
        folder = compiled.checkout() / "components" / stage
        assert yaml.safe_load((folder / "metadata.yaml").read_text())["retries"] == tries[stage], stage
        assert f"| Retries | {tries[stage]} |" in (folder / "README.md").read_text(), stage


@pytest.mark.parametrize(("word", "value"), [("true", True), ("False", False), (True, True)])
def test_a_switch_takes_true_and_false_alone(package: Path, word: object, value: bool) -> None:
    assert compiled.arguments(package, {"align": word}) == {"align": value}
    with pytest.raises(InputError, match='align is "yes"; true or false is wanted'):
        compiled.arguments(package, {"align": "yes"})
