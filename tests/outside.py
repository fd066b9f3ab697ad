"""A consumer who has MLflow's address, the store's variables, and nothing of this checkout."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
from numpy.typing import NDArray

import casbah
from casbah import stack

FRESH = """
import json
import sys

import mlflow
import numpy as np


def hook(event, args):
    if event == "pickle.find_class":
        raise SystemExit(f"something was unpickled: {args}")


sys.addaudithook(hook)
uri, images, answer = sys.argv[1:]
model = mlflow.pyfunc.load_model(uri)
found = model.predict(np.load(images, allow_pickle=False))
np.savez(answer, **found)

import casbah.predict.served

print(json.dumps({"casbah": casbah.__file__, "mlflow": mlflow.__file__, "torch": "torch" in sys.modules}))
"""


def environment_of(running: stack.Stack) -> dict[str, str]:
    """What a consumer sets, and no more."""
    return {
        name: value
        for name, value in running.environment().items()
        if name.startswith("AWS_") or name in ("MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL")
    }


@dataclass(frozen=True)
class Answer:
    probability: NDArray[np.float32]
    """(n, rows, cols)."""
    has_torch: bool


def answer_in_fresh_environment(
    uri: str, images: NDArray[np.float32], environment: Mapping[str, str], place: Path
) -> Answer:
    """What a registered model says of images in a new venv that pip fills by the version's own requirements.txt.

    It fails where something is unpickled, or where other code than the version's is used; it skips where there is no
    package index.
    """
    needed = mlflow.artifacts.download_artifacts(f"{uri}/requirements.txt", dst_path=str(place))
    subprocess.run([sys.executable, "-m", "venv", place / "fresh"], check=True)
    python = place / "fresh" / "bin" / "python"
    outside = {"PATH": os.environ["PATH"], "HOME": str(place), **environment}
    index = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}

    def pip(*words: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
        return subprocess.run(command, env=outside | index, capture_output=True, text=True)

    # A version that does exist: whether one of the model's requirements does is part of what is tested.
    known = f"packaging=={importlib.metadata.version('packaging')}"
    probe = pip("download", "--no-deps", "--no-cache-dir", "--retries", "1", "--dest", str(place / "probe"), known)
    if probe.returncode:
        pytest.skip(f"no package index at hand: {' '.join(probe.stderr.split())[-300:]}")
    made = pip("install", "-r", needed)
    assert made.returncode == 0, made.stderr[-2000:]
    assert subprocess.run([python, "-c", "import casbah"], env=outside, capture_output=True).returncode == 1

    np.save(place / "images.npy", images)
    (place / "consumer.py").write_text(FRESH)
    (place / "elsewhere").mkdir()
    done = subprocess.run(
        [python, place / "consumer.py", uri, place / "images.npy", place / "answer.npz"],
        env=outside,
        cwd=place / "elsewhere",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["casbah"].endswith("/code/casbah/__init__.py")
    assert str(casbah.__file__) != facts["casbah"]
    assert facts["mlflow"].startswith(str(place / "fresh"))
    return Answer(np.load(place / "answer.npz")["probability"], facts["torch"])
