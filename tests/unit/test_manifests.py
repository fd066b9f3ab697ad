"""What is applied to a cluster fits Kubernetes' schemas and keeps the rules, and each rule refuses what breaks it."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifest_rules import Object, complaints, name_of, pods

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
SCHEMAS = ROOT / "tests" / "schemas"
DOCS = ROOT / "docs" / "deployment.md"

KUBERNETES = "1.32"
"""The release whose schemas the objects are held against."""

OVERLAYS = sorted(path.parent.name for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml"))

COMBINATIONS = {
    "minio": ("minio",),
    "kubeflow-store": ("kubeflow-store",),
    "mlflow": ("minio", "mlflow"),
}
"""Each component, with the others that it is of no use without."""

OWN_KINDS = {
    "TrainJob": "trainjob.json",
    "TrainingRuntime": "trainingruntime.json",
    "PyTorchJob": "pytorchjob.json",
    "Certificate": "certificate.json",
}
"""Kinds that Kubernetes does not know itself, and our schema of each."""


def render(directory: Path) -> list[Object]:
    """The objects that `kubectl apply -k` would send."""
    kubectl = shutil.which("kubectl")
    command = [kubectl, "kustomize"] if kubectl else [shutil.which("kustomize") or "", "build"]
    if not command[0]:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def _overlay(name: str) -> str:
    return json.dumps(render(MANIFESTS / "overlays" / name))


def overlay(name: str) -> list[Object]:
    """The objects of an overlay."""
    return list(json.loads(_overlay(name)))


def combined(directory: Path, components: Sequence[str], **more: Any) -> list[Object]:
    """The base with components, as an overlay of somebody's own would have them."""
    # Kustomize takes no absolute path.
    there = os.path.relpath(MANIFESTS, directory.resolve())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "casbah",
        "resources": [f"{there}/base"],
        "components": [f"{there}/components/{name}" for name in components],
        **more,
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(directory)


def faults(objects: Sequence[Object]) -> list[str]:
    """What does not fit its schema: an unknown field counts as much as a wrong value."""
    found = []
    for one in objects:
        try:
            if one["kind"] in OWN_KINDS:
                schema = json.loads((SCHEMAS / OWN_KINDS[one["kind"]]).read_text())
                jsonschema.Draft202012Validator(schema).validate(one)
                for pod in pods([one]):
                    inside = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "inside"}, "spec": pod.spec}
                    kubernetes_validate.validate(inside, KUBERNETES, strict=True)
            else:
                kubernetes_validate.validate(one, KUBERNETES, strict=True)
        except jsonschema.ValidationError as error:
            found.append(f"{name_of(one)}: {error.json_path}: {error.message}")
    return found


def test_every_component_is_tried() -> None:
    assert set(COMBINATIONS) == {path.parent.name for path in (MANIFESTS / "components").glob("*/kustomization.yaml")}


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_fits_the_schemas_and_keeps_the_rules(name: str) -> None:
    objects = overlay(name)
    assert faults(objects) == []
    assert complaints(objects) == []


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_component_fits_the_schemas_and_keeps_the_rules(name: str, tmp_path: Path) -> None:
    objects = combined(tmp_path, COMBINATIONS[name])
    assert faults(objects) == []
    assert complaints(objects) == []
