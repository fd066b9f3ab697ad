"""The loss on buildings: terms that act on a class of a few percent, soft targets from cover, and labels with gaps."""

import math
from typing import Literal, get_args

import torch
from segmentation_models_pytorch.losses import LovaszLoss, TverskyLoss
from torch import Tensor, nn
from torch.nn import functional

from casbah.errors import InputError

PixelLoss = Literal["cross_entropy", "focal", "none"]

MOST_UNMAPPED = 0.9
"""Where more than nine buildings of ten are missing, a label says too little to learn from."""


class BuildingLoss(nn.Module):
    """A weighted loss per pixel plus losses of overlap of the class building, all blind to ignored pixels.

    Buildings are a few percent of most landscapes. Per pixel, the cross-entropy or the focal loss (Lin et al. 2017,
    arXiv 1708.02002: what is nearly right counts hardly) of every building pixel is multiplied by the weight. The
    losses of overlap are taken over the whole batch and need no weight: Tversky, 1 - tp / (tp + a fp + b fn) (Salehi et
    al. 2017, arXiv 1706.05721), never counts true background at all and is 0 in a batch without buildings;
    Lovász-Softmax, a surrogate of 1 - IoU (Berman et al. 2018, arXiv 1705.08790), is the mean of both classes' own.

    The overlap terms are those of segmentation_models_pytorch; its Tversky term is made for shares too (Wang et al.
    2023, arXiv 2302.05666). Its Lovász hinge on the class building alone is no choice: where classes mix, a linear
    model learned nothing from it. The focal term is our own, since the ones in torchvision and there take no weight
    beyond a share and have their minimum beside a soft target: with |target - p| ** gamma in front of the cross-entropy
    (Li et al. 2020, arXiv 2006.04388) it is Lin's where labels are 0 or 1, and lowest at p = target else. It is divided
    by the sum of the weights as the cross-entropy is, which it equals where gamma is 0.

    Where a share `unmapped` of the buildings is missing from the labels, what the labels hold is not p but
    (1 - unmapped) p, so that is what the losses compare with them: the forward correction of Patrini et al. 2017 (arXiv
    1609.03683) for noise of one side, as Mnih & Hinton 2012 (ICML, "Learning to label aerial images from noisy data")
    met it in maps. Per pixel it is taken before the weight: p answers for weighted odds, and the correction for plain
    ones. In the Tversky index with a + b = 1 it amounts to the index against all buildings, times 1 - unmapped. The
    focal loss draws probabilities to 0.5 whatever the labels are, so that with it too much is called building.

    Args:
        building_weight: Weight of a building pixel where a background pixel weighs 1.
        tversky: Weight of the Tversky term beside the loss per pixel; 0 leaves it out.
        false_positive, false_negative: a and b above; 0.5 and 0.5 make it the dice loss.
        pixel: The loss per pixel: `cross_entropy`, `focal` or `none`.
        gamma: Focus of the focal loss.
        lovasz: Weight of the Lovász term; 0 leaves it out. It takes neither soft targets nor `unmapped`, for neither of
            which it is defined.
        unmapped: Share of the buildings that are believed to be missing from the labels; 0 trusts them.
        ignore_index: Mask value that counts nowhere.

    `InputError` where a term can't be had, or none is left.
    """

    building_weight: Tensor

    def __init__(
        self,
        building_weight: float = 1.0,
        tversky: float = 1.0,
        false_positive: float = 0.5,
        false_negative: float = 0.5,
        ignore_index: int = 255,
        *,
        pixel: PixelLoss = "cross_entropy",
        gamma: float = 2.0,
        lovasz: float = 0.0,
        unmapped: float = 0.0,
    ) -> None:
        super().__init__()
        if pixel not in get_args(PixelLoss):
            raise InputError(f"the loss {pixel!r} is unknown; {', '.join(get_args(PixelLoss))} are known")
        if pixel == "none" and not tversky and not lovasz:
            raise InputError("loss is none and tversky and lovasz are 0, so nothing would be learned: set one of them")
        if lovasz and unmapped:
            raise InputError("the Lovász term knows no correction for missing buildings: set lovasz or unmapped to 0")
        self.register_buffer("building_weight", torch.tensor(float(building_weight)), persistent=False)
        self.pixel, self.gamma, self.unmapped, self.ignore_index = pixel, gamma, unmapped, ignore_index
        self.tversky, self.lovasz = tversky, lovasz
        # Smoothed by one pixel, so that a batch with a handful of building pixels doesn't swing it.
        self._tversky = TverskyLoss(
            "binary",
            from_logits=False,
            smooth=1.0,
            ignore_index=ignore_index,
            alpha=false_positive,
            beta=false_negative,
        )
        self._lovasz = LovaszLoss("multiclass", ignore_index=ignore_index)

    def forward(self, logits: Tensor, mask: Tensor, cover: Tensor | None = None) -> Tensor:
        """Loss of `logits` (n, 2, rows, cols) against `mask` (n, rows, cols), or against `cover` (0..1) where given.

        Where cover is NaN, the mask stands in for it. A batch without a labelled pixel costs 0. `InputError` where
        there is cover and a Lovász term.
        """
        if cover is not None:
            self.check_soft_targets()
        known = mask != self.ignore_index
        target = (mask == 1).float()
        if cover is not None:
            target = torch.where(cover.isnan() | ~known, target, cover)
        # Chosen before anything is computed, so that not even a NaN below an ignored pixel has a gradient.
        odds = torch.where(known, logits[:, 1].float() - logits[:, 0].float(), 0)
        loss = odds.new_zeros(())
        if self.pixel != "none":
            loss = loss + self._per_pixel(odds, target, known)
        if self.tversky:
            probability = (1 - self.unmapped) * odds.sigmoid()
            loss = loss + self.tversky * self._tversky(probability, target.masked_fill(~known, self.ignore_index))
        if self.lovasz:
            # The sum is for a batch without a label, from which it gives an array of nothing.
            loss = loss + self.lovasz * self._lovasz(torch.stack([-odds / 2, odds / 2], 1), mask).sum()
        return loss

    def check_soft_targets(self) -> None:
        """`InputError` where a term takes no soft targets."""
        if self.lovasz:
            raise InputError(
                "the Lovász term is defined for labels of 0 and 1 alone: set model.init_args.lovasz to 0 or "
                "data.init_args.soft_targets to false"
            )

    def _per_pixel(self, odds: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Weighted mean over the known pixels of log-odds against targets."""
        if self.unmapped:
            # With o the weighted odds of a building and w the weight, o / w are its odds and (1 - u) o / (1 + u o / w)
            # those, weighted again, that the label says building.
            lost = functional.softplus(odds + math.log(self.unmapped) - self.building_weight.log())
            odds = odds + math.log(1 - self.unmapped) - lost
        entropy = functional.binary_cross_entropy_with_logits(
            odds, target, pos_weight=self.building_weight, reduction="none"
        )
        if self.pixel == "focal":
            # The slope of a power below one is infinite at zero, and infinity times zero is NaN.
            entropy = (target - odds.sigmoid()).abs().clamp(min=1e-6) ** self.gamma * entropy
        weight = (1 - target) + self.building_weight * target
        return (entropy * known).sum() / (weight * known).sum().clamp(min=1e-6)
