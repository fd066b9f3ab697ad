"""Runs the jobs of a study, each a process of its own with a log, so that a crash loses one of them alone."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from casbah.compare.devices import Slot, threads
from casbah.errors import CasbahError, InputError, WorldError, unwritable
from casbah.progress import Task, say, task

POLL = 0.1

GRACE = 20.0
"""Seconds that a training gets after Ctrl-C to say where its last whole epoch lies."""

PREFIX = "casbah: "
"""How the sentence of an error begins."""


@dataclass(eq=False)
class Job:
    """A command with its log. `finished` says whether its result is there already; `keep` notes that it is now, and
    which device made it."""

    name: str
    command: tuple[str, ...]
    log: Path
    finished: Callable[[], bool]
    keep: Callable[[str], None]
    needs: tuple["Job", ...] = ()


class Failure(NamedTuple):
    """How a job ended that gave nothing."""

    exit_code: int
    why: str


@dataclass
class Outcome:
    """What became of the jobs."""

    done: set[Job] = field(default_factory=set)
    failed: dict[Job, Failure] = field(default_factory=dict)
    """In the order in which they failed."""
    lost: set[Job] = field(default_factory=set)
    """Not begun, since a job that they need failed."""
    started: int = 0


@dataclass(frozen=True)
class _Running:
    job: Job
    slot: Slot
    process: subprocess.Popen[bytes]
    since: float


def run(jobs: Sequence[Job], places: Sequence[Slot]) -> Outcome:
    """Run what is not finished, as many at once as there are places; a job waits for those that it needs.

    A job that fails loses those that need it and no other. Ctrl-C ends the running ones first, and is passed on.
    """
    outcome, waiting, free = Outcome(), list(jobs), list(places)
    running: list[_Running] = []
    with task("compare", len(jobs)) as progress, _ended(running):
        while waiting or running:
            _lose(waiting, outcome, progress)
            for job in [job for job in waiting if outcome.done.issuperset(job.needs)]:
                if not free:
                    break
                waiting.remove(job)
                if job.finished():
                    outcome.done.add(job)
                    progress.advance(1)
                else:
                    outcome.started += 1
                    running.append(_start(job, free.pop(0), len(places)))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.slot)
                _end(one, outcome, progress)
            if running:
                time.sleep(POLL)
    return outcome


def _lose(waiting: list[Job], outcome: Outcome, progress: Task) -> None:
    gone = outcome.lost | set(outcome.failed)
    for job in [job for job in waiting if not gone.isdisjoint(job.needs)]:
        waiting.remove(job)
        outcome.lost.add(job)
        progress.advance(1)


def _start(job: Job, slot: Slot, at_once: int) -> _Running:
    environment = {**os.environ, "OMP_NUM_THREADS": threads(at_once), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    if slot.visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot.visible
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "wb") as log:
            # In a session of its own: Ctrl-C of the terminal reaches the parent alone, which ends its children.
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.PIPE,  # closed by this process's end, which ends the job: `end_with_parent`
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise unwritable(error)(f"{job.log} can't be written: {error.strerror}; name another --output") from None
    return _Running(job, slot, process, time.monotonic())


def _end(one: _Running, outcome: Outcome, progress: Task) -> None:
    code, took = one.process.returncode, f"{time.monotonic() - one.since:.0f} s"
    failure = _kept(one) if code == 0 else _failure(code, one.job.log)
    if failure is None:
        outcome.done.add(one.job)
        say(f"✓ {one.job.name}  {took}")
    else:
        outcome.failed[one.job] = failure
        say(f"✗ {one.job.name}  {took}: {failure.why}")
    progress.advance(1, one.job.name)


def _kept(one: _Running) -> Failure | None:
    """Note that a job's result is there; the failure where the disk does not take it, which loses this job alone."""
    try:
        one.job.keep(one.slot.device)
    except OSError as error:
        place = error.filename or one.job.log.parent
        return Failure(unwritable(error).exit_code, f"{place} can't be written: {error.strerror or error}")
    except CasbahError as error:
        return Failure(error.exit_code, str(error))
    return None


def _failure(code: int, log: Path) -> Failure:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        why = "as the system does with a process that takes too much memory" if -code == signal.SIGKILL else "a crash"
        return Failure(WorldError.exit_code, f"its process was ended by {name}, {why}; its log is {log}")
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix(PREFIX) for line in lines if line.startswith(PREFIX)] or lines
    known = (CasbahError.exit_code, InputError.exit_code, WorldError.exit_code)
    return Failure(code if code in known else CasbahError.exit_code, said[-1] if said else f"no word; see {log}")


@contextmanager
def _ended(running: list[_Running]) -> Iterator[None]:
    """End the processes that still run when the block is left, whichever way."""
    try:
        yield
    except KeyboardInterrupt:
        say("stopped; what was finished is kept: run the same command again to go on from there")
        raise
    finally:
        for one in running:
            _signal(one, signal.SIGINT)
        deadline = time.monotonic() + GRACE
        for one in running:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.0, deadline - time.monotonic()))
            # Also where the first process has ended: its data loaders may not have.
            _signal(one, signal.SIGKILL)
            one.process.wait()


def _signal(one: _Running, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(one.process.pid, number)
