"""The history of a run as CSV, and in MLflow where a tracking server is named."""

import csv
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from casbah.addresses import shown
from casbah.progress import say

EXPERIMENT = "casbah"
"""MLflow's experiment where the environment names none."""

PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""A tracking server that is down must not hold up a training: its client would try for minutes."""

METRICS_AT_ONCE = 1000
"""What MLflow takes in one request."""


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """One row an epoch, one column a score."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


class Tracker:
    """Logs to the server that MLFLOW_TRACKING_URI names; says so once and goes on where it fails.

    A run that MLFLOW_RUN_ID names (Kubeflow's, say) is reused and left open; its metrics carry `name`, since several
    trainings may share it. Otherwise a training that was `resumed` goes on in the run `earlier`, where that is still
    there, so that one training is one run. Where it is not `wanted`, since another process logs, nothing is logged.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Any],
        *,
        resumed: bool = False,
        earlier: str | None = None,
        wanted: bool = True,
    ) -> None:
        self._client: Any = None
        self._run: str | None = None
        self._own = False
        self._name = name
        self._resumed, self._earlier, self._logged = resumed, earlier, -1
        if wanted and os.environ.get("MLFLOW_TRACKING_URI"):
            self._guard(lambda: self._start(parameters))

    def _start(self, parameters: Mapping[str, Any]) -> None:
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
        run = os.environ.get("MLFLOW_RUN_ID")
        if not run:
            run = self._reopened(client) or client.create_run(_experiment(client), run_name=self._name).info.run_id
            self._own = True
        self._client, self._run = client, run
        if self._resumed:
            self._logged = max((row.step for row in client.get_metric_history(run, self._key("epoch"))), default=-1)
        client.log_batch(run, params=[Param(self._key(key), str(value)[:500]) for key, value in parameters.items()])

    def _reopened(self, client: Any) -> str | None:
        """The earlier run, running again; None where it is gone."""
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

        if self._earlier is None:
            return None
        try:
            found = client.get_run(self._earlier)
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return None
            raise
        if found.info.lifecycle_stage != "active":
            return None
        client.update_run(self._earlier, status="RUNNING")
        return self._earlier

    def _key(self, name: str) -> str:
        return name if self._own else f"{self._name}/{name}"

    @property
    def run(self) -> str | None:
        """Id of the run that is this training's own; None where there is none, or MLFLOW_RUN_ID names it."""
        return self._run if self._own else None

    def follow(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the epochs of `history` that MLflow has not got yet, each with its number under `epoch`."""
        fresh = [(int(row["epoch"]), row) for row in history if row["epoch"] > self._logged]
        if fresh:
            self.log_history(fresh)
            self._logged = fresh[-1][0]

    def log(self, scores: Mapping[str, float], step: int) -> None:
        """The scores of an epoch."""
        self.log_history([(step, scores)])

    def log_history(self, history: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """The scores of many epochs or rounds, each with its number, in as few requests as may be."""
        if self._client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(self._key(key), value, now, step) for step, row in history for key, value in row.items()]

        def send() -> None:
            for first in range(0, len(metrics), METRICS_AT_ONCE):
                self._client.log_batch(self._run, metrics=metrics[first : first + METRICS_AT_ONCE])

        self._guard(send)

    def finish(self, status: str) -> None:
        """Close the run, where it is ours: FINISHED, FAILED or KILLED."""
        if self._client is not None and self._own:
            self._guard(lambda: self._client.set_terminated(self._run, status))

    def _guard(self, act: Any) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - its client raises whatever its transports do; training goes on
            say(
                f"MLflow at {shown(os.environ['MLFLOW_TRACKING_URI'])} failed ({type(error).__name__}); "
                "training goes on without it, and the history is in the bundle all the same"
            )
            self._client = None


def _experiment(client: Any) -> str:
    if os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)
