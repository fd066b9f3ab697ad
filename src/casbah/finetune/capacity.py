"""Whether this machine can train a network at all: the accelerator that is asked for, and memory for the weights."""

import os
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from casbah import experiments
from casbah.errors import InputError
from casbah.finetune.experiment import Experiment
from casbah.journal import CONTAINED

BYTES = 16
"""Of each parameter that AdamW trains in single precision: the weight, its gradient, and two moments."""

HELD = 4
"""Of these, what a parameter takes already when the network is built."""

GPUS = ("gpu", "cuda", "mps")
"""What `trainer.accelerator` calls them."""

DEVICES = Path("/dev")
"""Where the kernel shows a container the GPUs that it was given."""

CONTAINERS = ("KUBERNETES_SERVICE_HOST", CONTAINED)
"""Variables that a process finds set in a pod, or in a container of a local run."""

CGROUP = Path("/sys/fs/cgroup")
"""Where a container is told its share of the memory (cgroup v2)."""


def check_accelerator(experiment: Experiment) -> None:
    """`InputError` where the experiment asks for a GPU and torch finds none, or was given one that torch can't use.

    A training that was given a GPU and takes the CPU would keep it for hours and say nothing.
    """
    _check_given()
    trainer = experiment.settings.get("trainer")
    wanted = trainer.get("accelerator") if isinstance(trainer, Mapping) else None
    if wanted not in GPUS:
        return
    cuda, metal = torch.cuda.is_available(), torch.backends.mps.is_available()
    if {"gpu": cuda or metal, "cuda": cuda, "mps": metal}[wanted]:
        return
    raise InputError(
        f"{experiment.source}: trainer.accelerator is {wanted}, and torch finds no such device on this machine; set it "
        "to auto (--set trainer.accelerator=auto), which takes a GPU where there is one, or train where there is one"
    )


def _check_given() -> None:
    """`InputError` where a container was given an NVIDIA GPU and its torch was built without CUDA."""
    given = sorted(path.name for path in DEVICES.glob("nvidia[0-9]*"))
    if given and torch.version.cuda is None and any(os.environ.get(name) for name in CONTAINERS):
        raise InputError(
            f"this container was given the GPU {DEVICES / given[0]}, and its torch ({torch.__version__}) is built "
            "without CUDA: take the image that `make images` builds by default (ACCELERATOR=cuda), or compile the "
            "pipeline with --cpu"
        )


class EnoughMemory(Callback):
    """Refuses a network whose weights, gradients and moments alone are larger than the free memory of its device.

    What the images of a batch take comes on top, and can't be told before: where that is too much, the training says
    so, and a smaller batch helps. Here it would not.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare once the network is built and before the optimizer is."""
        device = trainer.strategy.root_device
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        check_memory(self.name, parameters, device)


def check_memory(name: str, parameters: int, device: torch.device) -> None:
    """`InputError` saying what would fit where so many parameters can't be trained on a device."""
    on_gpu = device.type == "cuda"
    each = BYTES if on_gpu else BYTES - HELD
    free = int(torch.cuda.mem_get_info(device)[0]) if on_gpu else free_memory()
    if parameters * each <= free:
        return
    small = f"{name}_small"
    hint = (
        f"casbah finetune --config {small} is a smaller variant"
        if small in experiments.names()
        else ("name a smaller backbone or decoder")
    )
    raise InputError(
        f"{name} has {_millions(parameters)} parameters, which take {parameters * each / 1e9:.1f} GB to train with "
        f"AdamW before the first image, and {'the GPU' if on_gpu else 'this machine'} has {free / 1e9:.1f} GB free: up "
        f"to {_millions(free // each)} would fit; {hint}, or free some memory (a smaller batch does not help)"
    )


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its container where that is less."""
    return min([psutil.virtual_memory().available, *_container()])


def _container() -> list[int]:
    """What is left of a container's share, files that the system only keeps in memory not counted; none without one."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        kept = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return [] if limit == "max" else [max(0, int(limit) - used + int(kept.get("inactive_file", 0)))]
    except (OSError, ValueError):  # no container, or one of the older kind
        return []


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} million"
