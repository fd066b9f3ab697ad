"""A registered model for its consumers: from the registry alone, in a fresh environment, and over HTTP."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from builders import make_tiles
from catalogues import Site, serve
from outside import answer_in_fresh_environment, environment_of
from predictors import write_raster

import casbah
from casbah import stack
from casbah.bands import BAND_NAMES
from casbah.evaluate import evaluate
from casbah.finetune import finetune
from casbah.models import load
from casbah.predict.blending import blended
from casbah.products.model import ModelBundle
from casbah.products.prediction import Prediction
from casbah.products.scene import Scene
from casbah.products.tiles import TileSet
from casbah.register import register
from casbah.stack.process import free_ports

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]

NAME = "casbah-buildings"
URI = f"models:/{NAME}@champion"

WATCH = """
import os
import sys

log, canary = os.environ["WATCH_LOG"], os.environ["WATCH_FOR"]


def hook(event, args):
    if event in ("open", "os.listdir", "os.scandir", "socket.getaddrinfo", "socket.connect") and canary in str(args):
        with open(log, "a") as file:
            file.write(f"{event} {args}\\n")


sys.addaudithook(hook)
"""
"""A `sitecustomize` that writes down when a process opens what has the canary's name."""

JOB = """
import sys

import mlflow
import numpy as np

uri, *scenes = sys.argv[1:]
model = mlflow.pyfunc.load_model(uri)
for number, scene in enumerate(scenes):
    found = model.predict(np.empty((0,) * 5, "float32"), params={"scene": scene})
    np.save(f"map-{number}.npy", found["probability"])
"""


@dataclass(frozen=True)
class Registered:
    running: stack.Stack
    bundle: ModelBundle
    tiles: TileSet
    place: Path

    @property
    def environment(self) -> dict[str, str]:
        return environment_of(self.running)

    def images(self) -> np.ndarray:
        """One image (1, 1, 12, 96, 96) of unseen ground, a corner of it not observed."""
        given = np.asarray(self.tiles.split("test").images[:9]).reshape(3, 3, 1, 12, 32, 32)
        whole = given.transpose(2, 3, 0, 4, 1, 5).reshape(1, 1, 12, 96, 96).copy()
        whole[..., :10, :10] = 0
        return whole


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    place = tmp_path_factory.mktemp("consumers")
    tiles = make_tiles(place / "tiles")
    bundle = finetune(config="boosted_pixels", tiles=tiles.path, output=place / "model", overrides=["trees.rounds=20"])
    evaluation = evaluate(model=bundle.path, tiles=tiles.path, output=place / "test", resamples=50)
    running = stack.up(place / "stack")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in running.environment().items():
                patch.setenv(name, value)
            register(model=bundle.path, evaluation=evaluation.path, tiles=tiles.path, name=NAME)
        yield Registered(running, bundle, tiles, place)
    finally:
        stack.down(place / "stack")


@pytest.fixture
def client(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    for name, value in registered.environment.items():
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri(registered.running.tracking_uri)
    return mlflow.MlflowClient()


@dataclass(frozen=True)
class Served:
    address: str
    watch_log: Path

    def ask(self, **body: Any) -> tuple[int, dict[str, Any]]:
        """HTTP status and JSON; NaN and Infinity, which are no JSON, fail."""
        return self.post(json.dumps(body).encode())

    def post(self, body: bytes) -> tuple[int, dict[str, Any]]:
        asked = urllib.request.Request(f"{self.address}/invocations", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return answer.status, json.loads(answer.read(), parse_constant=no_json)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read(), parse_constant=no_json)

    def opened(self) -> str:
        return self.watch_log.read_text() if self.watch_log.exists() else ""


def no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def watched(registered: Registered, log: Path) -> dict[str, str]:
    """The environment of a process that writes down what it opens of the canary."""
    folder = registered.place / "watch"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(WATCH)
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(registered.place),
        "PYTHONPATH": str(folder),
        "WATCH_LOG": str(log),
        "WATCH_FOR": "canary",
        **registered.environment,
    }


@pytest.fixture(scope="module")
def served(registered: Registered) -> Iterator[Served]:
    port = free_ports(["serve"])["serve"]
    log = registered.place / "served.log"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", URI, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    opened = registered.place / "served-opened.txt"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=watched(registered, opened), stdout=file, stderr=file)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/health", process, log)
        yield Served(address, opened)
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


@dataclass(frozen=True)
class Canary:
    """A raster that the model would map, on this disk and at an address."""

    path: Path
    site: Site

    @property
    def address(self) -> str:
        return f"{self.site.url}/{self.path.name}"

    @property
    def asked(self) -> int:
        """How often it was asked for over HTTP."""
        return self.site.asked[self.path.name]


@pytest.fixture(scope="module")
def canary(registered: Registered) -> Iterator[Canary]:
    folder = registered.place / "canary"
    folder.mkdir()
    path = write_raster(folder / "canary.tif", registered.images()[0, 0], names=BAND_NAMES)
    with serve(folder) as site:
        site.faults[path.name] = []  # none, but counted
        yield Canary(path, site)


def block(name: str) -> str:
    """The fenced block that follows a marker in the guide for consumers."""
    text = (ROOT / "docs" / "consumers.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_it_answers_over_http_to_the_payload_of_the_guide(registered: Registered, served: Served) -> None:
    body = block("payload")
    status, answer = served.post(body.encode())
    assert status == 200, answer
    images = np.array(json.loads(body)["inputs"], np.uint16)
    assert images.shape == (1, registered.bundle.training.periods, len(registered.bundle.training.bands), 2, 2)
    wanted = blended(load(registered.bundle), images)
    np.testing.assert_allclose(np.array(answer["predictions"]["probability"], float), wanted, atol=1e-6)
    documented = json.loads(block("answer"))["predictions"]
    found = answer["predictions"]
    assert list(documented) == list(found)
    assert [np.shape(found[name]) for name in found] == [np.shape(documented[name]) for name in found]
    assert found["probability"][0][1][1] is documented["probability"][0][1][1] is None


def test_over_http_as_in_this_process(registered: Registered, served: Served, client: mlflow.MlflowClient) -> None:
    images = registered.images()
    status, answer = served.ask(inputs=images.tolist())
    assert status == 200, answer
    here = mlflow.pyfunc.load_model(URI).predict(images.astype(np.float32))
    wanted = blended(load(registered.bundle), images)
    np.testing.assert_array_equal(here["probability"], wanted)
    assert np.isnan(wanted[0, :10, :10]).all()
    assert wanted[np.isfinite(wanted)].std() > 0.05
    for name, values in here.items():
        np.testing.assert_allclose(np.array(answer["predictions"][name], float), values, atol=1e-6)
    assert answer["predictions"]["probability"][0][0][0] is None


def test_a_served_model_reads_no_file_and_no_address_of_a_stranger(
    served: Served, canary: Canary, tmp_path: Path
) -> None:
    path, address, before = canary.path, canary.address, canary.asked
    scenes = ["/etc/passwd", str(path), str(path.parent), address, f"/vsicurl/{address}", "s3://casbah/canary.tif"]
    for scene in scenes:
        for inputs in ([[[[[]]]]], [[[[[1200]]] * 12]]):
            status, answer = served.ask(inputs=inputs, params={"scene": scene, "output": str(tmp_path / "canary")})
            assert status == 400, (scene, answer)
            assert answer["message"].endswith(
                "a served model reads no files and no addresses for others: send the images themselves, or load the "
                "model in a notebook or a job of your own"
            )
            assert "stack_trace" not in answer
    assert served.opened() == ""
    assert canary.asked == before
    assert list(tmp_path.iterdir()) == []


def test_in_a_job_the_same_raster_is_mapped_from_its_path_and_its_address(
    registered: Registered, canary: Canary, tmp_path: Path
) -> None:
    log, before = tmp_path / "opened.txt", canary.asked
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, "job.py", URI, str(canary.path), canary.address]
    subprocess.run(command, env=watched(registered, log), cwd=tmp_path, check=True)
    wanted = blended(load(registered.bundle), registered.images())
    for number in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"map-{number}.npy"), wanted, atol=1e-4)
    assert str(canary.path) in log.read_text(), "what the served model did not do would have been seen"
    assert canary.asked > before


def test_the_notebook_of_the_guide_runs_as_it_stands(registered: Registered, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    scene = Scene.open(registered.tiles.path.with_name("tiles-scene"))
    (tmp_path / "runs" / "scene").symlink_to(scene.path)
    np.save(tmp_path / "images.npy", registered.images().astype(np.float32))
    given, kept = (
        'import numpy\n\nimages = numpy.load("images.npy")\n',
        "np.savez('answer.npz', **found, images=probability)",
    )
    (tmp_path / "notebook.py").write_text(f"{given}{block('notebook')}{kept}\n")
    environment = watched(registered, tmp_path / "opened.txt")
    subprocess.run([sys.executable, "notebook.py"], env=environment, cwd=tmp_path, check=True)
    answer, model = np.load(tmp_path / "answer.npz"), load(registered.bundle)
    np.testing.assert_allclose(answer["images"], blended(model, registered.images()), atol=1e-6)
    np.testing.assert_allclose(answer["probability"], blended(model, scene.reflectance()[None]), atol=1e-4)
    made = Prediction.open(tmp_path / "runs" / "map")
    np.testing.assert_array_equal(made.probability(), answer["probability"][0])
    assert made.info.simulated


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda images: images[:, :, :3],
            r"has the shape \(1, 1, 3, 96, 96\); \(n, 1 period, 12 bands, .* being B01, B",
        ),
        (lambda images: np.repeat(images, 2, axis=1), r"has the shape \(1, 2, 12, 96, 96\); \(n, 1 period"),
        (lambda images: images / 10000, "as reflectance of 0 to 1 does; reflectance x 10000 .* multiply by 10000"),
        (lambda images: images - 3000.0, r"holds negative values \(down to -\d+\)"),
        (lambda images: np.where(images, images + 1000, 0), "as if the .1000 of processing baseline 04.00"),
    ],
)
def test_another_band_set_unit_or_scale_is_a_bad_request_with_one_sentence(
    registered: Registered, served: Served, client: mlflow.MlflowClient, change: Any, words: str
) -> None:
    given = change(registered.images())
    status, answer = served.ask(inputs=given.tolist())
    assert status == 400
    assert re.search(words, answer["message"].splitlines()[-1])
    assert "stack_trace" not in answer
    assert "Traceback" not in json.dumps(answer)
    with pytest.raises(mlflow.exceptions.MlflowException, match=words) as refused:
        mlflow.pyfunc.load_model(URI).predict(given.astype(np.float32))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("inputs", [[[1, 2], [3]], [[1200.0]], "scene.tif", {"scene": "scene.tif"}, None])
def test_what_is_no_array_of_five_dimensions_is_a_bad_request(served: Served, inputs: Any) -> None:
    status, answer = served.ask(inputs=inputs)
    assert status == 400, answer


def test_what_looks_unlike_the_training_data_is_flagged_over_http(registered: Registered, served: Served) -> None:
    strange = registered.images()
    strange[:, :, 3] = np.where(strange[:, :, 3], 9000, 0)
    _, usual = served.ask(inputs=registered.images().tolist())
    _, flagged = served.ask(inputs=strange.tolist())
    assert usual["predictions"]["unlike"] == [0.0]
    assert flagged["predictions"]["unlike"] == [1.0]
    assert flagged["predictions"]["outside"][0][3] == 1.0


@pytest.mark.long
def test_from_the_registry_alone_in_an_environment_of_its_own_requirements_without_casbah_and_without_pickle(
    registered: Registered, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    """Of trees, which need no torch there; `tests/consumers` does the same for a network."""
    answer = answer_in_fresh_environment(URI, registered.images().astype(np.float32), registered.environment, tmp_path)
    assert not answer.has_torch
    wanted = blended(load(registered.bundle), registered.images())
    np.testing.assert_allclose(answer.probability, wanted, atol=1e-6)


def test_a_version_holds_all_of_the_code_its_card_and_no_pickle(
    registered: Registered, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    root = Path(mlflow.artifacts.download_artifacts(URI, dst_path=str(tmp_path)))
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert not [name for name in files if re.search(r"\.(pkl|pickle|joblib|pt|pth|ckpt|bin|pyc|npy)$", name)]
    assert not [name for name, path in files.items() if path.read_bytes()[:1] == b"\x80"]  # how a pickle begins
    package = Path(casbah.__file__).parent
    kept = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    carried = {name.removeprefix("code/casbah/") for name in files if name.startswith("code/casbah/")}
    assert carried == {name for name in kept if "__pycache__" not in name}
    assert sum(files[f"code/casbah/{name}"].stat().st_size for name in carried) < 5e6
    assert files["artifacts/model_card.md"].read_text().startswith("> **SIMULATED DATA**")
    (version,) = client.search_model_versions(f"name='{NAME}'")
    metrics = json.loads((registered.place / "test" / "metrics.json").read_text())
    assert f"Building IoU {metrics['building']['iou']['value']:.3f} (" in version.description
    assert version.description.startswith("first model of this name.\n\nSIMULATED data")


def test_the_signature_and_the_example_say_what_goes_in(registered: Registered, client: mlflow.MlflowClient) -> None:
    info = mlflow.models.get_model_info(URI)
    assert [spec.shape for spec in info.signature.inputs] == [(-1,) * 5]
    assert info.signature.outputs.input_names() == ["probability", "unlike", "outside"]
    assert {spec.name: spec.default for spec in info.signature.params} == {
        "scene": "",
        "output": "",
        "bands": "",
        "offset_removed": False,
    }
    assert info.metadata["bands"] == list(BAND_NAMES)
    assert info.metadata["shape"] == ["n", 1, 12, "rows", "cols"]
    model = mlflow.pyfunc.load_model(URI)
    example = model.input_example
    assert example.shape == (1, 1, 12, 32, 32)
    found = model.predict(example)
    assert found["probability"].shape == (1, 32, 32)
    assert found["unlike"] == [0]
