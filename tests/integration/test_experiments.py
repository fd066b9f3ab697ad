"""Every built-in experiment: small ones train and are scored, full-size ones load published weights and learn."""

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_tiles
from safetensors.torch import save_file
from torch import Tensor, nn

import casbah.finetune
from casbah import experiments, weights
from casbah.evaluate import evaluate
from casbah.finetune import finetune
from casbah.finetune.experiment import read
from casbah.models import network
from casbah.products.tiles import TileSet

with network.quiet():
    from terratorch.models.utils import TemporalWrapper

pytestmark = [pytest.mark.integration, pytest.mark.long]

PRETRAINED = sorted(
    name
    for name in experiments.names()
    if re.search(r"^ +(backbone_)?pretrained: true", experiments.find(name).read_text(), re.MULTILINE)
)
"""Rows that start from published weights."""

ELSEWHERE = ("unet_scratch", "ensemble", "ensemble_small")
"""Not trained here: the first is unet_scratch_small at many times the work; ensembles have tests of their own."""

HERE = [name for name in experiments.names() if name not in PRETRAINED and name not in ELSEWHERE]

QUICK = {
    "network": ["trainer.max_epochs=1"],
    "boosted_pixels": ["trees.rounds=3"],
}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    """A simulated town on two dates, as level 1C: every family of backbones takes several dates."""
    return make_tiles(tmp_path_factory.mktemp("town") / "tiles", periods=2, level="L1C")


@pytest.mark.parametrize("name", HERE)
def test_a_row_trains_and_is_scored_on_two_dates(name: str, tiles: TileSet, tmp_path: Path) -> None:
    quick = QUICK[read(name).kind]
    model = finetune(config=name, tiles=tiles.path, output=tmp_path / "model", overrides=quick)
    assert model.training.experiment == name
    assert model.training.periods == 2
    assert model.training.pretrained is None, "random weights are not called pretrained"
    metrics = evaluate(model=model.path, tiles=tiles.path, output=tmp_path / "scores").metrics
    assert metrics.building.iou.value is not None
    assert sum(block.tp + block.fp + block.fn + block.tn for block in metrics.blocks) > 0


def test_every_row_that_starts_from_published_weights_has_a_small_one_for_a_cpu() -> None:
    without = {name for name in PRETRAINED if f"{name}_small" not in experiments.names()}
    assert not without


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield tmp_path / "store"
    gc.collect()  # up to 3 GB each


def published(encoder: nn.Module, backbone: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file of the tensors that a backbone has, under the prefixes, and with the extras, of its published layout."""
    state = {
        name: torch.randn_like(value).abs() * 0.02 if value.is_floating_point() else value.clone()
        for name, value in encoder.state_dict().items()
    }
    # Of every block its first norm: the network has to hold these very numbers afterwards.
    kept = {name: value for name, value in state.items() if name.endswith(("norm1.weight", "bn1.weight"))}
    if backbone in ("resnet50", "mit_b2"):
        first = next(name for name, value in state.items() if value.ndim == 4)
        state[first] = state[first][:, :3].clone()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
        return folder / "model.safetensors", kept
    wrapped: Any = state
    if backbone.startswith("prithvi"):
        wrapped = {f"encoder.{name}": value for name, value in state.items()} | {"decoder.mask_token": torch.zeros(3)}
    elif backbone.startswith("satmae"):
        wrapped = {"model": {**state, "mask_token": torch.zeros(3)}, "epoch": 199}
    torch.save(wrapped, folder / "published.pt")
    return folder / "published.pt", kept


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_full_size_row_loads_its_published_file_and_takes_a_step(
    name: str, tiles: TileSet, tmp_path: Path, store: Path
) -> None:
    settings = read(name).settings
    task, data = settings["model"]["init_args"], settings["data"]["init_args"]
    module = casbah.finetune.TileDataModule(tiles=str(tiles.path), **data | {"batch_size": 2})
    module.setup("fit")
    model_args = complete(task, module)
    bare = bare_of(network.build(task["model_factory"], network.untrained(model_args)))
    file, kept = published(bare, model_args["backbone"], tmp_path)
    if task["model_factory"] == "SMPModelFactory":
        weights.add(f"{model_args['backbone']}_imagenet", file, accept=licences(model_args["backbone"]))
    else:
        model_args = model_args | {"backbone_ckpt_path": str(file)}
    del bare
    model: Any = network.build(task["model_factory"], model_args).train()
    assert "keys matched" in model.starts_from
    loaded = bare_of(model).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in kept.items())
    batch = next(iter(module.train_dataloader()))
    learns = {name: value.detach().clone() for name, value in network.encoder_of(model).named_parameters()}
    found = network.logits(model, batch["image"], task.get("upsample", 1))
    assert found.shape == (2, 2, 32, 32)
    nn.functional.cross_entropy(found, batch["mask"], ignore_index=255).backward()
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    moved = {
        name for name, value in network.encoder_of(model).named_parameters() if not torch.equal(value, learns[name])
    }
    assert len(moved) > len(learns) / 2, "the backbone learns"


def bare_of(model: nn.Module) -> Any:
    """The backbone without TerraTorch's wrapper for several dates."""
    encoder: Any = network.encoder_of(model)
    return encoder.encoder if isinstance(encoder, TemporalWrapper) else encoder


def complete(task: dict[str, Any], module: Any) -> dict[str, Any]:
    from casbah.finetune.task import complete as filled

    return filled(task["model_factory"], task["model_args"] | {"num_classes": 2}, module, task.get("upsample", 1))


def licences(backbone: str) -> list[str]:
    licence = weights.find(f"{backbone}_imagenet").licence
    return [licence] if licence else []
