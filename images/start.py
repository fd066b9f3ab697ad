"""Start every image of build/images.json, as anyone and on a file system that can't be written: `make images-start`.

Each runs `casbah doctor`, which imports what the image holds (torch with CUDA's libraries too; it wants no GPU). Needs
the Docker engine that holds the images, nothing of Casbah.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from built import FILE, read, stop

OPTIONS = ["--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "12345:0"]  # noqa: S108 - a mount


def main() -> int:
    """Start one after the other, and fail at the end where one did not hold up."""
    parser = argparse.ArgumentParser(prog="python images/start.py", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=FILE, help="[default: build/images.json]")
    parser.add_argument("--docker", default=os.environ.get("DOCKER") or "docker", help="the docker command")
    asked = parser.parse_args()
    broken = []
    for stage, facts in read(asked.images).items():
        print(f"Starting {stage}", flush=True)
        try:
            done = subprocess.run([asked.docker, "run", *OPTIONS, facts["id"], "casbah", "doctor"])
        except OSError as error:
            stop(3, f"{asked.docker} can't be run ({error.strerror}); a Docker engine is wanted, or DOCKER=…")
        if done.returncode:
            broken.append(stage)
    if broken:
        stop(1, f"`casbah doctor` failed in {', '.join(broken)}; its own words stand above")
    return 0


if __name__ == "__main__":
    sys.exit(main())
