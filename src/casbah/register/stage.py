"""The register stage: a model becomes a version in MLflow, and champion only on evidence."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import casbah
from casbah.addresses import shown
from casbah.blocks import seen_among
from casbah.errors import InputError
from casbah.products.evaluation import Evaluation, EvaluationMetrics
from casbah.products.manifest import read_kind
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileFolds, TileSet
from casbah.progress import say
from casbah.register import mlflow_server
from casbah.register.promotion import Decision, counts_of, decide, seen_blocks, unseen_by_both

NAME = "casbah-buildings"
CHAMPION, CHALLENGER = "champion", "challenger"
EXPERIMENT = "casbah"
REQUIREMENTS = {
    "network": ("numpy", "pydantic", "torch", "torchvision", "terratorch", "torchgeo", "lightning",
                "segmentation-models-pytorch", "safetensors", "PyYAML", "jsonargparse", "rich"),
    "trees": ("numpy", "pydantic", "scipy", "safetensors", "PyYAML", "rich"),
}  # fmt: skip
"""What a registered model of each kind needs beside Casbah's own code, which travels with it."""


@dataclass(frozen=True)
class Registration:
    """What became of a model: its version, the alias it holds, and why."""

    name: str
    version: str
    alias: str
    reason: str
    url: str


@dataclass(frozen=True)
class _Candidate:
    model: ModelBundle
    evaluation: Evaluation
    tiles: TileSet | TileFolds | None

    @property
    def metrics(self) -> EvaluationMetrics:
        return self.evaluation.metrics

    @property
    def split(self) -> str:
        """How the test blocks were drawn, in words."""
        if isinstance(self.tiles, TileFolds):
            return f"{self.tiles.count} spatial folds"
        if self.tiles is None:
            return "not said (registered without --tiles)"
        return f"--seed {self.tiles.info.seed} --block-size {self.tiles.info.block_size:g}"

    @property
    def tested(self) -> list[str]:
        """The ids of the test blocks, sorted."""
        return sorted(counts_of(self.metrics.blocks))


def register(
    *,
    model: str | Path,
    evaluation: str | Path,
    name: str = NAME,
    tiles: str | Path | None = None,
    tracking_uri: str | None = None,
) -> Registration:
    """Log a model as a version of `name`; give it the champion's alias only if it is better on unseen blocks.

    The first version becomes champion. A later one takes the alias only if the 95 % interval of the paired block
    bootstrap of building IoU, over test blocks that neither model trained or was tuned on, lies above zero; otherwise
    it is the challenger, and the reason is written on the version. `tiles` (the TileSet of the evaluation) lets the
    champion be scored anew where its own evaluation was on other tiles. Registering the same model with the same
    evaluation again makes no second version and decides nothing anew, so that a rerun does not undo a rollback. Raises
    `InputError` where model and evaluation do not belong together, `WorldError` where MLflow can't be reached (nothing
    is lost: run it again).
    """
    candidate = _Candidate(
        ModelBundle.open(model), Evaluation.open(evaluation), None if tiles is None else _open_tiles(Path(tiles))
    )
    _check_fit(candidate)
    uri = mlflow_server.tracking_uri(tracking_uri)
    mlflow_server.check(uri)
    with mlflow_server.talking(uri), mlflow_server.fluent(uri):
        import mlflow

        client = mlflow.MlflowClient(uri)
        say(f"registering {candidate.model.training.experiment} as {name} at {shown(uri)}")
        version = _existing(client, name, candidate) or _log(mlflow, name, candidate)
        return _promote(client, uri, name, version, candidate)


def rollback(*, name: str = NAME, tracking_uri: str | None = None) -> Registration:
    """Give the champion's alias back to the version that held it before; `InputError` where there is none."""
    uri = mlflow_server.tracking_uri(tracking_uri)
    mlflow_server.check(uri)
    with mlflow_server.talking(uri):
        import mlflow

        client = mlflow.MlflowClient(uri)
        current = _champion(client, name)
        if current is None:
            raise InputError(f"{name} has no champion at {shown(uri)}, so there is nothing to roll back")
        previous = current.tags.get("casbah.previous_champion")
        if not previous:
            raise InputError(f"version {current.version} is {name}'s first champion; there is none before it")
        client.set_registered_model_alias(name, CHAMPION, previous)
        reason = f"rolled back from version {current.version}"
        client.set_model_version_tag(name, current.version, "casbah.decision", "rolled back")
        client.set_model_version_tag(name, previous, "casbah.reason", reason)
        return Registration(name, previous, CHAMPION, reason, _url(uri, name, previous))


def _open_tiles(path: Path) -> TileSet | TileFolds:
    folds = path.is_dir() and read_kind(path).product == TileFolds.schema
    return TileFolds.open(path) if folds else TileSet.open(path)


def _check_fit(candidate: _Candidate) -> None:
    model, metrics = candidate.model, candidate.metrics
    if metrics.split != "test":
        raise InputError(
            f"{candidate.evaluation.path} was made on the {metrics.split} split; a registered version needs the test "
            "split: run `casbah evaluate --split test`"
        )
    if model.training.refit is None and metrics.model != model.digest:
        raise InputError(
            f"{candidate.evaluation.path} scores another model ({metrics.model[:12]}) than {model.path} "
            f"({model.digest[:12]}): evaluate this one"
        )
    if model.training.refit is not None and metrics.protocol == "hold-out":
        raise InputError(
            f"{model.path} is a {model.training.refit}: give the evaluation of its folds, not a hold-out evaluation"
        )
    folds = metrics.extra.get("folds", [])
    if model.training.refit is not None and model.training.config not in {fold.get("config") for fold in folds}:
        raise InputError(
            f"{model.path} was not trained as the folds of {candidate.evaluation.path} were (another configuration): "
            "give the evaluation of its own folds"
        )
    if model.training.refit is not None and (strange := set(candidate.tested) - seen_blocks(model.training)):
        raise InputError(
            f"{model.path} was not trained on {len(strange)} of the {len(candidate.tested)} blocks that "
            f"{candidate.evaluation.path} tests ({sorted(strange)[0]} …): it is no refit of these folds"
        )
    if model.training.refit is None and (leaked := seen_among(candidate.tested, seen_blocks(model.training))):
        raise InputError(
            f"{candidate.evaluation.path} scores {len(leaked)} blocks that the model trained or was tuned on "
            f"({', '.join(sorted(leaked)[:3])} …): its scores leak and are not registered"
        )
    if candidate.tiles is not None and candidate.tiles.digest != metrics.tiles:
        raise InputError(f"{candidate.tiles.path} is not the TileSet that {candidate.evaluation.path} was made on")


def _existing(client: Any, name: str, candidate: _Candidate) -> Any:
    for version in _versions(client, name):
        tags = version.tags
        same = tags.get("casbah.model") == candidate.model.digest
        if same and tags.get("casbah.evaluation") == candidate.evaluation.digest:
            say(f"{name} version {version.version} is this very model with this evaluation: not registered twice")
            return version
    return None


def _versions(client: Any, name: str) -> list[Any]:
    return list(client.search_model_versions(f"name='{name}'"))


def _log(mlflow: Any, name: str, candidate: _Candidate) -> Any:
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None:
        mlflow.set_experiment(EXPERIMENT)
    training = candidate.model.training
    with mlflow.start_run(run_id=run_id, run_name=None if run_id else f"register {training.experiment}"):
        mlflow.log_metrics(_scores(candidate.metrics))
        mlflow.set_tags(_tags(candidate))
        mlflow.log_artifacts(str(candidate.evaluation.path), "evaluation")
        info = _log_model(mlflow, candidate.model)
    return mlflow.register_model(info.model_uri, name, tags=_tags(candidate))


def _log_model(mlflow: Any, model: ModelBundle) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    training = model.training
    size = training.tile_size
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, training.periods, len(training.bands), -1, -1))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, -1))]),
    )
    example = np.full((1, training.periods, len(training.bands), size, size), 1500, dtype="float32")
    with tempfile.TemporaryDirectory() as scratch:
        code = Path(scratch) / "casbah"
        shutil.copytree(Path(casbah.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"bundle": str(model.path)},
            code_paths=[str(code)],
            signature=signature,
            input_example=example,
            pip_requirements=_requirements(training.kind),
        )


def _requirements(kind: str) -> list[str]:
    """Pinned to what is installed here; local version labels (`+cpu`) are left out, since no index serves them."""
    wanted = ("mlflow", *REQUIREMENTS[kind])
    return [f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in wanted]


def _scores(metrics: EvaluationMetrics) -> dict[str, float]:
    found: dict[str, float] = {"test_ece": metrics.ece}
    for score in ("iou", "f1", "precision", "recall"):
        interval = getattr(metrics.building, score)
        for suffix, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high)):
            if value is not None:
                found[f"test_building_{score}{suffix}"] = value
    return found


def _tags(candidate: _Candidate) -> dict[str, str]:
    training, metrics = candidate.model.training, candidate.metrics
    tags = {
        "casbah.version": casbah.__version__,
        "casbah.experiment": training.experiment,
        "casbah.model": candidate.model.digest,
        "casbah.evaluation": candidate.evaluation.digest,
        "casbah.data": metrics.tiles,
        "casbah.split": candidate.split,
        "casbah.test_blocks": hashlib.sha256("\n".join(candidate.tested).encode()).hexdigest(),
        "casbah.protocol": metrics.protocol,
        "casbah.bands": ",".join(training.bands),
        "casbah.periods": str(training.periods),
        "casbah.level": training.level,
        "casbah.units": training.units,
        "casbah.threshold": f"{training.threshold:.4f}",
        "casbah.pretrained": training.pretrained or "no",
        "casbah.simulated": str(training.simulated or metrics.simulated).lower(),
        "casbah.attribution": " · ".join(training.attribution),
        "casbah.git_commit": _git_commit(),
        "casbah.image": os.environ.get("CASBAH_IMAGE", "none"),
        "casbah.kfp_run": os.environ.get("KFP_RUN_ID", "none"),
    }
    if training.refit:
        tags["casbah.refit"] = f"{training.refit}; its scores are those of the protocol ({metrics.protocol})"
    for score in ("iou", "f1", "precision", "recall"):
        interval = getattr(metrics.building, score)
        tags[f"casbah.test_{score}"] = json.dumps([interval.value, interval.low, interval.high])
    return tags


def _git_commit() -> str:
    """The commit of Casbah's own checkout; `unknown` where it was installed without one."""
    if given := os.environ.get("CASBAH_GIT_COMMIT"):
        return given
    git = ["git", "-C", str(Path(casbah.__file__).parent)]
    if shutil.which("git") is None or _run([*git, "ls-files", "--error-unmatch", "__init__.py"]) is None:
        return "unknown"
    return _run([*git, "rev-parse", "HEAD"]) or "unknown"


def _run(command: list[str]) -> str | None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def _champion(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _promote(client: Any, uri: str, name: str, version: Any, candidate: _Candidate) -> Registration:
    number, url = version.version, _url(uri, name, version.version)
    if "casbah.decision" in version.tags:
        held = client.get_model_version(name, number).aliases
        return Registration(name, number, held[0] if held else "no alias", version.tags["casbah.reason"], url)
    champion = _champion(client, name)
    if champion is None:
        decision = Decision(True, "first model of this name", False)
    elif champion.version == number:
        decision = Decision(True, "promoted by a run that broke off before it wrote why", False)
    else:
        decision = _compare(client, name, champion, candidate)
    alias = CHAMPION if decision.promoted else CHALLENGER
    if decision.promoted and champion is not None and champion.version != number:
        client.set_model_version_tag(name, number, "casbah.previous_champion", champion.version)
    client.set_registered_model_alias(name, alias, number)
    _write_decision(client, name, number, decision)
    return Registration(name, number, alias, decision.reason, url)


def _write_decision(client: Any, name: str, version: str, decision: Decision) -> None:
    """Say on the version what was decided, why, and how often ground of these test blocks had decided before.

    The tag `casbah.decision` comes last: a version that has it is never decided on again.
    """
    compared = decision.blocks if decision.compared else ()
    decided = 0
    for other in _versions(client, name):
        if other.version != version and seen_among(compared, json.loads(other.tags.get("casbah.compared_on", "[]"))):
            decided += 1
    again = f" These test blocks had decided {decided} time(s) before." if decision.compared else ""
    client.update_model_version(name, version, description=f"{decision.reason}.{again}")
    tags = {
        "casbah.reason": decision.reason,
        "casbah.compared_on": json.dumps(compared),
        "casbah.test_blocks_decided_before": str(decided),
        "casbah.decision": "promoted" if decision.promoted else "kept as challenger",
    }
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


def _compare(client: Any, name: str, champion: Any, candidate: _Candidate) -> Decision:
    with tempfile.TemporaryDirectory() as scratch:
        held = _bundle_of(name, champion, Path(scratch))
        challenger_counts = counts_of(candidate.metrics.blocks)
        eligible = unseen_by_both(list(challenger_counts), held.training, candidate.model.training)
        if not eligible:
            return Decision(False, _refusal(champion, held, challenger_counts, candidate), False)
        champion_counts = _champion_counts(client, champion, held, candidate)
        if champion_counts is None:
            return Decision(
                False,
                f"not compared: version {champion.version} was evaluated on other tiles; give --tiles, so that it is "
                "scored on these",
                False,
            )
        return decide(
            {block: challenger_counts[block] for block in eligible},
            {block: counts for block, counts in champion_counts.items() if block in set(eligible)},
        )


def _refusal(champion: Any, held: ModelBundle, tested: dict[str, Any], candidate: _Candidate) -> str:
    for who, training in (("this model", candidate.model.training), (f"version {champion.version}", held.training)):
        if training.refit is not None:
            return (
                f"not compared: {who} is a {training.refit}, trained on every block, so none is left to test on; "
                "a whole city that neither model has seen would serve (casbah tile --test-scene)"
            )
    seen = len(seen_among(tested, seen_blocks(held.training)))
    return (
        f"not compared: of the {len(tested)} test blocks the champion (version {champion.version}) trained or was "
        f"tuned on {seen}, and none is unseen by both; a split that holds out the champion's own test blocks would "
        f"serve (casbah tile {champion.tags.get('casbah.split', 'with its seed and block size')}): tile, train and "
        "evaluate with it"
    )


def _bundle_of(name: str, version: Any, scratch: Path) -> ModelBundle:
    import mlflow
    import yaml

    root = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version.version}", dst_path=str(scratch)))
    described = yaml.safe_load((root / "MLmodel").read_text(encoding="utf-8"))
    inside = (root / described["flavors"]["python_function"]["artifacts"]["bundle"]["path"]).resolve()
    if not inside.is_relative_to(root.resolve()):
        raise InputError(f"version {version.version} of {name} names a bundle outside of itself: do not use it")
    return ModelBundle.open(inside)


def _champion_counts(
    client: Any, champion: Any, held: ModelBundle, candidate: _Candidate
) -> dict[str, tuple[int, int, int, int]] | None:
    """The champion's counts on the candidate's tiles: stored ones where it was evaluated on them, else made anew."""
    if champion.tags.get("casbah.data") == candidate.metrics.tiles and champion.run_id:
        with tempfile.TemporaryDirectory() as scratch:
            stored = client.download_artifacts(champion.run_id, "evaluation/metrics.json", scratch)
            metrics = EvaluationMetrics.model_validate_json(Path(stored).read_text(encoding="utf-8"))
        return counts_of(metrics.blocks)
    return _score(held, candidate.tiles) if isinstance(candidate.tiles, TileSet) else None


def _score(model: ModelBundle, tiles: TileSet) -> dict[str, tuple[int, int, int, int]]:
    from casbah.models import band_index, load
    from casbah.scoring import block_counts, called_building

    split = tiles.split("test")
    say(f"scoring the champion on {len(split)} test tiles")
    predictor = load(model)
    predicted = called_building(
        predictor.probabilities(split.images[:, :, band_index(model.training, tiles.info.bands)]),
        model.training.threshold,
    )
    return dict(block_counts(predicted, split.masks, split.blocks))


def _url(uri: str, name: str, version: str) -> str:
    return (
        f"{uri.rstrip('/')}/#/models/{name}/versions/{version}"
        if uri.startswith("http")
        else f"models:/{name}/{version}"
    )
