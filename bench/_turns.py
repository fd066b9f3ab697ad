"""Times runs that take turns, so that all meet the same disk cache and the same neighbours."""

import contextlib
import io
import math
import re
import time
from collections.abc import Callable
from pathlib import Path


def measure(runs: dict[str, Callable[[], None]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """The best wall and CPU seconds of each run, all taking turns."""
    wall, cpu = dict.fromkeys(runs, math.inf), dict.fromkeys(runs, math.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            began, spent = time.perf_counter(), time.process_time()
            with contextlib.redirect_stderr(io.StringIO()):
                run()
            wall[name] = min(wall[name], time.perf_counter() - began)
            cpu[name] = min(cpu[name], time.process_time() - spent)
    return wall, cpu


def peak() -> float:
    """MB of resident memory at the peak of this process."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) / 1000 if found else math.nan
