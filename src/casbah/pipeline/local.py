"""Run a compiled pipeline on this machine through `kfp.local`, each step a process or a container of its own.

KFP's runner prints all that it does and ends a failed run with the names of its tasks. So it runs in a process apart,
its output kept in a log, while the steps' journal says what happens: progress, results, and the sentence of an error.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from casbah import journal
from casbah.errors import CasbahError, InputError, WorldError, unwritable
from casbah.pipeline import compiled, containers
from casbah.pipeline.containers import Containers
from casbah.stack.process import members, start, stop

JOURNAL = "journal.jsonl"
POLL = 0.2
LAST = "conclude"
GRACE = 10.0
"""Seconds that the steps of a stopped run get to end by themselves."""

ERRORS = {error.exit_code: error for error in (CasbahError, InputError, WorldError)}

Watcher = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """What a run left: the artifacts that the pipeline returns, and how long each step that ran took."""

    artifacts: dict[str, dict[str, Any]]
    """Name -> `path` and `metadata`."""
    seconds: dict[str, float]
    """Step -> seconds, its imports and downloads among them; steps whose results were reused are absent."""
    stages: dict[str, float]
    """Step -> seconds of the stage function alone."""
    wall: float
    log: Path


@dataclass
class _Account:
    """What the journal has said so far."""

    running: dict[tuple[str, str], int] = field(default_factory=dict)
    """Step -> id of its process."""
    failures: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """Step -> how it failed, until it is tried again; the latest last."""
    seconds: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    outcome: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> None:
        key = (event.get("step", ""), event.get("detail", ""))
        kind = event["event"]
        if kind == "start":
            self.failures.pop(key, None)
            self.running[key] = event["pid"]
        elif kind == "end":
            self.running.pop(key, None)
            name = " ".join(filter(None, key))
            self.seconds[name], self.stages[name] = event["seconds"], event["stage"]
        elif kind == "fail":
            self.running.pop(key, None)
            self.failures[key] = event
        elif kind in ("finished", "crashed"):
            self.outcome = event

    def dead(self) -> list[str]:
        """The steps that had ended without a word when the runner gave up, or with it where it was killed too."""
        living = self.outcome.get("living", ()) if self.outcome else ()
        return [" ".join(filter(None, key)) for key, process in self.running.items() if process not in living]


def run(
    package: Path,
    given: Mapping[str, Any],
    *,
    directory: Path,
    environment: Mapping[str, str],
    watch: Watcher = lambda event: None,
    boxes: Containers | None = None,
) -> Outcome:
    """Run a compiled pipeline to its end; equal steps of earlier runs in `directory` are reused.

    With `boxes` each step runs in a container of its image, else in a process of this environment.

    `watch` is told every event of the journal. A step's error is raised here as it was raised there: a fault of
    the world after the pipeline's retries, any other at once, since no retry changes it. Nothing keeps running,
    whichever way this ends.
    """
    values = compiled.arguments(package, given)
    directory = directory.resolve()
    run_directory = directory / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:6]}"
    job = {
        "package": str(package.resolve()),
        "arguments": values,
        "root": str(directory / "artifacts"),
        "cache": str(directory / "cache" / compiled.code_digest()[:16]),
        "workspace": str(run_directory / "workspace"),
        "containers": boxes.described() if boxes else None,
    }
    if boxes:
        containers.check(compiled.images(package))
    try:
        run_directory.mkdir(parents=True)
        if boxes:
            boxes.prepare(directory / "artifacts", run_directory / JOURNAL)
        (run_directory / "job.json").write_text(json.dumps(job, indent=2), encoding="utf-8")
    except OSError as error:
        raise unwritable(error)(
            f"{run_directory} can't be written ({error.strerror}): free some space, or name another --directory"
        ) from None
    log, account = run_directory / "run.log", _Account()
    began = time.monotonic()
    child = start(
        [sys.executable, "-m", "casbah.pipeline.kfp_process", str(run_directory / "job.json")],
        environment=_environment(environment, run_directory / JOURNAL),
        directory=run_directory,
        log=log,
        ports={},
    )
    try:
        reader = journal.Reader(run_directory / JOURNAL)
        alive = True
        while alive and not _hopeless(account):
            alive = bool(members(child))
            for event in reader.new():
                account.take(event)
                watch(event)
            time.sleep(POLL)
    finally:
        stop(child, grace=GRACE)
        if boxes:
            containers.stop(run_directory.name)
    _raise_failure(account, log)
    assert account.outcome is not None
    return Outcome(account.outcome["artifacts"], account.seconds, account.stages, time.monotonic() - began, log)


def _hopeless(account: _Account) -> bool:
    return any(failure["code"] != WorldError.exit_code for failure in account.failures.values())


def _raise_failure(account: _Account, log: Path) -> None:
    if account.outcome is not None and account.outcome["event"] == "finished":
        # The status of a container that removes itself can be lost, and is then taken for a good one.
        if dead := account.dead():
            raise WorldError(f"{dead[0]} ended without a word, and the runner took it for done; see {log}")
        return
    final = [one for one in account.failures.values() if one["code"] != WorldError.exit_code]
    # A step that died is what the runner gave up for: another one that had failed before waits for its next try.
    if not final and (dead := account.dead()):
        raise WorldError(f"{dead[0]} ended without a word, as a process does that runs out of memory; see {log}")
    if account.failures:
        # The step that has the last word fails after another one, and often with it.
        first = [one for one in account.failures.values() if one["step"] != LAST]
        failure = final[0] if final else (first or list(account.failures.values()))[-1]
        step = " ".join(filter(None, (failure["step"], failure["detail"])))
        raise ERRORS.get(failure["code"], CasbahError)(f"{step}: {failure['message']} (the run's log is {log})")
    message = account.outcome["message"] if account.outcome else "it ended without a word"
    raise CasbahError(f"the local KFP runner failed: {message} (the run's log is {log})")


def _environment(extra: Mapping[str, str], journal_file: Path) -> dict[str, str]:
    # Two experiments run at a time, each with as many threads as there are cores would be slower than half of them.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 2) // 2))
    return {
        **os.environ,
        **extra,
        "OMP_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        journal.VARIABLE: str(journal_file),
    }
