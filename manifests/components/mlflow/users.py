"""Makes MLflow's users for pipelines and for serving, with the passwords of their Secrets; safe to run again."""

import os
import sys
import time

import requests
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient

PATIENCE = 900.0


def main() -> int:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    wait(uri)
    client = AuthServiceClient(uri)
    for prefix in ("PIPELINES", "READER"):
        name, password = os.environ[f"{prefix}_USERNAME"], os.environ[f"{prefix}_PASSWORD"]
        try:
            client.get_user(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_user(name, password)
        else:
            client.update_user_password(name, password)
        print(f"user {name}: there", flush=True)
    return 0


def wait(uri: str) -> None:
    """Return once the server answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            requests.get(f"{uri}/health", timeout=5).raise_for_status()
            return
        except requests.RequestException:
            if time.monotonic() > deadline:
                raise
            time.sleep(5)


if __name__ == "__main__":
    sys.exit(main())
