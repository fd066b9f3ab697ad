"""A local session: services found or started, a run on them, its results gathered, what was started stopped."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

from casbah import stack
from casbah.errors import InputError
from casbah.pipeline import compiled, inputs, local
from casbah.pipeline.display import Display
from casbah.products.evaluation import Evaluation, EvaluationMetrics
from casbah.products.manifest import sha256_of
from casbah.progress import say
from casbah.stack.stack import FOREIGN
from casbah.storage import BUCKET, Location, Store

FILES = {
    "aoi": (".geojson", ".json", ".gpkg"),
    "labelled_area": (".geojson", ".json", ".gpkg"),
    "labels": (".geojson", ".gpkg", ".parquet", ".fgb", ".pbf"),
}
"""Parameters that may name a file of this machine, which is copied to the store, and what such a file may be."""

TOWNS = ("aoi", "labels", "labelled_area", "stac")
"""Parameters that may name the simulated town."""


@dataclass(frozen=True)
class Request:
    """A compiled pipeline and its arguments, checked before anything is started for them."""

    package: Path
    arguments: dict[str, str]


@contextmanager
def request(given: Mapping[str, str], package: Path | None = None) -> Iterator[Request]:
    """Compile the pipeline unless a package is given, and check the arguments against it."""
    with tempfile.TemporaryDirectory(prefix="casbah-") as folder:
        package = package or compiled.compile_pipeline(Path(folder) / "building_footprints.yaml")
        compiled.arguments(package, given)
        for name, value in given.items():
            if name in FILES:
                inputs.refuse_shapefile(name, value)
            if _is_file(name, value) and not Path(value).is_file():
                raise InputError(f"{name} is {value!r}, and there is no such file")
        yield Request(package, dict(given))


@dataclass(frozen=True)
class Results:
    """What a person wants to see after a run."""

    experiments: dict[str, dict[str, float]]
    """Experiment -> its validation scores (`building_iou`, `building_f1`, …)."""
    starts_from: dict[str, str]
    """Experiment -> random weights, pretrained ones (and on what), or trees."""
    winner: str
    test: EvaluationMetrics
    registration: dict[str, Any]
    """`name`, `version`, `alias`, `url`."""
    output: Path
    seconds: dict[str, float]
    wall: float
    directory: Path
    started: bool
    """Whether the services were started for this run, and stop with it."""


class Session:
    """Services for local runs: those of the environment, those that `casbah up` left running, or fresh ones.

    With `embedded` those of the environment are left alone: simulated data belong in no store or registry of a person.
    """

    def __init__(self, directory: Path, *, embedded: bool = False) -> None:
        self.directory, self.embedded = directory.resolve(), embedded
        self.started = False
        self.environment: dict[str, str] = {}
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.enter_context(_termination_as_interrupt())
            if not self.embedded and Store.configured() and os.environ.get("MLFLOW_TRACKING_URI"):
                say("Using the object store and MLflow that the environment names")
            else:
                self._enter_stack(exits)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._exits.close()

    def _enter_stack(self, exits: ExitStack) -> None:
        if stack.find(self.directory) is None:
            self.started = True
            exits.callback(self._stop)
        else:
            say(f"Using the services that run in {self.directory} already; they stay (`casbah down` stops them)")
        # Also where they run: those that a killed run left may not answer yet, or no more.
        self.environment = stack.up(self.directory).environment()
        exits.enter_context(_environment(self.environment))

    def _stop(self) -> None:
        if stack.down(self.directory):
            say("Stopped the object store and MLflow; their data stays")

    def run(self, request: Request, *, output: Path) -> Results:
        """Run the pipeline as requested and copy what it returns to `output`."""
        values = {name: _placed(name, value) for name, value in request.arguments.items()}
        with Display() as display:
            outcome = local.run(
                request.package,
                values,
                directory=self.directory / "pipeline",
                environment=self.environment,
                watch=display.take,
            )
        return self._gathered(outcome, output)

    def _gathered(self, outcome: local.Outcome, output: Path) -> Results:
        paths = {name: Path(artifact["path"]) for name, artifact in outcome.artifacts.items()}
        facts = {name: artifact["metadata"] for name, artifact in outcome.artifacts.items()}
        for name in ("model", "evaluation"):
            _copy(paths[name], output / name)
        for name in ("comparison", "registration"):
            shutil.copyfile(paths[name], output / f"{name}.md")
        evaluation = Evaluation.open(output / "evaluation")
        return Results(
            experiments=facts["comparison"]["experiments"],
            starts_from=facts["comparison"]["starts_from"],
            winner=facts["model"]["experiment"],
            test=evaluation.metrics,
            registration=facts["registration"],
            output=output,
            seconds=outcome.seconds,
            wall=outcome.wall,
            directory=self.directory,
            started=self.started,
        )


def split_arguments(words: Sequence[str]) -> dict[str, str]:
    """`name=value` words as a dictionary."""
    given = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise InputError(f"{word!r} is not NAME=VALUE, such as aoi=algiers")
        given[name] = value
    return given


def _placed(name: str, value: str) -> str:
    """What a step is given, which is also what its result is cached by.

    A file of this machine is copied to the store, since a step may not see the machine; its address holds the file's
    digest. The simulated town, whose place in the store is always the same, is named by its digest.
    """
    if name in TOWNS and value == "sample":
        return inputs.published_town()
    if not _is_file(name, value):
        return value
    path = Path(value)
    target = Location(BUCKET, f"inputs/{sha256_of(path)[:16]}/{path.name}")
    store = Store.from_environment()
    store.ensure_bucket()
    store.put(path, target)
    say(f"Copied {value} to {target}")
    return str(target)


def _is_file(name: str, value: str) -> bool:
    return name in FILES and "://" not in value and Path(value).suffix.lower() in FILES[name]


def _copy(source: Path, target: Path) -> None:
    """Put a copy of a finished product in place of an older copy."""
    partial = target.with_name(f".{target.name}.partial-copy")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a session as Ctrl-C does, so that what it started is stopped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
