"""A machine that can't train a network says so before it starts, and what it could train."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from builders import make_tiles

from casbah.errors import InputError
from casbah.finetune import finetune
from casbah.models import torchvision_cure
from casbah.products.tiles import TileSet


@pytest.fixture(scope="module")
def capacity() -> ModuleType:
    torchvision_cure.apply()  # before the first import of lightning, which imports torchvision
    return import_module("casbah.finetune.capacity")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("capacity") / "tiles")


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps"])
def test_a_gpu_that_is_not_there_is_refused_in_one_sentence(
    tiles: TileSet, tmp_path: Path, accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError) as caught:
        finetune(
            config="unet_scratch",
            tiles=tiles.path,
            output=tmp_path / "model",
            overrides=[f"trainer.accelerator={accelerator}"],
        )
    said = str(caught.value)
    assert f"trainer.accelerator is {accelerator}, and torch finds no such device" in said
    assert "--set trainer.accelerator=auto" in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


def test_an_image_without_cuda_on_a_gpu_node_is_told_before_it_trains(
    capacity: ModuleType, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod would hold its GPU for hours otherwise, and train on the CPU."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    monkeypatch.setattr(capacity, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    settings = {"config": "unet_scratch_small", "tiles": tiles.path, "output": tmp_path / "model"}
    capacity._check_given()  # a node without a GPU for this pod
    (tmp_path / "dev" / "nvidia0").touch()
    with pytest.raises(InputError, match=r"was given the GPU .*nvidia0, .* built without CUDA: .*ACCELERATOR=cuda"):
        finetune(**settings)
    assert not (tmp_path / "model").exists()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    capacity._check_given()  # a person's own machine, where the choice of torch is theirs


def test_a_network_larger_than_the_memory_is_refused_before_it_trains_with_what_would_fit(
    capacity: ModuleType, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda: 12_000_000)
    with pytest.raises(InputError) as caught:
        finetune(config="unet_scratch", tiles=tiles.path, output=tmp_path / "model")
    said = str(caught.value)
    assert all(word in said for word in (" million parameters", "up to 1.0 million would fit", "unet_scratch_small"))
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


def test_a_network_that_fits_by_a_byte_passes(capacity: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(capacity, "free_memory", lambda: 12_000)
    capacity.check_memory("mine", 1000, cpu)
    with pytest.raises(InputError, match="smaller backbone"):
        capacity.check_memory("mine", 1001, cpu)


def test_on_a_gpu_its_own_memory_counts_and_the_weights_too(
    capacity: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (16_000, 32_000))
    capacity.check_memory("mine", 1000, gpu)
    with pytest.raises(InputError, match="the GPU has"):
        capacity.check_memory("mine", 1001, gpu)


def test_the_share_of_a_container_counts_without_what_the_system_only_keeps(
    capacity: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "CGROUP", tmp_path)
    whole = capacity.free_memory()
    assert whole > 2**20
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert capacity.free_memory() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert capacity.free_memory() > 2**20
