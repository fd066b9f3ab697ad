"""What a person sees while a local run goes on: one line per step that ends, and what the running ones are doing."""

import time
from types import TracebackType
from typing import Any, Self

from rich.status import Status

from casbah.errors import WorldError
from casbah.progress import console

PLAIN_INTERVAL = 20.0
"""Seconds between two lines about the progress of one step where there is no terminal."""


class Display:
    """Prints a run's journal: steps as they start and end, their words, and on a terminal their progress."""

    def __init__(self) -> None:
        self._steps: dict[int, str] = {}
        self._doing: dict[int, str] = {}
        self._said: dict[int, float] = {}
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if console.is_terminal:
            self._status = console.status("starting the pipeline")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def take(self, event: dict[str, Any]) -> None:
        """Show one event."""
        process = event["pid"]
        name = " ".join(filter(None, (event.get("step"), event.get("detail")))) or self._steps.get(process, "")
        kind = event["event"]
        if kind == "start":
            self._steps[process], self._doing[process], self._said[process] = name, "", time.monotonic()
            if self._status is None:
                self._say(f"… {name}")
        elif kind == "end":
            self._forget(process)
            self._say(f"✓ {name}  {event['seconds']:.0f} s")
        elif kind == "fail":
            self._forget(process)
            # The sentence of an error ends the run; here it is said only where the step may be tried again.
            self._say(f"✗ {name}: {event['message']}" if event["code"] == WorldError.exit_code else f"✗ {name}")
        elif kind == "say":
            self._say(f"    {name}: {event['text']}")
        elif kind == "progress":
            self._doing[process] = f"{event['name']} {event['done']}/{event['total']} {event['note']}".rstrip()
            self._say_now_and_then(process, name)
        if self._status is not None:
            doing = [": ".join(filter(None, (step, self._doing.get(key)))) for key, step in self._steps.items()]
            self._status.update(" | ".join(doing) or "between two steps")

    def _say_now_and_then(self, process: int, name: str) -> None:
        if self._status is None and time.monotonic() - self._said.get(process, 0.0) >= PLAIN_INTERVAL:
            self._said[process] = time.monotonic()
            self._say(f"    {name}: {self._doing[process]}")

    def _forget(self, process: int) -> None:
        self._steps.pop(process, None)
        self._doing.pop(process, None)

    def _say(self, text: str) -> None:
        console.print(text, markup=False)
