"""The loss on buildings: a class weight that really acts, an overlap term, and soft targets from cover."""

import torch
from torch import Tensor, nn


class BuildingLoss(nn.Module):
    """Weighted cross-entropy plus the Tversky loss of the class building, both blind to ignored pixels.

    Buildings are a few percent of most landscapes. The weight multiplies the cross-entropy of every building pixel, and
    the Tversky index tp / (tp + a fp + b fn) (Salehi et al. 2017, arXiv 1706.05721), summed over the whole batch, never
    counts true background at all. TerraTorch's own dice, focal and lovasz ignore class weights.

    Args:
        building_weight: Weight of a building pixel where a background pixel weighs 1.
        tversky: Weight of the Tversky term beside the cross-entropy; 0 leaves it out.
        false_positive, false_negative: a and b above; 0.5 and 0.5 make it the dice loss.
        ignore_index: Mask value that counts nowhere.
    """

    building_weight: Tensor

    def __init__(
        self,
        building_weight: float = 1.0,
        tversky: float = 1.0,
        false_positive: float = 0.5,
        false_negative: float = 0.5,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.register_buffer("building_weight", torch.tensor(float(building_weight)), persistent=False)
        self.tversky, self.false_positive, self.false_negative = tversky, false_positive, false_negative
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, mask: Tensor, cover: Tensor | None = None) -> Tensor:
        """Loss of `logits` (n, 2, rows, cols) against `mask` (n, rows, cols), or against `cover` (0..1) where given.

        Where cover is NaN, the mask stands in for it. A batch without a labelled pixel costs 0.
        """
        known = mask != self.ignore_index
        target = (mask == 1).float()
        if cover is not None:
            target = torch.where(cover.isnan(), target, cover)
        target, log = target[known], logits.float().log_softmax(1)
        background, building = log[:, 0][known], log[:, 1][known]
        weight = (1 - target) + self.building_weight * target
        entropy = -((1 - target) * background + self.building_weight * target * building).sum() / weight.sum().clamp(
            min=1e-6
        )
        if not self.tversky:
            return entropy
        probability = building.exp()
        hit = (probability * target).sum()
        wrong = self.false_positive * (probability * (1 - target)).sum()
        missed = self.false_negative * ((1 - probability) * target).sum()
        index = (hit + 1) / (hit + wrong + missed + 1)  # the one keeps a batch without buildings finite
        return entropy + self.tversky * (1 - index)
