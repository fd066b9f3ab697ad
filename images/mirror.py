"""Name the images of build/images.json in another registry, by the same digests: `make images-mirror REGISTRY=…`.

Writes build/mirrored.json, from which `casbah pipeline compile --images` and images/pin.py take them, and prints a line
for each image that has to be copied there: what it is called, a tab, and what it will be called. What runs beside
Casbah (MLflow, PostgreSQL, MinIO) is among the lines, as overlays/airgapped names it.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from built import FILE, ROOT, read, stop

AIRGAPPED = ROOT / "manifests" / "overlays" / "airgapped" / "kustomization.yaml"
OURS = "ghcr.io/casbah/"


def main() -> int:
    """Write what is in the other registry, and print what goes there."""
    parser = argparse.ArgumentParser(prog="python images/mirror.py", description=__doc__.splitlines()[0])
    parser.add_argument("registry", help="where Casbah's images will be, such as registry.example/casbah")
    parser.add_argument("--images", type=Path, default=FILE, help="[default: build/images.json]")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "mirrored.json", help="[default: build/mirrored.json]"
    )
    asked = parser.parse_args()
    registry = asked.registry.strip().rstrip("/")
    if not registry:
        stop(2, "no registry is named; make images-mirror REGISTRY=registry.example/casbah is wanted")
    images = read(asked.images, "`make images-push` writes it, and every release holds one")
    if local := [stage for stage, facts in images.items() if "@sha256:" not in facts["image"]]:
        stop(2, f"{asked.images} names no digest for {', '.join(local)}; `make images-push` pushes and pins them")
    mirrored = {stage: facts | {"image": moved(facts["image"], registry)} for stage, facts in images.items()}
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(mirrored, indent=2) + "\n", encoding="utf-8")
    for stage, facts in images.items():
        # A registry takes an image under a tag; its digest stays the same.
        print(f"{facts['image']}\t{mirrored[stage]['image'].replace('@sha256:', ':')[: -64 + 16]}")
    for source, target in others():
        print(f"{source}\t{target}")
    print(f"{asked.output} names {len(mirrored)} images in {registry}", file=sys.stderr)
    return 0


def moved(image: str, registry: str) -> str:
    """The same image, by the same digest, in another registry."""
    return f"{registry}/{image.rpartition('/')[2]}"


def others() -> Iterator[tuple[str, str]]:
    """The images that are not Casbah's, and what the overlay `airgapped` calls them."""
    for one in yaml.safe_load(AIRGAPPED.read_text(encoding="utf-8"))["images"]:
        if not one["name"].startswith(OURS):
            # A digest in the overlay is that of the copy, which is the same image.
            version = f":{one['newTag']}" if "newTag" in one else f"@{one['digest']}"
            yield one["name"] + version, one["newName"] + (version if "newTag" in one else f":{one['digest'][7:23]}")


if __name__ == "__main__":
    sys.exit(main())
