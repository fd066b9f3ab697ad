"""One background process and its children: started apart from the terminal, known again later, ended for certain."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

MARK = "CASBAH_STACK_MARK"
"""Environment variable that every process of a service inherits. A process id alone proves nothing: after a crash or a
reboot the number may belong to a stranger, who does not carry the mark."""

GRACE = 35.0
"""Seconds that SIGTERM gets before SIGKILL: `weed` was seen to take 2 to 30."""

SEEN_WITHIN = 5.0
RELEASED_WITHIN = 3.0

PORTS = range(12_000, 22_000)
"""Below the range that the system hands to outgoing connections, and still below it with `GRPC_OFFSET` added."""

GRPC_OFFSET = 10_000


class Service(BaseModel):
    """A started service: its process group, the mark of its processes, and its ports by name."""

    model_config = ConfigDict(frozen=True)
    group: int
    mark: str
    ports: dict[str, int]


def start(
    command: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path, ports: dict[str, int]
) -> Service:
    """Start a command in a session of its own (Ctrl-C does not reach it), its output appended to `log`.

    What it writes, its log too, is its owner's alone.
    """
    mark = secrets.token_hex(16)
    with open(log, "ab", opener=lambda file, flags: os.open(file, flags, 0o600)) as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    service = Service(group=process.pid, mark=mark, ports=ports)
    # For a moment after its start a process shows an empty environment, and would look like a stranger.
    deadline = time.monotonic() + SEEN_WITHIN
    while not members(service) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return service


def members(service: Service) -> list[psutil.Process]:
    """The living processes of a service, whether or not the first of them still lives."""
    return [process for process in psutil.process_iter() if _belongs(process, service)]


def stop(*services: Service, grace: float = GRACE) -> None:
    """End every process of services: SIGTERM, and SIGKILL after `grace` seconds. Strangers are never touched."""
    for service in services:
        _signal(service, signal.SIGTERM)
    for service in services:
        if not _gone(service, grace):
            _signal(service, signal.SIGKILL)
            _gone(service, grace)


def free_ports(names: Sequence[str], wanted: Mapping[str, int] | None = None) -> dict[str, int]:
    """A free loopback port per name, whose partner `GRPC_OFFSET` above is free too; the wanted ones if possible."""
    if wanted and all(name in wanted for name in names):
        # A service that was killed just now may still be letting go of its ports.
        deadline = time.monotonic() + RELEASED_WITHIN
        while time.monotonic() < deadline:
            if all(_free(wanted[name]) for name in names):
                return {name: wanted[name] for name in names}
            time.sleep(0.1)
    found: dict[str, int] = {}
    while len(found) < len(names):
        port = secrets.choice(PORTS)
        if port not in found.values() and _free(port):
            found[names[len(found)]] = port
    return found


def _belongs(process: psutil.Process, service: Service) -> bool:
    try:
        return (
            os.getpgid(process.pid) == service.group
            and process.status() != psutil.STATUS_ZOMBIE
            and process.environ().get(MARK) == service.mark
        )
    except (psutil.Error, OSError):
        return False


def _signal(service: Service, number: signal.Signals) -> None:
    for process in members(service):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _gone(service: Service, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while members(service):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    # Where the caller itself started the service, its entry stays in the process table until it is waited for.
    with suppress(ChildProcessError):
        os.waitpid(service.group, os.WNOHANG)
    return True


def _free(port: int) -> bool:
    with ExitStack() as bound:
        for number in (port, port + GRPC_OFFSET):
            probe = bound.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True
