"""How long a person waits before anything happens: `casbah --help`, and the imports of a run of each stage.

A stage's package brings little until its function is called, so a row imports what a run of it imports: the modules of
the stage, and the libraries that they ask for only then.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 5
# Nothing that finds a broken torchvision may be imported before its cure.
TORCH = "from casbah.models import torchvision_cure; torchvision_cure.apply(); "
RUN = {
    "ingest": "from casbah.ingest.stage import ingest",
    "label": "from casbah.label.stage import label; import geopandas",
    "tile": "from casbah.tile.stage import tile",
    "finetune, a network": f"{TORCH}from casbah.finetune import fit; import terratorch.cli_tools",
    "finetune, trees": "from casbah.finetune import trees",
    "evaluate, a network": f"{TORCH}from casbah.evaluate import evaluate; import terratorch.models",
    "evaluate, trees": "from casbah.evaluate import evaluate; import casbah.models.boosted",
    "select": "from casbah.evaluate import select",
    "predict, a network": f"{TORCH}from casbah.predict.stage import predict; import terratorch.models",
    "register": "from casbah.register.stage import register; import mlflow.models, botocore.exceptions",
}
"""Stage -> what a run of it imports."""


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
    rows = {"`python -c pass`": bare}
    rows["`casbah --help`"] = seconds([str(Path(sys.executable).with_name("casbah")), "--help"])
    for stage, imports in RUN.items():
        rows[f"imports of {stage}"] = seconds([sys.executable, "-c", imports])
    print("| what | seconds | times bare Python |\n|---|---|---|")
    for what, took in rows.items():
        print(f"| {what} | {took:.2f} | {took / bare:.0f} |")


if __name__ == "__main__":
    main()
