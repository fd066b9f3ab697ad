"""A local session: services found or started, a run on them, its results gathered, what was started stopped."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from casbah import stack
from casbah.errors import InputError, WorldError
from casbah.interruption import termination_as_interrupt
from casbah.pipeline import compiled, inputs, local
from casbah.pipeline.containers import Containers
from casbah.pipeline.display import Display
from casbah.products.comparison import Comparison
from casbah.products.evaluation import Evaluation, EvaluationMetrics
from casbah.products.footprints import FootprintSet
from casbah.products.manifest import MANIFEST, Product, check_target, replace_directory, sha256_of
from casbah.products.model import ModelBundle
from casbah.products.prediction import Prediction
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

PRODUCTS: dict[str, type[Product]] = {"model": ModelBundle, "evaluation": Evaluation}
"""What a run copies to its output, and of which kind it is."""

MAPS: dict[str, type[Product]] = {"prediction": Prediction, "footprints": FootprintSet}
"""The same of a run that draws a map."""

PAGES = ("comparison", "registration")
"""Pages of text that lie beside it, as `.md`."""


@dataclass(frozen=True)
class Request:
    """A compiled pipeline and its arguments, checked before anything is started for them."""

    package: Path
    arguments: dict[str, str]
    pipeline: str = compiled.FOOTPRINTS
    """Which of `compiled.PIPELINES` the package is."""


@contextmanager
def request(
    given: Mapping[str, str],
    package: Path | None = None,
    *,
    output: Path | None = None,
    pipeline: str = compiled.FOOTPRINTS,
    images: Mapping[str, str] | None = None,
) -> Iterator[Request]:
    """Compile `pipeline` unless a package is given, and check the arguments against it, and where the results go.

    `images` maps stages to the images that a pipeline compiled here names.

    `InputError` for all that can be known to be wrong before anything is started.
    """
    with tempfile.TemporaryDirectory(prefix="casbah-") as folder:
        package = package or compiled.compile_pipeline(
            Path(folder) / f"{pipeline}.yaml", pipeline=pipeline, images=images
        )
        pipeline = compiled.name(package)
        if output is not None and pipeline == compiled.COMPARISON:
            check_target(output, Comparison.schema)
        elif output is not None and pipeline == compiled.MAP:
            for name, kind in MAPS.items():
                check_target(output / name, kind.schema)
        elif output is not None:
            check_output(output)
        values = compiled.defaults(package) | compiled.arguments(package, given)
        for name, value in given.items():
            if _is_file(name, value):
                if not Path(value).is_file():
                    raise InputError(f"{name} is {value!r}, and there is no such file")
                del values[name]
        inputs.check(values)
        yield Request(package, dict(given), pipeline)


def check_output(output: Path) -> None:
    """`InputError` unless the results of a run may be put at `output`: nothing but those of an earlier run is replaced.

    Other files may lie there beside them.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a directory for the results of the run with --output")
    for name, kind in PRODUCTS.items():
        check_target(output / name, kind.schema)
    for file in (output / f"{page}.md" for page in PAGES):
        # An earlier run has left its model there before its pages.
        if file.exists() and not (output / "model" / MANIFEST).is_file():
            raise InputError(f"{file} is there already, and not from a run of Casbah; name another --output or move it")


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
    """Step that ran -> its seconds, with imports and downloads."""
    stages: dict[str, float]
    """Step that ran -> seconds of its stage function alone."""
    wall: float
    directory: Path
    started: bool
    """Whether the services were started for this run, and stop with it."""


class Session:
    """Services for local runs: those of the environment, those that `casbah up` left running, or fresh ones.

    With `embedded` those of the environment are left alone: simulated data belong in no store or registry of a person.
    With `boxes` steps run in containers.
    """

    def __init__(self, directory: Path, *, embedded: bool = False, boxes: Containers | None = None) -> None:
        self.directory, self.embedded, self.boxes = directory.resolve(), embedded, boxes
        self.started = False
        self.environment: dict[str, str] = {}
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.enter_context(termination_as_interrupt())
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
        """Run the pipeline that trains, selects and registers, and copy what it returns to `output`."""
        return self._gathered(self._outcome(request), output)

    def compare(self, request: Request, *, output: Path) -> Comparison:
        """Run the pipeline that compares, and copy the comparison to `output`."""
        found = Comparison.open(self._outcome(request).artifacts["comparison"]["path"])
        return found.copy_to(output)

    def map(self, request: Request, *, output: Path) -> dict[str, Path | str]:
        """Run the pipeline that draws a map, and copy what it made to `output`.

        Returned are the directories of `prediction` and `footprints`, and the address of the `collection`.
        """
        made = self._outcome(request).artifacts
        found: dict[str, Path | str] = {
            name: kind.open(made[name]["path"]).copy_to(output / name).path for name, kind in MAPS.items()
        }
        return found | {"collection": str(made["collection"]["metadata"]["address"])}

    def _outcome(self, request: Request) -> local.Outcome:
        values = {name: _placed(name, value) for name, value in request.arguments.items()}
        with Display() as display:
            return local.run(
                request.package,
                values,
                directory=self.directory / "pipeline",
                environment=self.environment,
                watch=display.take,
                boxes=self.boxes,
            )

    def _gathered(self, outcome: local.Outcome, output: Path) -> Results:
        paths = {name: Path(artifact["path"]) for name, artifact in outcome.artifacts.items()}
        facts = {name: artifact["metadata"] for name, artifact in outcome.artifacts.items()}
        _copy(paths, output)
        evaluation = Evaluation.open(output / "evaluation")
        return Results(
            experiments=facts["comparison"]["experiments"],
            starts_from=facts["comparison"]["starts_from"],
            winner=facts["model"]["experiment"],
            test=evaluation.metrics,
            registration=facts["registration"],
            output=output,
            seconds=outcome.seconds,
            stages=outcome.stages,
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


def _copy(paths: Mapping[str, Path], output: Path) -> None:
    """Put copies of a run's results in place of older ones, once all of them are there."""
    check_output(output)
    new = not output.exists()
    partial = output / f".partial-{uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        for name in PRODUCTS:
            shutil.copytree(paths[name], partial / name)
        for name in PAGES:
            shutil.copyfile(paths[name], partial / f"{name}.md")
        for name in PRODUCTS:
            replace_directory(partial / name, output / name)
        for name in PAGES:
            (partial / f"{name}.md").replace(output / f"{name}.md")
    except OSError as error:
        if new:
            shutil.rmtree(output, ignore_errors=True)
        raise WorldError(
            f"the results could not be copied to {output}: {_reason(error)}; the run itself is whole, and running it "
            "again reuses its steps"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _reason(error: OSError) -> str:
    """What the system says; `shutil` gathers that of each file of a directory in a list."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    return error.strerror or str(error)


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
