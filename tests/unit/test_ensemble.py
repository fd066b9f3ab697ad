"""An ensemble is the mean of its members, holds them whole, and is trained, scored and served like any model."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from builders import make_tiles
from safetensors.numpy import load_file, save_file

from casbah import models, scoring
from casbah.errors import InputError
from casbah.evaluate import evaluate, select
from casbah.finetune import checkpoints, ensemble, finetune
from casbah.finetune.experiment import read
from casbah.grid import Grid
from casbah.models import torchvision_cure
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileFolds, TileSet
from casbah.register.logged import requirements

GROUND = Grid("EPSG:32631", 500_000, 4_066_000, 192, 192)
BANDS = ("B02", "B03", "B04", "B08", "B11")


def forest(path: Path, rounds: int = 12, **more: Any) -> Path:
    """The YAML of a small forest."""
    settings = {"kind": "boosted_pixels", "trees": {"rounds": rounds, "min_samples_leaf": 5}} | more
    path.write_text(yaml.safe_dump(settings))
    return path


def unet(path: Path) -> Path:
    """The YAML of a U-Net after one epoch, of two bands."""
    settings = read(
        "unet_scratch_small",
        ["trainer.max_epochs=1", "model.init_args.flips_at_test=false", "data.init_args.bands=[B08, B04]"],
    ).settings
    path.write_text(yaml.safe_dump(settings))
    return path


def blend_of(path: Path, *members: Path | str, **more: Any) -> Path:
    path.write_text(yaml.safe_dump({"kind": "ensemble", "members": [str(m) for m in members]} | more))
    return path


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("ensemble") / "tiles", grid=GROUND, bands=BANDS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YAMLs of a forest of all bands, one of another band, and a U-Net of two."""
    place = tmp_path_factory.mktemp("experiments")
    forest(place / "trees.yaml")
    forest(place / "green.yaml", bands=["B03"])
    unet(place / "unet.yaml")
    return place


@pytest.fixture(scope="module")
def bundle(tiles: TileSet, place: Path) -> ModelBundle:
    config = blend_of(place / "blend.yaml", place / "green.yaml", place / "unet.yaml")
    return finetune(config=config, tiles=tiles.path, output=place / "model")


@pytest.fixture(scope="module")
def trained(tiles: TileSet, place: Path) -> list[Path]:
    """Two forests that were trained alone."""
    return [
        finetune(config=place / f"{name}.yaml", tiles=tiles.path, output=place / "runs" / name).path
        for name in ("trees", "green")
    ]


def validation_of(tiles: TileSet, bundle: ModelBundle) -> np.ndarray:
    index = models.band_index(bundle.training, tiles.info.bands)
    return np.asarray(tiles.split("val").images)[:, :, index]


def copied(bundle: ModelBundle, path: Path, change: Any) -> ModelBundle:
    """A bundle with other files, and a manifest that says so."""
    with ModelBundle.write(path, parameters={}) as draft:
        ignored = shutil.ignore_patterns("manifest.json")
        shutil.copytree(bundle.path, draft.directory, dirs_exist_ok=True, ignore=ignored)
        for file in bundle.path.glob("members/*/manifest.json"):
            shutil.copy(file, draft.directory / file.relative_to(bundle.path))
        change(draft.directory)
    return ModelBundle.open(path)


def test_it_holds_its_members_whole_and_says_the_mean_of_what_they_say(tiles: TileSet, bundle: ModelBundle) -> None:
    """Members of different bands each get their own out of the union."""
    training = bundle.training
    assert (training.kind, training.members, training.bands) == ("ensemble", ("green", "unet"), ("B03", "B04", "B08"))
    images = np.asarray(tiles.split("val").images)
    said = []
    for name in training.members:
        member = ModelBundle.open(bundle.path / "members" / name)
        index = models.band_index(member.training, tiles.info.bands)
        said.append(models.load(member).probabilities(np.ascontiguousarray(images[:, :, index])))
    assert bundle.members["unet"].training.bands == ("B08", "B04")
    assert np.abs(said[0] - said[1]).max() > 0.1, "members that agree show nothing"
    found = models.load(bundle).probabilities(validation_of(tiles, bundle))
    np.testing.assert_allclose(found, (said[0] + said[1]) / 2, atol=1e-6)
    assert load_file(bundle.weights_path)["weights"].tolist() == [0.5, 0.5]


def test_its_threshold_is_the_blends_best_on_validation(tiles: TileSet, bundle: ModelBundle) -> None:
    found, masks = models.load(bundle).probabilities(validation_of(tiles, bundle)), tiles.split("val").masks
    assert bundle.training.threshold == scoring.best_threshold(found, masks)
    counts = scoring.confusion(scoring.called_building(found, bundle.training.threshold), masks)
    assert list(counts) == bundle.metrics["validation"]["counts"]


def test_it_says_what_its_members_saw_and_hold(tiles: TileSet, bundle: ModelBundle) -> None:
    training, members = bundle.training, [member.training for member in bundle.members.values()]
    assert training.weights_origin == "ensemble of green, unet"
    assert training.pretrained is None
    assert training.parameters == sum(member.parameters for member in members)
    for split in ("train", "val"):
        assert set(training.blocks[split]) == {block for member in members for block in member.blocks[split]}
    assert set(training.blocks["train"]).isdisjoint(tiles.info.blocks["test"])
    assert bundle.metrics["members"]["green"]["weight"] == 0.5
    assert bundle.metrics["members"]["green"]["iou"] == bundle.members["green"].metrics["validation"]["iou"]


def test_nothing_of_a_test_block_moves_it(tiles: TileSet, place: Path, tmp_path: Path) -> None:
    config = blend_of(tmp_path / "blend.yaml", place / "trees.yaml", place / "green.yaml", weights="validation")
    plain = finetune(config=config, tiles=tiles.path, output=tmp_path / "plain")
    with TileSet.write(tmp_path / "other", parameters={}) as draft:
        shutil.copytree(tiles.path, draft.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        images, masks = (np.load(draft.directory / f"test/{name}.npy") for name in ("images", "masks"))
        np.save(draft.directory / "test/images.npy", images[::-1] + 7)
        np.save(draft.directory / "test/masks.npy", 1 - (masks == 1).astype(np.uint8))
    other = finetune(config=config, tiles=tmp_path / "other", output=tmp_path / "model")
    assert other.weights_path.read_bytes() == plain.weights_path.read_bytes()
    assert other.training.threshold == plain.training.threshold
    for name in ("trees", "green"):
        assert other.members[name].weights_path.read_bytes() == plain.members[name].weights_path.read_bytes()


def test_weights_from_validation_have_the_lowest_log_loss_and_leave_out_a_member_that_only_harms() -> None:
    rng = np.random.default_rng(0)
    building = rng.random(20_000) < 0.3
    good, fair = (np.clip(building * 0.6 + 0.2 + rng.normal(0, s, 20_000), 0.01, 0.99) for s in (0.1, 0.25))
    found = np.stack([good, fair, rng.random(20_000)]).astype(np.float32)

    def loss(weights: np.ndarray) -> float:
        chance = weights @ found
        return float(-np.log(np.where(building, chance, 1 - chance)).mean())

    best = ensemble.likeliest(found, building)
    assert best.sum() == pytest.approx(1)
    assert best.min() >= 0
    assert best[2] < 0.02
    tried = [np.eye(3)[0], np.full(3, 1 / 3), *rng.dirichlet(np.ones(3), 300)]
    assert loss(best) <= min(loss(weights) for weights in tried) + 1e-6


def test_weights_from_validation_are_stored_and_used(tiles: TileSet, trained: list[Path], tmp_path: Path) -> None:
    config = blend_of(tmp_path / "blend.yaml", *trained, weights="validation")
    bundle = finetune(config=config, tiles=tiles.path, output=tmp_path / "model")
    weights = load_file(bundle.weights_path)["weights"]
    assert weights[0] > weights[1] + 0.1, "the forest of all bands knows more"
    said = [
        models.load(member).probabilities(
            np.asarray(tiles.split("val").images)[:, :, models.band_index(member.training, tiles.info.bands)]
        )
        for member in bundle.members.values()
    ]
    found = models.load(bundle).probabilities(validation_of(tiles, bundle))
    np.testing.assert_allclose(found, weights[0] * said[0] + weights[1] * said[1], atol=1e-6)


def test_models_that_are_trained_already_are_taken_as_they_are(
    tiles: TileSet, trained: list[Path], tmp_path: Path
) -> None:
    bundle = finetune(
        config="ensemble",
        tiles=tiles.path,
        output=tmp_path / "model",
        overrides=[f"members=[{trained[0]}, {trained[1]}]"],
    )
    assert [member.digest for member in bundle.members.values()] == [ModelBundle.open(path).digest for path in trained]
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_finished_members_and_a_finished_ensemble_are_kept(
    tiles: TileSet, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = blend_of(tmp_path / "blend.yaml", place / "trees.yaml", place / "green.yaml")
    options: dict[str, Any] = {"config": config, "tiles": tiles.path, "output": tmp_path / "model"}

    def stopped(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ensemble, "blend", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune(**options)
    assert not (tmp_path / "model").exists()
    capsys.readouterr()
    bundle = finetune(resume=True, **options)
    assert capsys.readouterr().err.count("is kept") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"blend.yaml", "model"}, "the members lie in the bundle alone"
    again = finetune(resume=True, **options)
    assert "model was trained before, and is kept" in capsys.readouterr().err
    assert again.manifest.created == bundle.manifest.created


def test_a_member_keeps_its_checkpoints_elsewhere_than_the_same_experiment_alone(
    tiles: TileSet, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may train at the same time, and each clears away what is not its own."""
    mirrors: list[str | None] = []

    def told(*given: Any) -> Any:
        spot = checkpoints.place(*given)
        mirrors.append(str(spot.remote).rpartition("/")[0])
        raise KeyboardInterrupt

    torchvision_cure.apply()
    monkeypatch.setattr("casbah.finetune.fit.place", told)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    blend = blend_of(tmp_path / "blend.yaml", place / "unet.yaml", place / "green.yaml")
    for config in (blend, place / "unet.yaml"):
        with pytest.raises(KeyboardInterrupt):
            finetune(config=config, tiles=tiles.path, output=tmp_path / "model")
    assert mirrors[0] != mirrors[1] == "s3://casbah/checkpoints"
    assert str(mirrors[0]).startswith("s3://casbah/checkpoints/")


def test_an_ensemble_of_another_model_of_the_same_name_is_made_anew(
    tiles: TileSet, trained: list[Path], tmp_path: Path
) -> None:
    """Its configuration is the same, what was learned is not."""
    config = blend_of(tmp_path / "blend.yaml", *trained)
    first = finetune(config=config, tiles=tiles.path, output=tmp_path / "model")
    shutil.copytree(trained[0], tmp_path / trained[0].name)
    other = copied(ModelBundle.open(trained[0]), tmp_path / "x", lambda d: (d / "metrics.csv").write_text("other\n"))
    with ModelBundle.write(tmp_path / trained[0].name, parameters={}, inputs={"tiles": tiles.digest}) as draft:
        ignored = shutil.ignore_patterns("manifest.json")
        shutil.copytree(other.path, draft.directory, dirs_exist_ok=True, ignore=ignored)
    members = f"members=[{tmp_path / trained[0].name}, {trained[1]}]"
    second = finetune(config=config, tiles=tiles.path, output=tmp_path / "model", resume=True, overrides=[members])
    assert second.training.config == first.training.config
    assert (second.path / "members" / trained[0].name / "metrics.csv").read_text() == "other\n"


def test_it_is_evaluated_and_selected_like_every_other_model(
    tiles: TileSet, bundle: ModelBundle, trained: list[Path], tmp_path: Path
) -> None:
    paths, evaluations = [bundle.path, trained[1]], []
    for number, path in enumerate(paths):
        out = tmp_path / f"val-{number}"
        evaluations.append(evaluate(model=path, tiles=tiles.path, output=out, split="val", resamples=10))
    found = evaluations[0].metrics.building.iou.value
    assert found == pytest.approx(bundle.metrics["validation"]["iou"], abs=1e-6)
    best = select(models=paths, evaluations=[e.path for e in evaluations], output=tmp_path / "best")
    assert models.load(best).training.experiment in ("blend", "green")
    alone = select(models=paths[:1], evaluations=[evaluations[0].path], output=tmp_path / "alone")
    assert models.load(alone).training.members == ("green", "unet")
    assert alone.digest == bundle.digest
    tested = evaluate(model=bundle.path, tiles=tiles.path, output=tmp_path / "test", resamples=10)
    assert "ensemble" in (tested.path / "report.html").read_text()


def test_every_fold_gets_its_own_ensemble_of_one_configuration(place: Path, tmp_path: Path) -> None:
    folds = make_tiles(tmp_path / "folds", grid=GROUND, bands=BANDS, folds=2)
    assert isinstance(folds, TileFolds)
    green = finetune(config=place / "green.yaml", tiles=folds.path, output=tmp_path / "green").path.parent
    config = blend_of(tmp_path / "blend.yaml", place / "trees.yaml", green)
    refit = finetune(config=config, tiles=folds.path, output=tmp_path / "models")
    assert refit.training.refit == "refit of 2 folds"
    for number, fold in enumerate(folds.folds):
        made = ModelBundle.open(tmp_path / f"models/fold_{number}")
        assert {member.training.tiles for member in made.members.values()} == {fold.digest}
        assert made.training.config == refit.training.config
    found = evaluate(model=tmp_path / "models", tiles=folds.path, output=tmp_path / "scores", resamples=10)
    assert found.metrics.building.iou.value is not None


def test_a_registered_ensemble_is_served_with_all_that_its_members_need(
    tiles: TileSet, bundle: ModelBundle, tmp_path: Path
) -> None:
    """MLflow hands the bundle's directory to the model; it answers with the blend."""
    from casbah.predict.served import BuildingModel

    path = tmp_path / "artifacts" / "bundle"
    shutil.copytree(bundle.path, path)
    served = BuildingModel()
    served.load_context(SimpleNamespace(artifacts={"bundle": str(path)}, model_config=None))
    images = validation_of(tiles, bundle)
    found = served.predict(None, images.astype(np.float32))
    blend = models.load(bundle).probabilities(images)
    blend[~(images != 0).any(axis=(1, 2))] = np.nan
    np.testing.assert_array_equal(found["probability"], blend)
    wanted = [line.partition("==")[0] for line in requirements(bundle)]
    assert {"torch", "terratorch", "scipy", "safetensors"} <= set(wanted)
    assert len(wanted) == len(set(wanted))


def other_tiles(tmp_path: Path) -> Path:
    return make_tiles(tmp_path / "other", grid=GROUND, bands=BANDS, seed=1).path


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"members": ["green.yaml"]}, r"members is \['green.yaml'\]; a list of two or more"),
        ({"members": "green.yaml"}, "members is 'green.yaml'; a list of two or more"),
        ({"members": ["green.yaml", "green.yaml"]}, "two members are called green"),
        ({"members": ["green.yaml", "gren.yaml"]}, "gren.yaml does not exist"),
        ({"members": ["green.yaml", "boosted_pixel"]}, "did you mean boosted_pixels"),
        ({"members": ["green.yaml", "blend.yaml"]}, "blend.yaml is an ensemble itself: name its members"),
        ({"members": ["green.yaml", "model"]}, "model is an ensemble itself: name its members"),
        ({"members": ["green.yaml", "empty"]}, "the member empty holds no trained model"),
        ({"weights": "equl"}, "weights is 'equl'; .*'equal' or 'validation'"),
        ({"wieghts": "equal"}, "did you mean weights"),
    ],
)
def test_members_and_settings_that_can_not_be_are_told_and_nothing_is_written(
    tiles: TileSet,
    bundle: ModelBundle,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    settings: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.chdir(place)
    (place / "empty").mkdir(exist_ok=True)
    config = blend_of(tmp_path / "mine.yaml", "green.yaml", "trees.yaml", **settings)
    with pytest.raises(InputError, match=words):
        finetune(config=config, tiles=tiles.path, output=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_member_of_other_tiles_or_fewer_labels_or_at_the_output_is_refused(
    tiles: TileSet, trained: list[Path], tmp_path: Path
) -> None:
    config = blend_of(tmp_path / "blend.yaml", *trained)
    with pytest.raises(InputError, match=r"the member .*trees was trained on other tiles; .*on the same tiles"):
        finetune(config=config, tiles=other_tiles(tmp_path), output=tmp_path / "out")
    with pytest.raises(InputError, match=r"max_labels is .*, and trees is trained already, on all tiles"):
        finetune(config=config, tiles=tiles.path, output=tmp_path / "out", max_labels=3)
    with pytest.raises(InputError, match="is the member trees itself"):
        finetune(config=config, tiles=tiles.path, output=trained[0])
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_a_member_or_with_weights_that_are_no_shares_is_refused(
    bundle: ModelBundle, tmp_path: Path
) -> None:
    short = copied(bundle, tmp_path / "short", lambda place: shutil.rmtree(place / "members/unet"))
    with pytest.raises(InputError, match="short lacks its member unet"):
        models.load(short)
    for number, weights in enumerate(([0.5, 0.6], [1.5, -0.5], [1.0], [np.nan, 1.0])):

        def write(place: Path, weights: list[float] = weights) -> None:
            save_file({"weights": np.array(weights)}, place / "weights.safetensors")

        wrong = copied(bundle, tmp_path / f"wrong-{number}", write)
        with pytest.raises(InputError, match="does not hold the shares of 2 members"):
            models.load(wrong)


def test_a_changed_byte_of_a_member_is_found(bundle: ModelBundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "copy")
    file = tmp_path / "copy/members/green/weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"members/green/weights\.safetensors is not the file that was written"):
        ModelBundle.open(tmp_path / "copy")


def test_terratorchs_command_is_told_that_an_ensemble_is_not_its_own() -> None:
    from casbah.finetune.terratorch_command import checked

    with pytest.raises(InputError, match="blends other models, which TerraTorch does not know"):
        checked(["fit", "--config", "ensemble"])
