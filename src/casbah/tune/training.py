"""One trial is one `casbah finetune` in a process of its own.

So memory is given back, a crash costs one trial, and a bundle's peak memory is its own. The price is the import of what
trains, in every trial: 2 s for trees, 5 s for a network (15 s on a machine that is busy), where trainings take minutes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from casbah.errors import CasbahError, InputError, WorldError
from casbah.products.model import ModelBundle
from casbah.progress import console

SPOKEN = "casbah: "
"""How `casbah` begins the sentence that it ends with."""

DEFECT = "a defect in Casbah"


@dataclass(frozen=True)
class Request:
    """What `casbah finetune` is asked for; `checkpoints` is None for trees, which keep none."""

    name: str
    config: str
    tiles: Path
    output: Path
    log: Path
    overrides: tuple[str, ...] = ()
    max_labels: int | None = None
    checkpoints: str | Path | None = None

    @property
    def words(self) -> list[str]:
        """The command line."""
        found = ["finetune", "--config", self.config, "--tiles", str(self.tiles), "--output", str(self.output)]
        found += [] if self.max_labels is None else ["--max-labels", str(self.max_labels)]
        found += [] if self.checkpoints is None else ["--checkpoints", str(self.checkpoints)]
        for override in self.overrides:
            found += ["--set", override]
        return [*found, "--resume"]


@dataclass(frozen=True)
class Outcome:
    """What came of it: a bundle, or the reason why there is none. `fault` says what kind of error that was."""

    bundle: ModelBundle | None
    reason: str | None = None
    fault: type[CasbahError] | None = None
    seconds: float = 0.0


class Trainer:
    """Runs processes that train, or check what is to be trained; `stop` ends those that still run."""

    def __init__(self) -> None:
        self._living: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process that runs, and start no other."""
        self._stopped = True
        for process in list(self._living):
            process.kill()

    def train(self, request: Request) -> Outcome:
        """Train one model, or keep the finished one of the same request; a process that was killed is an outcome."""
        since = time.monotonic()
        code, said = self._run(request.words, request.log, request.name)
        seconds = time.monotonic() - since
        if code == 0:
            return Outcome(ModelBundle.open(request.output), seconds=seconds)
        said = said or f"its process ended with exit code {code}; see {request.log}"
        if code < 0:
            said = f"its process was ended by {signal.Signals(-code).name}, as when memory runs out"
        return Outcome(None, said, _fault(code), seconds)

    def check(
        self,
        config: str,
        tiles: Sequence[Path],
        *,
        overrides: Sequence[str],
        max_labels: int | None,
        variants: Sequence[tuple[str, Sequence[str]]],
    ) -> None:
        """Raise what `casbah finetune` would refuse: the experiment on any of the tiles, a variant on the first.

        A variant is the words that its refusal begins with, and the overrides that make it. Nothing is written.
        """
        asked = {
            "config": config,
            "tiles": [str(path) for path in tiles],
            "overrides": list(overrides),
            "max_labels": max_labels,
            "variants": [[words, list(more)] for words, more in variants],
        }
        code, said = self._run(["check", json.dumps(asked)], Path(os.devnull), None)
        if code:
            raise _fault(code)(said or f"the process that checks the experiment ended with exit code {code}")

    def _run(self, words: Sequence[str], log: Path, name: str | None) -> tuple[int, str]:
        """Run a child to its end, show what it tells under `name`, and return its exit code and its last sentence."""
        last = ""
        with open(log, "a", encoding="utf-8") as kept, self._child(words, kept) as process:
            for line in process.stderr or ():
                kept.write(line)
                kept.flush()
                if line.startswith(SPOKEN):
                    last = line.removeprefix(SPOKEN).strip()
                elif name and line.strip():
                    console.print(f"{name}: {line.rstrip()}", markup=False)
            code = process.wait()
        return code, last

    @contextmanager
    def _child(self, words: Sequence[str], log: Any) -> Iterator[subprocess.Popen[str]]:
        """A process that ends with this one, however this one ends: see `casbah.tune.child`."""
        if self._stopped:
            raise CasbahError("stopped before this trial began")
        process = subprocess.Popen(
            [sys.executable, "-m", "casbah.tune.child", *words],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the other
        )
        self._living.add(process)
        try:
            with process:
                yield process
        finally:
            self._living.discard(process)


def _fault(code: int) -> type[CasbahError]:
    """The kind of error that an exit code stands for."""
    return {InputError.exit_code: InputError, WorldError.exit_code: WorldError}.get(code, CasbahError)
