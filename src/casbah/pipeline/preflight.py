"""What can be known before anything is read or trained: what is wrong with it, and the cells that it is read in."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from casbah import weights
from casbah.addresses import shown
from casbah.errors import CasbahError, InputError
from casbah.pipeline import inputs
from casbah.progress import say
from casbah.storage import BUCKET, Location, Store

NEEDED = {
    "AWS_ENDPOINT_URL": "store-endpoint of the ConfigMap casbah-services",
    "AWS_ACCESS_KEY_ID": "accesskey of the Secret casbah-store",
    "AWS_SECRET_ACCESS_KEY": "secretkey of the Secret casbah-store",
    "MLFLOW_TRACKING_URI": "mlflow-tracking-uri of the ConfigMap casbah-services",
}
"""Variables of a step, and where a cluster keeps what is in them."""

PROBE = "checkpoints/.preflight"
"""An object that is written and removed: a store that can only be read would fail after the first epoch."""


def check(values: Mapping[str, Any], folder: Path) -> list[str]:
    """Refuse a run that would fail later, in the words of the step that would; return the cells of its area.

    Args:
        values: Parameters of the pipeline that is to run. Without a `name` nothing is registered, and MLflow may be
            missing.
        folder: For the area and the YAML files of experiments that lie at an address.

    Returns:
        Names of grid cells (`casbah.ingest.cells`); one empty name where the area is read as a whole.

    Raises:
        InputError: A parameter, the area, an experiment or a variable is wrong, or weights can't be had under their
            licence.
        WorldError: The store, MLflow or, asked about several cells, the catalogue does not answer or refuses the
            credentials, or weights are out of reach.
    """
    # An empty name registers nothing, and is none to check.
    inputs.check({name: value for name, value in values.items() if (name, value) != ("name", "")})
    check_variables(registers=bool(values.get("name")))
    check_store()
    if os.environ.get("MLFLOW_TRACKING_URI"):
        _check_mlflow()
    for name in values.get("experiments", ()):
        _check_experiment(name, folder)
    cells = _cells(values, folder)
    say("parameters, object store, MLflow, area, experiments and weights are as they should be")
    return cells


def _cells(values: Mapping[str, Any], folder: Path) -> list[str]:
    from casbah.ingest import cells
    from casbah.ingest.area import read_area
    from casbah.tile.lattice import lattice
    from casbah.tile.stage import MAX_IGNORE

    aoi = inputs.text(values["aoi"])
    area = read_area(inputs.area(aoi, folder), name=shown(aoi))
    blocks = lattice(area.grid, tile_size=values["tile_size"], block_size=values["block_size"] or None)
    # Of a narrower strip more than that of every tile would be unknown.
    least = values["tile_size"] * blocks.resolution * (1 - MAX_IGNORE)
    found = cells.plan(area, block=blocks.block * blocks.resolution, side=values["cell_size"] or None, least=least)
    return cells.with_imagery(area, found, **inputs.search(values))


def check_variables(*, registers: bool) -> None:
    """`InputError` where a variable is not set that steps take from the cluster; MLflow's only where one registers."""
    for variable, place in NEEDED.items():
        if not os.environ.get(variable) and (registers or variable != "MLFLOW_TRACKING_URI"):
            raise InputError(f"{variable} is not set: a step takes it from {place}, in the namespace where it runs")


def check_store() -> None:
    """`WorldError` unless the object store takes an object and gives it up again."""
    store, probe = Store.from_environment(), Location(BUCKET, PROBE)
    store.ensure_bucket()
    store.write(b"", probe)
    store.remove(probe)


def _check_mlflow() -> None:
    from casbah import mlflow_server

    uri = mlflow_server.tracking_uri(None)
    mlflow_server.check(uri)
    mlflow_server.check_user(uri)


def _check_experiment(name: str, folder: Path) -> None:
    """The experiment reads as one, and what it starts from can be had."""
    from casbah.finetune.experiment import ENSEMBLE, read

    experiment = read(str(inputs.experiment(name, folder)))
    if experiment.kind == ENSEMBLE:
        for member in experiment.settings["members"]:
            _check_experiment(str(member), folder)
    if not experiment.is_network:
        return
    given = experiment.settings["model"].get("init_args", {}).get("model_args", {})
    if given.get("backbone_ckpt_path") or not weights.asked_for(given):
        return
    if entry := weights.serving(str(given.get("backbone")), "model" in given):
        try:
            weights.check_available(entry.name)
        except CasbahError as error:
            raise type(error)(f"{experiment.name}: {error}") from None
