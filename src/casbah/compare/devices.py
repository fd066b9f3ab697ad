"""Where the trainings of a study run: one process to a GPU, or some on the CPU, found out without importing torch."""

import os
import shutil
import subprocess
from typing import NamedTuple

from casbah.compare.results import CPU
from casbah.errors import InputError

PATIENCE = 30
"""Seconds that the driver gets to name its GPUs."""


class Slot(NamedTuple):
    """A place for one process: `visible` is its CUDA_VISIBLE_DEVICES, None where there is no GPU."""

    device: str
    visible: str | None = None


def slots(jobs: int | None) -> list[Slot]:
    """As many places as `jobs` says: by default one a GPU, or a single one on the CPU.

    More processes than GPUs share them in turn. `InputError` where `jobs` is below 1.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs is {jobs}; 1 or more is wanted")
    found = gpus() or [Slot(CPU)]
    return [found[number % len(found)] for number in range(jobs or len(found))]


def gpus() -> list[Slot]:
    """The GPUs that `nvidia-smi` tells and CUDA_VISIBLE_DEVICES lets be seen; none where there is no driver."""
    listed = _listed()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return [Slot(name, index) for index, _, name in listed]
    found = []
    for word in (part.strip() for part in allowed.split(",")):
        known = next((name for index, uuid, name in listed if word == index or (word and uuid.startswith(word))), None)
        if known is None:
            break  # as CUDA does: what stands behind an unknown device is not seen
        found.append(Slot(known, word))
    return found


def threads(count: int) -> str:
    """Threads of each of so many processes at once; OMP_NUM_THREADS where the caller has set it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))


def _listed() -> list[tuple[str, str, str]]:
    """(index, uuid, name) of each GPU."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [[part.strip() for part in line.split(",", 2)] for line in done.stdout.splitlines()]
    return [(line[0], line[1], line[2]) for line in lines if len(line) == 3]
