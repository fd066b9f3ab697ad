"""What a network is fed: right units, right bands, unknown pixels silent, and the same on every resume."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_tiles

import casbah.finetune
from casbah.errors import InputError
from casbah.finetune import inputs
from casbah.finetune.subset import training_rows
from casbah.products.tiles import TileSet


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("data") / "tiles", periods=2)


def batches(tiles: TileSet, epoch: int = 0, split: str = "train", **options: Any) -> list[dict[str, torch.Tensor]]:
    module = casbah.finetune.TileDataModule(tiles=str(tiles.path), **options)
    module.setup("fit")
    loader = module.train_dataloader() if split == "train" else module.val_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def test_a_flipped_byte_is_found_where_terratorch_opens_the_tiles(tiles: TileSet, tmp_path: Path) -> None:
    copy = shutil.copytree(tiles.path, tmp_path / "tiles")
    with open(copy / "val" / "images.npy", "r+b") as file:
        file.seek(-5, 2)
        byte = file.read(1)
        file.seek(-5, 2)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(InputError, match=r"val/images\.npy is not the file that was written"):
        casbah.finetune.TileDataModule(tiles=str(copy)).setup("fit")


def test_periods_become_channels_or_frames(tiles: TileSet) -> None:
    first = batches(tiles, batch_size=4)[0]
    assert first["image"].shape[1:] == (24, 32, 32)
    assert first["image"].dtype == torch.float32
    framed = batches(tiles, batch_size=4, layout="frames", bands=list(inputs.PRITHVI_BANDS))[0]
    assert framed["image"].shape[1:] == (6, 2, 32, 32)
    whole = batches(tiles, split="val", batch_size=4)[0]["image"].reshape(-1, 2, 12, 32, 32)
    framed = batches(tiles, split="val", batch_size=4, layout="frames")[0]["image"]
    torch.testing.assert_close(framed.transpose(1, 2), whole)


def test_every_tile_comes_once_an_epoch_and_no_batch_is_a_single_tile(tiles: TileSet) -> None:
    split = tiles.split("train")
    sizes = [len(batch["mask"]) for batch in batches(tiles, batch_size=len(split) - 1)]
    assert sum(sizes) == len(split)
    assert min(sizes) > 1


def test_training_statistics_give_zero_mean_and_unit_deviation(tiles: TileSet) -> None:
    images = torch.cat([batch["image"] for batch in batches(tiles, augment=False)])
    for channel in images.transpose(0, 1):
        observed = channel[channel != 0]
        assert observed.mean().abs() < 0.01
        assert (observed.std() - 1).abs() < 0.01


def with_gap(tiles: TileSet, target: Path) -> TileSet:
    """The same tiles, where no period observed a corner of the first training tile, and one period another corner."""
    import shutil

    with TileSet.write(target, parameters={}) as draft:
        shutil.copytree(tiles.path, draft.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        images = np.load(draft.directory / "train/images.npy")
        images[0, :, :, :3, :3] = 0
        images[0, 1, :, -3:, -3:] = 0
        np.save(draft.directory / "train/images.npy", images)
    return TileSet.open(target)


def test_an_unobserved_pixel_is_zero_and_teaches_nothing(tiles: TileSet, tmp_path: Path) -> None:
    gappy = with_gap(tiles, tmp_path / "gappy")
    module = casbah.finetune.TileDataModule(tiles=str(gappy.path), augment=False)
    module.setup("fit")
    from casbah.finetune.datamodule import BatchOf

    batch = module.train_dataset[BatchOf(0, np.array([0, 1]))]  # type: ignore[attr-defined]
    assert (batch["image"][0, :, :3, :3] == 0).all()
    assert (batch["mask"][0, :3, :3] == 255).all()
    image = batch["image"][0].reshape(2, 12, 32, 32)
    assert (image[1, :, -3:, -3:] == 0).all()
    assert (image[0, :, -3:, -3:] != 0).all()
    assert (batch["mask"][0, -3:, -3:] != 255).all(), "a pixel that one period observed is learned from"


def test_the_class_weight_counts_only_pixels_that_are_learned_from(tiles: TileSet, tmp_path: Path) -> None:
    module = casbah.finetune.TileDataModule(tiles=str(with_gap(tiles, tmp_path / "gappy").path), augment=False)
    module.setup("fit")
    masks = torch.cat([batch["mask"].flatten() for batch in module.train_dataloader()])
    assert module.building_share == float((masks == 1).sum()) / int((masks != 255).sum())


def test_augmentation_is_a_function_of_seed_epoch_and_tile_alone(tiles: TileSet) -> None:
    from casbah.finetune.datamodule import BatchOf

    def sample(rows: list[int], epoch: int, seed: int = 0) -> torch.Tensor:
        module = casbah.finetune.TileDataModule(tiles=str(tiles.path), jitter=0.1, seed=seed)
        module.setup("fit")
        return module.train_dataset[BatchOf(epoch, np.array(rows))]["image"]  # type: ignore[attr-defined]

    torch.testing.assert_close(sample([3], 2)[0], sample([5, 3, 1], 2)[1], rtol=0, atol=0)
    assert not torch.equal(sample([3], 2), sample([3], 3))
    assert not torch.equal(sample([3], 2), sample([3], 2, seed=1))


def test_image_mask_and_cover_turn_together(tiles: TileSet) -> None:
    for epoch in range(3):
        for batch in batches(tiles, epoch=epoch, soft_targets=True):
            known = batch["mask"] != 255
            assert torch.equal((batch["cover"][known] >= 0.5).long(), batch["mask"][known])
            brightness = batch["image"].mean(1)
            inside, outside = brightness[batch["mask"] == 1].mean(), brightness[batch["mask"] == 0].mean()
            assert inside > outside + 0.5, "the simulated pixels brighten with cover"


def test_the_order_changes_with_the_epoch_and_is_the_same_on_every_run(tiles: TileSet) -> None:
    def order(epoch: int) -> list[float]:
        return [float(v) for b in batches(tiles, epoch=epoch, augment=False) for v in b["image"][:, 0, 0, 0]]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


def test_fewer_labels_are_nested_drawn_by_block_and_the_same_everywhere() -> None:
    blocks = [f"b{i % 7}" for i in range(40)]
    previous: set[int] = set()
    for count in (1, 5, 12, 23, 40):
        rows = training_rows(blocks, count, seed=3)
        assert len(rows) == count
        assert previous <= set(rows)
        previous = set(rows)
        opened = {blocks[row] for row in rows}
        whole = [b for b in opened if {r for r in range(40) if blocks[r] == b} <= set(rows)]
        assert len(opened) - len(whole) <= 1, "a block is used up before the next is opened"
    assert training_rows(blocks, 12, seed=3).tolist() != training_rows(blocks, 12, seed=4).tolist()
    assert training_rows(blocks, None, seed=3).tolist() == list(range(40))


def test_the_module_learns_from_the_drawn_tiles_alone(tiles: TileSet) -> None:
    assert sum(len(batch["mask"]) for batch in batches(tiles, max_labels=5)) == 5


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize(("count", "batch_size"), [(16, 2), (27, 4), (53, 16), (100, 7)])
def test_processes_share_the_tiles_of_an_epoch(size: int, count: int, batch_size: int) -> None:
    """Each has as many batches as the others, every tile is in one of them, and batch normalisation has its two."""
    from casbah.finetune.datamodule import EpochBatches

    rows = np.arange(count) + 5
    for seed in (3, None):
        dealt = [list(EpochBatches(rows, batch_size, seed, epoch=1, rank=rank, size=size)) for rank in range(size)]
        assert len({len(batches) for batches in dealt}) == 1
        counted = [batch.rows for batches in dealt for batch in batches if not batch.filler]
        assert sorted(np.concatenate(counted).tolist()) == rows.tolist()
        if seed is not None and size > 1:
            assert min(len(part) for part in counted) >= 2
    alone = {tuple(batch.rows) for batch in EpochBatches(rows, batch_size, None)}
    assert {tuple(part) for part in counted} == alone, "batches to score by are those of one process"
