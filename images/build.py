"""Build the images, tag each by what is in it, and write build/images.json, which `casbah pipeline compile` pins.

`make images` runs it; needs Python 3.11 and a Docker engine with BuildKit, nothing of Casbah.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GEO = ("preflight", "ingest", "label", "tile", "select", "plan", "merge", "footprints", "publish")
TRAIN = ("finetune", "evaluate", "compare", "register", "conclude", "fetch", "predict", "serve")
STAGES = (*GEO, *TRAIN)
WHEELS = ROOT / "images" / "wheels"
LOCKS = ROOT / "images" / "locks"


def main() -> int:
    """Bring wheels where asked for, build every stage, push where a registry is named, and write what came out."""
    asked = _arguments()
    if asked.sizes:
        return sizes(asked.output)
    docker = Docker(asked.docker)
    docker.check()
    if asked.push:
        return push(docker, asked)
    if asked.wheels:
        bring_wheels(asked.accelerator)
    images = {}
    for stage in asked.stages or STAGES:
        print(f"Building {stage}", flush=True)
        built = docker.build(stage, asked)
        name = f"casbah-{stage}"
        # A tag that says what is in it: KFP's cache knows an image by its name alone.
        local = f"{name}:{built.removeprefix('sha256:')[:16]}"
        docker.call("tag", built, local)
        facts: dict[str, Any] = {"image": local, "id": built, "bytes": docker.size(built)}
        if asked.registry:
            facts["image"] = docker.push(built, pushed_as(stage, asked))
        images[stage] = facts
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(asked.output.read_text(encoding="utf-8")) if asked.stages and asked.output.is_file() else {}
    asked.output.write_text(json.dumps(known | images, indent=2) + "\n", encoding="utf-8")
    print(asked.output)
    return sizes(asked.output)


def push(docker: "Docker", asked: argparse.Namespace) -> int:
    """Push what was built before, looked at in between, and pin it by digest."""
    if not asked.registry:
        stop(2, "--push needs --registry, where the images go (make images-push REGISTRY=ghcr.io/me)")
    images = read(asked.output)
    for stage in asked.stages or images:
        if stage not in images:
            stop(2, f"{asked.output} has no image of {stage}; `make images` builds it")
        print(f"Pushing {stage}", flush=True)
        images[stage]["image"] = docker.push(images[stage]["id"], pushed_as(stage, asked))
    asked.output.write_text(json.dumps(images, indent=2) + "\n", encoding="utf-8")
    print(asked.output)
    return 0


def pushed_as(stage: str, asked: argparse.Namespace) -> str:
    """The name by which a stage's image is pushed."""
    return f"{asked.registry.rstrip('/')}/casbah-{stage}:{asked.tag or version()}"


def sizes(file: Path) -> int:
    """Print how large the images are, unpacked and with their base; what images share lies on disk once."""
    for stage, facts in read(file).items():
        print(f"{stage:10} {facts['bytes'] / 1e6:7.0f} MB  {facts['image']}")
    return 0


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Stage -> `image`, `id` and `bytes`, as an earlier build left them."""
    if not file.is_file():
        stop(2, f"{file} does not exist; `make images` writes it")
    return json.loads(file.read_text(encoding="utf-8"))


class Docker:
    """The docker command; `DOCKER` or `--docker` names another one."""

    def __init__(self, command: str) -> None:
        self.command = command

    def call(self, *words: str) -> str:
        """Run it and return what it printed; its own complaint and exit code 3 where it fails."""
        done = subprocess.run([self.command, *words], capture_output=True, text=True)
        if done.returncode:
            stop(3, f"{self.command} {words[0]} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    def check(self) -> None:
        """Exit code 3 with one sentence where there is no engine."""
        try:
            done = subprocess.run([self.command, "info"], capture_output=True, text=True)
        except OSError as error:
            stop(3, f"{self.command} can't be run ({error.strerror}); a Docker engine is wanted, or DOCKER=its command")
        if done.returncode or "ERROR" in done.stderr:
            stop(3, f"no Docker engine answers {self.command}: {done.stderr.strip().splitlines()[-1:] or done.stdout}")

    def build(self, stage: str, asked: argparse.Namespace) -> str:
        """Build one stage, and return the id of its image."""
        file = ROOT / "build" / f".{stage}.iid"
        file.parent.mkdir(parents=True, exist_ok=True)
        arguments = {
            "BASE_IMAGE": asked.base_image,
            "ACCELERATOR": asked.accelerator,
            "VERSION": version(),
            "REVISION": revision(),
            "PIP_NO_INDEX": "1" if asked.wheels else "",
            "PIP_INDEX_URL": asked.index_url,
        }
        command = [self.command, "build", "--file", "images/Dockerfile", "--target", stage, "--iidfile", str(file)]
        command += [f"--build-arg={name}={value}" for name, value in arguments.items() if value]
        command += [f"--network={'none' if asked.wheels else asked.network}"] if asked.wheels or asked.network else []
        command += ["--progress=plain"] if os.environ.get("CI") else []
        done = subprocess.run([*command, "."], cwd=ROOT, env={**os.environ, "DOCKER_BUILDKIT": "1"})
        if done.returncode:
            stop(3, f"the image of {stage} was not built; its own words stand above")
        found = file.read_text(encoding="utf-8").strip()
        file.unlink()
        return found

    def size(self, image: str) -> int:
        """Bytes of an image unpacked, its base among them."""
        return int(self.call("image", "inspect", "--format", "{{.Size}}", image))

    def push(self, image: str, name: str) -> str:
        """Push an image by name, and return its name by digest."""
        self.call("tag", image, name)
        done = subprocess.run([self.command, "push", name], capture_output=True, text=True)
        if done.returncode:
            stop(3, f"{name} was not pushed: {done.stderr.strip()}; `{self.command} login` may be what it lacks")
        digest = re.search(r"digest: (sha256:[0-9a-f]{64})", done.stdout)
        if digest is None:
            stop(3, f"{name} was pushed, and no digest was said: {done.stdout.strip()[-200:]}")
        return f"{name.rpartition(':')[0]}@{digest[1]}"


def bring_wheels(accelerator: str) -> None:
    """Put every file that the locks name into images/wheels/, through this machine's own pip."""
    locks = ("tools", "geo", "sources", "train", accelerator)
    lines = [line for lock in locks for line in (LOCKS / f"{lock}.txt").read_text(encoding="utf-8").splitlines()]
    named = {
        (re.sub(r"[-_.]+", "_", name).lower(), release)
        for name, release in re.findall(r"^([\w.-]+)==([^\s\\]+)", "\n".join(lines), re.M)
    }
    for file in sorted(WHEELS.iterdir()):
        if file.name != ".gitignore" and not any(_is(file.name, *package) for package in named):
            file.unlink()
    here = [file.name for file in WHEELS.iterdir()]
    if all(any(_is(file, *package) for file in here) for package in named):
        return
    for lock in locks:
        print(f"Bringing the packages of images/locks/{lock}.txt", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--find-links", str(WHEELS), "--dest", str(WHEELS), "-r", str(LOCKS / f"{lock}.txt")]
        if subprocess.run(command, cwd=ROOT).returncode:
            stop(3, f"the packages of images/locks/{lock}.txt could not all be had; pip's own words stand above")


def _is(file: str, name: str, release: str) -> bool:
    """Whether a file is of that release, whatever build of it."""
    stem = re.sub(r"[-_.]+", "_", file).lower()
    return stem.startswith(f"{name}_{re.sub(r'[-_.+]+', '_', release)}_")


def version() -> str:
    """Casbah's version, read and not imported."""
    text = (ROOT / "src" / "casbah" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'__version__ = "([^"]+)"', text)
    assert found
    return found[1]


def revision() -> str:
    """The commit, with -dirty where the tree holds more; empty outside of a clone."""
    if named := os.environ.get("CASBAH_GIT_COMMIT"):
        return named
    # (`git describe --always` would say a tag's name in place of the commit.)
    commit, changes = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        for words in (["rev-parse", "--verify", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    return f"{commit}-dirty" if commit and changes else commit


def stop(code: int, sentence: str) -> Any:
    """One sentence, and an exit code."""
    print(f"images: {sentence}", file=sys.stderr)
    sys.exit(code)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python images/build.py", description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], metavar="STAGE", help="all where none is named")
    parser.add_argument("--registry", default="", help="push there (ghcr.io/me), and pin by digest")
    parser.add_argument("--push", action="store_true", help="build nothing: push to --registry what was built before")
    parser.add_argument("--tag", default="", help="tag of what is pushed  [default: the version]")
    parser.add_argument("--accelerator", choices=["cuda", "cpu"], default="cuda", help="which torch  [default: cuda]")
    parser.add_argument(
        "--base-image", default="", help="any Debian with Python 3.11  [default: python:3.11-slim-bookworm]"
    )
    parser.add_argument(
        "--wheels", action="store_true", help="bring packages by this machine's pip, build without network"
    )
    parser.add_argument("--index-url", default="", help="another package index for pip in the build")
    parser.add_argument("--network", default="", help="network of the build, such as host")
    parser.add_argument("--docker", default=os.environ.get("DOCKER") or "docker", help="the docker command")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "images.json", help="[default: build/images.json]"
    )
    parser.add_argument("--sizes", action="store_true", help="only print how large the images are that were built")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
