"""Look for known holes in what is in each image of build/images.json: `make images-scan`.

Fails on a critical one for which there is a fix. Needs Grype (https://github.com/anchore/grype) and the Docker engine
that holds the images, nothing of Casbah.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from built import FILE, read, stop

HOLES = 2
"""Grype's exit code where it found what `--fail-on` names; any other but 0 means that it could not look."""


def main() -> int:
    """Scan every image, and fail at the end where one has a hole."""
    parser = argparse.ArgumentParser(prog="python images/scan.py", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=FILE, help="[default: build/images.json]")
    parser.add_argument("--grype", default=os.environ.get("GRYPE") or "grype", help="the scanner's command")
    asked = parser.parse_args()
    holes = []
    for stage, facts in read(asked.images).items():
        print(f"Scanning {stage}", flush=True)
        command = [asked.grype, f"docker:{facts['id']}", "--only-fixed", "--fail-on", "critical"]
        try:
            code = subprocess.run(command).returncode
        except OSError as error:
            stop(3, f"{asked.grype} can't be run ({error.strerror}); Grype is wanted, or GRYPE=its command")
        if code == HOLES:
            holes.append(stage)
        elif code:
            stop(3, f"{asked.grype} could not scan the image of {stage} (exit code {code})")
    if holes:
        stop(1, f"known critical holes with a fix in {', '.join(holes)}: bring newer packages (make locks)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
