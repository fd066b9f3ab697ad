"""The compiled pipeline runs in its images by KFP's DockerRunner, as anyone, and leaves what it does anywhere else.

Every promise is asked of what came out: the runner's own status can be lost with a container that removes itself.
"""

import json
import os
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ANYONE, DOCKER

from casbah import experiments
from casbah.errors import InputError, WorldError
from casbah.pipeline import compiled, demo, local
from casbah.pipeline.containers import LABEL, Containers
from casbah.pipeline.session import Results, Session, request
from casbah.products.footprints import FootprintSet
from casbah.products.model import ModelBundle
from casbah.products.prediction import Prediction
from casbah.stack.process import free_ports
from casbah.storage import BUCKET, Location, Store

pytestmark = pytest.mark.integration

BOXES = Containers(user=ANYONE, memory="6g")
QUICK = Location(BUCKET, "inputs/quick_pixels.yaml")
QUICK_UNET = Location(BUCKET, "inputs/quick_unet.yaml")
LONG_UNET = Location(BUCKET, "inputs/long_unet.yaml")
HUNGRY_UNET = Location(BUCKET, "inputs/hungry_unet.yaml")
EPOCHS = 40
TINY = {"tile_size": "16", "block_size": "440"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("containers")


@pytest.fixture(scope="module")
def package(built: dict[str, dict[str, Any]], place: Path) -> Path:
    images = {stage: built[stage]["image"] for stage in compiled.STAGES}
    return compiled.compile_pipeline(place / "pipeline.yaml", images=images, cpu=True)


@pytest.fixture(scope="module")
def session(place: Path) -> Iterator[Session]:
    with Session(place / "casbah", embedded=True, boxes=BOXES) as opened:
        store = Store.from_environment()
        store.ensure_bucket()
        trees = yaml.safe_load(experiments.find("boosted_pixels").read_text())
        trees["trees"]["rounds"] = 20
        store.write(yaml.safe_dump(trees).encode(), QUICK)
        for target, epochs in ((QUICK_UNET, 1), (HUNGRY_UNET, 1), (LONG_UNET, EPOCHS)):
            unet = yaml.safe_load(experiments.find("unet_scratch_small").read_text())
            unet["trainer"]["max_epochs"] = epochs
            unet["trainer"]["callbacks"][0]["init_args"]["patience"] = EPOCHS
            unet["model"]["init_args"]["model_args"] |= {"smp_encoder_depth": 3, "smp_decoder_channels": [32, 16, 16]}
            store.write(yaml.safe_dump(unet).encode(), target)
        yield opened


@pytest.fixture(autouse=True)
def _services(_no_surprises: None, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in session.environment.items():
        monkeypatch.setenv(name, value)


def played(session: Session, output: Path, package: Path, *chosen: Location) -> Results:
    words = demo.arguments(json.dumps([str(each) for each in chosen]))
    with request({**words, **TINY}, package) as wanted:
        return demo.play(session, wanted, size=(1.8, 1.8), output=output)


@pytest.fixture(scope="module")
def results(session: Session, place: Path, package: Path) -> Results:
    return played(session, place / "first", package, QUICK, QUICK_UNET)


def test_the_whole_pipeline_leaves_a_champion_that_names_its_image(
    results: Results, session: Session, built: dict[str, dict[str, Any]]
) -> None:
    model = ModelBundle.open(results.output / "model")
    assert model.training.experiment == results.winner
    assert set(results.experiments) == {"quick_pixels", "quick_unet"}
    assert results.winner == max(results.experiments, key=lambda name: results.experiments[name]["building_iou"])
    assert results.test.building.iou.value is not None
    steps = {name.split()[0] for name in results.seconds}
    assert steps == {
        "preflight", "ingest", "label", "tile", "finetune", "evaluate", "select", "register", "conclude",
    }, "every one ran here"  # fmt: skip
    import mlflow

    champion = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_model_version_by_alias(demo.NAME, "champion")
    assert champion.tags["casbah.image"] == built["finetune"]["image"]
    assert champion.tags["casbah.git_commit"].removesuffix("-dirty")
    assert (session.directory / "pipeline" / "runs" / champion.tags["casbah.kfp_run"] / "run.log").is_file()


def test_the_champion_draws_a_map_of_several_cells(
    results: Results, session: Session, place: Path, built: dict[str, dict[str, Any]]
) -> None:
    images = {stage: built[stage]["image"] for stage in compiled.STAGES}
    package = compiled.compile_pipeline(place / "map.yaml", pipeline=compiled.MAP, images=images, cpu=True)
    given = {"model": f"models:/{demo.NAME}@champion", "to": "s3://casbah/maps/town", "cell_size": "1280"}
    given |= {name: demo.arguments("[]")[name] for name in ("aoi", "stac", "start", "end")}
    with request(given, package, output=place / "map") as wanted:
        made = session.map(wanted, output=place / "map")
    prediction = Prediction.open(made["prediction"])
    assert len(prediction.manifest.inputs) > 1, "of several cells"
    assert prediction.info.model.registered == f"{demo.NAME} version {results.registration['version']}"
    assert FootprintSet.open(made["footprints"]).info.polygons > 0
    assert Store.from_environment().exists(Location.parse(str(made["collection"])))


def test_every_file_of_a_step_is_that_of_the_user_who_was_asked_for(results: Results, session: Session) -> None:
    files = [path for path in (session.directory / "pipeline" / "artifacts").rglob("*") if path.is_file()]
    products = [path for path in files if path.name == "manifest.json"]
    assert len(products) >= 6
    assert {path.stat().st_uid for path in products} == {int(ANYONE.partition(":")[0])}


def test_no_credential_is_written_beside_the_run(results: Results, session: Session) -> None:
    secret = session.environment["AWS_SECRET_ACCESS_KEY"].encode()
    assert len(secret) > 10
    pipeline = session.directory / "pipeline"
    texts = [path for path in pipeline.rglob("*") if path.is_file() and path.stat().st_size < 5_000_000]
    assert any(path.name == "job.json" for path in texts)
    assert not [path for path in texts if secret in path.read_bytes()]


def test_no_container_is_left(results: Results) -> None:
    assert containers() == []


def containers(run: str = "") -> list[str]:
    done = subprocess.run(
        [DOCKER, "ps", "--quiet", "--no-trunc", "--filter", f"label={LABEL}{'=' + run if run else ''}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_preempted_finetune_goes_on_from_its_checkpoint_in_the_store(
    results: Results, session: Session, place: Path, package: Path
) -> None:
    """What Kubernetes does to a pod on a spot node: killed without a word, and started again elsewhere."""
    quick = place / "soon.yaml"
    quick.write_text(package.read_text().replace("backoffDuration: 10s", "backoffDuration: 0s"))
    events: list[dict[str, Any]] = []
    store, killed = Store.from_environment(), threading.Event()

    def preempt() -> None:
        before = {str(each) for each in store.list(Location(BUCKET, "checkpoints/"))}
        while not killed.is_set():
            fresh = [each for each in store.list(Location(BUCKET, "checkpoints/")) if str(each) not in before]
            if any(str(each).endswith("last.ckpt") for each in fresh) and (found := containers()):
                subprocess.run([DOCKER, "kill", *found], capture_output=True, check=True)
                killed.set()
            time.sleep(0.2)

    thread = threading.Thread(target=preempt, daemon=True)
    thread.start()
    words = compiled_arguments(results, session, [LONG_UNET])
    try:
        outcome = local.run(
            quick,
            words,
            directory=session.directory / "pipeline",
            environment=session.environment,
            watch=events.append,
            boxes=BOXES,
        )
    finally:
        was_killed = killed.is_set()
        killed.set()
    assert was_killed
    starts = [event for event in events if event["event"] == "start" and event["step"] == "finetune"]
    assert len(starts) == 2, "started again after it was killed"
    model = ModelBundle.open(outcome.artifacts["model"]["path"])
    assert model.training.experiment == "long_unet"
    assert model.training.epochs == EPOCHS
    said = " ".join(event["text"] for event in events if event["event"] == "say")
    assert re.search(r"long_unet: [1-9]\d* epochs were done before", said), said


def compiled_arguments(results: Results, session: Session, chosen: list[Location]) -> dict[str, Any]:
    """The arguments of the first run, with other experiments: what comes before training is reused."""
    jobs = [json.loads(path.read_text()) for path in session.directory.glob("pipeline/runs/*/job.json")]
    first = min(jobs, key=lambda job: job["workspace"])
    return first["arguments"] | {"experiments": json.dumps([str(each) for each in chosen])}


def test_a_container_that_runs_out_of_memory_is_told(
    results: Results, session: Session, place: Path, package: Path
) -> None:
    once = place / "once.yaml"
    once.write_text(re.sub("maxRetryCount: [0-9]", "maxRetryCount: 0", package.read_text()))
    with pytest.raises(WorldError, match=r"finetune.* ended without a word.* memory"):
        local.run(
            once,
            compiled_arguments(results, session, [HUNGRY_UNET]),
            directory=session.directory / "pipeline",
            environment=session.environment,
            boxes=Containers(user=ANYONE, memory="300m"),
        )
    assert containers() == []


def test_an_image_that_is_nowhere_is_one_sentence_before_anything_runs(session: Session, place: Path) -> None:
    absent = {stage: f"casbah-{stage}:never-built" for stage in compiled.STAGES}
    package = compiled.compile_pipeline(place / "absent.yaml", images=absent, cpu=True)
    with pytest.raises(InputError, match=r"casbah-\w+:never-built is not on this machine; `make images` builds it"):
        local.run(package, {}, directory=place / "nothing", environment=session.environment, boxes=BOXES)
    assert not (place / "nothing").exists()


def test_no_engine_is_one_sentence(
    session: Session, place: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{place}/nowhere.sock")
    with pytest.raises(WorldError, match=r"no Docker engine answers at unix://.*nowhere\.sock"):
        local.run(package, {}, directory=place / "nothing", environment=session.environment, boxes=BOXES)


def test_the_serving_image_answers_for_the_champion(
    results: Results, session: Session, built: dict[str, dict[str, Any]]
) -> None:
    """The answer over HTTP is that of the model in this process."""
    port = free_ports(["serve"])["serve"]
    name = f"casbah-serve-{port}"
    variables = {name: value for name, value in session.environment.items() if name.startswith(("AWS_", "MLFLOW_"))}
    variables |= {"MODEL_URI": f"models:/{demo.NAME}@champion", "PORT": str(port)}
    words = [DOCKER, "run", "--detach", "--rm", "--name", name, "--network", "host", "--user", ANYONE, "--read-only"]
    words += ["--tmpfs", "/tmp", "--memory", "4g", *(word for each in variables for word in ("--env", each))]
    subprocess.run([*words, built["serve"]["image"]], env={**os.environ, **variables}, check=True, capture_output=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/health", name)
        model = ModelBundle.open(results.output / "model")
        shape = (1, model.training.periods, len(model.training.bands), 16, 16)
        images = np.random.default_rng(0).integers(500, 3000, shape)
        body = json.dumps({"inputs": images.astype("float32").tolist()}).encode()
        asked = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=120) as answer:
            found = np.asarray(json.loads(answer.read())["predictions"]["probability"])
        from casbah.models import load

        np.testing.assert_allclose(found, load(model).probabilities(images.astype("uint16")), atol=1e-5)
    finally:
        subprocess.run([DOCKER, "kill", name], capture_output=True)


def wait_for(address: str, name: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.3)
    log = subprocess.run([DOCKER, "logs", name], capture_output=True, text=True)
    raise AssertionError(f"{address} does not answer: {log.stdout[-2000:]} {log.stderr[-2000:]}")
