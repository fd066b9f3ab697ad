"""Trains one network on one TileSet and writes its bundle."""

import contextlib
import copy
import io
import pickle
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from safetensors import SafetensorError
from safetensors.torch import load_file
from terratorch.tasks import SemanticSegmentationTask

from casbah.errors import CasbahError, InputError
from casbah.finetune import bundling, capacity, inputs, names, ranks, weights
from casbah.finetune.callbacks import EachBatch, EndWhenAsked, EpochModelCheckpoint, best_name
from casbah.finetune.checkpoints import Place, place, run_key, written
from casbah.finetune.complaint import gist, ours
from casbah.finetune.datamodule import TileDataModule
from casbah.finetune.experiment import Experiment, digest, unknown, without_places
from casbah.finetune.task import BuildingSegmentationTask, complete
from casbah.finetune.tracking import Tracker, write_history
from casbah.models import network, published
from casbah.products.manifest import sha256_of
from casbah.products.model import ModelBundle, Training
from casbah.products.tiles import TileSet
from casbah.progress import Task, say, task

LIGHTNINGS_EPOCHS = 1000
"""What its Trainer does where the experiment says nothing of max_epochs."""


def check(*, experiment: Experiment, tiles: TileSet, seed: int, max_labels: int | None) -> str:
    """Digest of the resolved configuration.

    Raises what `train` refuses before it trains: `InputError`, or `WorldError` where pretrained weights can't be had.
    """
    with network.quiet():
        return _Run(experiment, tiles, seed, max_labels).digest


def train(
    *,
    experiment: Experiment,
    tiles: TileSet,
    output: Path,
    seed: int,
    max_labels: int | None,
    resume: bool,
    checkpoints: str | Path | None,
    name: str,
) -> ModelBundle | None:
    """Train, choose the threshold on validation, and write the bundle; see `casbah.finetune.finetune`.

    Of several processes the first alone writes, and chooses the threshold over all validation tiles; None in others.
    """
    processes = ranks.current()
    with network.quiet():
        run = _Run(experiment, tiles, seed, max_labels)
    processes.agree(run_key(run.digest, tiles.digest))
    if (experiment.settings.get("trainer") or {}).get("logger"):
        say(
            f"{name}: the experiment's trainer.logger is left out; scores go to the MLflow server that "
            "MLFLOW_TRACKING_URI names, and into the model"
        )
    kept = bundling.finished(output, run.digest, tiles) if resume and processes.first else None
    if kept is not None:
        say(f"{name}: {output} was trained before, and is kept")
        kept = kept.tuned_among(0)  # the settings were given now, wherever they are from
    if processes.told(lambda: kept is not None):
        return kept
    spot = place(checkpoints, output, run_key(run.digest, tiles.digest))
    finished = False
    try:
        state = _fit(run, spot, resume, name)
        bundle = _write(run, state, spot.directory, output) if processes.first else None
        finished = True
    finally:
        if processes.first:
            spot.close(finished)
    processes.meet()
    return bundle


class _Run:
    """An experiment made ready for one TileSet: parsed by TerraTorch, its objects built, its configuration resolved."""

    def __init__(self, experiment: Experiment, tiles: TileSet, seed: int, max_labels: int | None) -> None:
        names.check(experiment)
        capacity.check_accelerator(experiment)
        settings = _settings(experiment, tiles, seed, max_labels)
        arguments = settings["model"]["init_args"]
        _check_pretrained(arguments, settings["data"]["init_args"], experiment.source)
        _check_task(settings["model"], experiment.source)
        weights.check(arguments.get("model_args") or {}, experiment.source)
        _check_devices(settings["trainer"], experiment.source)
        cli = _parse(settings, experiment.source)
        self.experiment, self.tiles, self.seed = experiment, tiles, seed
        self.trainer, self.task = cli.trainer, cli.model
        self.data: TileDataModule = cli.datamodule
        self.data.take(tiles)
        _ = self.data.statistics  # refuses units, bands and figures that training would stop at
        if isinstance(self.task, BuildingSegmentationTask) and self.data.soft_targets:
            self.task.criterion.check_soft_targets()
        _check_processes(cli.trainer, cli.model, experiment.source)
        _check_epochs(cli.trainer, experiment.source)
        _check_monitors(cli.trainer, cli.model, experiment.source)
        for split in ("train", "val"):
            bundling.check_split(tiles, tiles.split(split))
        if len(self.data.train_rows) < 2:
            raise InputError(
                f"{tiles.path} gives {len(self.data.train_rows)} tile to learn from; batch normalisation needs 2"
            )
        if len(self.data.train_rows) < 2 * (size := ranks.current().size):
            raise InputError(
                f"{tiles.path} gives {len(self.data.train_rows)} tiles to learn from, which {size} processes can't "
                f"share: batch normalisation needs 2 in each; start at most {len(self.data.train_rows) // 2}"
            )
        bundling.check_draw(tiles, self.data.train_rows)
        self.checkpoint = next(c for c in self.trainer.callbacks if isinstance(c, EpochModelCheckpoint))
        resolved = {key: value for key, value in without_places(cli.config.as_dict()).items() if value is not None}
        resolved["trainer"] = {key: value for key, value in resolved["trainer"].items() if value is not None}
        arguments = resolved["model"]["init_args"]
        arguments["model_args"] = self.model_args = self._model_args(arguments)
        resolved["data"]["init_args"]["seed"] = self.data.seed
        self.config: dict[str, Any] = _plain(resolved)
        self.digest = digest(_by_content(self.config))

    def _model_args(self, arguments: dict[str, Any]) -> dict[str, Any]:
        given = dict(arguments["model_args"] or {})
        if isinstance(self.task, BuildingSegmentationTask):
            return complete(arguments["model_factory"], given | {"num_classes": 2}, self.data, self.task.upsample)
        return given


def _check_task(model: Mapping[str, Any], where: str) -> None:
    """`InputError` where a task that builds its own network asks for weights that have to be checked when they load."""
    listed = published.wanted(model["init_args"].get("model_args") or {})
    if listed is not None and "BuildingSegmentationTask" not in model["class_path"]:
        raise InputError(
            f"{where}: {model['class_path']} would download {listed.entry.name} by itself, unchecked: set "
            "model.class_path to casbah.finetune.BuildingSegmentationTask, or pretraining to false"
        )


def _check_pretrained(model: Mapping[str, Any], data: Mapping[str, Any], where: str) -> None:
    """`InputError` where pretrained weights are asked for and their input would come in other units."""
    normalisation = data.get("normalisation", inputs.TRAIN)
    inputs.check_pretrained(str(model.get("model_factory")), model.get("model_args") or {}, normalisation, where)


def _by_content(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the sha256 of the pretrained weights in the place of the file that holds them.

    Statistics of the tiles are left out: they are the tiles', whose digest stands beside that of the configuration, and
    the folds of one experiment have one configuration.
    """
    found = copy.deepcopy(config)
    model_args = found["model"]["init_args"]["model_args"]
    model_args.pop("statistics", None)
    file = model_args.get("backbone_ckpt_path")
    if file is not None:
        model_args["backbone_ckpt_path"] = sha256_of(Path(file))
    return found


def _check_devices(trainer: Mapping[str, Any], where: str) -> None:
    """`InputError` where the plain numbers of devices and nodes are not those of the processes that run."""
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    if str(devices).isdigit() and str(nodes).isdigit():
        _check_number(int(str(devices)) * int(str(nodes)), where)


def _check_number(wanted: int, where: str) -> None:
    size = ranks.current().size
    if wanted == size:
        return
    if size > 1:
        raise InputError(
            f"{where}: torchrun started {size} processes, and trainer.devices times trainer.num_nodes is {wanted}: set "
            f"both (--set trainer.devices=N, as many as on each node, and --set trainer.num_nodes=M)"
        )
    raise InputError(
        f"{where}: trainer.devices times trainer.num_nodes is {wanted}, and one process runs: set them to 1 (--set "
        f"trainer.devices=1), or start {wanted} by `torchrun --nproc-per-node=DEVICES --no-python casbah finetune …`"
    )


def _check_processes(trainer: Any, model: Any, where: str) -> None:
    """`InputError` where several processes would not give one right model."""
    _check_number(trainer.num_devices * trainer.num_nodes, where)
    if ranks.current().size == 1:
        return
    if not isinstance(trainer.strategy, DDPStrategy):
        raise InputError(
            f"{where}: trainer.strategy is {type(trainer.strategy).__name__}, under which no process holds the whole "
            "network; set it to ddp"
        )
    if not isinstance(model, BuildingSegmentationTask):
        raise InputError(
            f"{where}: {type(model).__name__} counts tiles twice where several processes share them; set "
            "model.class_path to casbah.finetune.BuildingSegmentationTask, or train in one process"
        )
    if trainer.limit_val_batches != 1.0:
        raise InputError(
            f"{where}: trainer.limit_val_batches is {trainer.limit_val_batches}, and several processes would leave out "
            "other tiles than one; leave it out"
        )


def _check_epochs(trainer: Any, where: str) -> None:
    """`InputError` where no epoch would be trained, or where one would end without scores to choose by."""
    if trainer.max_epochs is not None and trainer.max_epochs < 1:
        raise InputError(f"{where}: trainer.max_epochs is {trainer.max_epochs}; 1 or more is wanted")
    if trainer.max_steps == 0:
        raise InputError(f"{where}: trainer.max_steps is 0, which leaves no epoch to train; leave it out")
    if trainer.check_val_every_n_epoch != 1:
        raise InputError(
            f"{where}: trainer.check_val_every_n_epoch is {trainer.check_val_every_n_epoch}; leave it at 1, since the "
            "best epoch is chosen by the validation score that every epoch ends with"
        )
    for name in ("limit_train_batches", "limit_val_batches"):
        if getattr(trainer, name) == 0:
            raise InputError(
                f"{where}: trainer.{name} is 0, which leaves nothing to train or to choose by; leave it out"
            )


def _check_monitors(trainer: Any, model: Any, where: str) -> None:
    """`InputError` with the nearest scores where a callback waits for one that the task does not log."""
    logged = _logged(model)
    for callback in trainer.callbacks:
        if logged is None or not isinstance(callback, EarlyStopping | EpochModelCheckpoint | ModelCheckpoint):
            continue
        if callback.monitor is not None and callback.monitor not in logged:
            raise unknown(f"the monitor of {type(callback).__name__}", callback.monitor, logged, where)


def _logged(model: Any) -> set[str] | None:
    """Scores that a task logs after an epoch; None where it is one that may log others."""
    if type(model) is BuildingSegmentationTask or (
        type(model) is SemanticSegmentationTask and isinstance(model.hparams["loss"], str)
    ):
        sets = (model.train_metrics, model.val_metrics)
        return {name for metrics in sets for name in (*metrics.clone().compute(), f"{metrics.prefix}loss")}
    return None


def _settings(experiment: Experiment, tiles: TileSet, seed: int, max_labels: int | None) -> dict[str, Any]:
    """What TerraTorch's parser gets: the experiment with these tiles, and without output of its own."""
    settings = copy.deepcopy(experiment.settings)
    settings["seed_everything"] = seed
    trainer = settings["trainer"] = settings.get("trainer") or {}
    trainer |= {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    if ranks.current().size > 1 and trainer.get("strategy", "auto") in ("auto", "ddp"):
        # A backbone that is held still has no gradients, and some have parts that a decoder never asks for.
        trainer["strategy"] = "ddp_find_unused_parameters_true"
    listed = trainer["callbacks"] = trainer.get("callbacks") or []
    needed = ["EpochModelCheckpoint"]
    if "BuildingSegmentationTask" not in settings["model"]["class_path"]:  # which brings its own
        needed.append("StopOnNaN")
    for name in needed:
        if not any(name in str(entry) for entry in listed):
            listed.append({"class_path": f"casbah.finetune.{name}"})
    data = settings["data"].setdefault("init_args", {})
    data["tiles"] = str(tiles.path)
    if max_labels is not None:
        data["max_labels"] = max_labels
    settings["model"].setdefault("init_args", {})
    return settings


def _parse(settings: dict[str, Any], where: str) -> Any:
    """Let TerraTorch's own command line parse and build; its complaints become one sentence."""
    from terratorch.cli_tools import build_lightning_cli

    words, argv = io.StringIO(), sys.argv
    sys.argv = argv[:1]  # Lightning warns where the process has arguments of its own
    try:
        with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
            return build_lightning_cli(args=settings, run=False)
    except CasbahError:
        raise
    except SystemExit:
        raise InputError(f"{where} is refused by TerraTorch's parser: {gist(words.getvalue())}") from None
    except Exception as error:
        if (refused := ours(error)) is not None:
            raise refused from None
        raise InputError(f"{where} can't be set up: {gist(str(error)) or type(error).__name__}") from error
    finally:
        sys.argv = argv


def _fit(run: _Run, spot: Place, resume: bool, name: str) -> EpochModelCheckpoint:
    """Train to the end, from the last whole epoch where there is one; returns the filled checkpoint callback."""
    checkpoint, processes = run.checkpoint, ranks.current()
    going_on: bool = processes.told(lambda: spot.prepare(resume))
    checkpoint.dirpath = str(spot.directory)
    if going_on:
        checkpoint.load_state_dict(processes.told(lambda: _state(spot)))
        say(f"{name}: {len(checkpoint.history)} epochs were done before, the last of them kept in {spot.last}")
        if checkpoint.finished:
            return checkpoint
    earlier = checkpoint.mlflow_run
    tracker = Tracker(name, _described(run), resumed=going_on, earlier=earlier, wanted=processes.first)
    checkpoint.mlflow_run = tracker.run or checkpoint.mlflow_run
    status, teller = "FAILED", _Teller(run)
    try:
        with task(f"finetune {name}", teller.total, done=teller.reached(len(checkpoint.history))) as progress:
            teller.progress = progress
            if processes.first:
                checkpoint.on_epoch += [teller.epoch, lambda scores: _write_history(spot.directory, checkpoint)]
                checkpoint.on_saved += [spot.mirror, lambda directory: tracker.follow(checkpoint.history)]
            run.trainer.callbacks += [EachBatch(teller.part), capacity.EnoughMemory(run.experiment.name)]
            if processes.size > 1:
                run.trainer.callbacks += [EndWhenAsked()]
            with _state_file(spot, going_on) as state, _errors(run.experiment.source), network.quiet():
                run.trainer.fit(run.task, datamodule=run.data, ckpt_path=state, weights_only=True)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        if processes.failure not in (None, ranks.STOPPED):
            raise  # another process says why
        kept = f"the last whole epoch is kept in {spot.last}" if spot.last.is_file() else "no epoch was finished"
        say(f"{name}: stopped; {kept}, and --resume goes on from there")
        raise
    finally:
        tracker.finish(status)
    return checkpoint


@contextmanager
def _state_file(spot: Place, going_on: bool) -> Iterator[str | None]:
    """The state that every process goes on from, the first one's also where another does not see its files."""
    if not going_on:
        yield None
        return
    with ranks.current().seen(spot.last) as file:
        yield str(file)


def _write_history(directory: Path, checkpoint: EpochModelCheckpoint) -> None:
    with written(directory):
        write_history(directory / "metrics.csv", checkpoint.history)


class _Teller:
    """Shows the person who waits how far a training is, batch by batch."""

    progress: Task

    def __init__(self, run: _Run) -> None:
        self.batches = -(-len(run.data.train_rows) // (run.data.batch_size * ranks.current().size))
        self.epochs = run.trainer.max_epochs or LIGHTNINGS_EPOCHS
        self.total = self.reached(self.epochs)
        self.monitor, self.scores = run.checkpoint.monitor, ""

    def reached(self, epochs: float) -> int:
        """Batches in so many epochs."""
        return round(epochs * self.batches)

    def part(self, epochs: float) -> None:
        """So many epochs are done, the last in part."""
        self._advance(epochs, int(epochs) + 1)

    def epoch(self, scores: Mapping[str, float]) -> None:
        """An epoch ended."""
        done = int(scores["epoch"]) + 1
        self.scores = f", loss {scores.get('train/loss', float('nan')):.3f}, IoU {scores[self.monitor]:.3f}"
        self._advance(done, done)

    def _advance(self, epochs: float, number: int) -> None:
        note = f"epoch {number} of {self.epochs}{self.scores}"
        self.progress.advance(self.reached(epochs) - self.progress.done, note)


@contextmanager
def _errors(where: str) -> Iterator[None]:
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None  # how Lightning ends after Ctrl-C
    except MisconfigurationException as error:
        raise InputError(f"{where} can't be trained: {gist(str(error))}") from None
    except torch.OutOfMemoryError:
        raise CasbahError(
            "the device ran out of memory: lower data.init_args.batch_size (--set data.init_args.batch_size=4)"
        ) from None
    except RuntimeError as error:
        if "conditioned on metric" not in str(error):  # EarlyStopping's, of a task that logs what nobody can foresee
            raise
        raise InputError(f"{where} can't be trained: {gist(str(error))}") from None


def _state(spot: Place) -> dict[str, Any]:
    try:
        return torch.load(spot.last, map_location="cpu", weights_only=True)["callbacks"]["EpochModelCheckpoint"]
    except (OSError, RuntimeError, LookupError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise _damaged(spot.last, error) from None


def _damaged(file: Path, error: Exception) -> InputError:
    return InputError(f"{file} is damaged ({type(error).__name__}): train again without --resume, which puts it away")


def _described(run: _Run) -> dict[str, Any]:
    return {
        "experiment": run.experiment.name,
        "config": run.digest,
        "tiles": run.tiles.digest,
        "seed": run.seed,
        "train_tiles": len(run.data.train_rows),
        "normalisation": run.data.normalisation,
    }


def _write(run: _Run, checkpoint: EpochModelCheckpoint, directory: Path, output: Path) -> ModelBundle:
    best = directory / best_name(checkpoint.best_epoch)
    arguments = run.config["model"]["init_args"]
    model = network.build(arguments["model_factory"], network.untrained(run.model_args))
    try:
        model.load_state_dict(load_file(best), strict=True)
    except (OSError, SafetensorError) as error:
        raise _damaged(best, error) from None
    training = _training(run, checkpoint, sum(p.numel() for p in model.parameters()))
    options = network.test_options(arguments)
    predictor = network.NetworkPredictor(training, model, run.data.layout, **options)
    if predictor.mixed_precision:
        training = training.model_copy(update={"rounding": _rounding(predictor, run.tiles)})
        predictor = network.NetworkPredictor(training, model, run.data.layout, **options)
    threshold, validation = bundling.choose_threshold(predictor, run.tiles)
    training = training.model_copy(update={"threshold": threshold})
    metrics = {
        "validation": validation,
        "monitor": checkpoint.monitor,
        "best_epoch": checkpoint.best_epoch,
        "history": [{key: bundling.finite(value) for key, value in row.items()} for row in checkpoint.history],
    }
    parameters = {"experiment": run.experiment.name, "seed": run.seed, "max_labels": run.data.max_labels}
    with ModelBundle.write(output, parameters=parameters, inputs={"tiles": run.tiles.digest}) as draft:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        (draft.directory / "config.yaml").write_text(text, encoding="utf-8")
        shutil.copyfile(best, draft.directory / "weights.safetensors")
        write_history(draft.directory / "metrics.csv", checkpoint.history)
        draft.write_json("metrics.json", metrics)
        draft.write_json("training.json", training.model_dump(mode="json"))
    return ModelBundle.open(output, verify=False)


def _rounding(predictor: network.NetworkPredictor, tiles: TileSet) -> float:
    """See `Training.rounding`; where a network can't predict in bfloat16 by it, that is said."""
    training = predictor.training
    most = max(1, network.COMPARED // training.tile_size**2)
    moved = predictor.rounding(bundling.validation_images(training, tiles, most))
    if moved > network.AGREES:
        say(
            f"{training.experiment}: bfloat16 moves a probability by {moved:.3f}, more than {network.AGREES:g}, so the "
            "model predicts in float32"
        )
    return moved


def _training(run: _Run, checkpoint: EpochModelCheckpoint, parameters: int) -> Training:
    blocks = run.tiles.split("train").blocks
    val = run.tiles.split("val").blocks
    device = run.trainer.strategy.root_device
    seen = len(run.data.train_rows) * len(checkpoint.history)
    return Training(
        experiment=run.experiment.name,
        kind="network",
        bands=run.data.band_names,
        threshold=0.5,
        normalisation=run.data.statistics.as_dict(),
        input_range=bundling.input_range(run.tiles, run.data.band_names),
        blocks={
            "train": tuple(sorted({blocks[row] for row in run.data.train_rows})),
            "val": tuple(sorted(set(val))),
        },
        config=run.digest,
        seed=run.seed,
        pretrained=checkpoint.starts_from or weights.pretraining(run.model_args),
        parameters=parameters,
        epochs=len(checkpoint.history),
        best_epoch=checkpoint.best_epoch,
        seconds=round(checkpoint.seconds, 3),
        peak_memory=int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else bundling.peak_memory(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=_precision(run, device),
        tiles_per_second=round(seen / checkpoint.seconds, 3) if checkpoint.seconds else None,
        **bundling.facts_of(run.tiles),
    )


def _precision(run: _Run, device: torch.device) -> str:
    """`bfloat16` or `float32` where the task decides, else what the trainer was told (`16-mixed`)."""
    if network.takes_bf16(device, getattr(run.task, "mixed_precision", False)):
        return "bfloat16"
    told = str(run.trainer.precision)
    return "float32" if told == "32-true" else told


def _plain(value: Any) -> Any:
    """Only what YAML and JSON can hold: tuples become lists, everything else that is no plain value its text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
