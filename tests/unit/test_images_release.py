"""What was built is scanned before it is pushed, and pushed as it was built. Engine and scanner are stand-ins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import casbah
from components.images import image

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def images(tmp_path: Path) -> Path:
    file = tmp_path / "images.json"
    stages = {"ingest": "sha256:1", "finetune": "sha256:2"}
    file.write_text(
        json.dumps({stage: {"image": f"casbah-{stage}:x", "id": built, "bytes": 1} for stage, built in stages.items()})
    )
    return file


def program(path: Path, script: str) -> Path:
    path.write_text(f'#!/bin/sh\necho "$@" >> {path}.asked\n{script}\n')
    path.chmod(0o755)
    return path


def asked(path: Path) -> list[str]:
    return Path(f"{path}.asked").read_text().splitlines()


def call(script: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "images" / script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})


def test_what_was_built_is_pushed_by_its_id_and_pinned_by_digest(images: Path, tmp_path: Path) -> None:
    docker = program(tmp_path / "docker", f'test "$1" != push || echo "v1: digest: {DIGEST} size: 1"')
    words = ("--push", "--registry", "ghcr.io/me/", "--tag", "v1", "--output", images)
    done = call("build.py", *words, "--docker", docker)
    assert done.returncode == 0, done.stderr
    assert asked(docker)[1:3] == [
        "tag sha256:1 ghcr.io/me/casbah-ingest:v1",
        "push ghcr.io/me/casbah-ingest:v1",
    ]
    assert not any(line.startswith("build") for line in asked(docker))
    found = json.loads(images.read_text())
    assert found["finetune"] == {"image": f"ghcr.io/me/casbah-finetune@{DIGEST}", "id": "sha256:2", "bytes": 1}


def check_of_the_tag(folder: Path, **given: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """What the workflow's own script says of a tag, and the output that it sets."""
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "images.yml").read_text())["jobs"]["images"]["steps"]
    script = next(step["run"] for step in steps if step.get("id") == "tag")
    output = folder / "output"
    environment = {"PATH": os.environ["PATH"], "GITHUB_SHA": "c0ffee", "GITHUB_OUTPUT": str(output), **given}
    command = ["bash", "-eo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done, output.read_text() if output.exists() else ""


def test_a_release_is_pushed_under_the_very_names_that_pipelines_and_manifests_ask_for(
    images: Path, tmp_path: Path
) -> None:
    done, said = check_of_the_tag(tmp_path, GITHUB_REF_TYPE="tag", GITHUB_REF_NAME=f"v{casbah.__version__}")
    assert done.returncode == 0, done.stdout
    docker = program(tmp_path / "docker", f'test "$1" != push || echo "x: digest: {DIGEST} size: 1"')
    tag = said.strip().removeprefix("tag=")
    words = ("--push", "--registry", "ghcr.io/casbah", "--tag", tag, "--output", images, "--docker", docker)
    assert call("build.py", *words).returncode == 0
    pushed = [line.removeprefix("push ") for line in asked(docker) if line.startswith("push ")]
    assert pushed == [image("ingest"), image("finetune")]


def test_a_tag_that_is_not_the_version_of_the_code_is_no_release(tmp_path: Path) -> None:
    done, said = check_of_the_tag(tmp_path, GITHUB_REF_TYPE="tag", GITHUB_REF_NAME="v999.0.0")
    assert (done.returncode, said) == (2, "")
    assert f"the tag is v999.0.0 and casbah.__version__ is {casbah.__version__}" in done.stdout
    done, said = check_of_the_tag(tmp_path, GITHUB_REF_TYPE="branch", GITHUB_REF_NAME="main")
    assert (done.returncode, said) == (0, "tag=c0ffee\n"), "what is built by hand has a tag of its commit"


def test_a_push_without_a_registry_or_without_a_build_is_one_sentence(images: Path, tmp_path: Path) -> None:
    docker = program(tmp_path / "docker", "")
    nowhere = call("build.py", "--push", "--output", images, "--docker", docker)
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1)
    assert "--push needs --registry" in nowhere.stderr
    none = call("build.py", "--push", "--registry", "r", "--output", tmp_path / "none.json", "--docker", docker)
    assert none.returncode == 2
    assert "`make images` writes it" in none.stderr


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("exit 0", 0, ""),
        ('test "$1" != docker:sha256:2 || exit 2', 1, "known critical holes with a fix in finetune:"),
        ("exit 1", 3, "could not scan the image of ingest (exit code 1)"),
    ],
)
def test_a_critical_hole_with_a_fix_fails_and_so_does_a_scan_that_could_not_be_made(
    images: Path, tmp_path: Path, script: str, code: int, said: str
) -> None:
    grype = program(tmp_path / "grype", script)
    done = call("scan.py", "--images", images, "--grype", grype)
    assert done.returncode == code
    assert said in done.stderr
    assert asked(grype)[0] == "docker:sha256:1 --only-fixed --fail-on critical"


@pytest.mark.parametrize(("said", "code"), [(DIGEST, 0), ("nothing", 3)])
def test_a_release_is_built_on_one_base_by_its_digest(said: str, code: int, tmp_path: Path) -> None:
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "images.yml").read_text())["jobs"]["images"]["steps"]
    (pin,) = (step for step in steps if step.get("id") == "base")
    docker, output = program(tmp_path / "docker", f"echo {said}"), tmp_path / "output"
    clean = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(output)}
    command = ["bash", "-eo", "pipefail", "-c", pin["run"]]
    assert subprocess.run(command, cwd=ROOT, env=clean, capture_output=True).returncode == code
    tag = next(word for word in asked(docker)[0].split() if word.startswith("python:3.11"))
    assert (output.read_text() if output.exists() else "") == ("" if code else f"base={tag}@{DIGEST}\n")
    (build,) = (step for step in steps if step.get("run", "").startswith("make images "))
    assert steps.index(pin) < steps.index(build)
    assert 'BASE_IMAGE="$BASE_IMAGE"' in build["run"]


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [("exit 0", 0, ""), ('case "$*" in *sha256:2*) exit 3;; esac', 1, "`casbah doctor` failed in finetune;")],
)
def test_each_image_is_started_as_anyone_and_one_that_does_not_hold_up_fails(
    images: Path, tmp_path: Path, script: str, code: int, said: str
) -> None:
    docker = program(tmp_path / "docker", script)
    done = call("start.py", "--images", images, "--docker", docker)
    assert done.returncode == code
    assert said in done.stderr
    one = "run --rm --network none --read-only --tmpfs /tmp --user 12345:0 sha256:{} casbah doctor"
    assert asked(docker) == [one.format(1), one.format(2)]


def test_a_scanner_that_is_not_there_is_named(images: Path) -> None:
    done = call("scan.py", "--images", images, "--grype", "no-such-scanner")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "no-such-scanner can't be run" in done.stderr


def test_an_image_says_the_commit_that_it_was_built_from_even_where_that_has_a_tag(tmp_path: Path) -> None:
    script = tmp_path / "images" / "build.py"
    script.parent.mkdir()
    script.write_text((ROOT / "images" / "build.py").read_text())

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    def revision() -> str:
        program = f"import runpy; print(runpy.run_path({str(script)!r})['revision']())"
        clean = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
        done = subprocess.run([sys.executable, "-B", "-c", program], env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert revision() == "", "outside of a clone nobody knows"
    git("init", "--quiet")
    git("add", "images")
    git("commit", "--quiet", "--message", "first")
    git("tag", "--annotate", "v1.0.0", "--message", "release")
    assert revision() == git("rev-parse", "HEAD")
    script.write_text(script.read_text() + "# changed\n")
    assert revision() == git("rev-parse", "HEAD") + "-dirty"
