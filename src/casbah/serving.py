"""The serving image's command, `python3 -m casbah.serving`: the registered model over HTTP, without a shell.

`MODEL_URI` names the model (`models:/casbah-buildings@champion`), `PORT` where it listens. MLflow's own server takes
this process's place, so that it is the one that is told to stop. (`mlflow models serve` starts it below itself and a
shell; as a container's first process that does not hear the signal, and is killed after the grace period.)
"""

import os
import shlex
import sys
from typing import NoReturn

from casbah import mlflow_server
from casbah.errors import CasbahError, InputError
from casbah.progress import say


def serve(model: str, port: str) -> NoReturn:
    """Fetch a model and become its server on all addresses; `InputError` or `WorldError` where that can't begin."""
    if not model:
        raise InputError("MODEL_URI is not set; a model is wanted, such as models:/casbah-buildings@champion")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"PORT is {port!r}; a number from 1 to 65535 is wanted")
    uri = mlflow_server.tracking_uri(None)
    mlflow_server.check(uri, mlflow_server.SERVE)
    with mlflow_server.talking(uri, mlflow_server.SERVE):
        from mlflow.artifacts import download_artifacts
        from mlflow.pyfunc.scoring_server import get_cmd

        say(f"fetching {model}")
        folder = download_artifacts(artifact_uri=model)
        command, environment = get_cmd(folder, int(port), "0.0.0.0", nworkers=1)  # type: ignore[arg-type] # noqa: S104
    os.execve(sys.executable, [sys.executable, "-m", *shlex.split(command)], environment)  # noqa: S606


def main() -> NoReturn:
    """Serve what the environment names; one sentence and an exit code where that fails."""
    try:
        serve(os.environ.get("MODEL_URI", ""), os.environ.get("PORT", "8080"))
    except CasbahError as error:
        print(f"casbah: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
