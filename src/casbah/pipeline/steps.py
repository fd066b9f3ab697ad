"""One function per component: inputs resolved, the stage called, its product described to the Kubeflow UI.

Artifacts are KFP's (`path`, `metadata`, `log_metric`, `log_confusion_matrix`), known here by what they can do: this
module runs in images of stages and must not import KFP. A step that fails prints one sentence and ends with the exit
code of its error, so that the pod's log says what to do.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from casbah.addresses import shown
from casbah.errors import CasbahError
from casbah.journal import CONTAINED, local_run, record
from casbah.pipeline import inputs
from casbah.products.evaluation import Evaluation, EvaluationMetrics, Interval, Scores
from casbah.products.manifest import Product
from casbah.products.model import ModelBundle

if TYPE_CHECKING:
    from casbah.finetune.experiment import Experiment

CLASSES = ["background", "building"]

Given = ParamSpec("Given")
Made = TypeVar("Made")


class Artifact(Protocol):
    """A KFP artifact."""

    path: str
    metadata: dict[str, Any]


class Metrics(Artifact, Protocol):
    """A KFP artifact of numbers."""

    def log_metric(self, metric: str, value: float) -> None: ...


class ClassificationMetrics(Artifact, Protocol):
    """A KFP artifact of a confusion matrix."""

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None: ...


def preflight(**values: Any) -> list[str]:
    """Parameters, services, area, experiments and weights are looked at before anything is read or trained.

    Returned are the grid cells that the area is read in.
    """
    with _step("preflight") as step:
        from casbah.pipeline import preflight as stage

        return step.run(stage.check, {name: _typed(value) for name, value in values.items()}, step.folder)


def ingest(
    scene: Artifact,
    *,
    aoi: str,
    cell: str,
    cell_margin: float,
    start: str,
    end: str,
    stac: str,
    periods: int,
    max_cloud: float,
    snapshot: str,
) -> None:
    """Sentinel-2 of an area (of one grid cell of it) and a time becomes a `Scene`.

    `snapshot` only tells one reading from a later one.
    """
    with _step("ingest", cell) as step:
        from casbah.ingest import ingest as stage

        product = step.run(
            stage,
            aoi=inputs.area(inputs.text(aoi), step.folder),
            cell=cell,
            cell_margin=cell_margin,
            **inputs.search({"start": start, "end": end, "stac": stac}),
            output=Path(scene.path),
            periods=periods,
            max_cloud=max_cloud,
        )
        facts = {"cell": product.cell} if product.cell else {}
        _describe(scene, product, snapshot=inputs.iso_date("snapshot", snapshot), **facts)


def label(
    labels: Artifact,
    *,
    scene: Artifact,
    source: str,
    labelled_area: str,
    licence: str,
    attribution: str,
    vintage: str,
    snapshot: str,
) -> None:
    """Footprints become a `LabelSet` on the scene's grid: OpenStreetMap as of `snapshot`, other sources as they are.

    `licence`, `attribution` and `vintage` say what a vector file does not say of itself; empty where nobody knows.
    """
    source, labelled_area = inputs.text(source), inputs.text(labelled_area)
    with _step("label", scene.metadata.get("cell", "")) as step:
        from casbah.label import label as stage

        area = inputs.labelled_area(labelled_area, source, step.folder)
        product = step.run(
            stage,
            scene=Path(scene.path),
            source=inputs.footprints(source, step.folder),
            output=Path(labels.path),
            labelled_area=area,
            licence=inputs.licence(licence, source),
            attribution=attribution or None,
            vintage=inputs.text(vintage) or None,
            snapshot=inputs.iso_date("snapshot", snapshot) if inputs.is_osm(source) else None,
            origins={"source": source} | ({"labelled_area": labelled_area or source} if area else {}),
        )
        _describe(labels, product, snapshot=inputs.iso_date("snapshot", snapshot))


def tile(
    tiles: Artifact,
    *,
    scenes: Sequence[Artifact],
    labels: Sequence[Artifact],
    tile_size: int,
    block_size: float,
    align: bool,
    seed: int,
) -> None:
    """Scenes and their labels become one `TileSet` with spatially separate splits.

    `block_size` 0 lets the stage choose.
    """
    with _step("tile") as step:
        from casbah.tile import tile as stage

        product = step.run(
            stage,
            scenes=[Path(one.path) for one in scenes],
            labels=[Path(one.path) for one in labels],
            output=Path(tiles.path),
            tile_size=tile_size,
            block_size=block_size or None,
            align=align,
            seed=seed,
        )
        _describe(tiles, product)


def finetune(
    model: Artifact,
    tuning: Artifact,
    *,
    tiles: Artifact,
    experiment: str,
    seed: int,
    trials: int,
    snapshot: str,
) -> None:
    """One experiment becomes a `ModelBundle`; what a preempted pod had learned is taken up from the object store.

    With `trials` it is the best of so many by validation, and `tuning` shows them. `snapshot` only tells one reading of
    an experiment's YAML from a later one.
    """
    experiment = inputs.text(experiment)
    with _step("finetune", shown(experiment)) as step:
        trials = inputs.trials(trials)
        from casbah.finetune import finetune as stage
        from casbah.finetune.experiment import ENSEMBLE, read

        config = inputs.experiment(experiment, step.folder)
        named = read(config)
        if trials and named.kind != ENSEMBLE:
            product, said = _tuned(step, named, config, Path(tiles.path), Path(model.path), seed, trials)
        else:
            product = step.run(
                stage, config=config, tiles=Path(tiles.path), output=Path(model.path), seed=seed, resume=True
            )
            said = f"{named.name} as it stands: nothing was tuned."
        Path(tuning.path).write_text(said + "\n", encoding="utf-8")
        _describe(
            model,
            product,
            experiment=product.training.experiment,
            starts_from=product.training.weights_origin,
            snapshot=inputs.iso_date("snapshot", snapshot),
        )


def _tuned(
    step: "_Step", experiment: "Experiment", config: str | Path, tiles: Path, output: Path, seed: int, trials: int
) -> tuple[ModelBundle, str]:
    """The best of some trials, and the table of them as Markdown."""
    from casbah.finetune.checkpoints import mirror
    from casbah.tune import tune as stage
    from casbah.tune.report import table

    store = mirror()
    (result,) = step.run(
        stage,
        config=config,
        tiles=tiles,
        output=step.folder / "study",
        trials=trials,
        seed=seed,
        overrides=(f"{experiment.seed_key}={seed}",),
        checkpoints=None if store is None else str(store),
    )
    return ModelBundle.open(result.part.model).copy_to(output), f"```\n{table(result)}\n```"


def evaluate(
    evaluation: Artifact,
    scores: Metrics,
    confusion: ClassificationMetrics,
    report: Artifact,
    summary: Artifact,
    *,
    model: Artifact,
    tiles: Artifact,
    split: str,
    seed: int,
) -> None:
    """A model is scored on one split; numbers, confusion matrix and report are shown in the Kubeflow UI."""
    with _step("evaluate", f"{split} {model.metadata.get('experiment', '')}".strip()) as step:
        from casbah.evaluate import evaluate as stage
        from casbah.evaluate.report import without_pictures

        product = step.run(
            stage,
            model=Path(model.path),
            tiles=Path(tiles.path),
            output=Path(evaluation.path),
            split=split,
            seed=seed,
        )
        _describe(evaluation, product, experiment=product.metrics.experiment, split=split)
        _log_scores(scores, confusion, product.metrics)
        shutil.copyfile(product.path / "report.html", report.path)
        # The UI shows this one file; the pictures are in the page above it.
        text = (product.path / "report.md").read_text(encoding="utf-8")
        Path(summary.path).write_text(without_pictures(text), encoding="utf-8")


def select(
    model: Artifact, comparison: Artifact, *, models: Sequence[Artifact], evaluations: Sequence[Artifact]
) -> None:
    """The best experiment by validation building IoU goes on; the table of all is shown in the Kubeflow UI."""
    with _step("select") as step:
        from casbah.evaluate import select as stage

        product = step.run(
            stage,
            models=[Path(one.path) for one in models],
            evaluations=[Path(one.path) for one in evaluations],
            output=Path(model.path),
        )
        training = product.training
        _describe(model, product, experiment=training.experiment, starts_from=training.weights_origin)
        # The stage has checked them all.
        measured = [Evaluation.open(one.path, verify=False).metrics for one in evaluations]
        origins = origins_of([ModelBundle.open(one.path, verify=False) for one in models])
        comparison.metadata["experiments"] = {one.experiment: numbers(one) for one in measured}
        comparison.metadata["starts_from"] = origins
        table = comparison_table(measured, product.training.experiment, origins)
        Path(comparison.path).write_text(table, encoding="utf-8")


def compare(
    comparison: Artifact,
    report: Artifact,
    summary: Artifact,
    *,
    models: Sequence[Artifact],
    validations: Sequence[Artifact],
    tests: Sequence[Artifact],
    tiles: Artifact,
) -> None:
    """Trained and scored models are reported side by side; the report is shown in the Kubeflow UI."""
    with _step("compare") as step:
        from casbah.compare import report as stage
        from casbah.evaluate.report import without_pictures

        product = step.run(
            stage,
            models=[Path(one.path) for one in models],
            validations=[Path(one.path) for one in validations],
            tests=[Path(one.path) for one in tests],
            tiles=Path(tiles.path),
            output=Path(comparison.path),
        )
        _describe(comparison, product, best=product.facts.best or "none")
        shutil.copyfile(product.path / "comparison.html", report.path)
        text = (product.path / "comparison.md").read_text(encoding="utf-8")
        Path(summary.path).write_text(without_pictures(text), encoding="utf-8")


def register(
    registration: Artifact,
    versions: Metrics,
    *,
    model: Artifact,
    evaluation: Artifact,
    tiles: Artifact,
    name: str,
    run: str,
) -> None:
    """The winner becomes a version in MLflow, and champion only on evidence; `run` is the KFP run that it names.

    A local run is named by its directory below `pipeline/runs/`, where its log is.
    """
    name = inputs.text(name)
    with _step("register", name) as step:
        if local := local_run():
            # The id that `kfp.local` draws names nothing. A step that is a process runs in no image, whatever the YAML
            # names.
            run = local
            if CONTAINED not in os.environ:
                os.environ["CASBAH_IMAGE"] = "none"
        os.environ["KFP_RUN_ID"] = run
        from casbah.register import register as stage

        made = step.run(
            stage,
            model=Path(model.path),
            evaluation=Path(evaluation.path),
            tiles=Path(tiles.path),
            name=name,
        )
        facts = {"name": made.name, "version": made.version, "alias": made.alias, "url": made.url}
        registration.metadata.update(facts)
        versions.log_metric("version", float(made.version))
        Path(registration.path).write_text(
            f"# {made.name} version {made.version}: {made.alias}\n\n{made.reason}\n\n[In MLflow]({made.url})\n",
            encoding="utf-8",
        )
        record("registered", reason=made.reason, **facts)


def footprints(
    polygons: Artifact,
    summary: Artifact,
    *,
    prediction: Artifact,
    threshold: float,
    minimum_area: float,
    square: bool,
    flatgeobuf: bool,
    block_size: float,
) -> None:
    """Probabilities become a `FootprintSet`; numbers that are 0 let the stage choose."""
    with _step("footprints") as step:
        from casbah.footprints import describe
        from casbah.footprints import footprints as stage
        from casbah.footprints.stage import BLOCK_SIZE

        product = step.run(
            stage,
            Path(prediction.path),
            Path(polygons.path),
            threshold=threshold or None,
            minimum_area=minimum_area or None,
            square=square,
            flatgeobuf=flatgeobuf,
            block_size=block_size or BLOCK_SIZE,
        )
        _describe(polygons, product, polygons=str(product.info.polygons))
        Path(summary.path).write_text(f"```\n{describe(product.info)}\n```\n", encoding="utf-8")


def fetch(model: Artifact, *, address: str) -> None:
    """A registered model becomes an artifact; which version it is stands in its metadata."""
    address = inputs.text(address)
    with _step("fetch", address) as step:
        from casbah.registered import opened

        def stage() -> tuple[ModelBundle, str | None]:
            with opened(address) as (bundle, registered):
                return bundle.copy_to(model.path), registered

        product, registered = step.run(stage)
        _describe(model, product, experiment=product.training.experiment, registered=registered or "")


def plan(*, model: Artifact, **values: Any) -> list[str]:
    """The parameters of a map are held against the model; returned are the grid cells that the area is read in."""
    with _step("plan") as step:
        from casbah.pipeline import plan as stage

        typed = {name: _typed(value) for name, value in values.items()}
        return step.run(stage.cells, typed, Path(model.path), step.folder)


def merge(prediction: Artifact, *, predictions: Sequence[Artifact]) -> None:
    """Overlapping predictions become one map."""
    with _step("merge") as step:
        from casbah.predict import merge as stage

        product = step.run(stage, predictions=[Path(one.path) for one in predictions], output=Path(prediction.path))
        _describe(prediction, product)


def publish(collection: Artifact, *, prediction: Artifact, polygons: Artifact, to: str) -> None:
    """A map and its polygons become a STAC collection in the object store."""
    with _step("publish", to) as step:
        from casbah.publish import publish as stage

        address = step.run(stage, prediction=Path(prediction.path), footprints=Path(polygons.path), to=to)
        collection.metadata["address"] = address
        Path(collection.path).write_text(f"# The map is published\n\nSTAC collection: `{address}`\n", encoding="utf-8")


def predict(
    prediction: Artifact,
    *,
    model: Artifact,
    scene: Artifact,
    window: int,
    overlap: int,
    values: str,
    threshold: float,
    flips: bool,
    uncertainty: bool,
) -> None:
    """A model maps the scene. `window` 0, `overlap` below 0 and `threshold` 0 leave the choice to the model."""
    of = (model.metadata.get("experiment", ""), scene.metadata.get("cell", ""))
    with _step("predict", " ".join(filter(None, of))) as step:
        from casbah.predict import predict as stage

        product = step.run(
            stage,
            Path(model.path),
            Path(scene.path),
            Path(prediction.path),
            window=window or None,
            overlap=None if overlap < 0 else overlap,
            values=values,
            threshold=threshold or None,
            flips=flips,
            uncertainty=uncertainty,
            registered=model.metadata.get("registered") or None,
        )
        info = product.info
        _describe(
            prediction,
            product,
            model=info.model.name,
            scene=info.scene,
            unlike=f"{100 * info.unlike['share']:.1f} %",
            simulated=str(info.simulated).lower(),
        )


def conclude(*, state: str, message: str, name: str, run: str) -> None:
    """How the run ended is said, and what a registering that broke off has left is brought to an end."""
    with _step("conclude", state.lower()) as step:
        from casbah.register import settle

        told = step.run(settle, name=inputs.text(name), run=local_run() or run)
        print(" ".join(filter(None, (f"casbah: the run ended as {state}.", message, *told))), flush=True)


def numbers(metrics: EvaluationMetrics) -> dict[str, float]:
    """The scores of an evaluation as flat names and numbers, without those that are undefined."""
    found: dict[str, float | None] = {"threshold": metrics.threshold, "expected_calibration_error": metrics.ece}
    found |= _flat("building", metrics.building)
    for baseline, scores in metrics.baselines.items():
        found[f"{baseline.replace(' ', '_')}_iou"] = scores.iou.value
    return {name: float(value) for name, value in found.items() if value is not None}


def confusion_matrix(metrics: EvaluationMetrics) -> list[list[int]]:
    """Pixels by truth (rows) and prediction (columns), background first."""
    tp, fp, fn, tn = (sum(getattr(block, kind) for block in metrics.blocks) for kind in ("tp", "fp", "fn", "tn"))
    return [[tn, fp], [fn, tp]]


def origins_of(models: Sequence[ModelBundle]) -> dict[str, str]:
    """Experiment -> what its model started from: random weights, pretrained ones, or trees."""
    return {model.training.experiment: model.training.weights_origin for model in models}


def comparison_table(measured: Sequence[EvaluationMetrics], winner: str, origins: Mapping[str, str]) -> str:
    """Markdown: each experiment's start (`origins`) and validation scores, the best first."""
    lines = ["# Experiments by validation building IoU", ""]
    if any(metrics.simulated for metrics in measured):
        lines += ["**SIMULATED** imagery and footprints: these numbers say that the machinery works, no more.", ""]
    lines += ["| experiment | starts from | IoU (95 %) | F1 | precision | recall |", "|---|---|---|---|---|---|"]
    for metrics in sorted(measured, key=lambda one: -(one.building.iou.value or 0)):
        building = metrics.building
        name = f"**{metrics.experiment}**" if metrics.experiment == winner else metrics.experiment
        values = (building.f1, building.precision, building.recall)
        cells = [
            origins[metrics.experiment],
            interval(building.iou),
            *(interval(value, bounds=False) for value in values),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def interval(value: Interval, *, bounds: bool = True) -> str:
    """`0.431 [0.402, 0.460]` for a person."""
    if value.value is None:
        return "undefined"
    if not bounds or value.low is None or value.high is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _typed(value: Any) -> Any:
    """A whole number that KFP has handed on as 3.0, as it was."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _log_scores(scores: Metrics, confusion: ClassificationMetrics, metrics: EvaluationMetrics) -> None:
    named, matrix = numbers(metrics), confusion_matrix(metrics)
    for name, value in named.items():
        scores.log_metric(name, value)
    confusion.log_confusion_matrix(CLASSES, matrix)
    # The UI reads the metadata; the files are for the local runner, which reuses a step only if all its files exist.
    Path(scores.path).write_text(json.dumps(named, indent=2), encoding="utf-8")
    Path(confusion.path).write_text(json.dumps({"classes": CLASSES, "rows": matrix}, indent=2), encoding="utf-8")


def _flat(prefix: str, scores: Scores) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in ("iou", "f1", "precision", "recall"):
        score: Interval = getattr(scores, name)
        found[f"{prefix}_{name}"] = score.value
        found[f"{prefix}_{name}_low"], found[f"{prefix}_{name}_high"] = score.low, score.high
    return found


def _describe(artifact: Artifact, product: Product, **facts: str) -> None:
    """Let an artifact say in the Kubeflow UI which product it holds, and the journal where it lies."""
    artifact.metadata.update(
        {"product": product.schema, "digest": product.digest, "casbah": product.manifest.casbah, **facts}
    )
    record("product", product=product.schema, path=str(product.path), digest=product.digest, **facts)


@dataclass
class _Step:
    """A step at work: a folder for its downloads, and how long the stage function alone took."""

    folder: Path
    seconds: float = 0.0

    def run(self, stage: Callable[Given, Made], *given: Given.args, **named: Given.kwargs) -> Made:
        """Call the stage function, its time taken apart from that of imports and downloads."""
        began = time.monotonic()
        try:
            return stage(*given, **named)
        finally:
            self.seconds = time.monotonic() - began


@contextmanager
def _step(name: str, detail: str = "") -> Iterator[_Step]:
    """Run a stage with a folder for its downloads; an error that a user can act on ends the process in one sentence."""
    began = time.monotonic()
    record("start", step=name, detail=detail)
    try:
        with tempfile.TemporaryDirectory(prefix=f"casbah-{name}-") as folder:
            step = _Step(Path(folder))
            yield step
    except CasbahError as error:
        record("fail", step=name, detail=detail, code=error.exit_code, message=str(error))
        print(f"casbah: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        record("fail", step=name, detail=detail, code=1, message=f"{type(error).__name__}: {error}")
        raise
    record("end", step=name, detail=detail, seconds=time.monotonic() - began, stage=step.seconds)
