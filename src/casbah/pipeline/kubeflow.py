"""A Kubeflow Pipelines server: pipelines submitted to it with the `kfp` client, and their runs watched to the end.

What the client leaves out is added here: each request has a time limit, a fault of the network is asked about again
within bounds, a page where an API was expected is recognised, and no address is said with a password in it.
"""

import contextlib
import io
import json
import os
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import kfp
import kfp_server_api
import urllib3
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from casbah.addresses import authorization, scrubbed, shown
from casbah.errors import InputError, WorldError
from casbah.pipeline import compiled
from casbah.pipeline.submission import Package, Watch
from casbah.progress import say

HOST, TOKEN, PAGES = "KFP_ENDPOINT", "KFP_TOKEN", "KF_PIPELINES_UI_ENDPOINT"
"""Variables: the address of Kubeflow Pipelines, a token for it, and where its pages lie if that is elsewhere."""

NAMESPACE = "KFP_NAMESPACE"
"""Variable: the namespace of a profile, where Kubeflow serves several users."""

OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod, a notebook in Kubeflow for one, finds the name of its namespace."""

TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and to wait for an answer."""

ATTEMPTS = 4
PATIENCE = 12
"""Attempts in a row while a run is watched: about five minutes, in which a server that was moved is back."""
PAUSE = 1.0
"""Seconds before the second attempt; doubled for each later one, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 30.0

POLL = 5.0
"""Seconds between two looks at a run."""

BUSY = (408, 429, 500, 502, 503, 504)
"""Answers that another attempt may change."""

FINAL = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Submitted:
    """What the server made of a submission."""

    kind: str
    """`run`, or `recurring run`."""
    identifier: str
    name: str
    page: str
    """Its page in the Kubeflow UI."""


def check_package(package: Path) -> None:
    """`InputError` unless the client can read a compiled pipeline; it knows the fields of its own version alone."""
    specification = next(compiled.documents(package))
    try:
        json_format.ParseDict(specification, pipeline_spec_pb2.PipelineSpec())
    except json_format.ParseError as error:
        raise InputError(
            f"{package} is no pipeline that KFP {kfp.__version__} reads ({scrubbed(str(error))}); one that "
            "`casbah pipeline compile` makes is wanted"
        ) from None


class Server:
    """Kubeflow Pipelines at an address, with a token or with the user and password that stand in the address.

    `InputError` where there is no usable address or token. Nothing is sent before `connect`.
    """

    def __init__(self, host: str | None = None, *, namespace: str | None = None) -> None:
        address = _address(host or os.environ.get(HOST, ""))
        self.address = shown(address).rstrip("/")
        self.namespace = namespace or os.environ.get(NAMESPACE, "").strip() or None
        self._pages = shown(os.environ.get(PAGES) or self.address).rstrip("/")
        self._token = _token()
        self._basic = authorization(address)
        if self._token and self._basic:
            raise InputError(f"{TOKEN} is set and {self.address} is given with a user; one of both is wanted")

    def connect(self) -> None:
        """Ask the server whether it is there and whom it serves; `WorldError` where it is not."""
        with warnings.catch_warnings():
            # It warns of servers that are older than 2.0.
            warnings.simplefilter("ignore", FutureWarning)
            try:
                client = _Client(host=self.address, existing_token=self._token or None)
            except ValueError:
                raise InputError(f"{kfp.Client._LOCAL_KFP_CONTEXT} is no JSON; mend or delete it") from None
        self._client = client
        api = client._healthz_api.api_client
        api.default_headers.update(self._basic)
        _guard(api.rest_client)
        several = self._ask(client._healthz_api.healthz_service_get_healthz).multi_user
        self.namespace = self.namespace or client.get_user_namespace() or None
        if several and not self.namespace:
            if not OWN_NAMESPACE.is_file():
                raise InputError(
                    f"Kubeflow at {self.address} serves several users; --namespace (or {NAMESPACE}) is "
                    "wanted, that of your profile"
                )
            self.namespace = OWN_NAMESPACE.read_text(encoding="utf-8").strip()
        if several is False and self.namespace:
            raise InputError(
                f"the namespace is {self.namespace!r} (from --namespace, {NAMESPACE} or "
                f"{kfp.Client._LOCAL_KFP_CONTEXT}), and Kubeflow at {self.address} has one for all; none is wanted"
            )

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made where there is none of its name."""
        try:
            made = self._ask(lambda: self._client.create_experiment(name, namespace=self.namespace))
        except ValueError:  # the client's, where several have the name
            raise WorldError(f"Kubeflow at {self.address} has several experiments {name!r}; name another one") from None
        return self._known(made.experiment_id, "experiment")

    def upload(self, package: Path, name: str) -> tuple[str, str]:
        """Ids of the pipeline `name` and of the version of it that the package becomes, its first where it is new."""
        wanted = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
        found = self._ask(lambda: self._client.list_pipelines(filter=wanted, namespace=self.namespace)).pipelines
        if not found:
            made = self._once(
                lambda: self._client.upload_pipeline(str(package), pipeline_name=name, namespace=self.namespace),
                f"whether the pipeline {name!r} was uploaded",
            )
            pipeline = self._known(made.pipeline_id, "pipeline")
            versions = self._ask(
                lambda: self._client.list_pipeline_versions(pipeline, sort_by="created_at desc")
            ).pipeline_versions
            return pipeline, self._known(versions[0].pipeline_version_id if versions else None, "version")
        pipeline = self._known(found[0].pipeline_id, "pipeline")
        version = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:6]}"
        added = self._once(
            lambda: self._client.upload_pipeline_version(str(package), version, pipeline_id=pipeline),
            f"whether {name!r} has a new version",
        )
        return pipeline, self._known(added.pipeline_version_id, "version")

    def submit(
        self,
        package: Package,
        *,
        experiment: str,
        name: str,
        version: tuple[str, str] | None = None,
        every: str | None = None,
    ) -> Submitted:
        """Start a run of the package or, with `version`, of what was uploaded; with `every` the runs of a schedule."""
        pipeline, number = version or (None, None)
        source = {
            "experiment_id": experiment,
            "job_name": name,
            "params": package.arguments,
            "pipeline_package_path": None if version else str(package.path),
            "pipeline_id": pipeline,
            "version_id": number,
        }
        if every:
            # Times at which the server was down are not made up for: their runs would all be the same.
            made = self._once(
                lambda: self._client.create_recurring_run(cron_expression=every, no_catchup=True, **source),
                f"whether the recurring run {name!r} was made",
            )
            identifier = self._known(made.recurring_run_id, "recurring run")
            return Submitted("recurring run", identifier, name, f"{self._pages}/#/recurringrun/details/{identifier}")
        made = self._once(lambda: self._client.run_pipeline(**source), f"whether the run {name!r} was started")
        identifier = self._known(made.run_id, "run")
        return Submitted("run", identifier, name, f"{self._pages}/#/runs/details/{identifier}")

    def wait(self, run: Submitted, package: Path, *, minutes: float | None = None) -> None:
        """Say each change of a run and of its steps until it has succeeded; `WorldError` for any other end.

        Where waiting itself ends (by `minutes`, a fault that lasts, or Ctrl-C), the run goes on.
        """
        watch = Watch(package)
        deadline = time.monotonic() + minutes * 60 if minutes else None
        onward = f"the run goes on: {run.page}"
        try:
            while True:
                found = self._ask(
                    lambda: self._client.get_run(run.identifier), attempts=PATIENCE, until=deadline, onward=onward
                )
                if not found.run_id:
                    raise self._foreign(onward)
                for line in watch.new(found):
                    say(line)
                if watch.state in FINAL:
                    break
                if deadline and time.monotonic() >= deadline:
                    raise WorldError(f"run {run.identifier} was {watch.state} after {minutes:g} minutes; {onward}")
                time.sleep(POLL)
        except KeyboardInterrupt:
            say(
                f"No longer waiting, and {onward} (Terminate on that page ends it, or "
                f"`curl -X POST {self.address}/apis/v2beta1/runs/{run.identifier}:terminate`)"
            )
            raise
        if watch.state == "FAILED":
            raise WorldError(f"run {run.identifier} failed{watch.reason(found)}: {run.page}")
        if watch.state != "SUCCEEDED":
            raise WorldError(f"run {run.identifier} was {watch.state.lower()} before it was done: {run.page}")

    def _ask(
        self, call: Callable[[], Answer], *, attempts: int = ATTEMPTS, until: float | None = None, onward: str = ""
    ) -> Answer:
        """The answer to what may be asked again: `WorldError` where there is none within the attempts, or `until`."""
        made = 0
        while made < attempts and not (made and until and time.monotonic() >= until):
            _pause(made)
            made += 1
            try:
                return self._answer(call)
            except kfp_server_api.ApiException as error:
                if error.status not in BUSY:
                    raise self._fault(error, onward) from None
                last = _said(error)
            except urllib3.exceptions.HTTPError as error:
                last = _short(error)
            except _NoApi:
                raise self._foreign(onward) from None
        sentence = f"Kubeflow Pipelines at {self.address} did not answer {made} times ({last})"
        raise WorldError(f"{sentence}; {onward or 'look at the address, or try again'}")

    def _once(self, call: Callable[[], Answer], unknown: str) -> Answer:
        """The answer to what makes something: asked again only where nobody can have heard it."""
        for attempt in range(ATTEMPTS):
            _pause(attempt)
            try:
                return self._answer(call)
            except kfp_server_api.ApiException as error:
                if error.status not in BUSY:
                    raise self._fault(error) from None
                last = _said(error)
            except urllib3.exceptions.HTTPError as error:
                last = _short(error)
                if attempt + 1 < ATTEMPTS and _unheard(error):
                    continue
            except _NoApi:
                raise self._foreign() from None
            break
        raise WorldError(
            f"Kubeflow Pipelines at {self.address} failed ({last}), and {unknown} is not known: look there"
        )

    def _answer(self, call: Callable[[], Answer]) -> Answer:
        with contextlib.redirect_stdout(io.StringIO()):  # the client prints addresses of pages
            return call()

    def _fault(self, error: Any, onward: str = "") -> WorldError:
        where = f"Kubeflow Pipelines at {self.address}"
        after = f"; {onward}" if onward else ""
        if error.status == 404 and not _parsed(error):
            return self._foreign(onward)
        if error.status == 401 or (error.status == 403 and not self.namespace):
            what = (
                f"the token in {TOKEN}" if self._token else "the user" if self._basic else f"a caller without {TOKEN}"
            )
            return WorldError(f"{where} refused {what} ({_said(error)}): a valid token is wanted in {TOKEN}{after}")
        of = f" for namespace {self.namespace!r}" if self.namespace else ""
        return WorldError(f"{where} refused the request{of} ({_said(error)}){after}")

    def _foreign(self, onward: str = "") -> WorldError:
        return WorldError(
            f"{self.address} answers with something else than Kubeflow's API, such as a login page: an address that "
            f"gives the API is wanted, and a token in {TOKEN}" + (f"; {onward}" if onward else "")
        )

    def _known(self, identifier: str | None, kind: str) -> str:
        """An id that the server gave; `WorldError` where what it answered has none."""
        if not identifier:
            raise WorldError(f"Kubeflow Pipelines at {self.address} gave no id for the {kind}; is it version 2?")
        return identifier


class _Client(kfp.Client):
    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        """Whom the server serves is asked by `Server.connect`; the constructor would ask for minutes and log all."""
        return kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)


class _NoApi(Exception):
    """An answer that is no JSON."""


def _guard(rest: Any) -> None:
    """Give each request of a REST client a time limit, and let none of its answers pass that is no JSON.

    Attempts are counted in `Server` alone: those that a connection makes of itself come at once.
    """
    rest.pool_manager.connection_pool_kw["retries"] = urllib3.Retry(connect=0, read=0, status=0, other=0, redirect=5)
    ask = rest.request

    def request(*words: Any, **options: Any) -> Any:
        options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT
        answer = ask(*words, **options)
        try:
            parsed = json.loads(answer.data)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise _NoApi
        return answer

    rest.request = request


def _address(host: str) -> str:
    if not host:
        raise InputError(
            f"no Kubeflow is named: give --host or set {HOST}, such as http://localhost:8080 after "
            "`kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`"
        )
    try:
        parts = urlsplit(host)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        good = False
    if not good or parts.query or parts.fragment:
        wanted = "http://host:port or https://host/path is wanted, without what follows a ? or #"
        raise InputError(f"{shown(host)!r} is no address of Kubeflow Pipelines: {wanted}")
    return host


def _token() -> str:
    token = os.environ.get(TOKEN, "").strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise InputError(
            f"{TOKEN} holds a space, a line break or a letter that is in no token; a token alone is wanted"
        )
    return token


def _pause(made: int) -> None:
    """Wait before an attempt that follows on others."""
    if made:
        time.sleep(min(PAUSE * 2 ** (made - 1), LONGEST_PAUSE))


def _parsed(error: Any) -> dict[str, Any]:
    """What the API says of an error; nothing where it was not the API that answered."""
    try:
        said = json.loads(error.body or "")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _said(error: Any) -> str:
    """The status of an answer and the server's first sentence about it."""
    text = _parsed(error).get("message") or _parsed(error).get("error")
    status = f"HTTP {error.status}" if error.status else str(error.reason)
    return scrubbed(f"{status}: {str(text).splitlines()[0]}" if text else status)


def _short(error: Exception) -> str:
    """The system's own words where there are any (`[Errno 111] Connection refused`), else the kind of fault."""
    reason = getattr(error, "reason", None) or error
    if found := re.search(r"\[Errno[^'\")]*", str(reason)):
        return found.group()
    return type(reason).__name__


def _unheard(error: Exception) -> bool:
    """Whether a connection was never made."""
    reason = getattr(error, "reason", None) or error
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)
