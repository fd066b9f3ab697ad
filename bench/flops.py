"""Parameters and arithmetic of every experiment that is a network, counted over one tile: what estimates start from.

Floating-point operations of a forward and a backward pass, as PyTorch's `FlopCounterMode` counts them (matrix products
and convolutions), on a tile of 64 px and one date, with random weights.
"""

import argparse
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from casbah import experiments
from casbah.bands import BAND_NAMES
from casbah.finetune import inputs
from casbah.finetune.experiment import read
from casbah.models import graph, network, torchvision_cure

SIDE = 64


def counted(name: str) -> tuple[float, float]:
    """Parameters in millions, and 10^9 operations for one tile."""
    torchvision_cure.apply()
    from casbah.finetune.task import complete

    settings = read(name).settings
    task, data = settings["model"]["init_args"], settings["data"]["init_args"]
    layout, normalisation = data.get("layout", "channels"), data.get("normalisation", "train")
    bands = tuple(data.get("bands") or ())
    if not bands and normalisation in inputs.PRETRAINING:
        bands = inputs.pretraining(normalisation, "L2A").bands
    bands = bands or BAND_NAMES
    upsample = task.get("upsample", 1)
    info = SimpleNamespace(periods=1, months=(6,), resolution=10.0, level="L2A")
    seen: Any = SimpleNamespace(band_names=bands, tile_set=SimpleNamespace(info=info), layout=layout)
    arguments = complete(task["model_factory"], network.untrained(task["model_args"]), seen, upsample)
    model = network.build(task["model_factory"], arguments | {"num_classes": 2}).train()
    shape = (2, len(bands), 1, SIDE, SIDE) if layout == "frames" else (2, len(bands), SIDE, SIDE)
    with FlopCounterMode(display=False) as counter:
        network.logits(model, torch.randn(shape), upsample).float().square().mean().backward()
    return sum(each.numel() for each in model.parameters()) / 1e6, counter.get_total_flops() / 2e9


def main() -> None:
    """A row an experiment."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    print(f"One tile of {SIDE} px, one date, forward and backward\n")
    print("| experiment | parameters (millions) | 10^9 operations |\n|---|---|---|")
    for name in experiments.names():
        experiment = read(name)
        factory = experiment.settings.get("model", {}).get("init_args", {}).get("model_factory")
        if factory is not None and factory != graph.FACTORY:
            parameters, operations = counted(name)
            print(f"| {name} | {parameters:.1f} | {operations:.1f} |", flush=True)


if __name__ == "__main__":
    main()
