"""`BuildingSegmentationTask`: TerraTorch's segmentation task, scored and balanced for the class building alone."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from terratorch.tasks import SemanticSegmentationTask
from torch import Tensor, nn
from torchmetrics import Metric

from casbah.errors import InputError
from casbah.finetune import inputs
from casbah.finetune.callbacks import StopOnNaN
from casbah.finetune.experiment import check_range
from casbah.finetune.loss import MOST_UNMAPPED, BuildingLoss, PixelLoss
from casbah.models import graph, network
from casbah.products.tiles import TileInfo
from casbah.progress import say

if "terratorch_FLOAT_32_PRECISION" not in os.environ:
    torch.set_float32_matmul_precision("highest")  # which the import of TerraTorch lowers: see `network.quiet`

STEPS = 200
"""Probabilities are counted in steps of 1 / 200 while training; the threshold of a bundle is chosen more finely."""


class BuildingScore(Metric):
    """IoU of the class building at every threshold, from two histograms of its probability."""

    histogram: Tensor
    full_state_update = False

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state("histogram", torch.zeros(2, STEPS + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probability: Tensor, mask: Tensor) -> None:
        """Take in P(building) and mask, both (n, rows, cols)."""
        known = mask != self.ignore_index
        # NaN has no place in a histogram; the guard on the loss says what happened, with epoch and batch.
        step = (probability[known].nan_to_num(0).clamp(0, 1) * STEPS).long()
        index = (mask[known] == 1).long() * (STEPS + 1) + step
        self.histogram += torch.bincount(index, minlength=2 * (STEPS + 1)).reshape(2, -1)

    def compute(self) -> dict[str, Tensor]:
        """IoU at probability 0.5 and at the best threshold, and that threshold."""
        background, building = self.histogram.flip(1).cumsum(1).flip(1)
        iou = building / (background + self.histogram[1].sum()).clamp(min=1)
        best = int(iou.argmax())
        return {
            "IoU_building": iou[STEPS // 2],
            "IoU_building_best": iou[best],
            "threshold": torch.tensor(best / STEPS),
        }


class BuildingSegmentationTask(SemanticSegmentationTask):
    """Learns background and building.

    Logs `val/IoU_building` (at probability 0.5), `val/IoU_building_best` (at the best threshold: what to monitor, since
    the threshold of the bundle is chosen on validation anyway) and `val/loss`. TerraTorch's own `val/mIoU` averages
    background in. The network is built when the data are known, so that an experiment serves any number of periods.

    Args:
        model_factory: A TerraTorch factory (`SMPModelFactory`, `EncoderDecoderFactory`, …).
        model_args: What the factory takes. Bands, channels and frames are filled in from the data; `num_classes` is 2.
        lr: Learning rate at the peak.
        backbone_lr: The same for the backbone, once it is released; `lr` where None.
        weight_decay: Of AdamW.
        warmup: Share of all steps in which the learning rate climbs; it then falls along a cosine.
        schedule: `cosine`, or `constant` after the climb.
        class_balance: Weight of building in the loss per pixel: `none` 1, `inverse` background / building in the
            training pixels, `sqrt` its square root.
        tversky: Weight of the Tversky term (see `BuildingLoss`).
        false_positive: Its a.
        false_negative: Its b.
        loss: Per pixel: `cross_entropy`, `focal` or, where an overlap term is all that is wanted, `none`.
        gamma: Focus of the focal loss: 0 makes it the cross-entropy, 2 is usual.
        lovasz: Weight of the Lovász term, which takes no soft targets; 0 leaves it out.
        unmapped: Share of the buildings that are believed to be missing from the labels, evenly everywhere.
        mixed_precision: bfloat16 on a GPU or CPU that has it (float32 on others, so that one experiment serves all).
        flips_at_test: Average over the eight symmetries of the square wherever the bundle predicts.
        upsample: Show the network each pixel as that many squared (see `casbah.models.network.logits`): transformers
            of 16 px patches see 10 m buildings better so, at that many squared times the work.
    """

    model_args: dict[str, Any]

    def __init__(
        self,
        model_factory: str,
        model_args: dict[str, Any],
        lr: float = 1e-3,
        backbone_lr: float | None = None,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        schedule: Literal["cosine", "constant"] = "cosine",
        class_balance: Literal["none", "sqrt", "inverse"] = "sqrt",
        tversky: float = 1.0,
        false_positive: float = 0.5,
        false_negative: float = 0.5,
        loss: PixelLoss = "cross_entropy",
        gamma: float = 2.0,
        lovasz: float = 0.0,
        unmapped: float = 0.0,
        mixed_precision: bool = True,
        flips_at_test: bool = False,
        upsample: int = 1,
    ) -> None:
        if upsample < 1:
            raise InputError(f"model.init_args.upsample is {upsample}; a whole number of 1 or more is wanted")
        check_range("model.init_args.lr", lr, above=0)
        check_range("model.init_args.warmup", warmup, least=0, most=1)
        for name, value in (("backbone_lr", backbone_lr), ("weight_decay", weight_decay), ("tversky", tversky)):
            check_range(f"model.init_args.{name}", value, least=0)
        for name, value in (("false_positive", false_positive), ("false_negative", false_negative)):
            check_range(f"model.init_args.{name}", value, least=0)
        for name, value in (("gamma", gamma), ("lovasz", lovasz)):
            check_range(f"model.init_args.{name}", value, least=0)
        check_range("model.init_args.unmapped", unmapped, least=0, most=MOST_UNMAPPED)
        if loss == "none" and class_balance != "none":
            raise InputError(
                f"model.init_args.class_balance is {class_balance} and loss is none, so that no pixel would be "
                "weighed: set class_balance to none too"
            )
        super().__init__(
            model_args=dict(model_args) | {"num_classes": 2},
            model_factory=model_factory,
            ignore_index=255,
            class_names=["background", "building"],
            plot_on_val=False,
        )
        self.factory = model_factory
        self.lr, self.backbone_lr, self.weight_decay = lr, lr if backbone_lr is None else backbone_lr, weight_decay
        self.warmup, self.schedule, self.class_balance = warmup, schedule, class_balance
        self.mixed_precision, self.flips_at_test, self.upsample = mixed_precision, flips_at_test, upsample
        self.criterion = BuildingLoss(
            1.0, tversky, false_positive, false_negative, pixel=loss, gamma=gamma, lovasz=lovasz, unmapped=unmapped
        )
        self.monitor = "val/IoU_building_best"

    # The parent's constructor calls these three; the network waits for the data, the metrics are ours.
    def configure_models(self) -> None:
        """Nothing yet: see `configure_model`."""

    def configure_losses(self) -> None:
        """Nothing: the constructor sets the loss."""

    def configure_metrics(self) -> None:
        """Scores of the class building alone."""
        self.train_metrics = _Scores("train/")
        self.val_metrics = _Scores("val/")
        self.test_metrics = nn.ModuleList([_Scores("test/")])

    def configure_callbacks(self) -> list[Callback]:
        """The guard that no experiment may forget."""
        return [StopOnNaN()]

    def configure_model(self) -> None:
        """Build the network for the data at hand, from the same random numbers whatever ran before."""
        if getattr(self, "model", None) is not None:
            return
        data = self.trainer.datamodule
        inputs.check_pretrained(self.factory, self.model_args, data.normalisation, "the experiment")
        found = inputs.caveats(data.normalisation, str(self.model_args.get("backbone")), data.tile_set.info)
        for caveat in [*found, *inputs.units_in_doubt(data.tile_set)]:
            say(caveat)
        self.model_args = complete(self.factory, self.model_args, data, self.upsample)
        torch.manual_seed(data.seed)
        self.model = network.build(self.factory, self.model_args)
        # Of all buildings, those that the labels lack among them.
        share = min(max(data.building_share / (1 - self.criterion.unmapped), 1e-4), 1 - 1e-4)
        ratio = (1 - share) / share
        weight = {"none": 1.0, "sqrt": math.sqrt(ratio), "inverse": ratio}[self.class_balance]
        self.criterion.building_weight.fill_(weight)

    def configure_optimizers(self) -> Any:
        """AdamW with one group for the backbone and one for the rest, each at its own peak learning rate."""
        encoder = {id(parameter) for parameter in network.encoder_of(self.model).parameters()}
        backbone = [p for p in self.model.parameters() if id(p) in encoder]
        rest = [p for p in self.model.parameters() if id(p) not in encoder]
        groups = [
            {"params": backbone, "lr": self.backbone_lr, "name": "backbone"},
            {"params": rest, "lr": self.lr, "name": "rest"},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _factor(self, steps: float) -> Callable[[int], float]:
        climb = max(1.0, self.warmup * steps)

        def factor(step: int) -> float:
            if step < climb:
                return (step + 1) / (climb + 1)
            if self.schedule == "constant":
                return 1.0
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - climb) / max(1.0, steps - climb))))

        return factor

    def on_train_epoch_start(self) -> None:
        """Give dropout the random numbers of this epoch and process, whether or not the run was stopped before it."""
        of_epoch = self.trainer.datamodule.seed * 1_000_003 + self.current_epoch + 1
        torch.manual_seed((of_epoch + self.trainer.global_rank * 2**40) % 2**63)

    def training_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """The loss of a batch of `TileBatches`."""
        return self._step(batch, self.train_metrics)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a batch."""
        self._step(batch, self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a batch."""
        self._step(batch, self.test_metrics[dataloader_idx])

    def _step(self, batch: dict[str, Tensor], scores: Any) -> Tensor:
        image, mask = batch["image"], batch["mask"]
        with network.precision(image.device, self.mixed_precision):
            logits = network.logits(self.model, image, self.upsample).float()
        loss = self.criterion(logits, mask, batch.get("cover"))
        scores.update(logits.detach().softmax(1)[:, 1], mask)
        # Lightning divides the number of tiles by that of processes in whole numbers, so it gets a multiple.
        counted = 0 if batch.get("filler") else len(mask) * self.trainer.world_size
        self.log(f"{scores.prefix}loss", loss, on_step=False, on_epoch=True, batch_size=counted, sync_dist=True)
        return loss


class _Scores(BuildingScore):
    """`BuildingScore` with names that say the split, as TerraTorch's tasks expect of their metrics."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def compute(self) -> dict[str, Tensor]:
        return {f"{self.prefix}{name}": value.float() for name, value in super().compute().items()}


def complete(factory: str, model_args: dict[str, Any], data: Any, upsample: int = 1) -> dict[str, Any]:
    """Fill in what the data decide: channels, bands, ground resolution, and how several dates reach the backbone.

    `InputError` where the experiment says something else than the data.
    """
    bands, info = data.band_names, data.tile_set.info
    if factory == graph.FACTORY:
        filled = graph.arguments_of(bands, data.statistics)
    else:
        filled = _filled(factory, model_args, bands, data.layout, info, upsample)
    for key, value in filled.items():
        if key != "necks" and key in model_args and model_args[key] not in (None, value):
            raise InputError(
                f"model_args.{key} is {model_args[key]!r} and the data give {value!r}: leave {key} out of the "
                "experiment, it is filled in"
            )
    return model_args | filled


def _filled(
    factory: str, model_args: Mapping[str, Any], bands: Sequence[str], layout: str, info: TileInfo, upsample: int
) -> dict[str, Any]:
    if factory == "SMPModelFactory":
        # Its `bands` only counts; numbers stand for channels that have no one name.
        channels = list(bands) * info.periods  # date after date, as the layout stacks them
        return {"in_channels": len(channels), "bands": channels}
    known = inputs.family(str(model_args.get("backbone")))
    if known is None and layout != "frames":
        return {}
    if known is not None and known.dates == "each":
        _check_frames(layout, model_args)
        return _each_date(known, bands, info, upsample)
    names = [inputs.HLS_NAMES[name] for name in bands]
    if known is not None and known.dates == "months":
        _check_frames(layout, model_args)
        months = [month or inputs.UNKNOWN_MONTH for month in info.months or [None] * info.periods]
        resolution = info.resolution / upsample
        return {"backbone_bands": list(bands), "backbone_months": months, "backbone_resolution": resolution}
    filled: dict[str, Any] = {"backbone_bands": names, "backbone_num_frames": info.periods}
    if "necks" in model_args:
        filled["necks"] = [_with_frames(neck, info.periods) for neck in model_args["necks"]]
    return filled


def _check_frames(layout: str, model_args: Mapping[str, Any]) -> None:
    if layout != "frames":
        raise InputError(
            f"data.init_args.layout is {layout}, and {model_args.get('backbone')} takes one date at a time or dates as "
            "frames: set it to frames"
        )


def _each_date(known: inputs.Family, bands: Sequence[str], info: TileInfo, upsample: int) -> dict[str, Any]:
    """One date at a time through the backbone; the decoder sees the features of all dates, stacked."""
    wanted: Any = list(bands)
    filled: dict[str, Any] = {}
    if known.prefix.startswith("terramind"):
        modality = f"S2{info.level}"
        filled["backbone_modalities"] = [modality]
        wanted = {modality: [inputs.HLS_NAMES[name] for name in bands]}
    if known.prefix == "scalemae":
        filled["backbone_resolution"] = info.resolution / upsample
    filled |= {"backbone_bands": wanted, "backbone_use_temporal": True, "backbone_temporal_pooling": "concat"}
    return filled | {"backbone_temporal_n_timestamps": info.periods}


def _with_frames(neck: Any, periods: int) -> Any:
    """Tell the neck that folds tokens back into an image how many frames they come from."""
    if not isinstance(neck, dict) or neck.get("name") != "ReshapeTokensToImage":
        return neck
    return {"effective_time_dim": periods} | neck
