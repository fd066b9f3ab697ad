"""Trains one network on one TileSet and writes its bundle."""

import contextlib
import copy
import io
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from casbah.errors import CasbahError, InputError
from casbah.finetune import bundling, names, weights
from casbah.finetune.callbacks import EpochModelCheckpoint, best_name
from casbah.finetune.checkpoints import Place, place, run_key
from casbah.finetune.datamodule import TileDataModule
from casbah.finetune.experiment import Experiment, digest, without_places
from casbah.finetune.task import BuildingSegmentationTask, complete
from casbah.finetune.tracking import Tracker, write_history
from casbah.models import network
from casbah.products.model import ModelBundle, Training
from casbah.products.tiles import TileSet
from casbah.progress import say, task


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
) -> ModelBundle:
    """Train, choose the threshold on validation, and write the bundle; see `casbah.finetune.finetune`."""
    with network.quiet():
        run = _Run(experiment, tiles, seed, max_labels)
    kept = bundling.finished(output, run.digest, tiles) if resume else None
    if kept is not None:
        say(f"{name}: {output} was trained before, and is kept")
        return kept
    spot = place(checkpoints, output, run_key(run.digest, tiles.digest))
    finished = False
    try:
        state = _fit(run, spot, resume, name)
        bundle = _write(run, state, spot.directory, output)
        finished = True
    finally:
        spot.close(finished)
    return bundle


class _Run:
    """An experiment made ready for one TileSet: parsed by TerraTorch, its objects built, its configuration resolved."""

    def __init__(self, experiment: Experiment, tiles: TileSet, seed: int, max_labels: int | None) -> None:
        names.check(experiment)
        settings = _settings(experiment, tiles, seed, max_labels)
        weights.check(settings["model"]["init_args"].get("model_args") or {}, experiment.source)
        cli = _parse(settings, experiment.source)
        self.experiment, self.tiles, self.seed = experiment, tiles, seed
        self.trainer, self.task = cli.trainer, cli.model
        self.data: TileDataModule = cli.datamodule
        self.data.take(tiles)
        _check_epochs(cli.trainer, experiment.source)
        for split in ("train", "val"):
            bundling.check_split(tiles, tiles.split(split))
        if len(self.data.train_rows) < 2:
            raise InputError(
                f"{tiles.path} gives {len(self.data.train_rows)} tile to learn from; batch normalisation needs 2"
            )
        self.checkpoint = next(c for c in self.trainer.callbacks if isinstance(c, EpochModelCheckpoint))
        resolved = {key: value for key, value in without_places(cli.config.as_dict()).items() if value is not None}
        resolved["trainer"] = {key: value for key, value in resolved["trainer"].items() if value is not None}
        arguments = resolved["model"]["init_args"]
        arguments["model_args"] = self.model_args = self._model_args(arguments)
        resolved["data"]["init_args"]["seed"] = self.data.seed
        self.config: dict[str, Any] = _plain(resolved)
        self.digest = digest(self.config)

    def _model_args(self, arguments: dict[str, Any]) -> dict[str, Any]:
        given = dict(arguments["model_args"] or {})
        if isinstance(self.task, BuildingSegmentationTask):
            return complete(arguments["model_factory"], given | {"num_classes": 2}, self.data)
        return given


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


def _settings(experiment: Experiment, tiles: TileSet, seed: int, max_labels: int | None) -> dict[str, Any]:
    """What TerraTorch's parser gets: the experiment with these tiles, and without output of its own."""
    settings = copy.deepcopy(experiment.settings)
    settings["seed_everything"] = seed
    trainer = settings.setdefault("trainer", {})
    trainer |= {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    listed = trainer.setdefault("callbacks", [])
    if not any("EpochModelCheckpoint" in str(entry) for entry in listed):
        listed.append({"class_path": "casbah.finetune.EpochModelCheckpoint"})
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
        raise InputError(f"{where} is refused by TerraTorch's parser: {_gist(words.getvalue())}") from None
    except Exception as error:
        raise InputError(f"{where} can't be set up: {_gist(str(error)) or type(error).__name__}") from error
    finally:
        sys.argv = argv


def _gist(text: str) -> str:
    """The telling part of a complaint of jsonargparse, in one line."""
    after = text.rpartition("error: ")[2]
    line = re.sub(r"\s+", " ", after).strip(" .")
    return line if len(line) <= 300 else line[:297] + "..."


def _fit(run: _Run, spot: Place, resume: bool, name: str) -> EpochModelCheckpoint:
    """Train to the end, from the last whole epoch where there is one; returns the filled checkpoint callback."""
    checkpoint, going_on = run.checkpoint, spot.prepare(resume)
    checkpoint.dirpath = str(spot.directory)
    if going_on:
        checkpoint.load_state_dict(_state(spot))
        say(f"{name}: {len(checkpoint.history)} epochs were done before, the last of them kept in {spot.last}")
        if checkpoint.finished:
            return checkpoint
    tracker = Tracker(name, _described(run))
    status = "FAILED"
    total = run.trainer.max_epochs or 1
    try:
        with task(f"finetune {name}", max(total, 1), done=len(checkpoint.history)) as progress:

            def told(scores: dict[str, float]) -> None:
                done = int(scores["epoch"]) + 1
                note = f"loss {scores.get('train/loss', float('nan')):.3f}, IoU {scores[checkpoint.monitor]:.3f}"
                progress.advance(done - progress.done, note)
                tracker.log(scores, int(scores["epoch"]))
                write_history(spot.directory / "metrics.csv", checkpoint.history)

            checkpoint.on_epoch.append(told)
            checkpoint.on_saved.append(spot.mirror)
            with _errors(), network.quiet():
                run.trainer.fit(
                    run.task, datamodule=run.data, ckpt_path=str(spot.last) if going_on else None, weights_only=True
                )
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    return checkpoint


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None  # how Lightning ends after Ctrl-C
    except torch.OutOfMemoryError:
        raise CasbahError(
            "the device ran out of memory: lower data.init_args.batch_size (--set data.init_args.batch_size=4)"
        ) from None


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
    predictor = network.NetworkPredictor(training, model, run.data.layout, **network.test_options(arguments))
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
    return ModelBundle.open(output)


def _training(run: _Run, checkpoint: EpochModelCheckpoint, parameters: int) -> Training:
    statistics = run.data.statistics
    blocks = run.tiles.split("train").blocks
    val = run.tiles.split("val").blocks
    return Training(
        experiment=run.experiment.name,
        kind="network",
        bands=run.data.band_names,
        threshold=0.5,
        normalisation={
            "mean": statistics.mean.tolist(),
            "std": statistics.std.tolist(),
            "source": statistics.source,
        },
        input_range=bundling.input_range(run.tiles, run.data.band_names),
        blocks={
            "train": tuple(sorted({blocks[row] for row in run.data.train_rows})),
            "val": tuple(sorted(set(val))),
        },
        config=run.digest,
        seed=run.seed,
        pretrained=weights.pretraining(run.model_args),
        parameters=parameters,
        epochs=len(checkpoint.history),
        best_epoch=checkpoint.best_epoch,
        seconds=round(checkpoint.seconds, 3),
        peak_memory=int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else bundling.peak_memory(),
        **bundling.facts_of(run.tiles),
    )


def _plain(value: Any) -> Any:
    """Only what YAML and JSON can hold: tuples become lists, everything else that is no plain value its text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
