"""What a registering that broke off has left: a version on which nothing was decided, or a run without a version."""

from collections.abc import Iterator
from typing import Any

from casbah import mlflow_server
from casbah.progress import say
from casbah.register.stage import EXPERIMENT, KEPT, NOT_COMPARED, PROMOTED, RUN_NAME
from casbah.register.versions import (
    CHALLENGER,
    CHAMPION,
    DECISION,
    KFP_RUN,
    REASON,
    check_name,
    compared_on,
    forget_run,
    keep_compared_on,
    number_of,
    versions_of,
)


def settle(*, name: str, run: str, tracking_uri: str | None = None) -> list[str]:
    """Bring what a pipeline's run has registered to an end, and return one sentence for each thing that was not at one.

    A version gets its decision last, after its alias. One that holds its alias lacks no more than the word for it, and
    gets that. One without is deleted, and with it the MLflow run and the logged model: nothing was decided on it, and
    running the pipeline again registers it. So is a run that broke off before it was a version. `run` is the pipeline
    run that both name in `casbah.kfp_run`. Raises `WorldError` where MLflow can't be reached.
    """
    check_name(name)
    uri = mlflow_server.tracking_uri(tracking_uri)
    mlflow_server.check(uri, mlflow_server.SETTLE)
    with mlflow_server.talking(uri, mlflow_server.SETTLE):
        import mlflow

        client = mlflow.MlflowClient(uri)
        told = [*_versions(client, name, run), *_runs(client, name, run)]
    for sentence in told:
        say(sentence)
    return told


def _versions(client: Any, name: str, run: str) -> Iterator[str]:
    for version in versions_of(client, name):
        number = number_of(version)
        if version.tags.get(KFP_RUN) != run or DECISION in version.tags:
            continue
        held = client.get_model_version(name, number).aliases
        if CHAMPION in held:
            client.set_model_version_tag(name, number, DECISION, PROMOTED)
            yield f"{name} version {number} was promoted by a step that broke off afterwards; it says so now"
        elif CHALLENGER in held and REASON in version.tags:
            kept = KEPT if compared_on(version) else NOT_COMPARED
            client.set_model_version_tag(name, number, DECISION, kept)
            yield f"{name} version {number} became challenger by a step that broke off afterwards; it says so now"
        else:
            # Test blocks that it was compared on have been looked at, whatever becomes of it.
            keep_compared_on(client, name, version)
            client.delete_model_version(name, number)
            if version.run_id and _made_here(client.get_run(version.run_id)):
                forget_run(client, version.run_id)
            yield f"{name} version {number} was not decided on when its step broke off, and was deleted"


def _runs(client: Any, name: str, run: str) -> Iterator[str]:
    """The MLflow runs of that pipeline run that no version uses."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return
    for found in client.search_runs([experiment.experiment_id], filter_string=f"tags.`{KFP_RUN}` = '{run}'"):
        if _made_here(found) and forget_run(client, found.info.run_id):
            yield f"a step broke off before it made a version of {name}; its MLflow run {found.info.run_id} was deleted"


def _made_here(run: Any) -> bool:
    return bool(str(run.info.run_name or "").startswith(RUN_NAME))
