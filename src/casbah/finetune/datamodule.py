"""`TileDataModule`: a TileSet as Lightning and TerraTorch want it, gathered batch by batch from the memory map."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from casbah import bands as sentinel
from casbah.errors import InputError
from casbah.finetune import inputs
from casbah.finetune.bundling import band_index, check_split
from casbah.finetune.experiment import check_range
from casbah.finetune.subset import training_rows
from casbah.models import backbones, graph, network
from casbah.models.normalisation import Normalisation
from casbah.models.symmetries import DIHEDRAL
from casbah.products.tiles import Split, TileSet
from casbah.seeds import checked_seed

IGNORE = 255
TILES_AT_ONCE = 64
"""Tiles whose pixels are held while they are counted."""

TILES_VARIABLE = "CASBAH_TILES"
"""Names the TileSet where the experiment does not: an experiment holds no path."""

graph.register()
backbones.register()  # every experiment names this module, and TerraTorch's own command builds what it names


class BatchOf(NamedTuple):
    """Which tiles make a batch, in which epoch; a `filler` gives a process something to do, and counts nowhere."""

    epoch: int
    rows: NDArray[np.int64]
    filler: bool = False


class EpochBatches(DistributedSampler[BatchOf]):
    """The batches of an epoch: an even split, so that no tile is dropped and no batch is a single tile.

    The order is a function of seed and epoch alone (Lightning calls `set_epoch`), so that a resumed run sees the tiles
    in the order of one that was never stopped.

    Of `size` processes that train together each has as many batches as the others, since they wait for each other, and
    every tile is in one batch of one process. Tiles to learn from (there is a seed) are split evenly over all batches
    of all processes, two in each at least. Tiles to score by are in the very batches of one process alone, dealt out in
    turn, and who gets one less has a filler. (A DistributedSampler, so that Lightning puts none of its own around it,
    which would repeat tiles.)
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        batch_size: int,
        seed: int | None,
        epoch: int = 0,
        *,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        super().__init__(TensorDataset(torch.from_numpy(rows)), num_replicas=size, rank=rank, shuffle=False)
        self.rows, self.of_order, self.size = rows, seed, size
        self.epoch = epoch
        if seed is None or size == 1:
            self.parts = max(1, -(-len(rows) // batch_size)) if len(rows) else 0
        else:
            self.parts = size * max(1, min(-(-len(rows) // (batch_size * size)), len(rows) // (2 * size)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.parts // self.size)

    def __iter__(self) -> Iterator[BatchOf]:
        if not self.parts:
            return
        rows = self.rows
        if self.of_order is not None:
            rows = np.random.default_rng((self.of_order, self.epoch)).permutation(rows)
        parts = np.array_split(rows, self.parts)
        mine = parts[self.rank :: self.size]
        for part in mine:
            yield BatchOf(self.epoch, part)
        if len(mine) < len(self):
            yield BatchOf(self.epoch, parts[0], filler=True)


class TileBatches(Dataset[dict[str, Any]]):
    """Whole batches of one split.

    `image` float32 (n, periods x bands, rows, cols) or (n, bands, periods, rows, cols), normalised, with the
    normalisation's `fill` where nothing was observed; `mask` int64 (n, rows, cols) with 255 where the label is unknown
    or no period observed the pixel; `cover` float32 (n, rows, cols) in 0..1 where soft targets are wanted (NaN where
    unknown).
    """

    def __init__(
        self, split: Split, index: Sequence[int], normalisation: Normalisation, module: "TileDataModule"
    ) -> None:
        self.split, self.normalisation = split, normalisation
        # A slice reads the map without a second copy; a list of bands needs one.
        whole = list(index) == list(range(split.images.shape[2])) if split.images.ndim == 5 else False
        self.index: Any = slice(None) if whole else list(index)
        self.layout, self.soft, self.seed = module.layout, module.soft_targets, module.seed
        augmented = split.name == "train"
        self.augment = augmented and module.augment
        self.jitter = module.jitter if augmented else 0.0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, batch: BatchOf) -> dict[str, Any]:
        raw = np.take(self.split.images, batch.rows, axis=0)[:, :, self.index]
        masks = np.take(self.split.masks, batch.rows, axis=0)
        masks[_unobserved(raw)] = IGNORE
        if batch.filler:
            masks[:] = IGNORE
        cover = np.take(self.split.cover, batch.rows, axis=0) if self.soft else None
        images = np.empty(raw.shape, np.float32)
        if self.augment:
            codes = self._draws(batch.epoch).integers(len(DIHEDRAL), size=len(self.split))[batch.rows]
            raw, masks = _turned(raw, codes), _turned(masks, codes)
            cover = None if cover is None else _turned(cover, codes)
        self.normalisation.apply(raw, images)
        if self.jitter:
            self._brighten(images, batch)
        sample: dict[str, Any] = {
            "image": torch.from_numpy(np.ascontiguousarray(network.arrange(images, self.layout))),
            "mask": torch.from_numpy(masks.astype(np.int64)),
        }
        if batch.filler:
            sample["filler"] = True
        if cover is not None:
            share = cover.astype(np.float32) / 100
            share[(cover == IGNORE) | (masks == IGNORE)] = np.nan
            sample["cover"] = torch.from_numpy(share)
        return sample

    def _draws(self, epoch: int, purpose: int = 1) -> np.random.Generator:
        """Random numbers of an epoch, drawn for every tile whether it is in the batch or not: a function of (seed,
        epoch, row), never of what was drawn before."""
        return np.random.default_rng((self.seed, epoch, purpose))

    def _brighten(self, images: NDArray[np.float32], batch: BatchOf) -> None:
        """Scale each tile's bands by gains near one, as haze, sun and sensor do from date to date."""
        shape = (len(self.split), *images.shape[1:3])
        gain = self._draws(batch.epoch, purpose=2).normal(1, self.jitter, shape).astype(np.float32)[batch.rows]
        images *= gain[..., None, None]


def _unobserved(raw: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Where no period observed a pixel, (n, rows, cols) of (n, periods, bands, rows, cols)."""
    nothing: NDArray[np.bool_] = (raw == sentinel.NODATA).all(axis=(1, 2))
    return nothing


def _turned(arrays: NDArray[Any], codes: NDArray[np.int64]) -> NDArray[Any]:
    """Each array (…, side, side) under its own symmetry of the square, those of one symmetry together."""
    turned = np.empty_like(arrays)
    for code in np.unique(codes):
        chosen = codes == code
        turns, flip = DIHEDRAL[code]
        part = np.rot90(arrays[chosen], turns, (-2, -1))
        turned[chosen] = part[..., ::-1] if flip else part
    return turned


class TileDataModule(LightningDataModule):
    """Feeds a TileSet to a TerraTorch task.

    Args:
        tiles: Directory of the TileSet; where None, the environment variable CASBAH_TILES.
        bands: ESA's names (B02 …) in the order that the backbone wants; where None, those that its `normalisation`
            has figures for, or all bands of the TileSet.
        layout: `channels` stacks periods into channels (U-Net); `frames` gives (bands, periods, rows, cols)
            (transformers).
        normalisation: `train` takes the statistics of the training tiles; `imagenet` those of ImageNet for red, green
            and blue; the other names those that a backbone was pretrained with (`casbah.finetune.inputs`).
        batch_size: Tiles in a batch, at most; where several processes train together, in a batch of each, so that a
            step learns from that many times their number.
        augment: Turn and flip training tiles at random.
        jitter: Standard deviation of a random gain on each band of a training tile; 0 for none.
        soft_targets: Also give `cover`, the building share of each pixel, to train on.
        max_labels: Learn from this many training tiles only, drawn by block; a smaller draw lies within a larger one.
        seed: Of order, augmentation and draw; where None, that of `seed_everything`.
        num_workers: Processes that read ahead. 0 is fastest on a CPU, since a batch costs less than its hand-over.
    """

    def __init__(
        self,
        tiles: str | None = None,
        bands: list[str] | None = None,
        layout: Literal["channels", "frames"] = "channels",
        normalisation: Literal[
            "train", "imagenet", "prithvi_v1", "prithvi_v2", "terramind_v1", "satmae", "scalemae", "galileo"
        ] = "train",
        batch_size: int = 16,
        augment: bool = True,
        jitter: float = 0.0,
        soft_targets: bool = False,
        max_labels: int | None = None,
        seed: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 2:
            raise InputError(f"data.init_args.batch_size is {batch_size}; batch normalisation needs 2 or more")
        check_range("data.init_args.jitter", jitter, least=0, most=1)
        check_range("data.init_args.num_workers", num_workers, least=0)
        if seed is not None:
            checked_seed(seed, "data.init_args.seed")
        self.tiles, self.bands, self.layout, self.normalisation = tiles, bands, layout, normalisation
        self.batch_size, self.augment, self.jitter, self.soft_targets = batch_size, augment, jitter, soft_targets
        self.max_labels, self.num_workers = max_labels, num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self._opened: TileSet | None = None
        self._first_epoch = 0

    @property
    def tile_set(self) -> TileSet:
        """The opened TileSet; `InputError` where none is named or it can't be used."""
        if self._opened is None:
            named = self.tiles or os.environ.get(TILES_VARIABLE)
            if not named:
                raise InputError(
                    f"no tiles are named: set {TILES_VARIABLE} to the directory of a TileSet, or give "
                    "--data.init_args.tiles"
                )
            self._opened = TileSet.open(Path(named))
        return self._opened

    def take(self, tiles: TileSet) -> None:
        """Feed a TileSet that is open, so that its files, checked then, are not checked again."""
        self._opened = tiles

    @property
    def band_names(self) -> tuple[str, ...]:
        """ESA's names of the bands, in the order that the network gets."""
        if self.bands is not None:
            wanted = tuple(sentinel.band(name).name for name in self.bands)
        elif self.normalisation in inputs.PRETRAINING:
            wanted = inputs.pretraining(self.normalisation, self.tile_set.info.level).bands
        else:
            return self.tile_set.info.bands
        band_index(self.tile_set, wanted, "data.init_args.bands")
        return wanted

    @property
    def statistics(self) -> Normalisation:
        """What images are normalised with; `InputError` where tiles are in other units, or a band has no figures."""
        tiles = self.tile_set
        inputs.check_units(tiles)
        inputs.check_as_seen(tiles, self.normalisation)
        if self.normalisation == inputs.TRAIN:
            return inputs.of_tiles(tiles, self.band_names)
        if self.normalisation == inputs.IMAGENET:
            return inputs.of_imagenet(tiles, self.band_names)
        return inputs.of_backbone(self.normalisation, self.band_names, tiles.info.periods, tiles.info.level)

    @property
    def train_rows(self) -> NDArray[np.int64]:
        """Rows of the training split that are learned from."""
        return training_rows(self.tile_set.split("train").blocks, self.max_labels, self.seed)

    @property
    def building_share(self) -> float:
        """Share of building among the labelled pixels that are learned from: those that some period observed."""
        split, building, labelled = self.tile_set.split("train"), 0, 0
        index = band_index(self.tile_set, self.band_names, "data.init_args.bands")
        for rows in np.array_split(self.train_rows, -(-len(self.train_rows) // TILES_AT_ONCE)):
            known = (split.masks[rows] != IGNORE) & ~_unobserved(split.images[rows][:, :, index])
            labelled += int(known.sum())
            building += int((split.masks[rows][known] == 1).sum())
        return building / max(labelled, 1)

    def setup(self, stage: str) -> None:
        """Open the split maps that the stage needs; `InputError` where one can't be trained on."""
        named = {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",))
        index = [self.tile_set.info.bands.index(name) for name in self.band_names]
        for name in named:
            split = self.tile_set.split(name)
            check_split(self.tile_set, split)
            setattr(self, f"{name}_dataset", TileBatches(split, index, self.statistics, self))

    def state_dict(self) -> dict[str, Any]:
        """The epoch that a resumed run begins with."""
        return {"epoch": self.trainer.current_epoch if self.trainer is not None else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._first_epoch = int(state_dict["epoch"])

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("train", self.train_rows, self.seed)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("val", np.arange(len(self.tile_set.split("val"))), None)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("test", np.arange(len(self.tile_set.split("test"))), None)

    def _loader(self, name: str, rows: NDArray[np.int64], seed: int | None) -> DataLoader[dict[str, Any]]:
        # Reading ahead begins before Lightning tells a sampler the epoch, and in a resumed run even before Lightning
        # knows it, since the optimizer's schedule asks for the loader to count its steps.
        trainer = self.trainer
        epoch = max(self._first_epoch, trainer.current_epoch if trainer is not None else 0)
        rank, size = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        return DataLoader(
            getattr(self, f"{name}_dataset"),
            sampler=EpochBatches(rows, self.batch_size, seed, epoch, rank=rank, size=size),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )
