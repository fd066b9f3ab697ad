"""Callbacks that an experiment names, or that every run of ours carries."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from casbah.errors import CasbahError, InputError
from casbah.finetune.checkpoints import LAST, written
from casbah.models import network


def best_name(epoch: int) -> str:
    """The file of the best epoch's weights: its epoch is in the name, so that it never stands for another one's."""
    return f"best-{epoch:04d}.safetensors"


class StopOnNaN(Callback):
    """Stops loudly, before the weights are spoiled, when the loss or its gradient is no number any more."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """`CasbahError` naming epoch and batch."""
        _check_finite("loss", loss, trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The same of the gradient's norm, before it is clipped: clipping would spread a NaN over all weights."""
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        _check_finite("gradient's norm", nn.utils.get_total_norm(gradients), trainer)


def _check_finite(what: str, value: Tensor, trainer: Trainer) -> None:
    if not torch.isfinite(value):
        raise CasbahError(
            f"the {what} became {value.item()} in epoch {trainer.current_epoch}, batch "
            f"{trainer.fit_loop.batch_idx}: training stopped before the weights were spoiled. Lower "
            "model.init_args.lr, or set model.init_args.mixed_precision to false, and train again"
        )


class EachBatch(Callback):
    """Tells how far a training is, in epochs and their parts.

    Args:
        told: Called after every batch but the last of an epoch, whose scores tell more.
    """

    def __init__(self, told: Callable[[float], None]) -> None:
        self.told = told

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell it."""
        if batch_idx + 1 < trainer.num_training_batches:
            self.told(trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches)


class EndWhenAsked(Callback):
    """Ends one of several processes at SIGTERM, as Ctrl-C does.

    Lightning's own answer waits for the other processes, which may be gone by then.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of Lightning's answer, which it has set by now; it sets back what was before when it ends."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, interrupt)


class ReleaseBackbone(Callback):
    """Holds the backbone still for the first epochs, so that a random decoder does not shake what it has learned.

    Its learning rate afterwards is `model.init_args.backbone_lr`. Frozen parameters take no step and no decay, and
    batch normalisation in the backbone keeps its statistics. Nothing but the epoch decides, so a resumed run needs no
    memory.

    Args:
        after_epochs: Epochs in which the backbone is frozen; 0 trains it from the start.
    """

    def __init__(self, after_epochs: int = 1) -> None:
        if after_epochs < 0:
            raise InputError(f"ReleaseBackbone.after_epochs is {after_epochs}; 0 or more is wanted")
        self.after_epochs = after_epochs

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze or release."""
        frozen = trainer.current_epoch < self.after_epochs
        encoder = network.encoder_of(_network(pl_module))
        for parameter in encoder.parameters():
            parameter.requires_grad_(not frozen)
        encoder.train(not frozen)


class EpochModelCheckpoint(Checkpoint):
    """Keeps `last.ckpt` (all that a resumed run needs) and `best-<epoch>.safetensors` (the weights of the best epoch).

    `last.ckpt` is written when the next epoch begins or training ends, at which points nothing of the epoch is left to
    do; each file appears whole or not at all. It holds only tensors and plain values, so that it loads without running
    code. Of several processes the first alone writes. TerraTorch adds no checkpoint of its own beside a callback of
    this name.

    Args:
        dirpath: Where to; `checkpoints` below the trainer's `default_root_dir` where None.
        monitor: The logged score that decides which epoch is the best.
        mode: `max` or `min`.
    """

    def __init__(self, dirpath: str | None = None, monitor: str = "val/IoU_building_best", mode: str = "max") -> None:
        if mode not in ("max", "min"):
            raise InputError(f"EpochModelCheckpoint.mode is {mode!r}; max or min is wanted")
        self.dirpath, self.monitor, self.mode = dirpath, monitor, mode
        self.best_score: float | None = None
        self.best_epoch = -1
        self.finished = False
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.mlflow_run: str | None = None
        """The run in MLflow that a resumed training goes on with."""
        self.starts_from: str | None = None
        """What the network's published weights are, and how much of them fitted; None where it has none."""
        self.on_epoch: list[Callable[[dict[str, float]], None]] = []
        """Each is called with the scores of an epoch that ended (progress, MLflow)."""
        self.on_saved: list[Callable[[Path], None]] = []
        """Each is called with the directory when its files stand for a whole epoch (the object store)."""
        self._since = time.monotonic()
        self._unsaved = False

    @property
    def directory(self) -> Path:
        """Where the two files lie."""
        if self.dirpath is None:
            raise AssertionError("EpochModelCheckpoint was not set up by a trainer")
        return Path(self.dirpath)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the directory."""
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and note what the network started from."""
        self._since = time.monotonic()
        self.starts_from = getattr(_network(pl_module), "starts_from", None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the epoch's scores, and keep its weights where they are the best so far."""
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.monitor not in scores:
            raise InputError(
                f"EpochModelCheckpoint monitors {self.monitor!r}, which is not logged; choose from "
                f"{', '.join(sorted(scores))}"
            )
        self.history.append({"epoch": float(trainer.current_epoch)} | scores)
        self._unsaved = True
        score = scores[self.monitor]
        better = self.best_score is None or (score > self.best_score if self.mode == "max" else score < self.best_score)
        if better:
            self.best_score, self.best_epoch = score, trainer.current_epoch
            best = self.directory / best_name(self.best_epoch)
            if trainer.is_global_zero:
                write_whole(best, lambda path: save_weights(_network(pl_module), path))
        for listener in self.on_epoch:
            listener(self.history[-1])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state that the previous epoch left."""
        if self._unsaved:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say that the next epoch, which Lightning has announced already, is still to come.

        Lightning takes an announced epoch for one that broke off in its middle, and then leaves batches or the
        validation out; between whole epochs it starts afresh.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for count in (progress["total"], progress["current"]):
            count["ready"] = count["processed"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the last state, and that there is nothing more to train."""
        self.finished = True
        if self.history:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._unsaved, now = False, time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.directory / LAST)  # which writes nothing here, and waits for the first process
            return
        write_whole(self.directory / LAST, lambda path: trainer.save_checkpoint(path, weights_only=False))
        for old in self.directory.glob("best-*.safetensors"):
            if old.name != best_name(self.best_epoch):
                old.unlink()
        for listener in self.on_saved:
            listener(self.directory)

    def state_dict(self) -> dict[str, Any]:
        """Plain values alone."""
        names = ("best_score", "best_epoch", "finished", "history", "seconds", "mlflow_run", "starts_from")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, in the run in MLflow that was begun for it, if any."""
        begun = self.mlflow_run
        for name, value in state_dict.items():
            setattr(self, name, value)
        self.mlflow_run = begun or self.mlflow_run

    @property
    def state_key(self) -> str:
        """One name whatever the arguments, so that a checkpoint is found again."""
        return "EpochModelCheckpoint"


def _network(task: LightningModule) -> nn.Module:
    network_of_task: Any = task.model
    return network_of_task


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network's state as safetensors."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(state, path)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file that then appears at `path`, whole or not at all; `WorldError` where the disk fails."""
    partial = path.with_name(f".{path.name}.partial-{uuid4().hex[:8]}")
    with written(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
