"""Each term of the loss finds a rare class, is blind to what is not labelled, and takes soft targets or says that it
does not; buildings missing from the labels are allowed for."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from casbah.errors import InputError
from casbah.models import torchvision_cure

torchvision_cure.apply()

from casbah.finetune.loss import BuildingLoss  # noqa: E402 - what it imports needs the cure

PLAIN: dict[str, Any] = {"tversky": 0}
BALANCED: dict[str, dict[str, Any]] = {
    "weighted cross-entropy": {"building_weight": 5.7, "tversky": 0},
    "weighted focal": {"building_weight": 5.7, "tversky": 0, "pixel": "focal"},
    "tversky": {"pixel": "none"},
    "lovasz": {"pixel": "none", "tversky": 0, "lovasz": 1.0},
    "weighted cross-entropy and dice": {"building_weight": 5.7},
    "weighted focal and dice": {"building_weight": 5.7, "pixel": "focal"},
    "weighted cross-entropy and lovasz": {"building_weight": 5.7, "tversky": 0, "lovasz": 1.0},
}
SOFT = {name: terms for name, terms in BALANCED.items() if not terms.get("lovasz")}
each = pytest.mark.parametrize("terms", BALANCED.values(), ids=BALANCED.keys())
each_soft = pytest.mark.parametrize("terms", SOFT.values(), ids=SOFT.keys())


class Scene(NamedTuple):
    """One band that is brighter over buildings, with noise of deviation 1: not separable."""

    image: Tensor
    truth: Tensor


class Found(NamedTuple):
    """Against the truth, at probability 0.5."""

    recall: float
    iou: float


def scene(share: float, contrast: float, seed: int = 0) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    truth = (torch.rand(4, 64, 64, generator=generator) < share).long()
    return Scene(contrast * truth[:, None] + torch.randn(4, 1, 64, 64, generator=generator), truth)


def learned(loss: BuildingLoss, image: Tensor, mask: Tensor, truth: Tensor) -> Found:
    """What a linear model of the one band learns from `mask`."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(1, 2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(250):
        optimizer.zero_grad()
        loss(model(image), mask).backward()
        optimizer.step()
    called = model(image).softmax(1)[:, 1] >= 0.5
    hit = (called & (truth == 1)).sum().item()
    return Found(hit / (truth == 1).sum().item(), hit / (called | (truth == 1)).sum().item())


def gradient(loss: BuildingLoss, mask: Tensor, cover: Tensor | None = None, logits: Tensor | None = None) -> Tensor:
    """Of the building's logit."""
    logits = torch.zeros(1, 2, *mask.shape[1:]) if logits is None else logits.clone()
    logits.requires_grad_()
    loss(logits, mask, cover).backward()
    assert logits.grad is not None
    return logits.grad[0, 1]


def one_building() -> Tensor:
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    mask[0, 0, 0] = 1
    return mask


@each
def test_buildings_of_three_percent_are_found_where_plain_cross_entropy_finds_next_to_none(
    terms: dict[str, Any],
) -> None:
    image, truth = scene(share=0.03, contrast=1.7)
    plain = learned(BuildingLoss(**PLAIN), image, truth, truth)
    found = learned(BuildingLoss(**terms), image, truth, truth)
    assert plain.recall < 0.15
    assert found.recall > 0.35
    assert found.iou > plain.iou + 0.1


@pytest.mark.parametrize("pixel", ["cross_entropy", "focal"])
def test_the_class_weight_changes_the_gradient_of_building_pixels(pixel: Any) -> None:
    even = gradient(BuildingLoss(1.0, tversky=0, pixel=pixel), one_building())
    heavy = gradient(BuildingLoss(10.0, tversky=0, pixel=pixel), one_building())
    assert heavy[0, 0] / heavy[1, 1] == pytest.approx(10 * even[0, 0] / even[1, 1])


def test_the_focal_loss_turns_from_easy_background_to_missed_buildings() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 2.0  # background everywhere, with probability 0.88
    pulls = []
    for gamma in (0.0, 2.0, 4.0):
        found = gradient(BuildingLoss(tversky=0, pixel="focal", gamma=gamma), one_building(), logits=logits)
        pulls.append(float(-found[0, 0] / found[1, 1]))
    assert pulls[0] == pytest.approx(gradient_ratio_of_cross_entropy(logits))
    assert pulls[1] > 10 * pulls[0]
    assert pulls[2] > 10 * pulls[1]


def gradient_ratio_of_cross_entropy(logits: Tensor) -> float:
    found = gradient(BuildingLoss(tversky=0), one_building(), logits=logits)
    return float(-found[0, 0] / found[1, 1])


def test_the_focal_loss_is_no_millionth_of_the_dice_beside_it() -> None:
    image, truth = scene(share=0.03, contrast=1.7)
    logits = torch.cat([-image, image], 1)[:1]
    focal = gradient(BuildingLoss(5.7, tversky=0, pixel="focal"), truth[:1], logits=logits)
    dice = gradient(BuildingLoss(pixel="none"), truth[:1], logits=logits)
    assert 0.1 < focal.norm() / dice.norm() < 10


def test_the_overlap_term_pulls_harder_on_missed_buildings_when_told_to() -> None:
    mild = gradient(BuildingLoss(1.0, 5.0, 0.5, 0.1), one_building())[0, 0]
    strong = gradient(BuildingLoss(1.0, 5.0, 0.5, 0.9), one_building())[0, 0]
    assert strong < mild < 0


@each
def test_ignored_pixels_have_no_gradient_and_no_say(terms: dict[str, Any]) -> None:
    image, truth = scene(share=0.3, contrast=1.7)
    logits, mask = torch.cat([-image, image], 1)[:1, :, :8, :8], truth[:1, :8, :8].clone()
    mask[0, :4] = 255
    loss = BuildingLoss(**terms)
    found = gradient(loss, mask, logits=logits)
    assert (found[:4] == 0).all()
    assert found[4:].any()
    for elsewhere in (50.0, -50.0, float("nan")):
        other = logits.clone()
        other[:, 1, :4] = elsewhere
        assert torch.equal(loss(other, mask), loss(logits, mask))
        assert torch.equal(gradient(loss, mask, logits=other), found)


@each_soft
def test_ignored_pixels_of_soft_targets_have_no_gradient(terms: dict[str, Any]) -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    mask[0, :2] = 255
    cover = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    cover[0, 0] = torch.nan
    found = gradient(BuildingLoss(**terms), mask, cover)
    assert (found[:2] == 0).all()
    assert (found[2:] != 0).all()


@each
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_batches_without_a_building_or_without_a_label_stay_finite(terms: dict[str, Any], scale: float) -> None:
    logits = scale * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    for terms_now in (terms, terms | {"gamma": 0.5}, *([] if terms.get("lovasz") else [terms | {"unmapped": 0.4}])):
        loss = BuildingLoss(**terms_now)
        for value in (0, 1, 255):
            mask = torch.full((1, 4, 4), value)
            assert loss(logits, mask).isfinite()
            assert gradient(loss, mask, logits=logits).isfinite().all()
        assert float(loss(logits, torch.full((1, 4, 4), 255))) == 0


@each_soft
@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
def test_soft_targets_are_learned_as_shares(terms: dict[str, Any], share: float) -> None:
    assert settled(terms | {"building_weight": 1.0}, share) == pytest.approx(share, abs=0.02)


def settled(terms: dict[str, Any], share: float) -> float:
    """The probability that a loss ends at where every pixel is covered by `share`."""
    logits = torch.zeros(1, 2, 8, 8, requires_grad=True)
    cover = torch.full((1, 8, 8), share)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 600)
    loss = BuildingLoss(**terms)
    for _ in range(600):
        optimizer.zero_grad()
        loss(logits, (cover > 0.5).long(), cover).backward()
        optimizer.step()
        scheduler.step()
    return logits.softmax(1)[0, 1].mean().item()


def test_the_lovasz_term_says_that_it_takes_no_soft_targets() -> None:
    with pytest.raises(InputError, match=r"labels of 0 and 1 alone.*soft_targets to false"):
        BuildingLoss(lovasz=1.0)(torch.zeros(1, 2, 4, 4), one_building(), torch.rand(1, 4, 4))


def with_gaps(truth: Tensor, missing: float) -> Tensor:
    erased = torch.rand(truth.shape, generator=torch.Generator().manual_seed(9)) < missing
    return truth.masked_fill(erased, 0)


@pytest.mark.parametrize("pixel", ["cross_entropy", "focal"])
@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_with_forty_percent_of_the_buildings_unmapped_more_of_the_true_ones_are_found(
    pixel: Any, weight: float
) -> None:
    image, truth = scene(share=0.1, contrast=3.0)
    mask = with_gaps(truth, missing=0.4)
    terms: dict[str, Any] = {"building_weight": weight, "tversky": 0, "pixel": pixel}
    plain = learned(BuildingLoss(**terms), image, mask, truth)
    robust = learned(BuildingLoss(**terms, unmapped=0.4), image, mask, truth)
    clean = learned(BuildingLoss(**terms), image, truth, truth)
    assert robust.recall > plain.recall + 0.08
    assert robust.iou > plain.iou + 0.03
    if pixel == "cross_entropy":
        assert robust.iou > clean.iou - 0.03


def test_where_every_building_is_mapped_believing_in_gaps_costs_little() -> None:
    image, truth = scene(share=0.1, contrast=3.0)
    plain = learned(BuildingLoss(tversky=0), image, truth, truth)
    robust = learned(BuildingLoss(tversky=0, unmapped=0.4), image, truth, truth)
    assert robust.iou > plain.iou - 0.06


@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_the_share_of_missing_buildings_is_added_back_before_the_weight(weight: float) -> None:
    """Labels cover 0.3 of the ground; with half of the buildings missing the truth is 0.6."""
    odds = weight * 0.6 / 0.4
    found = settled({"building_weight": weight, "tversky": 0, "unmapped": 0.5}, share=0.3)
    assert found == pytest.approx(odds / (1 + odds), abs=0.01)


def test_a_building_that_nobody_mapped_pulls_only_so_hard() -> None:
    """The surer the model is of a building that the labels lack, the less it is to be talked out of it."""
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, 1, 1, 1] = 6.0
    plain = gradient(BuildingLoss(tversky=0), one_building(), logits=logits)[1, 1]
    robust = gradient(BuildingLoss(tversky=0, unmapped=0.4), one_building(), logits=logits)[1, 1]
    assert 0 < robust < 0.05 * plain


def test_the_dice_of_what_is_mapped_stands_for_that_of_all_buildings() -> None:
    image, truth = scene(share=0.3, contrast=1.7)
    logits, plain = torch.cat([-image, image], 1), BuildingLoss(pixel="none")
    of_all = 1 - plain(logits, truth)
    of_mapped = 1 - BuildingLoss(pixel="none", unmapped=0.4)(logits, with_gaps(truth, missing=0.4))
    assert float(of_mapped) == pytest.approx(0.6 * float(of_all), rel=0.02)
    assert float(1 - plain(logits, with_gaps(truth, missing=0.4))) != pytest.approx(0.6 * float(of_all), rel=0.1)
