"""UrbanGraphSAGE: superpixels touch where they touch, features say nothing of place, and it learns like every model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_tiles

from casbah import models
from casbah.errors import InputError
from casbah.evaluate import evaluate
from casbah.finetune import finetune
from casbah.models import graph, torchvision_cure
from casbah.models.normalisation import Normalisation
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet

torchvision_cure.apply()

from casbah.models import network  # noqa: E402 - after the cure
from casbah.models.graph import segment_features, superpixels  # noqa: E402

BANDS = ("B02", "B03", "B04", "B08", "B11")


def arguments(periods: int = 2, **more: Any) -> dict[str, Any]:
    shape = (periods, 5)
    plain = Normalisation(np.full(shape, 1500, np.float32), np.full(shape, 500, np.float32), "made up")
    filled = graph.arguments_of(BANDS, plain)
    return filled | {"num_classes": 2, "hidden": 16} | more


def built(seed: int = 0, **more: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return network.build(graph.FACTORY, arguments(**more)).eval()


def town(n: int = 2, side: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 10, side, side) with brighter squares of 4 to 8 pixels, and where these lie."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((n, side, side), np.float32)
    for image in mask:
        for top, left, size in rng.integers([0, 0, 4], [side - 8, side - 8, 9], (5, 3)):
            image[top : top + size, left : left + size] = 1
    noise = rng.normal(0, 0.3, (n, 10, side, side))
    return torch.from_numpy((noise + 2 * mask[:, None]).astype(np.float32)), torch.from_numpy(mask).long()


def described(images: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    statistics = torch.full((2, 5), 1500.0), torch.full((2, 5), 500.0)
    return segment_features.features(images, segments, segment_features.indices(images, BANDS, *statistics))


def test_superpixels_that_share_a_side_are_neighbours_and_those_at_a_corner_are_not() -> None:
    segments = torch.tensor([[[0, 0, 1], [2, 2, 1], [2, 3, 3]], [[4, 4, 4], [4, 5, 4], [4, 4, 4]]])
    found = {tuple(pair) for pair in superpixels.adjacency(segments).T.tolist()}
    one_way = {(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (4, 5)}
    assert found == one_way | {(b, a) for a, b in one_way}
    assert superpixels.adjacency(segments).shape == (2, len(found)), "each edge once"


def test_an_image_of_one_superpixel_has_no_edges() -> None:
    assert superpixels.adjacency(torch.zeros(1, 4, 4, dtype=torch.long)).shape == (2, 0)


def test_superpixels_are_connected_and_numbered_without_a_gap_through_a_batch() -> None:
    from scipy.ndimage import label

    segments = superpixels.segments(town(3)[0], 4, 0.1).numpy()
    assert (np.unique(segments) == np.arange(segments.max() + 1)).all()
    assert segments[0].max() < segments[1].min()
    assert all(label(segments[0] == name)[1] == 1 for name in np.unique(segments[0]))
    assert 3 <= segments[0].size / len(np.unique(segments[0])) <= 6


def test_an_image_is_cut_alone_whatever_lies_beside_it_in_the_batch() -> None:
    images, other = town(2)[0], town(2, seed=5)[0]
    beside = superpixels.segments(torch.stack([other[0], images[1]]), 4, 0.1)[1]
    alone = superpixels.segments(images[1:], 4, 0.1)[0]
    assert (beside - beside.min() == alone).all()


def test_statistics_and_shape_are_those_of_the_pixels() -> None:
    images = torch.zeros(1, 10, 4, 6)
    images[0, 0] = torch.arange(24.0).reshape(4, 6)
    segments = torch.zeros(1, 4, 6, dtype=torch.long)
    segments[0, :, 4:] = 1
    segments[0, 3, :] = 1  # an L of 8 + 4 pixels round a block of 3 x 4
    found = described(images, segments)
    assert found.shape == (2, segment_features.feature_count(BANDS, 2))
    block = images[0, 0, :3, :4]
    assert found[0, 0] == pytest.approx(float(block.mean()))
    assert found[0, 10] == pytest.approx(float(block.std(correction=0)))
    assert found[0, [20, 30]].tolist() == [float(block.min()), float(block.max())]
    area, perimeter, compactness, extent = found[0, -4:].exp()[:2].tolist() + found[0, -2:].tolist()
    assert (area, perimeter) == (pytest.approx(12), pytest.approx(14))
    assert compactness == pytest.approx(4 * np.pi * 12 / 14**2)
    assert extent == 1
    assert found[1, -1] == pytest.approx(12 / 24)


def test_indices_are_ratios_of_reflectance_not_of_normalised_values() -> None:
    images = torch.zeros(1, 10, 1, 1)
    images[0, 3], images[0, 2] = 2.0, -1.0  # B08 at 1500 + 2 * 500, B04 at 1500 - 500
    found = segment_features.indices(images, BANDS, torch.full((2, 5), 1500.0), torch.full((2, 5), 500.0))
    assert found[0, 0, 0, 0] == pytest.approx((2500 - 1000) / (2500 + 1000))
    assert found[0, found.shape[1] // 2, 0, 0] == 0, "the second period shows the mean, whose NDVI is 0 here"


def test_features_do_not_tell_where_a_superpixel_lies() -> None:
    images, _ = town(1, side=20)
    field, names = torch.zeros(1, 10, 40, 40), torch.zeros(1, 40, 40, dtype=torch.long)
    inner = superpixels.segments(images, 9, 0.1) + 1

    def at(row: int, col: int) -> torch.Tensor:
        shown, segments = field.clone(), names.clone()
        shown[..., row : row + 20, col : col + 20] = images
        segments[..., row : row + 20, col : col + 20] = inner
        return described(shown, segments)[1:]

    torch.testing.assert_close(at(5, 5), at(13, 9), atol=1e-5, rtol=1e-4)


def test_predictions_turn_with_the_image_as_far_as_superpixels_do() -> None:
    model, (images, _) = learned()
    with torch.no_grad():
        plain = model(images).output.softmax(1)[:, 1]
        flipped = model(images.flip(-1)).output.softmax(1)[:, 1].flip(-1)
    assert (plain - flipped).abs().mean() < 0.1
    assert ((plain > 0.5) == (flipped > 0.5)).float().mean() > 0.95


def learned(seed: int = 0, steps: int = 40, **more: Any) -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A small model after a few steps on one town."""
    model, (images, mask) = built(seed, **more).train(), town(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images).output, mask)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    return model.eval(), (images, mask)


@pytest.mark.parametrize("pixel_head", [True, False])
def test_the_loss_falls_and_unseen_buildings_are_found(pixel_head: bool) -> None:
    model, _ = learned(pixel_head=pixel_head)
    images, mask = town(4, seed=9)
    with torch.no_grad():
        called = model(images).output.argmax(1) == 1
    iou = (called & (mask == 1)).sum() / (called | (mask == 1)).sum()
    assert iou > 0.7
    assert float((mask == 1).float().mean()) < 0.4


def test_without_a_pixel_head_a_superpixel_has_one_answer_and_with_it_many() -> None:
    images, _ = town(1)
    for pixel_head in (False, True):
        model = built(pixel_head=pixel_head)
        segments = superpixels.segments(images[:, model.sharp], 4, 0.1).reshape(-1)
        with torch.no_grad():
            answers = model(images).output[0, 1].reshape(-1)
        same = all(answers[segments == name].unique().numel() == 1 for name in segments.unique())
        assert same is not pixel_head


def test_the_graph_reaches_pixels_beyond_their_own_superpixel() -> None:
    """Nearby changes count, those farther than the layers reach do not."""
    images = town(1)[0]
    segments = superpixels.segments(images[:, [0, 1, 2, 3, 5, 6, 7, 8]], 4, 0.1)
    features, edges = described(images, segments), superpixels.adjacency(segments)
    encoder = built(layers=1).encoder
    changed = features.clone()
    changed[0] += 1
    with torch.no_grad():
        moved = (encoder(features, edges) != encoder(changed, edges)).any(1).nonzero().reshape(-1).tolist()
    assert moved == sorted({0, *edges[1][edges[0] == 0].tolist()})


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (17, 29), (64, 64), (224, 224)])
def test_images_of_any_size_and_without_any_observation_are_taken(shape: tuple[int, int]) -> None:
    model = built()
    with torch.no_grad():
        for images in (torch.randn(2, 10, *shape), torch.zeros(2, 10, *shape)):
            found = model(images).output
            assert found.shape == (2, 2, *shape)
            assert found.isfinite().all()


def test_a_single_superpixel_can_be_learned_from() -> None:
    model = built().train()
    model(torch.zeros(1, 10, 4, 4)).output.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pixels_per_segment": 0}, "pixels_per_segment is 0; a whole number from 1 on"),
        ({"pixels_per_segment": 4.5}, r"pixels_per_segment is 4\.5"),
        ({"compactness": 0}, "compactness is 0; a number above 0"),
        ({"dropout": 1.5}, r"dropout is 1\.5; a number from 0 to 0\.95"),
        ({"hidden": "many"}, "hidden is 'many'"),
        ({"layers": True}, "layers is True"),
        ({"bands": ["B02", "B99", "B04", "B08", "B11"]}, "B99"),
        ({"periods": 3}, r"statistics\.mean is not a finite number for each of 3 periods and 5 bands"),
        ({"statistics": {"mean": [[1.0] * 5] * 2}}, r"statistics\.std"),
        ({"statistics": 3}, r"statistics\.mean"),
    ],
)
def test_an_argument_out_of_its_range_is_refused_in_a_sentence(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        network.build(graph.FACTORY, arguments() | wrong)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("graph") / "tiles", bands=BANDS, periods=2)


def experiment_of(tiles: TileSet, *more: str) -> dict[str, Any]:
    """The built-in experiment on these tiles, made quick."""
    quick = ["trainer.max_epochs=4", "model.init_args.model_args.hidden=16", "model.init_args.flips_at_test=false"]
    return {"config": "urban_graphsage", "tiles": tiles.path, "overrides": [*quick, *more]}


@pytest.fixture(scope="module")
def bundle(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return finetune(output=tmp_path_factory.mktemp("model") / "graph", **experiment_of(tiles))


def test_it_is_trained_and_evaluated_like_every_other_model(
    tiles: TileSet, bundle: ModelBundle, tmp_path: Path
) -> None:
    assert bundle.training.kind == "network"
    assert bundle.training.weights_origin == "random weights"
    share = (np.asarray(tiles.split("val").masks) == 1).mean()
    assert bundle.metrics["validation"]["iou"] > 2 * share
    found = evaluate(model=bundle.path, tiles=tiles.path, output=tmp_path / "val", split="val", resamples=10)
    assert found.metrics.building.iou.value == pytest.approx(bundle.metrics["validation"]["iou"], abs=1e-6)
    assert models.load(bundle).probabilities(np.asarray(tiles.split("val").images[:1, ..., :17, :29])).shape == (
        1,
        17,
        29,
    )


def test_the_same_seed_gives_the_same_model(tiles: TileSet, bundle: ModelBundle, tmp_path: Path) -> None:
    again = finetune(output=tmp_path / "again", **experiment_of(tiles))
    other = finetune(output=tmp_path / "other", seed=1, **experiment_of(tiles))
    assert again.weights_path.read_bytes() == bundle.weights_path.read_bytes()
    assert other.weights_path.read_bytes() != bundle.weights_path.read_bytes()


def test_what_the_tiles_measure_is_no_part_of_the_configuration(
    tiles: TileSet, bundle: ModelBundle, tmp_path: Path
) -> None:
    """The folds of one experiment have other statistics each, and one configuration."""
    others = make_tiles(tmp_path / "others", bands=BANDS, periods=2, seed=1)
    assert others.statistics["mean"] != tiles.statistics["mean"]
    found = finetune(output=tmp_path / "other", **experiment_of(others))
    assert found.training.config == bundle.training.config
    assert found.weights_path.read_bytes() != bundle.weights_path.read_bytes()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.init_args.model_args.pixel_per_segment=3", "did you mean pixels_per_segment"),
        ("model.init_args.model_factory=UrbanGraphSageFactory", "did you mean UrbanGraphSAGEFactory"),
        ("model.init_args.model_args.dropout=2", "dropout is 2"),
        ("data.init_args.normalisation=imagenet", "set data.init_args.normalisation to train"),
    ],
)
def test_a_wrong_setting_of_the_experiment_is_told_and_nothing_is_written(
    tiles: TileSet, tmp_path: Path, override: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        finetune(output=tmp_path / "model", **experiment_of(tiles, override))
    assert not list(tmp_path.iterdir())
