"""The MLflow server: found, asked within bounds, and its failures said in one sentence."""

import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from casbah.addresses import scrubbed, shown
from casbah.errors import CasbahError, InputError, WorldError
from casbah.storage import CREDENTIAL_FAULTS, endpoint

ATTEMPTS = 3
PAUSE = 1.0
"""Seconds before the second attempt; doubled for the third."""

WEB = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")

REFUSED = (401, 403)


class Words(NamedTuple):
    """How a command tells what became of its work where MLflow fails."""

    unanswered: str
    """Where the server did not answer at all."""
    broken_off: str
    """Where it failed on the way."""


ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Codes of MLflow's for a name, an alias or a version that is not there."""

REGISTER = Words(
    "nothing was registered and nothing is lost: run `casbah register` again when it is up",
    "what it had taken stays, and running `casbah register` again goes on",
)
FETCH = Words(
    "the model was not fetched and nothing was written: run the same command again when it is up",
    "the model was not fetched: run the same command again, finished parts are kept",
)
SERVE = Words(
    "nothing is served: start it again when MLflow is up",
    "nothing is served: look at MODEL_URI, or start it again",
)
SETTLE = Words(
    "what a registering that broke off may have left stays as it is until the next run of this step",
    "run the step again",
)
ROLLBACK = Words(
    "the champion is the one it was: run `casbah rollback` again when it is up",
    "look which version is champion before you run `casbah rollback` again",
)
REPORT = Words(
    "nothing was written: run `casbah registry report` again when it is up",
    "nothing was written: run `casbah registry report` again",
)
PRUNE = Words(
    "nothing was deleted: run `casbah registry prune` again when it is up",
    "what it said it deleted is deleted, the rest is there: run `casbah registry prune` again to see it",
)


def tracking_uri(given: str | None) -> str:
    """The server to use: the one given, else `MLFLOW_TRACKING_URI`; `InputError` where there is none or no address."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise InputError(
            "no MLflow server is named: set MLFLOW_TRACKING_URI or give --tracking-uri "
            "(`casbah up` starts one on this machine)"
        )
    if not _is_address(uri):
        raise InputError(
            f"{shown(uri)!r} is no address of an MLflow server: http://host:port or https://host is wanted, or a "
            f"database ({', '.join(DATABASES)})"
        )
    return uri


def _is_address(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        scheme = parts.scheme.partition("+")[0]
        return scheme in DATABASES or (scheme in WEB and bool(parts.hostname) and (parts.port or 1) > 0)
    except ValueError:  # a port that is no number
        return False


def check(uri: str, words: Words = REGISTER) -> None:
    """`WorldError` unless the server answers its health check within a few attempts (http addresses only)."""
    if urlsplit(uri).scheme not in WEB:
        return
    import requests

    last = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            # A user and a password in the address go along; others are the client's to send, so that a refusal here
            # only says that the server is up.
            status = requests.get(f"{uri.rstrip('/')}/health", timeout=10).status_code
            if status == requests.codes.ok or status in REFUSED:
                return
            last = f"HTTP {status}"
        except (requests.RequestException, OSError, ValueError) as error:
            last = _short(error)
    raise WorldError(f"MLflow at {shown(uri)} did not answer {ATTEMPTS} times ({last}); {words.unanswered}")


def check_user(uri: str) -> None:
    """`WorldError` where the server refuses this user, whom its health check does not ask for (http addresses only)."""
    if urlsplit(uri).scheme not in WEB:
        return
    import requests

    user, password = (os.environ.get(f"MLFLOW_TRACKING_{word}") for word in ("USERNAME", "PASSWORD"))
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    try:
        status = requests.post(
            f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
            json={"max_results": 1},
            auth=(user, password) if user and password else None,
            headers={"Authorization": f"Bearer {token}"} if token and not user else None,
            timeout=30,
        ).status_code
    except (requests.RequestException, OSError, ValueError) as error:
        raise WorldError(f"MLflow at {shown(uri)} broke off ({_short(error)})") from None
    if status in REFUSED:
        raise WorldError(
            f"MLflow at {shown(uri)} refused the user (HTTP {status}): MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD of one that it knows are wanted (on a cluster from the Secret casbah-mlflow)"
        )
    if status != requests.codes.ok:
        raise WorldError(f"MLflow at {shown(uri)} answers HTTP {status}; an MLflow server is wanted there")


def _short(error: Exception) -> str:
    """The system's own words where there are any (`[Errno 111] Connection refused`), else the first line."""
    text = str(error).strip()
    if found := re.search(r"\[Errno[^'\")]*", text):
        return found.group()
    return scrubbed((text.splitlines() or [type(error).__name__])[0])


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
def talking(uri: str, words: Words = REGISTER) -> Iterator[None]:
    """Turn what MLflow, its HTTP client or its artifact store raise into one `WorldError`; bound its retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow  # noqa: F401 - it sets the level of its own logger when it is imported first
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="mlflow")
            yield
    except CasbahError:
        raise
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise WorldError(f"{_store_fault(error, uri)}; {words.broken_off}") from error
    except (MlflowException, RequestException, OSError) as error:
        raise WorldError(f"MLflow at {shown(uri)} {_server_fault(error)}; {words.broken_off}") from error


def _server_fault(error: Exception) -> str:
    if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return (
            f"refused its user ({_short(error)}): check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "the user and password in the address"
        )
    return f"failed ({_short(error)})"


def _store_fault(error: Exception, uri: str) -> str:
    """What the store of MLflow's artifacts, which this program writes to itself, did; and the variables to look at."""
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    store = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or endpoint() or "Amazon S3"
    where = f"the store of MLflow's artifacts ({shown(store)}, for MLflow at {shown(uri)})"
    code = re.search(r"\((\w+)\) when calling", str(error))
    refused = code is not None and code.group(1) in CREDENTIAL_FAULTS | {"403"}
    if refused or isinstance(error, NoCredentialsError | PartialCredentialsError):
        answer = code.group(1) if code else "there are none"
        return f"{where} refused the credentials ({answer}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return f"{where} failed ({_short(error)}): is it up? MLFLOW_S3_ENDPOINT_URL names it"
