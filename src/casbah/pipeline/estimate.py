"""What a run of the pipeline will take, before it runs: GPU hours and storage, to an order of magnitude.

    GPU hours of a training = epochs x (T + V / 3) x max(operations x dates x (side / 64)^2 / GPU_RATE, LEAST) / 3600
    GPU hours of trees      = (T + V) x side^2 x dates x TREES_A_PIXEL / 3600
    trainings of an experiment = max(1, trials); an ensemble trains each member once

T and V are the tiles for training and for validation, `side` the rows of a tile. All epochs of an experiment's YAML
count, although early stopping ends most trainings sooner. Bytes follow from the products' formats, uncompressed.
Each constant says whether it was measured or is assumed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from casbah import experiments
from casbah.bands import BAND_NAMES
from casbah.errors import InputError

NETWORKS = {
    "deeplabv3plus_imagenet": (26.7, 30.4),
    "deeplabv3plus_imagenet_small": (12.4, 2.5),
    "galileo_nano_scratch": (1.3, 7.5),
    "galileo_nano_upernet": (1.3, 7.5),
    "galileo_nano_upernet_small": (1.3, 1.9),
    "prithvi_100m_fcn": (90.2, 267.7),
    "prithvi_100m_fcn_small": (2.3, 1.5),
    "prithvi_100m_upernet": (98.3, 123.1),
    "prithvi_100m_upernet_small": (2.8, 0.5),
    "prithvi_300m_upernet": (319.0, 315.1),
    "prithvi_300m_upernet_small": (2.8, 0.5),
    "prithvi_tiny_upernet": (6.4, 0.9),
    "satmae_large_upernet": (318.2, 1485.4),
    "satmae_large_upernet_small": (0.7, 1.5),
    "scalemae_large_upernet": (318.2, 314.6),
    "scalemae_large_upernet_small": (0.7, 0.3),
    "segformer_b2_imagenet": (24.8, 31.5),
    "segformer_b2_imagenet_small": (3.7, 1.3),
    "terramind_base_fpn": (92.1, 85.6),
    "terramind_base_fpn_small": (6.4, 0.7),
    "terramind_base_upernet": (99.4, 123.3),
    "terramind_base_upernet_small": (6.7, 0.9),
    "unet_imagenet": (32.5, 16.3),
    "unet_imagenet_small": (12.0, 2.0),
    "unet_scratch": (32.5, 16.3),
    "unet_scratch_small": (3.6, 2.0),
    "unet_upsampled_small": (3.6, 7.9),
}
"""Experiment -> parameters in millions, and 10^9 floating-point operations of a step over one tile of 64 px and one
date. Measured (counted): `python -m bench.flops`."""

UNKNOWN = (100.0, 125.0)
"""Assumed of a network that is not in `NETWORKS`: as large as the networks of 100 million parameters there."""
UNKNOWN_EPOCHS = 60
"""Assumed of an experiment whose YAML lies elsewhere: the most that a built-in one has."""

GPU_RATE = 10e12
"""Operations a second. Assumed: some percent of what GPUs of a data centre have in bfloat16 on paper. No network of
Casbah's was trained on a GPU yet."""

LEAST = 0.004
"""Seconds for a tile, however small the network. Assumed: launching kernels and feeding the GPU take that long."""

TREES_A_PIXEL = 60e-6
"""Core seconds. Measured: 0.02 h for four folds of 65 to 82 tiles of 64 px (docs/pisa.md, one core). The trees compute
on the CPU, while their pod holds a GPU like every other training."""

VALIDATION = 1 / 3
"""Of a training step: a forward pass without a backward one. By counting."""

VAL_FRACTION = 0.1
"""The share of blocks for validation: what `casbah tile` takes where it is not told."""

REFERENCE_SIDE = 64

BAND_BYTES, VALID_BYTES, LABEL_BYTES = 2, 1, 2
"""A pixel: uint16 for each band of a date, a byte for whether a date is valid, and cover and mask (a byte each)."""

WEIGHT_BYTES, CHECKPOINT_BYTES = 4, 16
"""A parameter, in float32; in a checkpoint with AdamW's two moments, beside the best weights so far."""

TREES_MILLIONS = 1.25
"""Assumed: the arrays of the trees take 5 MB, as so many parameters would."""

EVALUATION_BYTES = 10e6
"""Assumed: report, map and figures of an evaluation."""


@dataclass(frozen=True)
class Training:
    """One experiment of a run."""

    experiment: str
    trainings: int
    hours: float
    """On one GPU, all its trainings together."""
    bytes: float
    """Model, evaluation and checkpoints."""
    known: bool
    """False where the size of the network is assumed."""


@dataclass(frozen=True)
class Estimate:
    """GPU hours and bytes of a run."""

    square_kilometres: float
    tiles: int
    trainings: tuple[Training, ...]
    storage: dict[str, float]
    """What is stored -> bytes."""

    @property
    def hours(self) -> float:
        """On one GPU; experiments run side by side where there are more."""
        return sum(each.hours for each in self.trainings)

    @property
    def bytes(self) -> float:
        return sum(self.storage.values())


def estimate(values: Mapping[str, Any], *, area: float, boxes: float | None = None) -> Estimate:
    """The estimate for complete, checked arguments of a pipeline (`compiled.defaults` and `compiled.arguments`).

    `area` is that of the polygons and `boxes` that of their bounding boxes, which are filled with pixels, in square
    kilometres (where None, as large).
    """
    from casbah.tile.stage import TEST_FRACTION

    side, dates = int(values["tile_size"]), int(values["periods"])
    tiles = _tiles(area, side, float(values.get("block_size") or 0.0))
    learnt = tiles * (1 - TEST_FRACTION - VAL_FRACTION), tiles * VAL_FRACTION
    trials = int(values.get("trials", 0))
    trained = tuple(_training(name, trials, learnt, side, dates) for name in values["experiments"])
    pixels = (area if boxes is None else boxes) * 1e4
    moved = 2 if values.get("align") else 1
    storage = {
        "imagery": pixels * dates * (len(BAND_NAMES) * BAND_BYTES + VALID_BYTES),
        "labels": pixels * LABEL_BYTES,
        "tiles": tiles * side**2 * (dates * len(BAND_NAMES) * BAND_BYTES + LABEL_BYTES * moved),
        "models, evaluations, checkpoints": sum(each.bytes for each in trained),
    }
    return Estimate(area, round(tiles), trained, storage)


def area_of(aoi: str) -> tuple[float, float]:
    """Square kilometres of an area's polygons and of their bounding boxes: a name, a file, or an address of one."""
    from casbah.ingest.area import read_area
    from casbah.pipeline import inputs

    if inputs.is_town(aoi):
        from casbah.sample.town import SIZE

        return SIZE[0] * SIZE[1], SIZE[0] * SIZE[1]
    found = read_area(aoi)
    return found.metres.area / 1e6, found.boxes.area / 1e6


def check_area(square_kilometres: float) -> None:
    """`InputError` for what is no area."""
    if not 0 < square_kilometres < 1e9:
        raise InputError(f"--area is {square_kilometres:g}; square kilometres above 0 are wanted")


def _tiles(area: float, side: int, block_size: float) -> float:
    """Whole tiles that blocks of an area hold; those at its edge, of which some are dropped, count by their area."""
    from casbah.grid import RESOLUTION, Grid
    from casbah.tile.lattice import lattice

    blocks = lattice(Grid("EPSG:32631", 0.0, 0.0, 1, 1), tile_size=side, block_size=block_size or None)
    return area * 1e6 / (blocks.block * RESOLUTION) ** 2 * len(blocks.offsets) ** 2


def _training(name: str, trials: int, learnt: tuple[float, float], side: int, dates: int) -> Training:
    parts = list(_parts(name))
    ensemble = len(parts) > 1
    count = 1 if ensemble else max(1, trials)
    hours = sum(_hours(part, learnt, side, dates) for part in parts) * count
    held = sum(part.millions for part in parts) * 1e6
    kept = held * WEIGHT_BYTES + sum(part.millions for part in parts if part.epochs) * 1e6 * CHECKPOINT_BYTES
    called = name.rpartition("/")[2]
    return Training(called, count, hours, kept + EVALUATION_BYTES, all(part.known for part in parts))


@dataclass(frozen=True)
class _Part:
    """What is trained: a network, or trees, which have no epochs."""

    millions: float
    operations: float
    epochs: int
    known: bool


def _parts(name: str) -> Iterator[_Part]:
    """An experiment, or the members of an ensemble."""
    from casbah.finetune.experiment import read

    if name not in experiments.names():
        yield _Part(*UNKNOWN, UNKNOWN_EPOCHS, False)
        return
    experiment = read(name)
    if experiment.is_network:
        known = name in NETWORKS
        yield _Part(*NETWORKS.get(name, UNKNOWN), int(experiment.settings["trainer"]["max_epochs"]), known)
    elif experiment.kind == "ensemble":
        for member in experiment.settings["members"]:
            yield from _parts(member)
    else:
        yield _Part(TREES_MILLIONS, 0.0, 0, True)


def _hours(part: _Part, learnt: tuple[float, float], side: int, dates: int) -> float:
    train, validation = learnt
    if not part.epochs:
        return (train + validation) * side**2 * dates * TREES_A_PIXEL / 3600
    seconds = max(part.operations * 1e9 * dates * (side / REFERENCE_SIDE) ** 2 / GPU_RATE, LEAST)
    return part.epochs * (train + validation * VALIDATION) * seconds / 3600


def assumptions(found: Estimate) -> list[str]:
    """The sentences that an estimate must not be read without."""
    said = [
        f"A GPU is assumed to do {GPU_RATE / 1e12:g} x 10^12 operations a second and a tile to take {LEAST * 1e3:g} ms "
        "at least; no network was trained on a GPU yet, so a third or three times as much is as likely.",
        "Sizes of networks were counted (python -m bench.flops); the trees' time was measured on Pisa (docs/pisa.md), "
        "on a core of the pod that holds the GPU.",
        "All epochs count, and early stopping ends most trainings sooner. Waiting, pulling images, reading imagery and "
        "evaluating, none of which needs a GPU, are left out.",
        "Bytes are uncompressed. A run with other parameters stores its own; what is cached is not stored again.",
    ]
    if unknown := [each.experiment for each in found.trainings if not each.known]:
        said.append(
            f"{', '.join(unknown)}: not counted, assumed to be of {UNKNOWN[0]:g} million parameters with "
            f"{UNKNOWN[1]:g} x 10^9 operations a tile."
        )
    return said
