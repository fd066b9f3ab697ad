"""Let an overlay run the images of build/images.json, by digest where those were pushed: `make images-pin OVERLAY=…`.

Changes the lines `- {name: ghcr.io/casbah/casbah-…}` below `images:` of its kustomization.yaml, and nothing else.
"""

import argparse
import re
import sys
from pathlib import Path

from built import FILE, ROOT, read, stop

LINE = re.compile(r"^  - \{name: (ghcr\.io/casbah/casbah-([a-z]+)),.*\}$", re.M)


def main() -> int:
    """Rewrite one overlay, and print which images it runs now."""
    parser = argparse.ArgumentParser(prog="python images/pin.py", description=__doc__.splitlines()[0])
    parser.add_argument("overlay", help="name of a folder of manifests/overlays, or a folder of your own")
    parser.add_argument("--images", type=Path, default=FILE, help="[default: build/images.json]")
    asked = parser.parse_args()
    known = ROOT / "manifests" / "overlays" / asked.overlay
    file = (known if known.is_dir() else Path(asked.overlay)) / "kustomization.yaml"
    if not file.is_file():
        stop(2, f"{file} does not exist; the name of an overlay is wanted, such as local")
    images = read(asked.images)
    text = file.read_text(encoding="utf-8")
    stages = [stage for _, stage in LINE.findall(text)]
    if not stages:
        stop(2, f"{file} has no line `- {{name: ghcr.io/casbah/casbah-…}}` below `images:`; see overlays/local")
    if missing := [stage for stage in stages if stage not in images]:
        stop(2, f"{asked.images} has no image of {', '.join(missing)}; `make images` builds all")
    file.write_text(LINE.sub(lambda found: line(found[1], images[found[2]]["image"]), text), encoding="utf-8")
    for stage in stages:
        print(f"{file.parent.name}: {images[stage]['image']}")
    return 0


def line(name: str, image: str) -> str:
    """The line that puts an image in the place of another."""
    repository, at, digest = image.partition("@")
    if at:
        return f"  - {{name: {name}, newName: {repository}, digest: {digest}}}"
    repository, _, tag = image.rpartition(":")
    return f"  - {{name: {name}, newName: {repository}, newTag: {tag}}}"


if __name__ == "__main__":
    sys.exit(main())
