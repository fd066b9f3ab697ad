"""Write images/locks/: what the images install, to the version and the sha256 of each file. `make locks` runs it.

Versions follow constraints.txt, so that images and virtual environments hold the same. The platform is Linux on x86_64
with Python 3.11. torch for CPUs has no hash here: its wheel comes from another index than PyPI.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "images" / "locks"
TORCH = ("torch", "torchvision")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
GPU_ONLY = ("nvidia-", "cuda-", "triton")
"""How the packages begin that torch needs for CUDA alone."""

KFP = "kfp==2.17.0"
"""Its executor starts every step and needs nothing beside itself; its own dependencies are for whoever compiles."""

TOOLS = "pip\nsetuptools>=77\nwheel\n"


def main(uv: str) -> None:
    """Resolve every group anew."""
    geo = _resolved(uv, ["pyproject.toml", "--extra", "geo"])
    train = _resolved(uv, ["pyproject.toml", "--extra", "train", "--extra", "report"])
    tools = _resolved(uv, ["-"], text=TOOLS, constrained=False)
    kfp = _resolved(uv, ["-", "--no-deps"], text=KFP)
    torch = {name: package for name, package in train.items() if name in TORCH}
    cuda = {name: package for name, package in train.items() if name.startswith(GPU_ONLY)}
    rest = {name: package for name, package in train.items() if name not in torch | cuda | geo}
    sources = {name: package for name, package in rest.items() if not package.get("wheels")}
    assert not [name for name, package in (geo | tools | kfp | torch | cuda).items() if not package.get("wheels")]
    _write("tools", "pip, and what builds Casbah's own wheel", _hashed(tools))
    _write("geo", "the stages without torch", _hashed(geo | kfp))
    _write("train", "what training adds to geo.txt, but for torch", _hashed(without(rest, sources)))
    _write("sources", "what training needs and is published as source alone", _hashed(sources))
    _write("cuda", "torch for GPUs, and CUDA", _hashed(torch | cuda))
    plain = [f"{name}=={package['version']}" for name, package in sorted(torch.items())]
    _write("cpu", "torch for CPUs", [f"--extra-index-url {CPU_INDEX}", *plain])


def without(some: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The packages of the first that are not among the second."""
    return {name: package for name, package in some.items() if name not in others}


def _resolved(uv: str, what: list[str], *, text: str = "", constrained: bool = True) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pylock.toml"
        command = [uv, "pip", "compile", *what, "--quiet", "--no-config", "--python-version", "3.11"]
        command += ["--python-platform", "x86_64-manylinux_2_28", "--output-file", str(file)]
        command += ["--constraints", "constraints.txt"] if constrained else []
        subprocess.run(command, check=True, cwd=ROOT, input=text, text=True)
        packages = tomllib.loads(file.read_text(encoding="utf-8"))["packages"]
    return {package["name"]: package for package in packages if "version" in package}


def _hashed(packages: dict[str, Any]) -> list[str]:
    lines = []
    for name, package in sorted(packages.items()):
        files = package.get("wheels") or [package["sdist"]]
        hashes = sorted({f"--hash=sha256:{file['hashes']['sha256']}" for file in files})
        lines.append(" \\\n    ".join([f"{name}=={package['version']}", *hashes]))
    return lines


def _write(name: str, what: str, lines: list[str]) -> None:
    head = f"# Made by `make locks`: {what}."
    (LOCKS / f"{name}.txt").write_text("\n".join([head, *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "uv")
