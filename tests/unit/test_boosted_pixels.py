"""Boosted trees: what is learned is what is stored, nothing leaks in, and mistakes are told in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_tiles
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import HistGradientBoostingClassifier

import casbah.models
from casbah.bands import BAND_NAMES
from casbah.errors import InputError
from casbah.finetune import finetune, trees
from casbah.grid import Grid
from casbah.models import pixel_features
from casbah.models.boosted import Forest, Stages
from casbah.models.pixel_features import Recipe
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet

QUICK = {"trees": {"rounds": 12, "min_samples_leaf": 5}}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(
        tmp_path_factory.mktemp("trees") / "tiles", grid=Grid("EPSG:32631", 500_000, 4_066_000, 160, 160), periods=2
    )


@pytest.fixture(scope="module")
def bundle(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return trees.train(settings=QUICK, tiles=tiles, output=tmp_path_factory.mktemp("bundle") / "model", seed=3)


def some_images(count: int = 2, periods: int = 1, rows: int = 20, cols: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(200, 4000, (count, periods, len(BAND_NAMES), rows, cols)).astype(np.uint16)


def described(images: np.ndarray, recipe: Recipe) -> dict[str, np.ndarray]:
    names = pixel_features.names(BAND_NAMES, images.shape[1], recipe)
    return dict(zip(names, pixel_features.features(images, BAND_NAMES, recipe), strict=True))


@pytest.mark.parametrize("leaves", [2, 31, 32, 64])
def test_stored_trees_give_the_probabilities_of_the_library(leaves: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 7)).astype(np.float32)
    x[:, 6] = np.round(x[:, 6])  # ties, and values that are thresholds themselves
    x[rng.random(x.shape) < 0.1] = np.nan
    y = np.nan_to_num(x[:, 0] * x[:, 1] + x[:, 6]) + rng.normal(size=len(x)) > 0.3
    bins = trees.Bins.of(x)
    codes = bins.codes(x)
    model = HistGradientBoostingClassifier(max_iter=25, max_leaf_nodes=leaves, random_state=0).fit(codes, y)
    Stages(trees.forest_of(model, bins, 25)).save(tmp_path / "weights.safetensors")
    odds = Stages.read(tmp_path / "weights.safetensors", features=7).final.log_odds(x.T)
    assert np.abs(1 / (1 + np.exp(-odds)) - model.predict_proba(codes)[:, 1]).max() < 1e-6


def test_trees_made_of_one_leaf_add_their_value() -> None:
    leaf = [np.array([value], kind) for value, kind in ((-1, "i4"), (0, "f8"), (0, "i4"), (0, "i4"), (0, "u1"))]
    forest = Forest(*leaf, value=np.array([0.25]), start=np.array([0, 1]), baseline=np.array([-1.0]))
    assert forest.log_odds(np.zeros((3, 5), np.float32)).tolist() == [-0.75] * 5


def test_the_same_seed_gives_the_same_file_and_another_seed_another(
    tiles: TileSet, bundle: ModelBundle, tmp_path: Path
) -> None:
    again = trees.train(settings=QUICK, tiles=tiles, output=tmp_path / "again", seed=3)
    other = trees.train(settings=QUICK, tiles=tiles, output=tmp_path / "other", seed=4)
    assert again.weights_path.read_bytes() == bundle.weights_path.read_bytes()
    assert other.weights_path.read_bytes() != bundle.weights_path.read_bytes()


def test_a_bundle_predicts_buildings_and_says_what_it_takes(tiles: TileSet, bundle: ModelBundle) -> None:
    training = bundle.training
    assert (training.kind, training.bands, training.periods) == ("trees", tiles.info.bands, 2)
    assert training.blocks == {name: tiles.info.blocks[name] for name in ("train", "val")}
    assert set(training.input_range) == set(tiles.info.bands)
    assert 0 < training.threshold < 1
    assert training.normalisation == {}
    val = tiles.split("val")
    found = casbah.models.load(bundle).probabilities(np.asarray(val.images))
    assert found.dtype == np.float32
    assert found.shape == val.masks.shape
    assert found[val.masks == 1].mean() > 2 * found[val.masks == 0].mean()
    assert bundle.metrics["validation"]["iou"] > 0.3


def test_probabilities_mean_what_they_say_although_buildings_weigh_more(tiles: TileSet, tmp_path: Path) -> None:
    settings = QUICK | {"class_balance": "inverse", "trees": {"rounds": 5, "min_samples_leaf": 5}}
    heavy = trees.train(settings=settings, tiles=tiles, output=tmp_path / "heavy", seed=0)
    train = tiles.split("train")
    found = casbah.models.load(heavy).probabilities(np.asarray(train.images))
    known = train.masks != 255
    assert abs(found[known].mean() - (train.masks[known] == 1).mean()) < 0.06


def test_the_test_split_is_never_opened(tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    split = TileSet.split
    monkeypatch.setattr(TileSet, "split", lambda self, name: opened.append(name) or split(self, name))
    trees.train(settings=QUICK, tiles=tiles, output=tmp_path / "model", seed=0)
    assert set(opened) == {"train", "val"}


def test_fewer_labels_are_whole_blocks_and_the_bundle_lists_only_those(tiles: TileSet, tmp_path: Path) -> None:
    few = trees.train(settings=QUICK, tiles=tiles, output=tmp_path / "few", seed=0, max_labels=3)
    assert set(few.training.blocks["train"]) < set(tiles.info.blocks["train"])


def test_the_command_finds_the_experiment_by_name_and_takes_overrides(tiles: TileSet, tmp_path: Path) -> None:
    overrides = ("trees.rounds=5", "bands=[B02, B08, B04]", "features.deviations=[3]")
    made = finetune(config="boosted_pixels", tiles=tiles.path, output=tmp_path / "model", overrides=overrides)
    assert made.training.bands == ("B02", "B04", "B08")
    assert made.training.best_epoch is not None
    assert made.training.best_epoch <= 5


def test_the_shipped_experiment_states_the_defaults() -> None:
    from casbah.finetune.experiment import read

    assert trees.Settings.model_validate(read("boosted_pixels").settings) == trees.Settings()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"feature": {}}, ("feature", "features")),
        ({"trees": {"learning_rat": 0.1}}, ("trees.", "learning_rat", "learning_rate")),
        ({"features": {"mean": [3]}}, ("features.", "mean", "means")),
        ({"trees": {"max_leaf_nodes": 65}}, ("trees.max_leaf_nodes", "65", "64")),
        ({"trees": {"rounds": "many"}}, ("trees.rounds", "many", "integer")),
        ({"class_balance": "square"}, ("class_balance", "square", "sqrt")),
        ({"features": {"means": [4]}}, ("features.means", "4", "odd")),
        ({"bands": ["B02", "B10"]}, ("B10", "B12")),
        ({"context": 1}, ("context", "1", "2 to 10")),
    ],
)
def test_a_mistake_in_the_experiment_is_one_sentence(
    settings: dict[str, Any], words: tuple[str, ...], tiles: TileSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        trees.train(settings=settings, tiles=tiles, output=tmp_path / "model", seed=0)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_bands_that_the_tiles_lack_are_named(tmp_path: Path) -> None:
    few = make_tiles(tmp_path / "tiles", bands=("B02", "B03", "B04"))
    with pytest.raises(InputError, match=r"B08.*B02, B03, B04"):
        trees.train(settings={"bands": ["B04", "B08"]}, tiles=few, output=tmp_path / "model", seed=0)


def test_what_a_second_stage_sees_of_a_tile_comes_from_trees_that_never_saw_it(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[set[int]] = []
    asked: list[tuple[int, set[int]]] = []
    pixels, chances = trees._Run.pixels, trees._Run.chances

    def note_pixels(self: Any, name: str, rows: Any, *rest: Any) -> Any:
        if name == "train":
            learned.append(set(rows.tolist()))
        return pixels(self, name, rows, *rest)

    def note_chances(self: Any, name: str, rows: Any, forests: Any) -> Any:
        if name == "train":
            asked.append((len(learned) - 1, set(rows.tolist())))
        return chances(self, name, rows, forests)

    monkeypatch.setattr(trees._Run, "pixels", note_pixels)
    monkeypatch.setattr(trees._Run, "chances", note_chances)
    settings = QUICK | {"context": 3}
    made = trees.train(settings=settings, tiles=tiles, output=tmp_path / "model", seed=0, name="mine")
    assert len(asked) == 3
    blocks = tiles.split("train").blocks
    for stage, rows in asked:
        assert not {blocks[row] for row in rows} & {blocks[row] for row in learned[stage]}
    assert set.union(*(rows for _, rows in asked)) == learned[-1] == set(range(len(blocks)))
    assert made.training.experiment == "mine"
    assert made.training.threshold == made.metrics["validation"]["threshold"]
    val = tiles.split("val")
    found = casbah.models.load(made).probabilities(np.asarray(val.images))
    assert found[val.masks == 1].mean() > 2 * found[val.masks == 0].mean()


def test_more_shares_than_blocks_are_refused(tiles: TileSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"context 10.*lower context"):
        trees.train(settings=QUICK | {"context": 10}, tiles=tiles, output=tmp_path / "model", seed=0, max_labels=4)


@pytest.mark.parametrize("harm", ["feature", "circle", "missing array", "cut short"])
def test_weights_that_are_no_trees_are_refused(harm: str, bundle: ModelBundle, tmp_path: Path) -> None:
    arrays = load_file(bundle.weights_path)
    inner = int(np.flatnonzero(arrays["final/feature"] >= 0)[0])
    if harm == "feature":
        arrays["final/feature"][inner] = 100_000
    elif harm == "circle":
        arrays["final/left"][inner] = 0
    elif harm == "missing array":
        del arrays["final/start"]
    path = tmp_path / "weights.safetensors"
    save_file(arrays, path)
    if harm == "cut short":
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="train the model again"):
        Stages.read(path, features=300)


def test_images_of_other_periods_are_refused(bundle: ModelBundle) -> None:
    with pytest.raises(InputError, match="2 periods"):
        casbah.models.load(bundle).probabilities(some_images(periods=1))


def test_a_tile_is_described_from_itself_alone() -> None:
    """Leakage guard: what a tile gives does not depend on the tiles beside it in the batch."""
    both = some_images(count=2, periods=2)
    recipe = Recipe()
    together = pixel_features.features(both, BAND_NAMES, recipe)
    alone = pixel_features.features(both[1:], BAND_NAMES, recipe)
    assert np.array_equal(together[:, 1:], alone, equal_nan=True)


def test_names_and_features_go_together() -> None:
    recipe = Recipe()
    names = pixel_features.names(BAND_NAMES, 2, recipe)
    assert len(set(names)) == len(names) == len(pixel_features.features(some_images(periods=2), BAND_NAMES, recipe))
    images = some_images()
    values = described(images, recipe)
    red, nir = (images[:, 0, BAND_NAMES.index(name)].astype(float) for name in ("B04", "B08"))
    assert np.allclose(values["0/NDVI"], (nir - red) / (nir + red), atol=1e-6)
    middle = red[0, 9:12, 9:12] / 10_000
    assert values["0/B04/mean3"][0, 10, 10] == pytest.approx(middle.mean(), abs=1e-6)
    assert values["0/B04/deviation3"][0, 10, 10] == pytest.approx(middle.std(), abs=1e-6)


def test_pixels_without_an_observation_weigh_nothing() -> None:
    images = some_images(count=1)
    images[..., :12] = 1500
    images[0, 0, :, 5, 5] = 0
    recipe = Recipe()
    values = described(images, recipe)
    assert np.isnan(values["0/B04"][0, 5, 5])
    assert values["0/B04/mean3"][0, 5, 6] == pytest.approx(0.15)
    assert values["0/B04/deviation3"][0, 4, 4] == pytest.approx(0, abs=1e-6)


def test_a_pixel_seen_in_no_period_is_no_building(tiles: TileSet, bundle: ModelBundle) -> None:
    images = np.asarray(tiles.split("val").images[:1]).copy()
    images[0, :, :, 3, 4] = 0
    images[0, 0, :, 6, 7] = 0
    found = casbah.models.load(bundle).probabilities(images)
    assert found[0, 3, 4] == 0
    assert found[0, 6, 7] > 0


SMALL = ("trees.rounds=5", "features.deviations=[3]", "trees.min_samples_leaf=5")


def test_resume_keeps_finished_trees_of_the_same_run_and_of_no_other(
    tiles: TileSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(**options: Any) -> bool:
        """Whether the bundle was trained anew."""
        before = (tmp_path / "model/manifest.json").stat().st_mtime_ns if (tmp_path / "model").exists() else 0
        arguments: dict[str, Any] = {"config": "boosted_pixels", "tiles": tiles.path, "overrides": SMALL} | options
        finetune(output=tmp_path / "model", **arguments)
        return (tmp_path / "model/manifest.json").stat().st_mtime_ns != before

    assert again(resume=True)
    capsys.readouterr()
    assert not again(resume=True)
    assert "is kept" in capsys.readouterr().err
    assert again(resume=True, seed=5)
    assert again(resume=True, seed=5, max_labels=4)
    assert again(resume=True, overrides=[*SMALL, "trees.learning_rate=0.2"])
    assert again(overrides=[*SMALL, "trees.learning_rate=0.2"]), "without resume it is trained again"


def test_the_rounds_of_every_fold_are_in_mlflow_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    run = client.create_run(client.create_experiment("kubeflow")).info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    folds = make_tiles(tmp_path / "folds", folds=2)
    finetune(config="boosted_pixels", tiles=folds.path, output=tmp_path / "models", overrides=SMALL)
    found = client.get_run(run).data
    for part in ("fold_0", "fold_1", "refit"):
        bundle = ModelBundle.open(tmp_path / "models" / part)
        name = f"boosted_pixels/{part}"
        assert found.params[f"{name}/tiles"] == bundle.training.tiles
        logged = client.get_metric_history(run, f"{name}/val/loss")
        assert [(m.step, m.value) for m in sorted(logged, key=lambda m: m.step)] == [
            (row["round"], row["val/loss"]) for row in bundle.metrics["history"]
        ]


def test_the_sample_of_background_is_the_same_however_many_tiles_are_held_at_once(
    tiles: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    features = pixel_features.features

    def watched(images: np.ndarray, *more: Any) -> np.ndarray:
        held.append(len(images))
        return features(images, *more)

    monkeypatch.setattr(pixel_features, "features", watched)
    found = []
    for at_once in (64, 2):
        monkeypatch.setattr(trees, "TILES_AT_ONCE", at_once)
        run = trees._Run(trees.NAME, QUICK, tiles, 3, None)
        found.append(run.sample(run.rows))
    assert max(held) > 2
    for name in ("features", "building", "cover", "weights"):
        whole, parts = (getattr(pixels, name) for pixels in found)
        assert np.array_equal(whole, parts, equal_nan=name == "features")
    known = int((tiles.split("train").masks != 255).sum())
    assert len(found[0].building) < known
    assert found[0].weights.sum() == pytest.approx(known, rel=0.05)
