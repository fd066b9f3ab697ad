"""Versions that nobody needs any more: found, and deleted where that is asked for."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from casbah import mlflow_server
from casbah.addresses import shown
from casbah.errors import InputError
from casbah.progress import say
from casbah.register.versions import (
    CHAMPION,
    NAME,
    PREVIOUS,
    aliases_of,
    check_name,
    forget_run,
    keep_compared_on,
    number_of,
    some_versions,
    versions_of,
)

DAY = 24 * 3600.0


@dataclass(frozen=True)
class Old:
    """A version that is beyond what is kept."""

    version: str
    registered: str
    """The day, ISO."""
    experiment: str
    run: str
    """MLflow's run that it was logged in; empty where it has none."""
    run_goes: bool
    """Whether no version that stays uses that run."""


@dataclass(frozen=True)
class Pruning:
    """What stays and why, and what goes or went."""

    name: str
    server: str
    stays: dict[str, str]
    """Number of a version -> why it stays, the newest first."""
    goes: tuple[Old, ...]
    deleted: bool
    """False where it was only looked at."""


def prune(
    *,
    name: str = NAME,
    keep: int = 10,
    older_than_days: float = 90,
    yes: bool = False,
    tracking_uri: str | None = None,
) -> Pruning:
    """Find versions beyond the newest `keep` and older than so many days that hold no alias; with `yes` delete them.

    A version with any alias stays, and so does the one that `rollback` would go back to. With a version goes the run
    that it was logged in and its logged model, unless another version, of whatever name, uses the run. MLflow marks
    both as deleted; their files lie in its store until `mlflow gc` runs where the server does. The test blocks that
    decided on a deleted version stay written on the model, so that later decisions count them.

    Raises `InputError` where there is no such model or a number makes no sense, `WorldError` where MLflow can't be
    reached; what was deleted until then is gone, and running it again goes on.
    """
    check_name(name)
    if keep < 1:
        raise InputError(f"--keep is {keep}; at least 1 is wanted")
    if not 0 <= older_than_days < 100_000:
        raise InputError(f"--older-than-days is {older_than_days:g}; 0 or more days are wanted")
    uri = mlflow_server.tracking_uri(tracking_uri)
    mlflow_server.check(uri, mlflow_server.PRUNE)
    with mlflow_server.talking(uri, mlflow_server.PRUNE):
        import mlflow

        client = mlflow.MlflowClient(uri)
        found = some_versions(client, uri, name)
        stays = _stays(client, name, found, keep, time.time() - older_than_days * DAY)
        going = [version for version in found if number_of(version) not in stays]
        goes = tuple(_old(client, name, version, going) for version in reversed(going))
        if yes:
            for old in goes:
                _delete(client, name, old)
    return Pruning(name, shown(uri), stays, goes, yes)


def _stays(client: Any, name: str, found: list[Any], keep: int, oldest: float) -> dict[str, str]:
    """Number -> why it stays, of the versions `found`, which are the newest first."""
    guarded = _guarded(client, name, found)
    stays = {}
    for place, version in enumerate(found):
        number = number_of(version)
        if why := guarded.get(number):
            stays[number] = why
        elif place < keep:
            stays[number] = f"among the newest {keep}"
        elif version.creation_timestamp / 1000 > oldest:
            stays[number] = f"young: registered on {_day(version)}"
    return stays


def _guarded(client: Any, name: str, found: list[Any]) -> dict[str, str]:
    """Number -> why it must not go: an alias, or `rollback` would go back to it."""
    aliases = aliases_of(client, name)
    guarded = {}
    for version in found:
        if CHAMPION in aliases.get(number_of(version), ()) and (previous := version.tags.get(PREVIOUS)):
            guarded[previous] = "what `casbah rollback` goes back to"
    return guarded | {number: ", ".join(sorted(held)) for number, held in aliases.items()}


def _old(client: Any, name: str, version: Any, going: list[Any]) -> Old:
    run = version.run_id or ""
    gone = {(name, number_of(one)) for one in going}
    users = client.search_model_versions(f"run_id='{run}'") if run else []
    return Old(
        version=number_of(version),
        registered=_day(version),
        experiment=version.tags.get("casbah.experiment", "–"),
        run=run,
        run_goes=bool(run) and all((user.name, number_of(user)) in gone for user in users),
    )


def _delete(client: Any, name: str, old: Old) -> None:
    """Delete one version, unless it has come into use since it was looked at; then its run, where nobody uses it."""
    found = {number_of(version): version for version in versions_of(client, name)}
    version = found.get(old.version)
    if version is None:
        return
    if why := _guarded(client, name, list(found.values())).get(old.version):
        raise InputError(f"version {old.version} of {name} came into use meanwhile ({why}): look again without --yes")
    keep_compared_on(client, name, version)
    client.delete_model_version(name, old.version)
    words = f"deleted version {old.version} of {name}"
    if old.run and forget_run(client, old.run):
        words += f", and its run {old.run}"
    say(words)


def _day(version: Any) -> str:
    return f"{datetime.fromtimestamp(version.creation_timestamp / 1000, UTC):%Y-%m-%d}"
