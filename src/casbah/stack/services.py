"""What the two services are: their commands, their environment, and the operation that proves that they answer."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import urllib3

from casbah.errors import CasbahError, InputError
from casbah.stack.private import internal_keys
from casbah.stack.process import GRPC_OFFSET, Service, free_ports, start
from casbah.storage import BUCKET, Location, Store

__all__ = [
    "GRPC_OFFSET",
    "NAMES",
    "PATIENCE",
    "SOCKETS",
    "TITLES",
    "address",
    "answers",
    "check_installed",
    "configured",
    "launch",
    "log",
    "weed",
]

NAMES = ("store", "mlflow")
"""In the order of starting: MLflow keeps its artifacts in the store."""

TITLES = {"store": "the object store", "mlflow": "MLflow"}
HOST = "127.0.0.1"
PATIENCE = 90.0
"""Seconds that a service gets to answer: 1 and 5 on an idle machine, many times that on a busy one."""

STORE_MEMORY = "300MiB"
"""Soft limit of the store's Go heap; it takes 120 MB idle and would grow with the page cache otherwise."""

SOCKETS = Path("/tmp")  # noqa: S108 - where `weed` puts its sockets; the path is fixed in its code

_PORTS = {"store": ("s3", "filer", "master", "volume", "admin"), "mlflow": ("http",)}


def log(directory: Path, name: str) -> Path:
    """The log file of a service."""
    return directory / "log" / f"{name}.log"


def address(service: Service, port: str) -> str:
    """`http://127.0.0.1:port` of a service."""
    return f"http://{HOST}:{service.ports[port]}"


def launch(
    name: str, directory: Path, keys: tuple[str, str], state: Mapping[str, Service], wanted: Mapping[str, int] | None
) -> Service:
    """Start a service of a stack on free ports (the `wanted` ones where they are free); does not wait for it."""
    ports = free_ports(_PORTS[name], wanted)
    if name == "store":
        command, folder = _store_command(directory, ports), directory / "store"
        extra = {"GOMEMLIMIT": STORE_MEMORY, **internal_keys(directory)}
    else:
        endpoint = address(state["store"], "s3")
        command, folder, extra = _mlflow_command(directory, ports), directory, _mlflow_environment(endpoint)
        ports = {**ports, "store": state["store"].ports["s3"]}
    environment = {**_clean_environment(), "AWS_ACCESS_KEY_ID": keys[0], "AWS_SECRET_ACCESS_KEY": keys[1], **extra}
    return start(command, environment=environment, directory=folder, log=log(directory, name), ports=ports)


def configured(name: str, service: Service, state: Mapping[str, Service]) -> bool:
    """Whether a running MLflow still points to the store that runs now."""
    return name != "mlflow" or service.ports.get("store") == state["store"].ports["s3"]


def answers(name: str, service: Service, keys: tuple[str, str]) -> bool:
    """Whether a real operation succeeds now: an object written and read back, or MLflow's experiments listed."""
    return _store_answers(service, keys) if name == "store" else _mlflow_answers(service)


def weed() -> str | None:
    """The object store's program, beside this Python or on the path."""
    return shutil.which("weed", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))


def check_installed() -> None:
    """`InputError` where a program of the services is not here, before one of them runs."""
    if weed() is None:
        raise InputError("the object store's program `weed` is not installed: pip install 'casbah[stack]'")
    if importlib.util.find_spec("mlflow") is None:
        raise InputError("MLflow is not installed: pip install 'casbah[stack]'")


def _store_command(directory: Path, ports: Mapping[str, int]) -> list[str]:
    command = [
        weed() or "weed",
        "-logtostderr=true",
        "mini",
        f"-dir={directory / 'store'}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
    ]
    # Every port is set, those of gRPC too: any default would clash with a second stack on this machine.
    for name, port in ports.items():
        command += [f"-{name}.port={port}", f"-{name}.port.grpc={port + GRPC_OFFSET}"]
    # Without HTTP of the master and the filer: neither asks for the keys of S3, which needs only their gRPC.
    off = (
        "disableHttp=true",
        "master.telemetry=false",
        "admin.ui=false",
        "webdav=false",
        "s3.port.iceberg=0",
        "s3.port.lance=0",
    )
    return [*command, *(f"-{option}" for option in off), "-metricsPort=0", f"-bucket={BUCKET}"]


def _mlflow_command(directory: Path, ports: Mapping[str, int]) -> list[str]:
    return [
        sys.executable,
        *("-m", "mlflow", "server", "--host", HOST, "--port", str(ports["http"]), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"),
        *("--artifacts-destination", f"s3://{BUCKET}/mlflow"),
    ]


def _mlflow_environment(endpoint: str) -> dict[str, str]:
    return {
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # One worker without the job runner: 0.5 GB in place of 1.5.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "NO_PROXY": f"{HOST},localhost",
        "no_proxy": f"{HOST},localhost",
    }


def _clean_environment() -> dict[str, str]:
    """The caller's environment without any cloud account or tracking server in it."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_", "S3_", "WEED_"))}


def _store_answers(service: Service, keys: tuple[str, str]) -> bool:
    store = Store(address(service, "s3"), *keys, attempts=1)
    probe = Location(BUCKET, ".ready")
    try:
        store.ensure_bucket()
        store.write(b"ready", probe)
        return store.read(probe) == b"ready"
    except CasbahError:
        return False


def _mlflow_answers(service: Service) -> bool:
    url = f"{address(service, 'http')}/api/2.0/mlflow/experiments/search"
    try:
        with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(5)) as pool:
            return pool.request("POST", url, json={"max_results": 1}).status == 200
    except urllib3.exceptions.HTTPError:
        return False
