"""Write what is in each image as a CycloneDX document, build/sbom/<stage>.cdx.json: `make images-sbom`.

Python distributions are those whose metadata lie in the image, Debian's packages those that dpkg knows there.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from built import FILE, ROOT, read
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

PYTHON = """
import importlib.metadata as m, json
print(json.dumps([[d.name, d.version, d.metadata.get('License-Expression') or ''] for d in m.distributions()]))
"""
DEBIAN = ["dpkg-query", "--show", "--showformat", "${Package}\\t${Version}\\t${Architecture}\\n"]


def main() -> int:
    """One document for each image of build/images.json."""
    parser = argparse.ArgumentParser(prog="python images/sbom.py", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=FILE, help="[default: build/images.json]")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "sbom", help="[default: build/sbom]")
    parser.add_argument("--docker", default=os.environ.get("DOCKER") or "docker", help="the docker command")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    for stage, facts in read(asked.images).items():
        # By its own id: what is pushed by digest need not be here under that name.
        run = [asked.docker, "run", "--rm", "--network", "none", facts["id"]]
        bom = Bom(components=[*_python(run), *_debian(run)])
        image = Component(name=f"casbah-{stage}", version=facts["id"], type=ComponentType.CONTAINER)
        bom.metadata.component = image
        bom.register_dependency(image, bom.components)
        bom.metadata.tools.components.add(this_component())
        file = asked.output / f"{stage}.cdx.json"
        file.write_text(JsonV1Dot6(bom).output_as_string(indent=1), encoding="utf-8")
        print(f"{file}: {len(bom.components)} packages")
    return 0


def _python(run: list[str]) -> Iterator[Component]:
    for name, version, licence in json.loads(_said([*run, "python3", "-c", PYTHON])):
        licences = [LicenseExpression(licence)] if licence else []
        yield _component(name, version, PackageURL("pypi", None, name.lower().replace("_", "-"), version), licences)


def _debian(run: list[str]) -> Iterator[Component]:
    for line in _said([*run, *DEBIAN]).splitlines():
        name, version, architecture = line.split("\t")
        yield _component(name, version, PackageURL("deb", "debian", name, version, {"arch": architecture}), [])


def _component(name: str, version: str, url: PackageURL, licences: list[Any]) -> Component:
    # Named by its own address, so that the same image gives the same document.
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, purl=url, licenses=licences, bom_ref=url.to_string()
    )


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"images: {' '.join(command[-4:])} failed in the image: {done.stderr.strip()}", file=sys.stderr)
        sys.exit(3)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
