"""Each image holds what its stage needs and nothing else, and runs as anyone on a file system that it can't write."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DOCKER, ROOT, Said

from casbah.pipeline.compiled import STAGES

GEO = ("preflight", "ingest", "label", "tile", "select", "plan", "merge", "footprints", "publish")
TRAIN = ("finetune", "evaluate", "compare", "register", "conclude", "fetch", "predict", "serve")
ALL = (*GEO, *TRAIN)
MOST = 900e6
"""Bytes of an image without torch, unpacked and with its base."""

BROUGHT = {
    "preflight": "from casbah.pipeline import preflight",
    "conclude": "from casbah.register import settle; import mlflow",
    "ingest": "from casbah.ingest import ingest",
    "label": "from casbah.label import label",
    "tile": "from casbah.tile import tile",
    "select": "from casbah.evaluate import select",
    "footprints": "from casbah.footprints import footprints",
    "finetune": "from casbah.finetune import finetune; import terratorch, torch_geometric, sklearn, optuna",
    "evaluate": "from casbah.evaluate import evaluate; import matplotlib, jinja2",
    "compare": "from casbah.compare import report; import matplotlib, jinja2",
    "register": "from casbah.register import register; import mlflow, boto3",
    "plan": "from casbah.pipeline import plan",
    "fetch": "from casbah.registered import opened; import mlflow, boto3",
    "predict": "from casbah.predict import predict; import terratorch, torch_geometric",
    "merge": "from casbah.predict import merge",
    "publish": "from casbah.publish import publish",
    "serve": "import mlflow.pyfunc, fastapi, uvicorn",
}


def test_there_is_an_image_for_every_stage(built: dict[str, Any]) -> None:
    assert set(STAGES) | {"serve"} == set(built) == set(ALL)


@pytest.mark.parametrize("stage", ALL)
def test_a_stage_finds_what_it_imports(said: Said, stage: str) -> None:
    program = f"from casbah.models import torchvision_cure; torchvision_cure.apply()\n{BROUGHT[stage]}"
    program = BROUGHT[stage] if stage in GEO else program
    # As KFP's own command starts a step.
    program += "\nimport kfp.dsl.executor_main\nprint('here')"
    done = said(stage, "python3", "-c", program, options=("--tmpfs", "/tmp", "--env", "_KFP_RUNTIME=true"))
    assert done.stdout.strip().endswith("here"), done.stderr


@pytest.mark.parametrize("stage", GEO)
def test_images_without_torch_are_small_and_hold_no_training(
    said: Said, built: dict[str, dict[str, Any]], stage: str
) -> None:
    assert built[stage]["bytes"] < MOST
    program = (
        "import importlib.util as u; print([n for n in ('torch', 'terratorch', 'sklearn', 'mlflow') if u.find_spec(n)])"
    )
    assert said(stage, "python3", "-c", program).stdout.strip() == "[]"


@pytest.mark.parametrize("stage", ALL)
def test_help_answers_as_anyone_with_nothing_writable_and_no_heavy_import(said: Said, stage: str) -> None:
    done = said(stage, "casbah", "--help")
    assert done.returncode == 0, done.stderr
    assert "ingest" in done.stdout
    heavy = "{'numpy', 'rasterio', 'torch', 'mlflow', 'kfp'}"
    program = f"import sys; sys.argv = ['casbah']; import casbah.cli; print({heavy} & set(sys.modules))"
    assert said(stage, "python3", "-c", program).stdout.strip() == "set()"


@pytest.mark.parametrize("stage", ["ingest", "finetune"])
def test_the_health_entry_is_the_doctor_and_it_is_content(
    said: Said, inspected: Callable[[str], dict[str, Any]], stage: str
) -> None:
    assert inspected(stage)["Config"]["Healthcheck"]["Test"] == ["CMD", "casbah", "doctor"]
    done = said(stage, "casbah", "doctor", options=("--tmpfs", "/tmp"))
    assert done.returncode == 0, done.stdout
    assert ("ok  torch " in done.stdout) == (stage == "finetune")


@pytest.mark.parametrize("stage", ALL)
def test_an_image_says_what_it_is_and_runs_as_no_root(inspected: Callable[[str], dict[str, Any]], stage: str) -> None:
    configuration = inspected(stage)["Config"]
    assert re.fullmatch(r"[1-9]\d*:0", configuration["User"]), (
        "a number, so that Kubernetes can tell that it is no root"
    )
    labels = {key.rpartition(".")[2]: value for key, value in configuration["Labels"].items()}
    assert labels["title"] == f"casbah-{stage}"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["source"].startswith("https://")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert labels["revision"].removesuffix("-dirty") == head or not head
    assert labels["version"]


@pytest.mark.parametrize("stage", ["tile", "register"])
def test_an_image_holds_no_compiler_no_installer_and_no_cache(said: Said, stage: str) -> None:
    program = """
import importlib.util, pathlib, pwd, shutil
print([name for name in ("gcc", "cc", "g++", "make", "ld", "pip", "pip3", "uv") if shutil.which(name)])
print([name for name in ("pip", "uv") if importlib.util.find_spec(name)])
root = pwd.getpwuid(0).pw_dir
places = [root + "/.cache", "/tmp/.cache", "/var/lib/apt/lists", "/opt/tools", "/mnt/images", "/src", "/wheel"]
print([str(path) for place in places for path in pathlib.Path(place).glob("*")])
print([str(path) for path in pathlib.Path("/").glob("opt/**/*.whl")])
"""
    done = said(stage, "python3", "-c", program, options=("--user", "0"))  # who may look everywhere
    assert done.stdout.split("\n")[:4] == ["[]"] * 4, done.stdout + done.stderr


@pytest.mark.parametrize("stage", ALL)
def test_neither_history_nor_environment_of_an_image_holds_a_secret(
    inspected: Callable[[str], dict[str, Any]], built: dict[str, dict[str, Any]], stage: str
) -> None:
    done = subprocess.run(
        [DOCKER, "history", "--no-trunc", "--format", "{{.CreatedBy}}", built[stage]["image"]],
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout + "\n".join(inspected(stage)["Config"]["Env"])
    assert not re.search(r"(?i)(secret|password|passwd|token|access_?key|api_?key)\w*\s*=\s*\S", said)
    assert not re.search(r"://[^/\s]+:[^/\s]+@", said)


@pytest.mark.parametrize("stage", ["select", "finetune"])
def test_the_bill_of_materials_is_what_the_image_holds(said: Said, stage: str) -> None:
    bill = json.loads((ROOT / "build" / "sbom" / f"{stage}.cdx.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    listed = {(part["name"], part["version"]) for part in bill["components"] if part["purl"].startswith("pkg:pypi/")}
    program = "import importlib.metadata as m\nfor d in m.distributions(): print(d.name, d.version)"
    held = {tuple(line.split()) for line in said(stage, "python3", "-c", program).stdout.splitlines()}
    assert listed == held
    locks = ("geo",) if stage in GEO else ("geo", "train", "cpu", "sources")
    text = "\n".join((ROOT / "images" / "locks" / f"{lock}.txt").read_text() for lock in locks)
    pinned = {(_plain(name), version) for name, version in re.findall(r"^([\w.-]+)==([^\s\\]+)", text, re.M)}
    found = {(_plain(name), version.partition("+")[0]) for name, version in held if name != "casbah"}
    assert found == pinned, "what is locked is what is there, and nothing beside it"
    assert any(part["purl"].startswith("pkg:deb/debian/libc6@") for part in bill["components"])


def test_the_lock_for_gpus_is_the_one_for_cpus_and_cuda() -> None:
    cuda = (ROOT / "images" / "locks" / "cuda.txt").read_text()
    cpu = (ROOT / "images" / "locks" / "cpu.txt").read_text()
    for name in ("torch", "torchvision"):
        (one,), (other,) = (re.findall(rf"^{name}==([^\s\\]+)", text, re.M) for text in (cuda, cpu))
        assert one == other
    assert "nvidia-cudnn" in cuda
    assert not re.search(r"^[\w.-]+==\S+$", cuda, re.M), "every line has its hashes"


def test_versions_in_images_are_those_of_the_virtual_environment() -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    known = {_plain(name): version for name, version in constraints.items()}
    for lock in ("geo", "train", "cuda", "cpu", "sources"):
        text = (ROOT / "images" / "locks" / f"{lock}.txt").read_text()
        for name, version in re.findall(r"^([\w.-]+)==([^\s\\]+)", text, re.M):
            assert known.get(_plain(name), version) == version, f"{lock}.txt: {name}; `make locks` resolves it anew"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_locks_name_all_that_the_package_asks_for(tmp_path: Path) -> None:
    """An added dependency without `make locks` would be missed by a stage at run time only."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"geo": [*extras["dependencies"], *extras["optional-dependencies"]["geo"]]}
    wanted["train"] = [*extras["optional-dependencies"]["train"], *extras["optional-dependencies"]["report"]]
    for group, locks in (("geo", ("geo",)), ("train", ("geo", "train", "cpu", "sources"))):
        text = "\n".join((ROOT / "images" / "locks" / f"{lock}.txt").read_text() for lock in locks)
        pinned = {_plain(name) for name in re.findall(r"^([\w.-]+)==", text, re.M)}
        names = {_plain(re.match(r"[\w.-]+", each)[0]) for each in wanted[group]} - {"casbah"}
        assert names <= pinned, f"{sorted(names - pinned)}: run `make locks`"


def test_sizes_are_printed(built: dict[str, dict[str, Any]]) -> None:
    done = subprocess.run([sys.executable, "images/build.py", "--sizes"], cwd=ROOT, capture_output=True, text=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(built)
