"""What Kubeflow's form costs on one machine: a local run of the compiled YAML beside the stage functions alone.

The town is tiny and one experiment of a few trees is trained, so that nothing runs side by side and what a run takes
has three parts: the stage functions, the imports and downloads of each step (one process would import once), and the
runner with a process per step and KFP's own imports in it. What a stage function imports only when it is called counts
as its own. The services are up before the clock starts.
"""

import os
import tempfile
from pathlib import Path

import yaml

from casbah import experiments
from casbah.pipeline import demo
from casbah.pipeline.session import Results, Session, request
from casbah.storage import BUCKET, Location, Store

QUICK = Location(BUCKET, "inputs/quick_pixels.yaml")
ROUNDS = 20
SIZE = (2.4, 2.4)
"""Kilometres east and north of the town."""

TILING = {"tile_size": "16", "block_size": "440"}


def played(session: Session, output: Path) -> Results:
    """One run of the demo's pipeline with the quick experiment alone."""
    content = yaml.safe_load(experiments.find("boosted_pixels").read_text(encoding="utf-8"))
    content["trees"]["rounds"] = ROUNDS
    store = Store.from_environment()
    store.ensure_bucket()
    store.write(yaml.safe_dump(content).encode(), QUICK)
    with request({**demo.arguments(f'["{QUICK}"]'), **TILING}) as wanted:
        return demo.play(session, wanted, size=SIZE, output=output)


def row(what: str, results: Results) -> str:
    """Steps that ran, wall time, its three parts, and what is not the stages'."""
    inside, stages, steps = sum(results.seconds.values()), sum(results.stages.values()), len(results.seconds)
    overhead = results.wall - stages
    return (
        f"| {what} | {steps} | {results.wall:.1f} | {stages:.1f} | {inside - stages:.1f} | {results.wall - inside:.1f} "
        f"| {overhead / steps:.1f} | {results.wall / stages:.2f} |"
    )


def main() -> None:
    """Print a row for a run in which every step works, and one for its repetition, which only registers."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="casbah-bench-") as folder, Session(Path(folder) / "casbah") as session:
        first = played(session, Path(folder) / "first")
        again = played(session, Path(folder) / "again")
    print("`casbah pipeline run` beside the stage functions that it calls, seconds\n")
    print(
        "| run | steps | wall | stage functions | imports and downloads | runner | overhead per step "
        "| wall / stage functions |\n|---|---|---|---|---|---|---|---|"
    )
    print(row("every step", first))
    print(row("all reused but registering", again))
    print("\n| step | seconds | of the stage function |\n|---|---|---|")
    for step, seconds in first.seconds.items():
        print(f"| {step.replace(str(QUICK), QUICK.key)} | {seconds:.1f} | {first.stages[step]:.1f} |")


if __name__ == "__main__":
    main()
