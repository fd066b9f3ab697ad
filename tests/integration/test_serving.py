"""What the serving image runs: the registered model over HTTP, in one process that ends when it is told to."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
import yaml

from casbah.stack.services import free_ports

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


DOUBLED = """
import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Doubled(PythonModel):
    def predict(self, context, model_input, params=None):
        return 2 * np.asarray(model_input)


set_model(Doubled())
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("mlflow")
    uri, before = f"sqlite:///{place / 'mlflow.db'}", mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    (place / "doubled.py").write_text(DOUBLED)
    try:
        client = mlflow.MlflowClient(uri)
        made = client.create_experiment("casbah", artifact_location=(place / "artifacts").as_uri())
        with mlflow.start_run(experiment_id=made):
            logged = mlflow.pyfunc.log_model(
                name="model", python_model=str(place / "doubled.py"), pip_requirements=["mlflow"]
            )
        client.create_registered_model("doubled")
        client.create_model_version("doubled", logged.model_uri, model_id=logged.model_id)
        client.set_registered_model_alias("doubled", "champion", "1")
    finally:
        mlflow.set_tracking_uri(before)
    return uri


def command() -> list[str]:
    """The words of the image's own command."""
    last = (ROOT / "images" / "Dockerfile").read_text().strip().splitlines()[-1]
    words = yaml.safe_load(last.removeprefix("CMD "))
    assert words[0] == "python3", "no shell stands between the engine and the server"
    return [sys.executable, *words[1:]]


def environment(database: str, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "MLFLOW_TRACKING_URI": database, **more}


def test_the_champion_answers_and_its_process_ends_when_it_is_told_to(database: str, tmp_path: Path) -> None:
    port = free_ports(["serve"])["serve"]
    given = environment(database, MODEL_URI="models:/doubled@champion", PORT=str(port))
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command(), env=given, cwd=tmp_path, stdout=log, stderr=log)
    try:
        for _ in range(400):
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        body = json.dumps({"inputs": [[1.0, 2.5]]}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.loads(answer.read())["predictions"] == [[2.0, 5.0]]
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
        assert "Finished server process" in (tmp_path / "log").read_text(), "it ended by itself, its requests answered"
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ({"MODEL_URI": ""}, 2, "MODEL_URI is not set"),
        ({"MODEL_URI": "models:/doubled@champion", "PORT": "http"}, 2, "PORT is 'http'"),
        ({"MODEL_URI": "models:/doubled@nobody"}, 3, "nobody"),
    ],
)
def test_what_can_t_be_served_is_one_sentence(more: dict[str, str], code: int, said: str, database: str) -> None:
    done = subprocess.run(command(), env=environment(database, **more), capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("casbah: ")]
    assert said in line
