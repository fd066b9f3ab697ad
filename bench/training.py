"""One training step as Casbah makes it, against the same step in float32 and in PyTorch's own memory order.

On a CPU without bfloat16 of its own (AVX512-BF16, AMX) nothing but the memory order differs.
"""

import argparse
from collections.abc import Callable

import torch

from bench._turns import measure
from casbah.bands import BAND_NAMES
from casbah.finetune.experiment import read
from casbah.finetune.inputs import TEN_BANDS
from casbah.models import network

ROUNDS = 7
BATCH, SIDE = 4, 64
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def unet() -> torch.nn.Module:
    """The U-Net of `unet_upsampled_small`, for one date."""
    arguments = read("unet_upsampled_small").settings["model"]["init_args"]["model_args"]
    filled = {"in_channels": len(BAND_NAMES), "bands": list(BAND_NAMES), "num_classes": 2}
    return network.build("SMPModelFactory", arguments | filled).to(DEVICE).train()


def galileo() -> torch.nn.Module:
    """The encoder and decoder of `galileo_nano_scratch`, for one date."""
    settings = read("galileo_nano_scratch").settings["model"]["init_args"]
    filled = {"backbone_bands": list(TEN_BANDS), "backbone_months": [6], "backbone_resolution": 10.0, "num_classes": 2}
    return network.build(settings["model_factory"], settings["model_args"] | filled).to(DEVICE).train()


def step(model: torch.nn.Module, images: torch.Tensor, upsample: int, mixed: bool) -> Callable[[], None]:
    """A forward and a backward pass."""

    def run() -> None:
        with network.precision(DEVICE, mixed):
            logits = network.logits(model, images, upsample).float()
        logits.square().mean().backward()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    """A row a variant, as a multiple of the step as Casbah makes it."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    stacked = torch.randn(BATCH, len(BAND_NAMES), SIDE, SIDE, device=DEVICE)
    frames = torch.randn(BATCH, len(TEN_BANDS), 1, SIDE, SIDE, device=DEVICE)
    plain = unet().to(memory_format=torch.contiguous_format)
    ours, encoder = unet(), galileo()
    kinds = {
        "unet_upsampled_small": {
            "as it is made": step(ours, stacked, 2, True),
            "in float32": step(ours, stacked, 2, False),
            "in float32, planes apart": step(plain, stacked, 2, False),
        },
        "galileo_nano_scratch": {
            "as it is made": step(encoder, frames, 1, True),
            "in float32": step(encoder, frames, 1, False),
        },
    }
    bf16 = "bfloat16" if network.takes_bf16(DEVICE, True) else "float32 (no bfloat16 here)"
    print(f"{BATCH} tiles of {SIDE} px on {DEVICE.type}, one thread; mixed precision is {bf16}")
    print("| step | | seconds | times as long |\n|---|---|---|---|")
    for kind, variants in kinds.items():
        seconds, _ = measure(variants, ROUNDS)
        for variant, took in seconds.items():
            print(f"| {kind} | {variant} | {took:.3f} | {took / seconds['as it is made']:.2f} |")


if __name__ == "__main__":
    main()
