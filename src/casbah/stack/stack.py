"""Start, find and stop the embedded services of one directory."""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from casbah.errors import InputError, WorldError, unwritable
from casbah.progress import say
from casbah.stack import services
from casbah.stack.private import write_private
from casbah.stack.process import Service, members, stop

DIRECTORY = Path(".casbah")
"""Where a stack lives unless another directory is named."""

STATE = "stack.json"
CREDENTIALS = "credentials.json"
ATTEMPTS = 3
"""Times that a service is started: another program may take a port between the look and the bind."""


class Credentials(BaseModel):
    """The generated keys of the object store; kept in a file that only its owner reads."""

    model_config = ConfigDict(frozen=True)
    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Stack:
    """A running stack: where its services answer, and how a program is told of them."""

    directory: Path
    endpoint: str
    """The object store, `http://127.0.0.1:port`."""
    tracking_uri: str
    """MLflow, `http://127.0.0.1:port`."""
    credentials: Credentials

    def environment(self) -> dict[str, str]:
        """The variables by which S3 clients, GDAL and MLflow find this stack. It holds the secret key."""
        direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1,localhost")))
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key,
            "AWS_REGION": "us-east-1",
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "NO_PROXY": direct,
            "no_proxy": direct,
        }


FOREIGN = (
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ENDPOINT_URL_S3",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
"""Variables of a cloud account or of another MLflow that would override or spoil the stack's own; unset them beside
`environment()`."""


def up(directory: str | Path = DIRECTORY) -> Stack:
    """Start the object store and MLflow of a directory, or find them running, and wait until both really answer.

    Data, credentials and, where they are still free, ports are those of the last time. `InputError` where the
    directory is unusable or the `stack` extra is not installed; `WorldError` where a service does not come up.
    """
    services.check_installed()
    directory = _prepared(Path(directory))
    with _alone(directory):
        credentials = _credentials(directory)
        state = _state(directory)
        for name in services.NAMES:
            state[name] = _ensure(name, directory, credentials, state)
            _save(directory, state)
        return _stack(directory, credentials, state)


def down(directory: str | Path = DIRECTORY) -> list[str]:
    """Stop the services of a directory and return the names of those that ran; their data stays.

    Only processes that this stack started are touched, whatever its state file says.
    """
    directory = Path(directory).resolve()
    if not _state(directory):
        return []
    with _alone(directory):
        state = _state(directory)
        running = [name for name, service in state.items() if members(service)]
        stop(*(state[name] for name in reversed(running)))
        for service in state.values():
            _sweep_sockets(service)
        return running


def find(directory: str | Path = DIRECTORY) -> Stack | None:
    """The running stack of a directory; None where any of its services does not run."""
    directory = Path(directory).resolve()
    state = _state(directory)
    if any(name not in state or not members(state[name]) for name in services.NAMES):
        return None
    return _stack(directory, _credentials(directory), state)


def _stack(directory: Path, credentials: Credentials, state: dict[str, Service]) -> Stack:
    return Stack(
        directory, services.address(state["store"], "s3"), services.address(state["mlflow"], "http"), credentials
    )


def _ensure(name: str, directory: Path, credentials: Credentials, state: dict[str, Service]) -> Service:
    """The running service `name`: the one that is there if it answers, else a fresh one."""
    keys = (credentials.access_key, credentials.secret_key)
    service = state.get(name)
    if service is not None:
        current = members(service) and services.configured(name, service, state)
        if current and _answers(name, service, keys, directory, patience=10):
            return service
        stop(service)
        _sweep_sockets(service)
    say(f"Starting {services.TITLES[name]}")
    for _ in range(ATTEMPTS):
        wanted = service.ports if service else None
        service = services.launch(name, directory, keys, state, wanted)
        # Saved before it answers: a `casbah up` that is killed now must not lose a process.
        _save(directory, {**state, name: service})
        if _answers(name, service, keys, directory, patience=services.PATIENCE):
            return service
        stop(service)
        _sweep_sockets(service)
        service = None
    log = services.log(directory, name)
    raise WorldError(f"{services.TITLES[name]} did not start: {_last_line(log)} (its log is {log})")


def _answers(name: str, service: Service, keys: tuple[str, str], directory: Path, patience: float) -> bool:
    """Wait until a real operation succeeds; False where the service dies first or `patience` seconds pass."""
    probe: Callable[[], bool] = lambda: services.answers(name, service, keys)  # noqa: E731 - one call, two places
    deadline = time.monotonic() + patience
    while not probe():
        if not members(service):
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _prepared(directory: Path) -> Path:
    directory = directory.resolve()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("store", "log"):
            (directory / name).mkdir(exist_ok=True)
            # The directory itself may be the caller's own and open to others; what the services keep in it is not.
            (directory / name).chmod(0o700)
    except OSError as error:
        raise unwritable(error)(
            f"{directory} can't hold a stack ({error.strerror}); name another one with --directory"
        ) from None
    return directory


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let one `up` or `down` of a directory run at a time."""
    file = directory / "lock"
    try:
        lock = open(file, "w", encoding="utf-8")  # noqa: SIM115 - the lock is held while the caller works
    except OSError as error:
        raise unwritable(error)(_closed(file, error)) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _credentials(directory: Path) -> Credentials:
    file = directory / CREDENTIALS
    if not file.exists():
        made = Credentials(access_key=f"casbah{secrets.token_hex(7)}", secret_key=secrets.token_urlsafe(30))
        write_private(file, made.model_dump_json())
    try:
        file.chmod(0o600)
        return Credentials.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(_closed(file, error)) from None
    except ValidationError:
        raise InputError(
            f"{file} is damaged; run `casbah down`, delete it, and `casbah up` makes new credentials"
        ) from None


def _state(directory: Path) -> dict[str, Service]:
    file = directory / STATE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: Service.model_validate(value) for name, value in content["services"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(_closed(file, error)) from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InputError(
            f"{file} is damaged, so the services that it names are unknown: end them by hand and delete it"
        ) from None


def _closed(file: Path, error: OSError) -> str:
    return f"{file} can't be opened ({error.strerror}): the stack may be another user's; name another --directory"


def _save(directory: Path, state: dict[str, Service]) -> None:
    content = {"version": 1, "services": {name: service.model_dump() for name, service in state.items()}}
    write_private(directory / STATE, json.dumps(content, indent=2))


def _sweep_sockets(service: Service) -> None:
    """Remove the socket files that a killed `weed` leaves in the temporary folder, known by their ports."""
    for port in service.ports.values():
        for file in services.SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
            with suppress(OSError):
                file.unlink()
        for file in services.SOCKETS.glob(f"seaweedfs-*-{port + services.GRPC_OFFSET}.sock"):
            with suppress(OSError):
                file.unlink()


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
