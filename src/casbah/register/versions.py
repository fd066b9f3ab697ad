"""The versions of a registered model as MLflow holds them, and what Casbah has written on them."""

import json
import re
from collections.abc import Sequence
from typing import Any

from casbah import mlflow_server
from casbah.addresses import shown
from casbah.errors import InputError

NAME = "casbah-buildings"
CHAMPION, CHALLENGER = "champion", "challenger"

DECISION = "casbah.decision"
"""The tag that says what was decided on a version."""

REASON = "casbah.reason"
"""The tag with the sentence that says why."""

KFP_RUN = "casbah.kfp_run"
"""The tag of a version, and of the MLflow run that it was logged in, that names the pipeline's run."""

COMPARED_ON = "casbah.compared_on"
"""The tag that lists the test blocks that were looked at for the decision."""

DIFFERENCE = "casbah.difference"
"""The tag with the difference in building IoU to the champion of then: value, and bounds of its 95 % interval."""

PREVIOUS = "casbah.previous_champion"
"""The tag of a champion that names the version that it took the place of."""

PRUNED = "casbah.pruned_compared_on"
"""Begins the tags of a model that keep `COMPARED_ON` of versions that were deleted."""

BLOCKS_A_TAG = 100
"""A database keeps 5,000 characters of such a tag, and a block's name has some 20."""


def number_of(version: Any) -> str:
    """The number of a version as MLflow's server says it; a database without a server gives an integer."""
    return str(version.version)


def check_name(name: str) -> None:
    """`InputError` for what MLflow would not take as the name of a registered model."""
    if not re.fullmatch(r"\w[\w .-]{0,254}", name):
        raise InputError(
            f"name is {name!r}, which is no name for a registered model: letters, digits, '.', '_', '-' and blanks "
            "are wanted"
        )


def versions_of(client: Any, name: str) -> list[Any]:
    """Every version of that name; an empty list where nobody has registered one."""
    return list(client.search_model_versions(f"name='{name}'"))


def some_versions(client: Any, uri: str, name: str) -> list[Any]:
    """Every version of that name, the newest first; `InputError` where there is none."""
    found = sorted(versions_of(client, name), key=lambda version: -int(version.version))
    if not found:
        raise InputError(f"{name} has no version at {shown(uri)}; `casbah register` makes one")
    return found


def champion_of(client: Any, name: str) -> Any:
    """The version that holds the champion's alias; None where there is none."""
    from mlflow.exceptions import MlflowException

    # A server with users denies what it is asked of a name that nobody has registered.
    if not versions_of(client, name):
        return None
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in mlflow_server.ABSENT:
            return None
        raise


def aliases_of(client: Any, name: str) -> dict[str, list[str]]:
    """Number of a version -> the aliases that it holds. (A search for versions leaves them out.)"""
    held: dict[str, list[str]] = {}
    for alias, version in client.get_registered_model(name).aliases.items():
        held.setdefault(str(version), []).append(alias)
    return held


def page_of(uri: str, name: str, version: str) -> str:
    """The page of a version; its address in MLflow where there is no page."""
    if not uri.startswith("http"):
        return f"models:/{name}/{version}"
    return f"{shown(uri).rstrip('/')}/#/models/{name}/versions/{version}"


def compared_on(version: Any) -> list[str]:
    """The test blocks that were looked at for the decision on a version."""
    return list(json.loads(version.tags.get(COMPARED_ON, "[]")))


def keep_compared_on(client: Any, name: str, version: Any) -> None:
    """Write on the model which test blocks decided on a version that is about to be deleted."""
    blocks = compared_on(version)
    for part, start in enumerate(range(0, len(blocks), BLOCKS_A_TAG)):
        key = f"{PRUNED}.{number_of(version)}.{part}"
        client.set_registered_model_tag(name, key, json.dumps(blocks[start : start + BLOCKS_A_TAG]))


def compared_before(client: Any, name: str, *, but: str) -> list[Sequence[str]]:
    """The test blocks of each decision so far but that on version `but`; those of deleted versions count too."""
    found: dict[str, list[str]] = {
        number_of(version): compared_on(version) for version in versions_of(client, name) if number_of(version) != but
    }
    for key, text in client.get_registered_model(name).tags.items():
        if key.startswith(f"{PRUNED}."):
            deleted = key.removeprefix(f"{PRUNED}.").partition(".")[0]
            found.setdefault(f"deleted {deleted}", []).extend(json.loads(text))
    return list(found.values())


def forget_run(client: Any, run: str) -> bool:
    """Delete an MLflow run and the models that were logged in it, unless a version of any name uses it; say whether.

    MLflow marks them as deleted; their files lie in its store until `mlflow gc` runs.
    """
    if client.search_model_versions(f"run_id='{run}'"):
        return False
    experiment = client.get_run(run).info.experiment_id
    for model in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run}'"):
        client.delete_logged_model(model.model_id)
    client.delete_run(run)
    return True
