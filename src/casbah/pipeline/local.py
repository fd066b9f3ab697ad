"""Run a compiled pipeline on this machine through `kfp.local`, each step a process of its own.

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
from casbah.pipeline import compiled
from casbah.stack.process import members, start, stop

POLL = 0.2
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
    """Step -> seconds of the stage function; steps whose results were reused are absent."""
    wall: float
    log: Path


@dataclass
class _Account:
    """What the journal has said so far."""

    running: dict[tuple[str, str], float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    outcome: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> None:
        key = (event.get("step", ""), event.get("detail", ""))
        kind = event["event"]
        if kind == "start":
            self.running[key] = event["time"]
        elif kind == "end":
            self.running.pop(key, None)
            self.seconds[" ".join(filter(None, key))] = event["seconds"]
        elif kind == "fail":
            self.running.pop(key, None)
            self.failure = event
        elif kind in ("finished", "crashed"):
            self.outcome = event


def run(
    package: Path,
    given: Mapping[str, Any],
    *,
    directory: Path,
    environment: Mapping[str, str],
    watch: Watcher = lambda event: None,
) -> Outcome:
    """Run a compiled pipeline to its end; equal steps of earlier runs in `directory` are reused.

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
    }
    try:
        run_directory.mkdir(parents=True)
        (run_directory / "job.json").write_text(json.dumps(job, indent=2), encoding="utf-8")
    except OSError as error:
        raise unwritable(error)(
            f"{run_directory} can't be written ({error.strerror}): free some space, or name another --directory"
        ) from None
    log, account = run_directory / "run.log", _Account()
    began = time.monotonic()
    child = start(
        [sys.executable, "-m", "casbah.pipeline.kfp_process", str(run_directory / "job.json")],
        environment=_environment(environment, run_directory / "journal.jsonl"),
        directory=run_directory,
        log=log,
        ports={},
    )
    try:
        reader = journal.Reader(run_directory / "journal.jsonl")
        alive = True
        while alive and not _hopeless(account):
            alive = bool(members(child))
            for event in reader.new():
                account.take(event)
                watch(event)
            time.sleep(POLL)
    finally:
        stop(child, grace=GRACE)
    _raise_failure(account, log)
    assert account.outcome is not None
    return Outcome(account.outcome["artifacts"], account.seconds, time.monotonic() - began, log)


def _hopeless(account: _Account) -> bool:
    return account.failure is not None and account.failure["code"] != WorldError.exit_code


def _raise_failure(account: _Account, log: Path) -> None:
    if account.outcome is not None and account.outcome["event"] == "finished":
        return
    if account.failure is not None:
        failure = account.failure
        step = " ".join(filter(None, (failure["step"], failure["detail"])))
        raise ERRORS.get(failure["code"], CasbahError)(f"{step}: {failure['message']} (the run's log is {log})")
    if account.running:
        step = " ".join(filter(None, next(iter(account.running))))
        raise WorldError(f"{step} ended without a word, as a process does that runs out of memory; see {log}")
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
