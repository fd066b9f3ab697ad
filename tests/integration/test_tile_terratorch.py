"""`--layout geotiff` is what TerraTorch's own datamodule reads."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import make_tiles

from casbah.models import torchvision_cure
from casbah.products.tiles import SPLITS

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("periods", [1, 2])
def test_terratorch_reads_the_same_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, periods: int):
    tiles = make_tiles(tmp_path / "t", periods=periods, layout="geotiff")
    monkeypatch.chdir(tiles.path)
    torchvision_cure.apply()
    described = yaml.safe_load((tiles.path / "geotiff" / "datamodule.yaml").read_text())["data"]
    module, name = described["class_path"].rsplit(".", 1)
    data = getattr(importlib.import_module(module), name)(**described["init_args"] | {"num_workers": 0})
    for split, stage in zip(SPLITS, ("fit", "validate", "test"), strict=True):
        data.setup(stage)
        dataset = {"train": "train_dataset", "val": "val_dataset", "test": "test_dataset"}[split]
        read = [getattr(data, dataset)[i] for i in range(len(tiles.split(split)))]
        # TerraTorch orders tiles by file name and we by place, so compare them as sets.
        wanted = {
            (_bytes(i), _bytes(m)) for i, m in zip(tiles.split(split).images, tiles.split(split).masks, strict=True)
        }
        found = {(_bytes(_frames(sample["image"].numpy(), periods)), _bytes(sample["mask"].numpy())) for sample in read}
        assert found == wanted
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[1:] == ((12, 32, 32) if periods == 1 else (12, 2, 32, 32))
    if periods == 1:
        # All training tiles, since a single batch is of tiles drawn at random.
        whole = {
            name: torch.stack([data.train_dataset[i][name] for i in range(len(data.train_dataset))])
            for name in batch
            if name in ("image", "mask")
        }
        assert abs(float(data.aug(whole)["image"].mean())) < 0.5


def _frames(image: np.ndarray, periods: int) -> np.ndarray:
    """(bands, rows, cols) or (bands, periods, rows, cols) -> (periods, bands, rows, cols)."""
    return image[None] if periods == 1 else image.swapaxes(0, 1)


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).astype("uint16").tobytes()
