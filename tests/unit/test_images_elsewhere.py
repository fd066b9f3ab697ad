"""Images from a registry of one's own: overlays and pipelines name them there, by the digests that were built."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from manifest_rules import pods
from test_manifests import find, render

from casbah.pipeline import compiled

ROOT = Path(__file__).parents[2]
STAGES = runpy.run_path(str(ROOT / "images" / "build.py"))["STAGES"]
OVERLAYS = ("local", "gpu", "kubeflow-store", "airgapped")


def digest(stage: str) -> str:
    return "sha256:" + f"{STAGES.index(stage) + 1:02x}" * 32


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what these commands read and change, with images pushed to ghcr.io/me."""
    for folder in ("manifests", "images"):
        ignored = shutil.ignore_patterns("wheels", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    (tmp_path / "build").mkdir()
    pushed = {s: {"image": f"ghcr.io/me/casbah-{s}@{digest(s)}", "id": digest(s), "bytes": 1} for s in STAGES}
    (tmp_path / "build" / "images.json").write_text(json.dumps(pushed))
    return tmp_path


def call(checkout: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "images" / script), *words]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})


def ours(overlay: Path) -> dict[str, str]:
    """Stage -> image, of all containers of an overlay whose image is Casbah's."""
    images = {container["image"] for pod in pods(render(overlay)) for container in pod.containers}
    return {image.partition("casbah-")[2].split("@")[0].split(":")[0]: image for image in images if "casbah-" in image}


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_runs_the_images_that_were_pushed_wherever_that_was(name: str, checkout: Path) -> None:
    done = call(checkout, "pin.py", name)
    assert done.returncode == 0, done.stderr
    found = ours(checkout / "manifests" / "overlays" / name)
    assert "select" in found
    assert found == {stage: f"ghcr.io/me/casbah-{stage}@{digest(stage)}" for stage in found}
    assert call(checkout, "pin.py", name).returncode == 0, "a second time is no different"
    assert ours(checkout / "manifests" / "overlays" / name) == found


def test_an_overlay_runs_images_that_were_built_and_never_pushed_as_kind_loads_them(checkout: Path) -> None:
    file = checkout / "build" / "images.json"
    file.write_text(json.dumps({stage: {"image": f"casbah-{stage}:0123abcd"} for stage in STAGES}))
    assert call(checkout, "pin.py", "local").returncode == 0
    assert ours(checkout / "manifests" / "overlays" / "local") == {"select": "casbah-select:0123abcd"}


def test_a_mirror_has_every_image_by_its_digest_and_the_pipeline_is_compiled_with_it(checkout: Path) -> None:
    done = call(checkout, "mirror.py", "registry.example:5000/casbah/")
    assert done.returncode == 0, done.stderr
    pairs = dict(line.split("\t") for line in done.stdout.splitlines())
    for stage in STAGES:
        target = pairs[f"ghcr.io/me/casbah-{stage}@{digest(stage)}"]
        assert target.startswith(f"registry.example:5000/casbah/casbah-{stage}:")
        assert "@" not in target, "a copy goes under a tag"
    mirrored = compiled.built(checkout / "build" / "mirrored.json")
    package = compiled.compile_pipeline(checkout / "build" / "footprints.yaml", images=mirrored)
    images = compiled.images(package)
    assert f"registry.example:5000/casbah/casbah-ingest@{digest('ingest')}" in images
    assert all(image.startswith("registry.example:5000/casbah/") and "@sha256:" in image for image in images)
    rendered = {
        c["image"] for p in pods(render(checkout / "manifests" / "overlays" / "airgapped")) for c in p.containers
    }
    others = {image for image in rendered if "/casbah-" not in image}
    assert others <= set(pairs.values()), "what runs beside Casbah is copied too"


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("mirror.py", [""], "no registry is named"),
        ("mirror.py", ["r.example", "--images", "none.json"], "none.json does not exist; `make images-push`"),
        ("pin.py", ["nowhere"], "does not exist; the name of an overlay is wanted, such as local"),
        ("pin.py", ["pipeline-namespace"], "has no line `- {name: ghcr.io/casbah/casbah-…}`"),
        ("pin.py", ["local", "--images", "none.json"], "none.json does not exist; `make images` writes it"),
    ],
)
def test_what_is_missing_is_one_sentence(script: str, words: list[str], said: str, checkout: Path) -> None:
    done = call(checkout, script, *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


def test_what_was_never_pushed_has_no_digest_to_be_copied_by(checkout: Path) -> None:
    file = checkout / "build" / "images.json"
    file.write_text(json.dumps({stage: {"image": f"casbah-{stage}:0123abcd"} for stage in STAGES}))
    done = call(checkout, "mirror.py", "registry.example")
    assert done.returncode == 2
    assert "names no digest for preflight, ingest" in done.stderr
    assert not (checkout / "build" / "mirrored.json").exists()


def test_the_guide_lets_kubelet_log_in_to_a_registry_that_asks(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "deployment.md").read_text()
    (patch,) = (
        block for block in guide.split("```") if "imagePullSecrets" in block and "kind: ServiceAccount" in block
    )
    there = os.path.relpath(ROOT / "manifests" / "overlays" / "gpu", tmp_path.resolve())
    more = yaml.safe_load(patch.removeprefix("yaml"))
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [there], **more}))
    objects = render(tmp_path)
    accounts = [one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"]
    assert {pod.spec["serviceAccountName"] for pod in pods(objects)} <= set(accounts)
    for name in accounts:
        assert find(objects, f"ServiceAccount/{name}")["imagePullSecrets"] == [{"name": "registry"}]
