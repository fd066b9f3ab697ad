"""The process in which `kfp.local` runs a compiled pipeline: `python -m casbah.pipeline.kfp_process job.json`."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from kfp import components, local

from casbah.journal import VARIABLE, record
from casbah.pipeline.containers import Containers

PARENT_POLL = 1.0


def main(job_file: Path) -> int:
    """Run the job and record its outcome; the exit code is 0 or 1."""
    threading.Thread(target=_follow_parent, args=(os.getppid(),), daemon=True).start()
    job = json.loads(job_file.read_text(encoding="utf-8"))
    local.init(
        runner=_runner(job.get("containers")),
        pipeline_root=job["root"],
        workspace_root=job["workspace"],
        enable_caching=True,
        cache_root=job["cache"],
    )
    pipeline = components.load_component_from_file(job["package"])
    try:
        task = pipeline(**job["arguments"])
    except RuntimeError as error:
        # How `kfp.local` says that a step failed; the step itself has recorded why.
        record("crashed", message=str(error), living=_living(everywhere=bool(job.get("containers"))))
        return 1
    record("finished", artifacts={name: _described(artifact) for name, artifact in task.outputs.items()})
    return 0


def _follow_parent(parent: int) -> None:
    """End this process and its steps when the program that started them was killed and can't do so any more."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _runner(boxes: dict[str, Any] | None) -> Any:
    if boxes is None:
        return local.SubprocessRunner(use_venv=False)
    # What KFP makes here a container writes to, as another user.
    os.umask(0)
    return local.DockerRunner(**Containers(**boxes).runner_arguments(Path(os.environ[VARIABLE])))


def _living(*, everywhere: bool) -> list[int]:
    """Ids of the steps' processes that still work: one that the journal calls running and is not among them died.

    Those of containers are children of the engine and not of this process: then all ids of the machine.
    """
    living = []
    for process in psutil.process_iter() if everywhere else psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process.pid)
    return living


def _described(artifact: Any) -> dict[str, Any]:
    return {"path": artifact.path, "metadata": dict(artifact.metadata)}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
