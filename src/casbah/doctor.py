"""What this machine can and can't do for Casbah: one finding a line, each with what to do."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import urllib3

from casbah.addresses import authorization, shown
from casbah.errors import CasbahError
from casbah.storage import BUCKET, Location, Store

if TYPE_CHECKING:
    from casbah.stack import Stack

PYTHON = (3, 11)
FREE_DISK = 5 << 30
"""Bytes that the demo's town, services and models want, with room to spare."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `good` is None where it is absent and nothing is wrong with that."""

    subject: str
    good: bool | None
    text: str


def findings(directory: Path) -> Iterator[Finding]:
    """Look at one thing after the other; the services are those of the environment, else of `directory`."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", _python),
        ("disk", lambda: _disk(directory)),
        ("GDAL", _gdal),
        ("torch", _torch),
        ("torchvision", _torchvision),
        ("GPU", _gpu),
        ("kfp", lambda: _package("kfp", "pipeline")),
        ("object store", lambda: _store(directory)),
        ("MLflow", lambda: _mlflow(directory)),
    )
    for subject, check in checks:
        try:
            yield check()
        except Exception as error:  # noqa: BLE001 - a broken library raises anything; the next finding still counts
            yield Finding(subject, False, f"{type(error).__name__}: {error}".splitlines()[0])


def _python() -> Finding:
    good = sys.version_info[:2] == PYTHON
    wanted = "" if good else "; 3.11 is wanted, make a new environment with it"
    return Finding("python", good, f"{platform.python_version()}{wanted}")


def _disk(directory: Path) -> Finding:
    place = next(path for path in (directory.resolve(), *directory.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    wanted = (
        "" if free >= FREE_DISK else f"; the demo wants {FREE_DISK >> 30} GiB, free some or name another --directory"
    )
    return Finding("disk", free >= FREE_DISK, f"{free / 2**30:.0f} GiB free at {place}{wanted}")


def _package(name: str, extra: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, None, f"not installed; pip install 'casbah[{extra}]' brings it")


def _gdal() -> Finding:
    if _package("rasterio", "geo").good is None:
        return Finding("GDAL", None, _package("rasterio", "geo").text)
    import rasterio

    with rasterio.Env() as environment:
        missing = [driver for driver in ("GTiff", "COG") if driver not in environment.drivers()]
    text = f"{rasterio.__gdal_version__} in rasterio {rasterio.__version__}"
    return Finding("GDAL", not missing, text + (f"; it lacks the drivers {', '.join(missing)}" if missing else ""))


def _torch() -> Finding:
    if _package("torch", "train").good is None:
        return _package("torch", "train")
    import torch

    return Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads")


def _torchvision() -> Finding:
    found = _package("torchvision", "train")
    if found.good is None:
        return found
    from casbah.models import torchvision_cure

    cured = torchvision_cure.apply()
    import torchvision

    how = "built for another torch; its schemas are defined by Casbah, so it works here" if cured else "fits torch"
    return Finding("torchvision", True, f"{torchvision.__version__}, {how}")


def _gpu() -> Finding:
    if _package("torch", "train").good is None:
        return Finding("GPU", None, "unknown without torch")
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", None, "none that torch can use; training runs on the CPU")
    properties = torch.cuda.get_device_properties(0)
    return Finding("GPU", True, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _store(directory: Path) -> Finding:
    if Store.configured():
        store = Store.from_environment()
    else:
        running = _running(directory)
        if running is None:
            return Finding("object store", None, _none_running())
        keys = running.credentials
        store = Store(running.endpoint, keys.access_key, keys.secret_key)
    try:
        store.exists(Location(BUCKET, ".ready"))
    except CasbahError as error:
        return Finding("object store", False, str(error))
    return Finding("object store", True, f"answers at {store.endpoint}")


def _mlflow(directory: Path) -> Finding:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        running = _running(directory)
        if running is None:
            return Finding("MLflow", None, _none_running())
        uri = running.tracking_uri
    place = shown(uri)
    try:
        with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(5)) as pool:
            status = pool.request("GET", f"{place.rstrip('/')}/health", headers=authorization(uri)).status
    except urllib3.exceptions.HTTPError as error:
        return Finding("MLflow", False, f"{place} does not answer ({type(error).__name__}): is it up?")
    return Finding("MLflow", status == 200, f"answers at {place}" if status == 200 else f"{place} answers {status}")


def _none_running() -> str:
    """What to do where no service is named or running: start them, or first install what starts them."""
    lacking = [name for name in ("psutil", "cryptography", "mlflow") if importlib.util.find_spec(name) is None]
    if not lacking:
        from casbah.stack.services import weed

        lacking = [] if weed() else ["weed"]
    if lacking:
        return f"none named or running, and `casbah up` lacks {', '.join(lacking)}: pip install 'casbah[stack]'"
    return "none named or running; `casbah up` starts one"


def _running(directory: Path) -> "Stack | None":
    if _package("psutil", "stack").good is None:
        return None
    from casbah import stack

    return stack.find(directory)
