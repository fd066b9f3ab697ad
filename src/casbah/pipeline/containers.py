"""Steps of a local run in containers, each in the image that the compiled pipeline names for it."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from casbah.errors import InputError, WorldError
from casbah.journal import CONTAINED
from casbah.stack.process import MARK

LABEL = "casbah.run"
"""Label of every container of a run, whose value is the run's name."""

PASSED = (
    "AWS_",
    "MLFLOW_",
    "CASBAH_",
    "OMP_NUM_THREADS",
    "NO_COLOR",
    "HF_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
"""How the variables begin that a step is handed. On a cluster they come from the Secret and the ConfigMap."""

OWN = ("CASBAH_IMAGE", "CASBAH_GIT_COMMIT", "CASBAH_REGISTRY", "CASBAH_WEIGHTS", MARK)
"""Variables of this machine that a step must not see in place of its image's or its task's own."""


@dataclass(frozen=True)
class Containers:
    """As whom containers run and with how much; the root file system is read-only, and `/tmp` lies in memory."""

    user: str = field(default_factory=lambda: f"{os.getuid()}:0")
    """User and group by number. Any will do: images are made for users without a name, in group 0."""
    memory: str = ""
    """Most memory of a container, `/tmp` among it, in Docker's words (8g); empty sets no limit."""
    gpus: bool = False
    """Whether containers see the machine's GPUs."""

    def described(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    def prepare(self, root: Path, journal: Path) -> None:
        """Make what every container must be able to write to: the root of KFP's artifacts, and the run's journal."""
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o777)
        journal.touch()
        journal.chmod(0o666)

    def runner_arguments(self, journal: Path) -> dict[str, Any]:
        """What `kfp.local.DockerRunner` is given; the environment's credentials are read here and written nowhere."""
        from docker.types import DeviceRequest, Mount

        environment = {
            name: value
            for name, value in os.environ.items()
            if name.upper().startswith(PASSED) and name not in OWN and not name.startswith("CASBAH_IMAGE_")
        }
        made: dict[str, Any] = {
            "environment": environment | {CONTAINED: "1"},
            "user": self.user,
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},  # noqa: S108 - the container's own
            "network_mode": "host",
            # The journal tells a step that died from one that works on by the ids of processes.
            "pid_mode": "host",
            "shm_size": "1g",
            "security_opt": ["no-new-privileges"],
            "cap_drop": ["ALL"],
            "mounts": [Mount(target=str(journal), source=str(journal), type="bind")],
            "labels": {LABEL: journal.parent.name},
        }
        if self.memory:
            made |= {"mem_limit": self.memory, "memswap_limit": self.memory}
        if self.gpus:
            made["device_requests"] = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
        return made


def check(images: set[str]) -> None:
    """`WorldError` where no Docker engine answers, `InputError` where an image is neither there nor in a registry."""

    def lacking(client: Any) -> list[str]:
        known = {name for image in client.images.list() for name in [*image.tags, *image.attrs["RepoDigests"]]}
        return sorted(image for image in images if image not in known and "/" not in image)

    if found := _engine(lacking):
        raise InputError(
            f"the image {found[0]} is not on this machine; `make images` builds it, and `casbah pipeline compile "
            "--images build/images.json` names what was built"
        )


def stop(run: str) -> None:
    """Kill what containers of a run are left; none is, after a run that ended by itself."""

    def kill(client: Any) -> None:
        for container in client.containers.list(filters={"label": f"{LABEL}={run}"}):
            with suppress(Exception):  # it has ended in between
                container.kill()

    _engine(kill)


def _engine(use: Callable[[Any], Any]) -> Any:
    try:
        import docker
    except ImportError:
        raise InputError("containers need docker's client: pip install 'casbah[pipeline]'") from None
    try:
        client = docker.from_env()
        try:
            return use(client)
        finally:
            client.close()
    except docker.errors.DockerException as error:
        place = os.environ.get("DOCKER_HOST") or "the usual socket"
        raise WorldError(
            f"no Docker engine answers at {place} ({error}); start one, or name it in DOCKER_HOST"
        ) from None
