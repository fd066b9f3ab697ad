"""Every command of the guide prints what the guide says it prints."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "guide.md"

WITH_SERVICES = ("casbah up", 'eval "$(casbah up', "casbah pipeline run")
"""What needs the demo's champion: `tests/integration/test_pipeline_mapping.py` runs the like of it."""


@dataclass(frozen=True)
class Step:
    """Something to run, and the lines that the page says it prints; `…` stands for what is left out."""

    line: int
    words: list[str] | str
    prints: list[str]


def steps() -> Iterator[Step]:
    """The console blocks, the loop over cells and the Python of the page, in its order."""
    text = PAGE.read_text(encoding="utf-8")
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        kind, content = block.groups()
        line = text.count("\n", 0, block.start()) + 1
        if kind == "console":
            for part in re.split(r"^\$ ", content, flags=re.M)[1:]:
                command, *printed = part.splitlines()
                if not command.startswith(WITH_SERVICES):
                    yield Step(line, command, printed)
        elif kind == "python":
            yield Step(line, [sys.executable, "-c", content], re.findall(r"^print\(.*#\s*(.*)$", content, re.M))
        elif content.startswith("for "):
            yield Step(line, content, [])


def test_the_guide_tells_what_is_printed(tmp_path: Path) -> None:
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "300",
    }
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    wrong: list[str] = []
    count = 0
    for step in steps():
        done = subprocess.run(
            step.words, shell=isinstance(step.words, str), cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{PAGE.name}:{step.line}: {step.words}\n{done.stderr[-2000:]}"
        said = [line.rstrip() for line in (done.stdout + done.stderr).splitlines()]
        for wanted in step.prints:
            pattern = re.escape(wanted.rstrip()).replace("…", ".*")
            if not any(re.fullmatch(pattern, line) for line in said):
                wrong.append(f"{PAGE.name}, block at line {step.line}: {wanted!r}")
            count += 1
    assert not wrong, "the page says what was not printed:\n" + "\n".join(wrong)
    assert count > 60
