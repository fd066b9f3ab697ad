"""A Kubeflow Pipelines API on this machine, version v2beta1, which answers at the wire and can misbehave.

No cluster was there to learn from. The shape of every answer is that of the specification: each one is an object of the
`kfp_server_api` models, which are generated from it, serialised by that package's own `ApiClient`. What the server puts
into them follows its source: an error is `error`, `code`, `message` and `details`; a run lists the nodes of its
workflow as tasks (`root`, `ingest-driver`, `ingest`, `executor`), and a task that failed has no `error` in 2.17.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as models

ROOT = "/apis/v2beta1"
EXPERIMENT, PIPELINE, RUN, RECURRING = "experiment-1", "pipeline-1", "run-1", "recurring-1"
LOGIN = b"<!doctype html><html><title>Log in to Your Account</title></html>"

_serialise = models.ApiClient().sanitize_for_serialization


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    """Without `/apis/v2beta1`."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


@dataclass
class Kubeflow:
    """`looks` are the runs that a look at the run finds, in turn, the last one for good; `faults` go before them:
    a status, `cut` (the connection is closed without an answer) or `login` (a page of HTML).

    `creating` is such a fault for what makes something, `always` one for every request.
    """

    url: str
    looks: list[Any] = field(default_factory=list)
    faults: list[Any] = field(default_factory=list)
    creating: list[Any] = field(default_factory=list)
    always: Any = None
    several_users: bool | None = False
    token: str | None = None
    """Lets in only who brings it."""
    namespaces: tuple[str, ...] = ()
    """Those that there are, where it serves several users."""
    experiments: list[str] = field(default_factory=list)
    pipelines: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    looked: Callable[[], None] = lambda: None
    """What happens when somebody looks at the run."""

    def made(self, path: str) -> list[Asked]:
        """The requests that made something at a path."""
        return [one for one in self.asked if one.method == "POST" and one.path == path]


def task(name: str, state: str, *, identifier: str = "", error: str | None = None) -> Any:
    """A node of a run, as a task of the API."""
    return models.V2beta1PipelineTaskDetail(
        run_id=RUN,
        task_id=identifier or f"id-of-{name}",
        display_name=name,
        state=state,
        error=models.GoogleRpcStatus(code=13, message=error) if error else None,
        state_history=[models.V2beta1RuntimeStatus(state=state)],
        child_tasks=[models.PipelineTaskDetailChildTask(pod_name=f"{name}-pod")],
    )


def run(state: str, *tasks: Any, error: str | None = None) -> Any:
    """A run in a state."""
    return models.V2beta1Run(
        run_id=RUN,
        experiment_id=EXPERIMENT,
        display_name="a run",
        state=state,
        run_details=models.V2beta1RunDetails(task_details=list(tasks)) if tasks else None,
        error=models.GoogleRpcStatus(code=13, message=error) if error else None,
    )


@contextmanager
def serve() -> Iterator[Kubeflow]:
    """A running API; its address is `url`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    api = server.api = Kubeflow(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: Kubeflow


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        assert isinstance(self.server, _Server)
        api, parts = self.server.api, urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(
            self.command,
            parts.path.removeprefix(ROOT),
            {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()},
            {name.lower(): value for name, value in self.headers.items()},
            content,
        )
        api.asked.append(asked)
        if (fault := api.always or self._fault(api, asked)) is not None:
            self._misbehave(fault)
        elif api.token and asked.headers.get("authorization") != f"Bearer {api.token}":
            self._refuse(401, 16, "Unauthenticated: Request header error: there is no user identity header.")
        else:
            self._route(api, asked)

    @staticmethod
    def _fault(api: Kubeflow, asked: Asked) -> Any:
        if asked.path == f"/runs/{RUN}" and api.faults:
            return api.faults.pop(0)
        if asked.method == "POST" and asked.path != "/experiments" and api.creating:
            return api.creating.pop(0)
        return None

    def _route(self, api: Kubeflow, asked: Asked) -> None:
        making = asked.method == "POST"
        match asked.path:
            case "/healthz":
                self._send(models.V2beta1GetHealthzResponse(multi_user=api.several_users))
            case "/experiments" if api.several_users and _namespace(asked) not in api.namespaces:
                self._refuse(403, 7, f"User 'me' is not authorized in namespace {_namespace(asked)}")
            case "/experiments" if making:
                api.experiments.append(asked.body["display_name"])
                self._send(_experiment(asked.body["display_name"], _namespace(asked)))
            case "/experiments":
                found = [_experiment(name, None) for name in api.experiments if _filtered(asked) == name]
                self._send(models.V2beta1ListExperimentsResponse(experiments=found or None, total_size=len(found)))
            case "/pipelines":
                found = [_pipeline(name) for name in api.pipelines if _filtered(asked) == name]
                self._send(models.V2beta1ListPipelinesResponse(pipelines=found or None, total_size=len(found)))
            case "/pipelines/upload":
                api.pipelines.append(asked.query["name"])
                api.versions.append("version-1")
                self._send(_pipeline(asked.query["name"]))
            case "/pipelines/upload_version":
                api.versions.append(f"version-{len(api.versions) + 1}")
                self._send(_version(api.versions[-1], asked.query["name"]))
            case path if path == f"/pipelines/{PIPELINE}/versions":
                newest = [_version(one, one) for one in reversed(api.versions)]
                self._send(models.V2beta1ListPipelineVersionsResponse(pipeline_versions=newest))
            case "/runs" if making:
                self._send(run("PENDING"))
            case "/recurringruns" if making:
                self._send(models.V2beta1RecurringRun(recurring_run_id=RECURRING, display_name="again"))
            case path if path == f"/runs/{RUN}":
                api.looked()
                self._send(api.looks.pop(0) if len(api.looks) > 1 else api.looks[0])
            case path:
                self._refuse(404, 5, f"Not Found: {path}")

    def _misbehave(self, fault: Any) -> None:
        if fault == "cut":
            self.close_connection = True
            self.connection.close()
        elif fault == "redirect":
            self._write(302, "text/html", b"", {"Location": "/dex/auth"})
            self.server.api.always = "login"  # type: ignore[attr-defined]
        elif fault == "login":
            self._write(200, "text/html; charset=utf-8", LOGIN)
        elif fault == 404:
            self._write(404, "text/html", b"<html>404 Not Found</html>")
        else:
            self._refuse(fault, 14, "the service is not there")

    def _refuse(self, status: int, code: int, message: str) -> None:
        body = {"error": message, "code": code, "message": message, "details": []}
        self._write(status, "application/json", json.dumps(body).encode())

    def _send(self, answer: Any) -> None:
        self._write(200, "application/json", json.dumps(_serialise(answer)).encode())

    def _write(self, status: int, kind: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _filtered(asked: Asked) -> str:
    """The name that a list is asked for."""
    (predicate,) = json.loads(asked.query["filter"])["predicates"]
    assert predicate["key"] == "display_name"
    return predicate["stringValue"]


def _namespace(asked: Asked) -> str | None:
    return asked.body.get("namespace") if asked.method == "POST" else asked.query.get("namespace")


def _experiment(name: str, namespace: str | None) -> Any:
    return models.V2beta1Experiment(experiment_id=EXPERIMENT, display_name=name, namespace=namespace)


def _pipeline(name: str) -> Any:
    return models.V2beta1Pipeline(pipeline_id=PIPELINE, display_name=name)


def _version(identifier: str, name: str) -> Any:
    return models.V2beta1PipelineVersion(pipeline_id=PIPELINE, pipeline_version_id=identifier, display_name=name)
