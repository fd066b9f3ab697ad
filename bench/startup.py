"""How long a person waits before anything happens: `casbah --help`, and the import of each stage."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 5
STAGES = ("ingest", "label", "tile", "finetune", "evaluate", "register")


def seconds(command: list[str]) -> float:
    """The median wall time of a command over some runs, after one that warms the disk's cache."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Print a row per command, as a multiple of starting Python itself."""
    bare = seconds([sys.executable, "-c", "pass"])
    rows = {"python -c pass": bare, "casbah --help": seconds([str(Path(sys.executable).with_name("casbah")), "--help"])}
    for stage in STAGES:
        rows[f"import casbah.{stage}"] = seconds([sys.executable, "-c", f"import casbah.{stage}"])
    print("| what | seconds | times bare Python |\n|---|---|---|")
    for what, took in rows.items():
        print(f"| `{what}` | {took:.2f} | {took / bare:.0f} |")


if __name__ == "__main__":
    main()
