"""What the scripts beside build.py share: the images that it has built, and how a script ends."""

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
FILE = ROOT / "build" / "images.json"
WRITER = "`make images` writes it"


def read(file: Path, writer: str = WRITER) -> dict[str, dict[str, Any]]:
    """Stage -> `image`, `id` and `bytes`; where there is no such file, exit code 2 and a sentence with its `writer`."""
    if not file.is_file():
        stop(2, f"{file} does not exist; {writer}")
    found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def stop(code: int, sentence: str) -> NoReturn:
    """End with one sentence and an exit code."""
    print(f"images: {sentence}", file=sys.stderr)
    sys.exit(code)
