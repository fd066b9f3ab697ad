"""The MLflow server: found, asked within bounds, and its failures said in one sentence."""

import logging
import os
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from casbah.addresses import authorization, shown
from casbah.errors import CasbahError, InputError, WorldError

ATTEMPTS = 3
PAUSE = 1.0
"""Seconds before the second attempt; doubled for the third."""


def tracking_uri(given: str | None) -> str:
    """The server to use: the one given, else `MLFLOW_TRACKING_URI`; `InputError` where neither is set."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise InputError(
            "no MLflow server is named: set MLFLOW_TRACKING_URI or give --tracking-uri "
            "(`casbah up` starts one on this machine)"
        )
    return uri


def check(uri: str) -> None:
    """`WorldError` unless the server answers its health check within a few attempts (http addresses only)."""
    if not uri.startswith(("http://", "https://")):
        return
    last = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            request = urllib.request.Request(f"{shown(uri).rstrip('/')}/health", headers=authorization(uri))  # noqa: S310
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http only
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError, ValueError) as error:
            last = str(getattr(error, "reason", error))
    raise WorldError(
        f"MLflow at {shown(uri)} did not answer {ATTEMPTS} times ({last}); nothing was registered and nothing is lost: "
        "run `casbah register` again when it is up"
    )


@contextmanager
def fluent(uri: str) -> Iterator[None]:
    """Let MLflow's fluent functions talk to `uri`, and afterwards to whom they did before."""
    import mlflow

    before, variable = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable


@contextmanager
def talking(uri: str) -> Iterator[None]:
    """Turn what MLflow, its HTTP client or its artifact store raise into one `WorldError`; bound its retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="mlflow")
            yield
    except CasbahError:
        raise
    except (MlflowException, RequestException, BotoCoreError, ClientError, OSError) as error:
        lines = str(error).replace(uri, shown(uri)).strip().splitlines() or [type(error).__name__]
        raise WorldError(
            f"MLflow at {shown(uri)} failed ({lines[0][:300]}); what it had taken stays, and running "
            "`casbah register` again goes on"
        ) from error
