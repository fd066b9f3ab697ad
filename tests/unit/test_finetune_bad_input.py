"""A mistake in an experiment or in the tiles is one sentence that names it and what was probably meant."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_tiles

import casbah.finetune
from casbah.errors import InputError, WorldError
from casbah.experiments import FOLDER
from casbah.finetune import finetune
from casbah.finetune.experiment import read
from casbah.finetune.subset import training_rows
from casbah.products.manifest import sha256_of
from casbah.products.tiles import TileSet


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("bad") / "tiles")


def refusal(tiles: Path, output: Path, config: str | Path = "unet_scratch_small", **options: Any) -> str:
    """The message of the refusal; nothing may have been written."""
    with pytest.raises(InputError) as caught:
        finetune(config=config, tiles=tiles, output=output, **options)
    assert not output.exists()
    assert not list(output.parent.glob(".*.checkpoints"))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainr.max_epochs=3", ("trainr", "trainer")),
        ("trainer.max_epoch=3", ("max_epoch", "max_epochs")),
        ("model.init_args.learning_rate=3", ("learning_rate", "known are")),
        ("model.init_args.weight_decy=3", ("weight_decy", "weight_decay")),
        ("data.init_args.batchsize=3", ("batchsize", "batch_size")),
        ("model.class_path=casbah.finetune.BuildingSegmentationTsk", ("BuildingSegmentationTask",)),
        ("model.class_path=casbah.fintune.BuildingSegmentationTask", ("casbah.finetune.BuildingSegmentationTask",)),
        ("data.class_path=casbah.finetune.TileDatamodule", ("casbah.finetune.TileDataModule",)),
        ("trainer.callbacks.0.class_path=lightning.pytorch.callbacks.EarlyStoping", ("EarlyStopping",)),
        ("trainer.callbacks.0.init_args.patiense=3", ("patiense", "patience")),
        ("model.init_args.model_factory=SMPFactory", ("SMPFactory", "SMPModelFactory")),
        ("model.init_args.model_args.backbone=resnet81", ("resnet81", "resnet18")),
        ("model.init_args.model_args.model=UNet", ("UNet", "Unet")),
        ("model.init_args.model_args.smp_decoder_channel=[1]", ("smp_decoder_channel", "smp_decoder_channels")),
        ("model.init_args.lr=fast", ("lr", "fast")),
        ("data.init_args.bands=[B02, B10]", ("B10", "B12")),
        ("data.init_args.batch_size=1", ("batch_size", "2 or more")),
        ("model.init_args.model_args.backbone=tu-resnet18", ("tu-resnet18", "tu-resnet18.tv_in1k")),
        ("model.init_args.upsample=0", ("upsample", "1 or more")),
        ("model.init_args.model_args.in_channels=3", ("in_channels", "3", "12")),
        ("seed_everything=-1", ("seed_everything", "-1")),
        ("nonsense", ("nonsense", "dotted.key=value")),
        ("trainer.callbacks.7.class_path=X", ("7", "position")),
        ("data.class_path=GenericNonGeoSegmentationDataModule", ("TileDataModule", "casbah terratorch fit")),
        ("trainer.callbacks=3", ("trainer.callbacks", "3", "list")),
        ("trainer.callbacks.0.init_args=3", ("EarlyStopping", "init_args", "mapping")),
        ("trainer.callbacks.0={class_path: EarlyStopping, init_arg: {monitor: x}}", ("init_arg", "init_args?")),
        ("model.init_args.model_args=3", ("model_args", "mapping")),
        ("model.init_args.model_factory=[a]", ("model_factory", "SMPModelFactory")),
        ("model.init_args.model_args.backbone_ckpt_path=w.pt", ("backbone_ckpt_path", "unknown")),
        ("trainer.max_epochs.x=3", ("trainer.max_epochs", "60", "nothing below it")),
        ("trainer.max_epochs=many", ("trainer.max_epochs is many; a whole number",)),
        ("trainer.precision=bf17", ("trainer.precision is bf17", "bf16-mixed")),
        ("trainer.callbacks.0.init_args.patience=soon", ("EarlyStopping", "patience is soon; a whole number")),
        ("data.init_args.layout=stack", ("data.init_args.layout is stack; channels or frames is wanted",)),
        ("data.init_args.normalisation=landsat", ("normalisation is landsat; train, imagenet, prithvi_v1",)),
        ("data.init_args.batch_size=2.5", ("batch_size is 2.5; a whole number is wanted",)),
        ("data.init_args.bands=B02", ("bands is B02; a list or null is wanted",)),
        ("data.init_args.jitter=-1", ("data.init_args.jitter is -1; a finite number from 0 to 1",)),
        ("data.init_args.num_workers=-1", ("num_workers is -1",)),
        ("data.init_args.seed=-1", ("data.init_args.seed is -1",)),
        ("model.init_args.lr=-1", ("lr is -1; a finite number above 0",)),
        ("model.init_args.lr=.inf", ("lr is inf",)),
        ("model.init_args.backbone_lr=-1", ("backbone_lr is -1",)),
        ("model.init_args.warmup=5", ("warmup is 5; a finite number from 0 to 1",)),
        ("model.init_args.weight_decay=-1", ("weight_decay is -1",)),
        ("model.init_args.loss=dice", ("model.init_args.loss is dice", "cross_entropy", "focal")),
        ("model.init_args.loss=none", ("class_balance is sqrt", "set class_balance to none")),
        ("model.init_args.gamma=-1", ("gamma is -1; a finite number from 0 on",)),
        ("model.init_args.lovasz=-1", ("lovasz is -1",)),
        ("model.init_args.unmapped=1", ("unmapped is 1; a finite number from 0 to 0.9",)),
        ("model.init_args.unmaped=0.3", ("unmaped", "did you mean unmapped")),
        ("seed_everything=99999999999", ("seed_everything", "99999999999", "4294967295")),
        ("optimizer={class_path: torch.optim.AdamW}", ("leave out optimizer", "model.init_args.lr")),
        ("lr_scheduler={class_path: torch.optim.lr_scheduler.StepLR}", ("leave out lr_scheduler",)),
        ("trainer.callbacks.0.init_args.monitor=val/IoU_bilding", ("EarlyStopping", "val/IoU_building")),
        ("trainer.callbacks.1.init_args.monitor=val/IoU_bilding", ("EpochModelCheckpoint", "mean val/IoU_building")),
        ("trainer.callbacks.0={class_path: LearningRateMonitor}", ("LearningRateMonitor", "no logger")),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one(
    tiles: TileSet, tmp_path: Path, override: str, words: tuple[str, ...]
) -> None:
    message = refusal(tiles.path, tmp_path / "model", overrides=[override])
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.init_args.model_args.backbone=prithvi_100M", ("prithvi_100M", "prithvi_eo_v")),
        ("model.init_args.model_args.backbone=prithvi_eo_v2_tiny", ("prithvi_eo_v2_tiny_tl",)),
        ("model.init_args.model_args.decoder=UpperNetDecoder", ("UperNetDecoder",)),
        ("model.init_args.model_args.necks.1.name=ReshapeTokens", ("ReshapeTokensToImage",)),
        ("model.init_args.model_args.backbone_num_frame=3", ("backbone_num_frame", "backbone_num_frames")),
        ("model.init_args.model_args.decoder_chanels=3", ("decoder_chanels", "did you mean decoder_channels")),
        ("model.init_args.model_args.head_dropot=0.1", ("head_dropot", "did you mean head_dropout")),
        ("model.init_args.model_args.backbone_pretrainde=true", ("did you mean backbone_pretrained",)),
        ("model.init_args.model_args.necks=3", ("necks", "list")),
        ("model.init_args.model_args.necks.0.indice=[1]", ("SelectIndices", "indice", "indices")),
        ("model.init_args.model_args.necks.0.indices=[2, 5, 8, 99]", ("necks.0.indices", "99", "12 layers")),
        ("data.init_args.bands.0.x=3", ("data.init_args.bands.0", "B02")),
        ("data.init_args.bands=[B02, B05]", ("B05", "prithvi_v2")),
        ("model.init_args.model_args.backbone_num_frames=3", ("backbone_num_frames", "3", "1")),
    ],
)
def test_a_wrong_backbone_decoder_neck_or_argument_is_refused_before_training(
    tiles: TileSet, tmp_path: Path, override: str, words: tuple[str, ...]
) -> None:
    message = refusal(tiles.path, tmp_path / "model", config="prithvi_tiny_upernet", overrides=[override])
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss=none", "class_balance=none", "tversky=0"], ("nothing would be learned",)),
        (["lovasz=1", "unmapped=0.2"], ("Lovász", "unmapped")),
        (["lovasz=1", "soft"], ("Lovász", "data.init_args.soft_targets to false")),
    ],
)
def test_terms_of_the_loss_that_do_not_go_together_are_refused_before_training(
    tiles: TileSet, tmp_path: Path, overrides: list[str], words: tuple[str, ...]
) -> None:
    given = ["data.init_args.soft_targets=true" if o == "soft" else f"model.init_args.{o}" for o in overrides]
    message = refusal(tiles.path, tmp_path / "model", overrides=given)
    assert all(word in message for word in words), message


def test_a_missing_file_and_an_unknown_name_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml does not exist.*unet_scratch_small"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match=r"'unet_scrach'.*unet_scratch_small"):
        read("unet_scrach")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainer: {}\ntrainer: {}\n", "'trainer' stands twice"),
        ("model:\n  class_path: a\n  class_path: b\n", "'class_path' stands twice"),
        ("trainer: [", "not YAML"),
        ("- a\n", "mapping"),
        ("", "mapping"),
        ("trainer: {}\n", "model names no class"),
        ("kind: forest\n", "boosted_pixels"),
        ("? [a, b]\n: 3\n", "line 1 is a list"),
        ("kind: boosted_pixels\nseed: abc\n", "seed is 'abc'"),
        ("kind: boosted_pixels\nseed: null\n", "seed is None"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        read(file)


def test_merge_keys_fill_in_what_is_not_said_again(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "kind: boosted_pixels\n"
        "features: &few {means: [3], deviations: [3]}\n"
        "trees: {rounds: 3}\n"
        "more: &more {<<: *few, means: [5]}\n"
        "most: {<<: *more, deviations: [7]}\n"
    )
    settings = read(file).settings
    assert settings["more"] == {"means": [5], "deviations": [3]}
    assert settings["most"] == {"means": [5], "deviations": [7]}


@pytest.mark.parametrize("config", ["unet_scratch_small", "boosted_pixels"])
def test_a_seed_that_no_generator_takes_is_refused(tiles: TileSet, tmp_path: Path, config: str) -> None:
    assert "--seed is -1" in refusal(tiles.path, tmp_path / "model", config=config, seed=-1)


STOCK = [
    "model.class_path=terratorch.tasks.SemanticSegmentationTask",
    "model.init_args={model_factory: SMPModelFactory, class_names: [background, building], ignore_index: 255, "
    "model_args: {model: Unet, backbone: resnet18, pretrained: false, num_classes: 2, in_channels: 12, bands: [1]}}",
]
"""TerraTorch's own task on our tiles."""


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer={class_path: torch.optim.AdmW}", ("optimizer", "torch.optim.AdamW")),
        ("lr_scheduler={class_path: torch.optim.lr_scheduler.StepRL}", ("lr_scheduler", "StepLR")),
        ("model.init_args.lr=-1", ("lr is -1",)),
        ("trainer.callbacks.0.init_args.monitor=val/IoU_bilding", ("EarlyStopping", "val/IoU_building")),
    ],
)
def test_terratorchs_own_task_is_checked_as_well(
    tiles: TileSet, tmp_path: Path, override: str, words: tuple[str, ...]
) -> None:
    message = refusal(tiles.path, tmp_path / "model", overrides=[*STOCK, override])
    assert all(word in message for word in words), message


def test_terratorchs_own_task_may_not_download_weights_that_casbah_checks(tiles: TileSet, tmp_path: Path) -> None:
    settings = {"backbone": "resnet50", "pretrained": "true"}
    more = [f"model.init_args.model_args.{key}={value}" for key, value in settings.items()]
    overrides = [*STOCK, *more, "data.init_args.normalisation=imagenet"]
    message = refusal(tiles.path, tmp_path / "model", overrides=overrides)
    assert "would download resnet50_imagenet by itself, unchecked" in message


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text((FOLDER / "unet_scratch_small.yaml").read_text().replace("1.0e-3", "1e-3"))
    assert read(file).settings["model"]["init_args"]["lr"] == 0.001


def damaged(tiles: TileSet, target: Path, change: Any) -> TileSet:
    """A finished TileSet whose files `change` has edited first."""
    import shutil

    with TileSet.write(target, parameters={}) as draft:
        for item in tiles.path.iterdir():
            if item.name != "manifest.json":
                copy = shutil.copytree if item.is_dir() else shutil.copyfile
                copy(item, draft.directory / item.name)
        change(draft.directory)
    return TileSet.open(target)


def edit_statistics(directory: Path) -> None:
    statistics = json.loads((directory / "statistics.json").read_text())
    statistics["std"][0][3] = 0.0
    (directory / "statistics.json").write_text(json.dumps(statistics))


def edit_nan(directory: Path) -> None:
    images = np.load(directory / "train/images.npy").astype("float32")
    images[3, 0, 1, 4, 5] = np.nan
    np.save(directory / "train/images.npy", images)


def edit_masks(directory: Path) -> None:
    np.save(directory / "val/masks.npy", np.zeros_like(np.load(directory / "val/masks.npy")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit_nan, ("train/images.npy", "NaN", "tile 3", "block")),
        (edit_statistics, ("statistics.json", "deviation")),
        (edit_masks, ("val", "no building")),
    ],
)
def test_tiles_that_can_not_be_learned_from_are_refused(
    tiles: TileSet, tmp_path: Path, change: Any, words: tuple[str, ...]
) -> None:
    broken = damaged(tiles, tmp_path / "broken", change)
    message = refusal(broken.path, tmp_path / "model")
    assert all(word in message for word in words), message


def test_finetune_reads_every_file_of_the_tiles_once_to_check_it(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def counting(path: Path) -> str:
        checked.append(path.relative_to(tiles.path).as_posix())
        return sha256_of(path)

    monkeypatch.setattr("casbah.products.manifest.sha256_of", counting)
    refusal(tiles.path, tmp_path / "model", max_labels=100_000)
    assert sorted(checked) == sorted(tiles.manifest.files)


def test_a_draw_of_labels_without_a_building_is_refused(tiles: TileSet, tmp_path: Path) -> None:
    def empty_all_but_one(directory: Path) -> None:
        masks = np.load(directory / "train/masks.npy")
        masks[1:] = 0
        np.save(directory / "train/masks.npy", masks)

    broken = damaged(tiles, tmp_path / "broken", empty_all_but_one)
    drawn = [seed for seed in range(20) if 0 not in training_rows(broken.split("train").blocks, 3, seed)]
    message = refusal(broken.path, tmp_path / "model", max_labels=3, seed=drawn[0])
    assert "the 3 tiles to learn from hold no building pixel: raise max_labels" in message


@pytest.mark.parametrize("config", ["unet_scratch_small", "boosted_pixels"])
def test_what_a_later_fold_lacks_is_said_before_the_first_is_trained(tmp_path: Path, config: str) -> None:
    folds = make_tiles(tmp_path / "folds", folds=2)
    first, second = (len(fold.split("train")) for fold in folds.folds)
    assert second < first
    assert f"has {second} tiles" in refusal(folds.path, tmp_path / "models", config=config, max_labels=first)


def test_more_labels_than_there_are_and_a_missing_tile_set_are_refused(tiles: TileSet, tmp_path: Path) -> None:
    assert "100000" in refusal(tiles.path, tmp_path / "model", max_labels=100_000)
    assert "nowhere" in refusal(tmp_path / "nowhere", tmp_path / "model")


def test_an_output_that_holds_something_else_is_left_alone(tiles: TileSet, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(InputError, match="something else"):
        finetune(config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_weights_that_can_not_be_had_fail_within_seconds_and_say_what_to_do(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained = ["model.init_args.model_args.backbone_pretrained=true"]
    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = r"Prithvi-EO-2.0-tiny-TL.*HF_HUB_OFFLINE.*casbah weights add .*; or set model_args.backbone_pretrained to"
    with pytest.raises(WorldError, match=words):
        finetune(config="prithvi_tiny_upernet", tiles=tiles.path, output=tmp_path / "model", overrides=pretrained)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorldError, match=r"127\.0\.0\.1:9 does not answer"):
        finetune(config="prithvi_tiny_upernet", tiles=tiles.path, output=tmp_path / "model", overrides=pretrained)
    missing = [*pretrained, f"model.init_args.model_args.backbone_ckpt_path={tmp_path / 'w.pt'}"]
    with pytest.raises(InputError, match=r"w\.pt, which is no file"):
        finetune(config="prithvi_tiny_upernet", tiles=tiles.path, output=tmp_path / "model", overrides=missing)


def test_weights_whose_licence_was_not_accepted_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah.finetune import weights

    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(InputError, match=r"x\.yaml: mit_b2_imagenet .*--accept-licence nvidia-segformer"):
        weights.check({"model": "Segformer", "backbone": "mit_b2"}, "x.yaml")


@pytest.mark.parametrize(
    ("backbone", "repository"),
    [("tu-resnet18.a1_in1k", "timm/resnet18.a1_in1k"), ("resnet18", "smp-hub/resnet18.imagenet")],
)
def test_weights_of_other_houses_are_looked_for_in_the_cache_and_no_file_is_advised_that_they_can_not_take(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, repository: str
) -> None:
    from casbah.finetune import weights

    asked = {"model": "Unet", "backbone": backbone}  # which SMPModelFactory takes for pretrained
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WorldError, match=rf"{repository}.*not in the local cache.*pretrained to false") as caught:
        weights.check(asked, "x.yaml")
    assert "backbone_ckpt_path" not in str(caught.value)
    monkeypatch.setattr(weights.HubFile, "cached", True)
    weights.check(asked, "x.yaml")
    assert weights.pretraining(asked) == repository
    assert weights.pretraining(asked | {"pretrained": False}) is None


def test_a_datamodule_without_tiles_says_how_to_name_them() -> None:
    with pytest.raises(InputError, match="CASBAH_TILES"):
        _ = casbah.finetune.TileDataModule().tile_set


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_epochs=0", ("trainer.max_epochs", "0", "1 or more")),
        ("trainer.max_epochs=-1", ("trainer.max_epochs", "-1", "1 or more")),
        ("trainer.max_steps=0", ("max_steps", "epoch")),
        ("trainer.check_val_every_n_epoch=2", ("check_val_every_n_epoch", "2", "every epoch")),
        ("trainer.limit_val_batches=0", ("trainer.limit_val_batches", "0", "leave it out")),
        ("trainer.limit_train_batches=0", ("trainer.limit_train_batches", "0", "leave it out")),
    ],
)
def test_a_training_without_epochs_or_scores_is_refused(
    tiles: TileSet, tmp_path: Path, override: str, words: tuple[str, ...]
) -> None:
    message = refusal(tiles.path, tmp_path / "model", overrides=[override])
    assert all(word in message for word in words), message


def test_checkpoints_for_trees_are_refused_since_they_keep_none(tiles: TileSet, tmp_path: Path) -> None:
    message = refusal(tiles.path, tmp_path / "model", config="boosted_pixels", checkpoints=tmp_path / "c")
    assert "boosted_pixels" in message
    assert "no checkpoints" in message
