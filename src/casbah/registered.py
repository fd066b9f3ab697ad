"""A registered model by its address: its bundle is downloaded from MLflow, and no code that lies there is run."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from casbah import mlflow_server
from casbah.addresses import shown
from casbah.errors import InputError
from casbah.products.model import ModelBundle
from casbah.progress import say

SCHEME = "models:/"

ADDRESS = re.compile(r"models:/+(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


@contextmanager
def opened(model: str | Path, tracking_uri: str | None = None) -> Iterator[tuple[ModelBundle, str | None]]:
    """A bundle for as long as the block lasts, and `<name> version <number>` where it comes from a registry.

    `model` is a bundle's directory, or `models:/<name>@<alias>` or `models:/<name>/<number>` in the MLflow that
    `tracking_uri` or `MLFLOW_TRACKING_URI` names. `InputError` for an address of another kind, for a name, alias or
    version that is not there, and for what is no bundle; `WorldError` where MLflow or its store fails.
    """
    address = re.fullmatch(r"(?!models:)([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(model))
    if address is not None:  # of which a Path has lost a slash
        raise InputError(
            f"the model {shown(f'{address[1]}://{address[2]}')} is at an address; a bundle's directory, "
            "models:/NAME@ALIAS or models:/NAME/3 is wanted: copy it here first"
        )
    if not str(model).startswith(SCHEME):
        yield ModelBundle.open(model), None
        return
    match = check_address(str(model))
    uri = mlflow_server.tracking_uri(tracking_uri)
    mlflow_server.check(uri, mlflow_server.FETCH)
    with tempfile.TemporaryDirectory(prefix="casbah-model-") as scratch:
        with mlflow_server.talking(uri, mlflow_server.FETCH), mlflow_server.fluent(uri):
            number = match["version"] or _version_of(uri, match["name"], match["alias"])
            say(f"fetching version {number} of {match['name']} from {shown(uri)}")
            bundle = _fetched(uri, match["name"], number, Path(scratch))
        yield bundle, f"{match['name']} version {number}"


def check_address(address: str) -> re.Match[str]:
    """The parts of an address, `name` with `alias` or `version`; `InputError` where it is of no registered model."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(
            f"{address!r} is no address of a registered model; models:/NAME@ALIAS or models:/NAME/3 is wanted"
        )
    return match


def _version_of(uri: str, name: str, alias: str) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return str(mlflow.MlflowClient(uri).get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in mlflow_server.ABSENT:
            raise InputError(
                f"{name} has no version with the alias {alias} at {shown(uri)}; `casbah register` gives champion and "
                "challenger"
            ) from None
        raise


def _fetched(uri: str, name: str, number: str, folder: Path) -> ModelBundle:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        mlflow.MlflowClient(uri).get_model_version(name, number)
    except MlflowException as error:
        if error.error_code in mlflow_server.ABSENT:
            raise InputError(
                f"{name} has no version {number} at {shown(uri)}; MLflow's page lists those it has"
            ) from None
        raise
    return bundle_of(name, number, folder)


def bundle_of(name: str, version: str, folder: Path) -> ModelBundle:
    """The bundle of a version of a registered model, downloaded to `folder` from the MLflow that is talked to.

    `InputError` where the version holds none.
    """
    import mlflow
    import yaml

    root = Path(mlflow.artifacts.download_artifacts(f"{SCHEME}{name}/{version}", dst_path=str(folder)))
    try:
        described = yaml.safe_load((root / "MLmodel").read_text(encoding="utf-8"))
        inside = (root / described["flavors"]["python_function"]["artifacts"]["bundle"]["path"]).resolve()
    except (FileNotFoundError, KeyError, TypeError, yaml.YAMLError):
        raise InputError(
            f"version {version} of {name} holds no bundle of Casbah's: `casbah register` made none of it"
        ) from None
    if not inside.is_relative_to(root.resolve()):
        raise InputError(f"version {version} of {name} names a bundle outside of itself: do not use it")
    return ModelBundle.open(inside)
