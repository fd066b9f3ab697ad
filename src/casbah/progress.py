"""The one way to show progress and to say something to the person: rich on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from casbah import journal

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Where people are told things; standard output is kept for results."""

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines of the same task where there is no terminal."""

JOURNAL_INTERVAL = 1.0
"""Seconds between two notes of the same task in the journal of a local run."""


def say(text: str) -> None:
    """One line for the person who waits."""
    console.print(text, markup=False)
    journal.record("say", text=text)


class Task:
    """A running task of a known length; `advance` it as parts are done."""

    def __init__(self, name: str, total: int, bar: Progress | None, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        self._before = done
        self._bar = bar
        self._id = bar.add_task(name, total=total, completed=done) if bar else None
        self._start = self._said = self._noted = time.monotonic()

    def advance(self, parts: int = 1, note: str = "") -> None:
        """Say that `parts` more are done; `note` stands beside the name (a loss, a file)."""
        self.done += parts
        if self.done == self.total or time.monotonic() - self._noted >= JOURNAL_INTERVAL:
            self._noted = time.monotonic()
            journal.record("progress", name=self.name, done=self.done, total=self.total, note=note)
        if console.quiet:
            return
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, advance=parts, description=f"{self.name} {note}".rstrip())
            return
        now = time.monotonic()
        if now - self._said >= PLAIN_INTERVAL or self.done == self.total:
            self._said = now
            left = (now - self._start) / max(self.done - self._before, 1) * (self.total - self.done)
            print(
                f"{self.name}: {self.done}/{self.total} {note}".rstrip() + f" ({left:.0f} s left)",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def task(name: str, total: int, done: int = 0) -> Iterator[Task]:
    """Show `name` with a bar and the time left (a line every ten seconds where stderr is no terminal).

    `done` parts were done before; the time left follows from those that are done now.
    """
    if not console.is_terminal or console.quiet:
        yield Task(name, total, None, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as bar:
        yield Task(name, total, bar, done)
