"""The register stage: a model becomes a version in MLflow, and champion only on evidence."""

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import casbah
from casbah import mlflow_server
from casbah.addresses import shown
from casbah.blocks import seen_among
from casbah.errors import InputError
from casbah.products.evaluation import EvaluationMetrics
from casbah.progress import say
from casbah.register.candidate import Candidate, open_candidate
from casbah.register.card import in_short
from casbah.register.comparison import compare, evaluation_folder
from casbah.register.logged import log_model
from casbah.register.promotion import Decision
from casbah.register.versions import (
    CHALLENGER,
    CHAMPION,
    COMPARED_ON,
    DECISION,
    DIFFERENCE,
    KFP_RUN,
    NAME,
    PREVIOUS,
    REASON,
    champion_of,
    check_name,
    compared_before,
    number_of,
    page_of,
    versions_of,
)
from casbah.scoring import SCORES

EXPERIMENT = "casbah"
RUN_NAME = "register "
"""Begins the name of an MLflow run that is made here, as no run is that somebody else made (`MLFLOW_RUN_ID`)."""

PROMOTED, KEPT, NOT_COMPARED = "promoted", "kept as challenger", "not compared"

PARAGRAPH = "\n\n"
"""In a version's description, between what was decided and what model it is."""


@dataclass(frozen=True)
class Registration:
    """What became of a model: its version, the alias it holds, and why."""

    name: str
    version: str
    alias: str
    reason: str
    url: str


def register(
    *,
    model: str | Path,
    evaluation: str | Path,
    name: str = NAME,
    tiles: str | Path | None = None,
    champion_tiles: str | Path | None = None,
    tracking_uri: str | None = None,
) -> Registration:
    """Log a model as a version of `name`; give it the champion's alias only if it is better on unseen blocks.

    The first version becomes champion. A later one takes the alias only if the 95 % interval of the paired block
    bootstrap of building IoU, over test blocks that neither model trained or was tuned on, lies above zero; otherwise
    it is the challenger, and the reason is written on the version. `tiles` (the TileSet of the evaluation) lets the
    champion be scored anew where its own evaluation was on other tiles. A champion that takes other inputs (dates,
    bands, level) is scored on `champion_tiles`: the same ground, cut into the same blocks, of its own inputs.

    Registering the same model with the same evaluation again makes no second version, and decides only where the two
    could not be compared before, so that a rerun does not undo a rollback. The models are compared before the version
    is made. Raises `InputError` where model and evaluation do not belong together or the name is none that MLflow
    takes, `WorldError` where MLflow or its store can't be reached (nothing is lost: run it again).
    """
    check_name(name)
    candidate = open_candidate(
        Path(model),
        Path(evaluation),
        None if tiles is None else Path(tiles),
        None if champion_tiles is None else Path(champion_tiles),
    )
    uri = mlflow_server.tracking_uri(tracking_uri)
    mlflow_server.check(uri)
    with mlflow_server.talking(uri):
        import mlflow

        if mlflow.active_run() is not None:
            raise InputError("an MLflow run is active in this program: end it (mlflow.end_run()) before you register")
        with mlflow_server.fluent(uri):
            client = mlflow.MlflowClient(uri)
            say(f"registering {candidate.model.training.experiment} as {name} at {shown(uri)}")
            return _register(mlflow, client, uri, name, candidate)


def rollback(*, name: str = NAME, tracking_uri: str | None = None) -> Registration:
    """Give the champion's alias back to the version that held it before; `InputError` where there is none."""
    check_name(name)
    uri = mlflow_server.tracking_uri(tracking_uri)
    mlflow_server.check(uri, mlflow_server.ROLLBACK)
    with mlflow_server.talking(uri, mlflow_server.ROLLBACK):
        import mlflow

        client = mlflow.MlflowClient(uri)
        current = champion_of(client, name)
        if current is None:
            raise InputError(f"{name} has no champion at {shown(uri)}, so there is nothing to roll back")
        previous = _before(client, name, current)
        one, other = number_of(current), number_of(previous)
        client.set_model_version_tag(name, one, "casbah.rolled_back_to", other)
        client.set_model_version_tag(name, other, "casbah.rolled_back_from", one)
        client.set_model_version_tag(name, one, DECISION, "rolled back")
        # Only what may be said twice comes before the alias: a second `rollback` then starts from the same champion.
        client.set_registered_model_alias(name, CHAMPION, other)
        _add(client, name, current, f"Was champion, rolled back to version {other}.")
        _add(client, name, previous, f"Champion again, rolled back from version {one}.")
        return Registration(name, other, CHAMPION, f"rolled back from version {one}", page_of(uri, name, other))


def _before(client: Any, name: str, current: Any) -> Any:
    """The version that was champion before `current`."""
    previous = current.tags.get(PREVIOUS)
    if not previous:
        raise InputError(f"version {number_of(current)} is {name}'s first champion; there is none before it")
    found = {number_of(version): version for version in versions_of(client, name)}.get(previous)
    if found is None:
        raise InputError(
            f"version {previous} of {name}, champion before version {current.version}, was deleted: choose another and "
            f'give it the alias "{CHAMPION}" in MLflow'
        )
    return found


def _add(client: Any, name: str, version: Any, sentence: str) -> None:
    """Say one thing more on a version: what was decided on it stays, and what model it is comes after it."""
    decided, gap, model = (version.description or "").partition(PARAGRAPH)
    client.update_model_version(name, number_of(version), description=f"{decided} {sentence}".strip() + gap + model)


def _register(mlflow: Any, client: Any, uri: str, name: str, candidate: Candidate) -> Registration:
    version = _existing(client, name, candidate)
    if version is not None and version.tags.get(DECISION, NOT_COMPARED) != NOT_COMPARED:
        say(f"{name} version {number_of(version)} is this very model with this evaluation: not registered twice")
        return _as_it_stands(client, uri, name, version)
    decision = _decide(client, name, version, candidate)
    if version is None:
        version = _log(mlflow, name, candidate)
    elif candidate.tiles is not None:
        client.set_model_version_tag(name, number_of(version), "casbah.split", candidate.split)
    number, alias = number_of(version), CHAMPION if decision.promoted else CHALLENGER
    _write_decision(client, name, number, decision, alias, in_short(candidate))
    return Registration(name, number, alias, decision.reason, page_of(uri, name, number))


def _as_it_stands(client: Any, uri: str, name: str, version: Any) -> Registration:
    """What an earlier run decided on a version, and which alias it holds by now."""
    number, reason = number_of(version), version.tags.get(REASON, "")
    held = client.get_model_version(name, number).aliases
    if CHAMPION not in held:
        if back := version.tags.get("casbah.rolled_back_to"):
            reason = f"was champion, rolled back to version {back} (had been: {reason})"
        elif version.tags[DECISION] == PROMOTED:
            reason = f"was champion, another is by now (had been: {reason})"
    return Registration(name, number, held[0] if held else "no alias", reason, page_of(uri, name, number))


def _decide(client: Any, name: str, version: Any, candidate: Candidate) -> Decision:
    """What becomes of the candidate; `version` is its own, where an earlier run made one and broke off."""
    champion = champion_of(client, name)
    if champion is None:
        return Decision(True, "first model of this name", False)
    if version is not None and number_of(champion) == number_of(version):
        reason = version.tags.get(REASON, "promoted by a run that broke off before it wrote why")
        blocks = tuple(json.loads(version.tags.get(COMPARED_ON, "[]")))
        return Decision(True, reason, bool(blocks), blocks, previous=version.tags.get(PREVIOUS))
    return replace(compare(client, name, champion, candidate), previous=number_of(champion))


def _existing(client: Any, name: str, candidate: Candidate) -> Any:
    """The version of this very model with this very evaluation; None where there is none."""
    for version in versions_of(client, name):
        if version.tags.get("casbah.model") != candidate.model.digest:
            continue
        if version.tags.get("casbah.evaluation") == candidate.evaluation.digest:
            return version
    return None


def _log(mlflow: Any, name: str, candidate: Candidate) -> Any:
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None:
        mlflow.set_experiment(EXPERIMENT)
    training = candidate.model.training
    called = None if run_id else f"{RUN_NAME}{training.experiment}"
    # With its tags from the start: where this breaks off, they say whose run it is.
    with mlflow.start_run(run_id=run_id, run_name=called, tags=_tags(candidate)):
        mlflow.log_metrics(_scores(candidate.metrics))
        mlflow.log_artifacts(str(candidate.evaluation.path), evaluation_folder(candidate.evaluation.digest))
        info = log_model(mlflow, name, candidate)
    return mlflow.register_model(info.model_uri, name, tags=_tags(candidate))


def _scores(metrics: EvaluationMetrics) -> dict[str, float]:
    found: dict[str, float] = {"test_ece": metrics.ece}
    for score in SCORES:
        interval = getattr(metrics.building, score)
        for suffix, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high)):
            if value is not None:
                found[f"test_building_{score}{suffix}"] = value
    return found


def _tags(candidate: Candidate) -> dict[str, str]:
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
        "casbah.aligned": str(candidate.aligned).lower(),
        "casbah.units": training.units,
        "casbah.threshold": f"{training.threshold:.4f}",
        "casbah.pretrained": training.pretrained or "no",
        "casbah.simulated": str(training.simulated or metrics.simulated).lower(),
        "casbah.attribution": " · ".join(training.attribution),
        "casbah.git_commit": _git_commit(),
        "casbah.image": os.environ.get("CASBAH_IMAGE", "none"),
        KFP_RUN: os.environ.get("KFP_RUN_ID", "none"),
    }
    if training.refit:
        tags["casbah.refit"] = f"{training.refit}; its scores are those of the protocol ({metrics.protocol})"
    for score in SCORES:
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


def _write_decision(client: Any, name: str, version: str, decision: Decision, alias: str, model: str) -> None:
    """Say on the version what was decided, why, how often ground of these test blocks had decided before, and what
    `model` it is; then give it the alias.

    The blocks are written before the alias moves, so that they count as looked at even where this run breaks off. The
    tag `casbah.decision` comes last: a version that has it is decided on again only if nothing was compared.
    """
    compared = decision.blocks if decision.compared else ()
    decided = sum(bool(seen_among(compared, blocks)) for blocks in compared_before(client, name, but=version))
    tags = {
        COMPARED_ON: json.dumps(compared),
        "casbah.test_blocks_decided_before": str(decided),
        REASON: decision.reason,
    }
    if decision.promoted and decision.previous is not None:
        tags[PREVIOUS] = decision.previous
    if decision.difference is not None:
        tags[DIFFERENCE] = json.dumps([decision.difference, decision.low, decision.high])
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    again = f" These test blocks had decided {decided} time(s) before." if decision.compared else ""
    client.update_model_version(name, version, description=f"{decision.reason}.{again}{PARAGRAPH}{model}")
    client.set_registered_model_alias(name, alias, version)
    kept = KEPT if decision.compared else NOT_COMPARED
    client.set_model_version_tag(name, version, DECISION, PROMOTED if decision.promoted else kept)
