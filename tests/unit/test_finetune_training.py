"""Training balances the classes for real, frees the backbone on time, stops at NaN, and writes what predicts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import make_tiles

import casbah.finetune
from casbah import models, scoring
from casbah.errors import CasbahError, InputError
from casbah.finetune import finetune
from casbah.models import torchvision_cure
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet

torchvision_cure.apply()  # before the first import of lightning, which imports torchvision


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("training") / "tiles")


@pytest.fixture(scope="module")
def bundle(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    output = tmp_path_factory.mktemp("model") / "unet"
    return finetune(config="unet_scratch_small", tiles=tiles.path, output=output, overrides=["trainer.max_epochs=5"])


def test_the_score_is_that_of_the_scoring_room() -> None:
    from casbah.finetune.task import BuildingScore

    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (3, 16, 16))
    probability = np.clip(mask * 0.3 + rng.random(mask.shape) * 0.7, 0, 1).round(3).astype(np.float32)
    mask[:, :2] = 255
    score = BuildingScore()
    for part in range(3):
        score.update(torch.from_numpy(probability[part : part + 1]), torch.from_numpy(mask[part : part + 1]))
    found = score.compute()
    assert float(found["IoU_building"]) == pytest.approx(scoring.iou(scoring.confusion(probability >= 0.5, mask)))
    at = float(found["threshold"])
    best = scoring.iou(scoring.confusion(probability >= at, mask))
    assert float(found["IoU_building_best"]) == pytest.approx(best, abs=0.02)


class Recorder:
    """Notes whether the backbone moved in each epoch."""

    def __new__(cls) -> Any:
        from lightning.pytorch import Callback

        from casbah.models import network

        class Recording(Callback):
            moved: list[bool]
            rates: list[tuple[float, float]]

            def __init__(self) -> None:
                self.moved, self.rates = [], []

            def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
                state = network.encoder_of(pl_module.model).state_dict()
                self.before = {name: value.clone() for name, value in state.items()}

            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                state = network.encoder_of(pl_module.model).state_dict()
                self.moved.append(any(not torch.equal(value, self.before[name]) for name, value in state.items()))
                self.rates.append(tuple(group["initial_lr"] for group in trainer.optimizers[0].param_groups))

        return Recording()


def fit(tiles: TileSet, directory: Path, epochs: int, *more: Any, **task: Any) -> Any:
    """Train a small U-Net through Lightning itself."""
    module = casbah.finetune.TileDataModule(tiles=str(tiles.path), batch_size=16)
    model = casbah.finetune.BuildingSegmentationTask(
        "SMPModelFactory", {"model": "Unet", "backbone": "resnet18", "pretrained": False}, **task
    )
    from lightning.pytorch import Trainer

    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=directory,
        callbacks=list(more),
        accelerator="cpu",
    )
    trainer.fit(model, datamodule=module)
    return model


def test_the_settings_of_the_loss_reach_it_and_the_weight_counts_the_unmapped_buildings_in(
    tiles: TileSet, tmp_path: Path
) -> None:
    from casbah.finetune.loss import BuildingLoss

    terms: dict[str, Any] = {"tversky": 0.7, "gamma": 3.0, "unmapped": 0.5}
    task = fit(tiles, tmp_path, 1, class_balance="inverse", loss="focal", **terms)
    share = casbah.finetune.TileDataModule(tiles=str(tiles.path)).building_share / 0.5
    logits, mask = torch.randn(1, 2, 8, 8), torch.randint(0, 2, (1, 8, 8))
    wanted = BuildingLoss((1 - share) / share, pixel="focal", **terms)(logits, mask)
    assert float(task.criterion(logits, mask)) == pytest.approx(float(wanted), rel=1e-5)
    plain = fit(tiles, tmp_path, 1, loss="none", class_balance="none", lovasz=2.0)
    assert float(plain.criterion(logits, mask)) == pytest.approx(
        float(BuildingLoss(pixel="none", lovasz=2.0)(logits, mask)), rel=1e-5
    )


def test_the_backbone_rests_and_is_then_released_with_its_own_learning_rate(tiles: TileSet, tmp_path: Path) -> None:
    recorder = Recorder()
    fit(tiles, tmp_path, 4, casbah.finetune.ReleaseBackbone(2), recorder, lr=1e-3, backbone_lr=1e-5)
    assert recorder.moved == [False, False, True, True], "weights and batch statistics both rest"
    assert recorder.rates[0] == (1e-5, 1e-3)


def test_a_loss_that_is_no_number_stops_loudly_and_names_epoch_and_batch(tiles: TileSet, tmp_path: Path) -> None:
    from lightning.pytorch import Callback

    class Poison(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and batch_idx == 1:
                batch["image"][0] = torch.nan

    with pytest.raises(CasbahError, match=r"became nan in epoch 1, batch 1.*lr"):
        fit(tiles, tmp_path, 3, Poison())


def test_a_gradient_that_is_no_number_stops_before_the_step_and_names_epoch_and_batch(
    tiles: TileSet, tmp_path: Path
) -> None:
    """In bfloat16 or through a square root the loss can be finite where its gradient is not."""
    from lightning.pytorch import Callback

    class Poison(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1 and trainer.fit_loop.batch_idx == 1:
                next(p for p in pl_module.parameters() if p.grad is not None).grad[0] = torch.inf

    class Steps(Callback):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self.finite = all(torch.isfinite(p).all() for p in pl_module.parameters())

    steps = Steps()
    with pytest.raises(CasbahError, match=r"gradient.* became (inf|nan) in epoch 1, batch 1.*lr"):
        fit(tiles, tmp_path, 3, Poison(), steps)
    assert steps.finite, "no weight was spoiled"


def test_terratorchs_own_task_is_stopped_at_nan_as_well(tiles: TileSet, tmp_path: Path) -> None:
    overrides = [
        "trainer={max_epochs: 2, num_sanity_val_steps: 0}",
        "model.class_path=terratorch.tasks.SemanticSegmentationTask",
        "model.init_args={model_factory: SMPModelFactory, class_names: [background, building], ignore_index: 255, "
        "plot_on_val: false, lr: 1e30, model_args: {model: Unet, backbone: resnet18, pretrained: false, "
        "num_classes: 2, in_channels: 12, bands: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}}",
        "trainer.callbacks=[{class_path: casbah.finetune.EpochModelCheckpoint, init_args: {monitor: val/mIoU}}]",
    ]
    with pytest.raises(CasbahError, match=r"became (inf|nan) in epoch 0, batch \d.*lr"):
        finetune(config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "model", overrides=overrides)


def test_progress_moves_within_an_epoch_and_names_it(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah import journal, progress

    monkeypatch.setattr(progress, "JOURNAL_INTERVAL", 0)
    monkeypatch.setenv(journal.VARIABLE, str(tmp_path / "journal"))
    overrides = ["trainer.max_epochs=2", "model.init_args.flips_at_test=false"]
    finetune(config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "model", overrides=overrides)
    lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "progress" and line["name"].startswith("finetune")]
    batches = -(-len(tiles.split("train")) // 8)
    assert [step["done"] for step in steps] == list(range(1, 2 * batches + 1))
    assert {step["total"] for step in steps} == {2 * batches}
    assert steps[0]["note"] == "epoch 1 of 2"
    assert steps[-1]["note"].startswith("epoch 2 of 2, loss")


def test_a_logger_of_the_experiment_is_left_out_with_a_word(
    tiles: TileSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["trainer.max_epochs=1", "trainer.logger=true", "model.init_args.flips_at_test=false"]
    finetune(config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "model", overrides=overrides)
    assert "trainer.logger is left out; scores go to the MLflow server" in capsys.readouterr().err


def test_a_run_that_is_stopped_says_how_to_go_on(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning ends with SystemExit after SIGTERM and Ctrl-C."""
    from lightning.pytorch import Trainer

    def stopped(*given: Any, **more: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(Trainer, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        finetune(config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "model")
    assert "unet_scratch_small: stopped; no epoch was finished, and --resume goes on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_taken_only_where_the_device_has_it_and_the_experiment_allows_it(
    tiles: TileSet, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah.models import network

    asked = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return True

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [network.takes_bf16(gpu, True), network.takes_bf16(gpu, False)] == [True, False]
    assert asked == [False], "an emulated bfloat16 is slower than float32"
    for able, taken in (("avx512_bf16", True), ("amx_bf16", True), ("avx2", False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {able: True})
        assert network.takes_bf16(cpu, True) == taken
        assert not network.takes_bf16(cpu, False)
    assert network.load(bundle).mixed_precision
    exact = finetune(
        config="unet_scratch_small",
        tiles=tiles.path,
        output=tmp_path / "exact",
        overrides=["trainer.max_epochs=1", "model.init_args.mixed_precision=false"],
    )
    assert not network.load(exact).mixed_precision
    told = exact.training
    assert (told.device, told.precision) == ("cpu", "float32")
    assert told.tiles_per_second == pytest.approx(len(tiles.split("train")) / told.seconds, rel=0.01)


def test_bfloat16_on_a_cpu_moves_probabilities_by_less_than_a_hundredth(
    bundle: ModelBundle, tiles: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah.models import network

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    images = np.asarray(tiles.split("val").images[:4])
    found = []
    for able in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able})
        found.append(network.load(bundle).probabilities(images))
    assert np.any(found[0] != found[1]), "both were computed in float32"
    assert np.abs(found[0] - found[1]).max() < 0.01
    assert bundle.training.rounding is not None
    assert 0 < bundle.training.rounding < 0.01


def test_a_network_that_bfloat16_moves_too_far_predicts_in_float32_and_says_so(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from casbah.models import network

    with monkeypatch.context() as patch:
        patch.setattr(network, "AGREES", 1e-9)
        patch.setattr(torch.cpu, "get_capabilities", lambda: {})  # measured where there is no bfloat16, too
        strict = finetune(
            config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "m", overrides=["trainer.max_epochs=1"]
        )
        assert "so the model predicts in float32" in capsys.readouterr().err
        assert not network.load(strict).mixed_precision
    assert strict.training.rounding is not None
    assert strict.training.rounding > 1e-9
    told = json.loads((strict.path / "training.json").read_text())
    far = strict.copy_to(tmp_path / "far", replaced={"training.json": told | {"rounding": 0.011}})
    assert not network.load(far).mixed_precision
    near = strict.copy_to(tmp_path / "near", replaced={"training.json": told | {"rounding": 0.009}})
    assert network.load(near).mixed_precision
    never = strict.copy_to(tmp_path / "never", replaced={"training.json": told | {"rounding": None}})
    assert not network.load(never).mixed_precision, "nobody has measured it"


FRESH = """
import importlib, os, sys
from casbah.models import torchvision_cure
torchvision_cure.apply()
import lightning.pytorch, mlflow, torch, torchgeo.trainers
assert "terratorch" not in sys.modules
for module in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    try:
        importlib.import_module(module)
        from casbah.models import network
        with network.quiet():
            import terratorch.models.backbones.clay_v15.model
        print(module, torch.get_float32_matmul_precision(), flush=True)
    finally:
        os._exit(0)
"""
"""Imports each module in a process that has not imported TerraTorch yet, but most of what TerraTorch imports."""


def test_float32_is_float32_whatever_a_backbone_of_terratorch_asks_for_when_it_is_imported() -> None:
    modules = ("casbah.finetune.fit", "casbah.finetune.task", "casbah.models.network")
    done = subprocess.run([sys.executable, "-c", FRESH, *modules], capture_output=True, text=True)
    assert dict(line.split() for line in done.stdout.splitlines()) == dict.fromkeys(modules, "highest"), done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_epoch_in_bfloat16_on_a_gpu_gives_a_bundle_that_predicts(tiles: TileSet, tmp_path: Path) -> None:
    bundle = finetune(
        config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "gpu", overrides=["trainer.max_epochs=1"]
    )
    found = models.load(bundle).probabilities(np.asarray(tiles.split("val").images))
    assert np.isfinite(found).all()
    counts = scoring.confusion(scoring.called_building(found, bundle.training.threshold), tiles.split("val").masks)
    assert list(counts) == bundle.metrics["validation"]["counts"]


def test_a_bundle_says_where_its_weights_come_from(bundle: ModelBundle) -> None:
    training = bundle.training
    assert training.weights_origin == "random weights"
    assert training.model_copy(update={"pretrained": "ibm/x"}).weights_origin == "pretrained: ibm/x"
    assert training.model_copy(update={"kind": "trees"}).weights_origin == "trees"


def test_the_bundle_learned_something_and_says_what_it_takes(tiles: TileSet, bundle: ModelBundle) -> None:
    training = bundle.training
    assert training.kind == "network"
    assert training.bands == tiles.info.bands
    assert training.pretrained is None
    assert training.tiles == tiles.digest
    assert set(training.blocks["train"]).isdisjoint(training.blocks["val"])
    assert set(training.blocks["val"]) == set(tiles.info.blocks["val"])
    assert training.epochs == 5
    assert len(bundle.metrics["history"]) == 5
    share = (np.asarray(tiles.split("val").masks) == 1).mean()
    assert bundle.metrics["validation"]["iou"] > 3 * share
    assert set(training.input_range) == set(training.bands)
    assert (bundle.path / "metrics.csv").read_text().count("\n") == 6


def test_a_loaded_bundle_scores_on_validation_what_it_says(tiles: TileSet, bundle: ModelBundle) -> None:
    predictor, split = models.load(bundle), tiles.split("val")
    index = models.band_index(bundle.training, tiles.info.bands)
    found = predictor.probabilities(np.asarray(split.images)[:, :, index])
    assert found.dtype == np.float32
    assert found.shape == split.masks.shape
    assert 0 <= found.min() <= found.max() <= 1
    counts = scoring.confusion(found >= np.float32(bundle.training.threshold), split.masks)
    assert list(counts) == bundle.metrics["validation"]["counts"]
    assert bundle.training.threshold == scoring.best_threshold(found, split.masks)


def test_predictions_turn_with_the_image_and_any_size_will_do(tiles: TileSet, bundle: ModelBundle) -> None:
    predictor = models.load(bundle)
    images = np.asarray(tiles.split("val").images[:2])
    np.testing.assert_allclose(
        predictor.probabilities(np.ascontiguousarray(np.rot90(images, 1, (-2, -1)))),
        np.rot90(predictor.probabilities(images), 1, (-2, -1)),
        atol=1e-4,
    )
    assert predictor.probabilities(images[..., :17, :29]).shape == (2, 17, 29)
    assert predictor.probabilities(images[:0]).shape == (0, 32, 32)


def test_images_of_another_shape_or_type_are_refused(tiles: TileSet, bundle: ModelBundle) -> None:
    predictor, images = models.load(bundle), np.asarray(tiles.split("val").images[:1])
    with pytest.raises(InputError, match="12 bands"):
        predictor.probabilities(images[:, :, :6])
    with pytest.raises(InputError, match="uint16"):
        predictor.probabilities(images.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"lack B8A"):
        models.band_index(bundle.training, [band for band in tiles.info.bands if band != "B8A"])


def test_weights_that_do_not_fit_the_description_are_refused(bundle: ModelBundle, tmp_path: Path) -> None:
    import shutil

    config = yaml.safe_load(bundle.config_path.read_text())
    config["model"]["init_args"]["model_args"]["smp_decoder_channels"] = [128, 64, 32, 16]
    with ModelBundle.write(tmp_path / "other", parameters={}) as draft:
        shutil.copytree(bundle.path, draft.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest*"))
        (draft.directory / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="do not fit"):
        models.load(ModelBundle.open(tmp_path / "other"))


def test_the_resolved_config_trains_the_same_model_again(tiles: TileSet, bundle: ModelBundle, tmp_path: Path) -> None:
    again = finetune(config=bundle.config_path, tiles=tiles.path, output=tmp_path / "again")
    assert again.weights_path.read_bytes() == bundle.weights_path.read_bytes()
    assert again.training.config == bundle.training.config


def test_two_periods_and_fewer_labels_train_prithvi_from_the_same_file(tmp_path: Path) -> None:
    tiles = make_tiles(tmp_path / "tiles", periods=2)
    bundle = finetune(
        config="prithvi_tiny_upernet",
        tiles=tiles.path,
        output=tmp_path / "model",
        max_labels=6,
        overrides=["trainer.max_epochs=1", "data.init_args.soft_targets=true", "model.init_args.upsample=2"],
        seed=4,
    )
    assert bundle.training.periods == 2
    assert bundle.training.seed == 4
    assert len(bundle.training.blocks["train"]) < len(tiles.info.blocks["train"])
    images = np.asarray(tiles.split("val").images)[:, :, models.band_index(bundle.training, tiles.info.bands)]
    assert models.load(bundle).probabilities(images).shape == images[:, 0, 0].shape


def test_terratorchs_own_task_trains_on_our_tiles(tiles: TileSet, tmp_path: Path) -> None:
    file = tmp_path / "stock.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "trainer": {"max_epochs": 1, "num_sanity_val_steps": 0},
                "data": {"class_path": "casbah.finetune.TileDataModule"},
                "model": {
                    "class_path": "terratorch.tasks.SemanticSegmentationTask",
                    "init_args": {
                        "model_factory": "SMPModelFactory",
                        "model_args": {
                            "model": "Unet",
                            "backbone": "resnet18",
                            "pretrained": False,
                            "num_classes": 2,
                            "in_channels": 12,
                            "bands": list(range(12)),
                        },
                        "ignore_index": 255,
                        "class_names": ["background", "building"],
                        "plot_on_val": False,
                    },
                },
            }
            | {}
        )
    )
    monitor = (
        "trainer.callbacks=[{class_path: casbah.finetune.EpochModelCheckpoint, init_args: {monitor: val/IoU_building}}]"
    )
    bundle = finetune(config=file, tiles=tiles.path, output=tmp_path / "model", overrides=[monitor])
    assert bundle.metrics["monitor"] == "val/IoU_building"


def test_every_fold_and_the_refit_are_trained_and_done_folds_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = make_tiles(tmp_path / "folds", folds=2)
    options: dict[str, Any] = {
        "config": "unet_scratch_small",
        "tiles": folds.path,
        "overrides": ["trainer.max_epochs=1"],
    }
    bundle = finetune(output=tmp_path / "models", **options)
    assert bundle.path == tmp_path / "models/refit"
    assert bundle.training.refit == "refit of 2 folds"
    first = (tmp_path / "models/fold_0/manifest.json").stat().st_mtime_ns
    tested = [set(fold.info.blocks["test"]) for fold in folds.folds]
    for number, blocks in enumerate(tested):
        fold = ModelBundle.open(tmp_path / f"models/fold_{number}")
        assert blocks.isdisjoint(fold.training.blocks["train"] + fold.training.blocks["val"])
    capsys.readouterr()
    finetune(output=tmp_path / "models", resume=True, **options)
    assert capsys.readouterr().err.count("is kept") == 3
    assert (tmp_path / "models/fold_0/manifest.json").stat().st_mtime_ns == first
