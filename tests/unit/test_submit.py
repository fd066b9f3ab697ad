"""`casbah submit` sends what was asked for, tells what becomes of it, and says every fault in one sentence.

The other side is `kubeflows`, an API on this machine: its answers have the shape of the specification, since they are
built from the models that `kfp_server_api` generates from it, and serialised by it. No cluster was there: what a real
server puts into that shape follows from its source alone.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kfp
import pytest
import yaml
from kubeflows import EXPERIMENT, PIPELINE, RECURRING, RUN, Kubeflow, run, serve, task

from casbah import pipeline
from casbah.cli import main
from casbah.pipeline import compiled, kubeflow

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled.compile_pipeline(tmp_path_factory.mktemp("compiled") / "footprints.yaml")


@pytest.fixture
def api() -> Iterator[Kubeflow]:
    with serve() as server:
        yield server


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("KFP_", "KF_PIPELINES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(kubeflow, "PAUSE", 0.0)
    monkeypatch.setattr(kubeflow, "POLL", 0.01)
    monkeypatch.setattr(kubeflow, "OWN_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))


@pytest.fixture
def submit(api: Kubeflow, package: Path, capsys: Capture) -> Any:
    """The command, with the package and the address of the API unless others are given: exit code, stdout, stderr."""

    def call(*words: str, host: str | None = None) -> tuple[int, str, str]:
        given = [*(() if "--package" in words else ("--package", str(package))), "--host", host or api.url, *words]
        try:
            main(["submit", *given])
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def sentence(said: str) -> str:
    """The one line that an error is."""
    (line,) = [line for line in said.splitlines() if line.startswith("casbah: ")]
    return line.removeprefix("casbah: ")


def test_what_is_sent_is_the_package_and_typed_arguments(api: Kubeflow, submit: Any, package: Path) -> None:
    code, out, _ = submit(
        "aoi=algiers", "periods=2", "max_cloud=12.5", "align=true", "vintage=2013", "start=20230601",
        "experiments=unet_scratch_small,boosted_pixels", "--run-name", "monthly",
    )  # fmt: skip
    assert code == 0
    (sent,) = api.made("/runs")
    specification, platform = yaml.safe_load_all(package.read_text())
    assert sent.body["pipeline_spec"] == {"pipeline_spec": specification, "platform_spec": platform}
    assert sent.body["runtime_config"]["parameters"] == {
        "aoi": "algiers", "periods": 2, "max_cloud": 12.5, "align": True, "vintage": "2013", "start": "2023-06-01",
        "experiments": ["unet_scratch_small", "boosted_pixels"],
    }  # fmt: skip
    assert type(sent.body["runtime_config"]["parameters"]["periods"]) is int
    assert sent.body["experiment_id"] == EXPERIMENT
    assert sent.body["display_name"] == "monthly"
    assert out.splitlines() == [f"Run           {RUN}", f"Page          {api.url}/#/runs/details/{RUN}"]


def test_an_experiment_is_made_once_and_found_again(api: Kubeflow, submit: Any) -> None:
    for _ in range(2):
        assert submit("--experiment", "coast")[0] == 0
    assert [one.body["display_name"] for one in api.made("/experiments")] == ["coast"]
    assert len(api.made("/runs")) == 2


def test_without_the_cache_no_step_is_answered_from_it_not_even_in_the_loop(api: Kubeflow, submit: Any) -> None:
    assert submit("--no-cache")[0] == 0
    sent = api.made("/runs")[0].body["pipeline_spec"]["pipeline_spec"]
    graphs = [sent["root"], *(one for one in sent["components"].values() if "dag" in one)]
    options = {name: one.get("cachingOptions", {}) for graph in graphs for name, one in graph["dag"]["tasks"].items()}
    assert {"ingest", "finetune", "evaluate", "register"} <= options.keys()
    assert not any(one.get("enableCache") for one in options.values())


def test_states_are_told_as_they_change_and_success_ends_with_zero(api: Kubeflow, submit: Any) -> None:
    nodes = [task("root", "RUNNING"), task("root-driver", "SUCCEEDED"), task("executor", "RUNNING")]
    api.looks = [
        run("PENDING"),
        run("RUNNING", *nodes, task("ingest-driver", "SUCCEEDED"), task("ingest", "RUNNING")),
        run("RUNNING", *nodes, task("ingest", "RUNNING")),
        run(
            "RUNNING", *nodes, task("ingest", "SUCCEEDED"), task("for-loop-1", "RUNNING"),
            task("finetune", "RUNNING", identifier="a"), task("finetune", "PENDING", identifier="b"),
        ),
        run("SUCCEEDED", task("finetune", "SUCCEEDED", identifier="a"), task("evaluate-2", "SUCCEEDED")),
    ]  # fmt: skip
    code, out, err = submit("--wait")
    assert code == 0
    assert err.splitlines() == [
        "ingest: running", "run: running", "ingest: succeeded", "finetune: running", "finetune #2: pending",
        "finetune: succeeded", "evaluate on test, once: succeeded", "run: succeeded",
    ]  # fmt: skip
    assert out.splitlines()[-1] == "State         SUCCEEDED"


def test_without_wait_nobody_looks_at_the_run(api: Kubeflow, submit: Any) -> None:
    assert submit("--no-wait")[0] == 0
    assert not [one for one in api.asked if one.path == f"/runs/{RUN}"]


def test_a_failed_run_names_the_steps_and_why_and_ends_with_three(api: Kubeflow, submit: Any) -> None:
    api.looks = [
        run(
            "FAILED", task("root", "FAILED"), task("executor", "FAILED"), task("for-loop-1", "FAILED"),
            task("finetune", "FAILED", error="tile_size is 60; a multiple of 32 is wanted"),
            task("ingest", "SUCCEEDED"), task("label-driver", "FAILED"),
        )
    ]  # fmt: skip
    code, out, err = submit("--wait")
    assert code == 3
    assert sentence(err) == (
        f"run {RUN} failed in finetune (tile_size is 60; a multiple of 32 is wanted), label (before its start): "
        f"{api.url}/#/runs/details/{RUN}"
    )
    assert "SUCCEEDED" not in out


def test_where_kubeflow_gives_no_reason_that_is_said(api: Kubeflow, submit: Any) -> None:
    api.looks = [run("FAILED", task("executor", "FAILED"), task("tile", "FAILED"))]
    assert sentence(submit("--wait")[2]) == (
        f"run {RUN} failed in tile; Kubeflow gives no reason, the log of the step does: {api.url}/#/runs/details/{RUN}"
    )
    api.looks = [run("FAILED", error="the workflow has 300 nodes at http://me:hunter2@store")]
    assert "failed (the workflow has 300 nodes at http://store)" in sentence(submit("--wait")[2])


@pytest.mark.parametrize("state", ["CANCELED", "SKIPPED"])
def test_a_run_that_somebody_ended_ends_with_three(state: str, api: Kubeflow, submit: Any) -> None:
    api.looks = [run("RUNNING"), run("CANCELING"), run(state)]
    code, _, err = submit("--wait")
    assert code == 3
    assert sentence(err) == f"run {RUN} was {state.lower()} before it was done: {api.url}/#/runs/details/{RUN}"


@pytest.mark.parametrize("fault", [None, 503])
def test_waiting_ends_with_its_time_and_says_that_the_run_goes_on(
    fault: Any, api: Kubeflow, submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubeflow, "PATIENCE", 5000)
    api.looks, api.faults = [run("RUNNING")], [fault] * 4000 if fault else []
    code, _, err = submit("--wait", "--timeout-minutes", "0.002")
    assert code == 3
    wanted = rf"run {RUN} was RUNNING after 0.002 minutes" if fault is None else r"did not answer \d+ times \(HTTP 503"
    assert re.search(wanted, sentence(err))
    assert sentence(err).endswith(f"the run goes on: {api.url}/#/runs/details/{RUN}")


@pytest.mark.parametrize("fault", [503, 429, 500, "cut"])
def test_a_fault_while_waiting_costs_nothing(fault: Any, api: Kubeflow, submit: Any) -> None:
    api.looks = [run("RUNNING", task("ingest", "RUNNING")), run("SUCCEEDED", task("ingest", "SUCCEEDED"))]
    api.faults = [fault, fault, None, fault, fault, fault]
    code, _, err = submit("--wait")
    assert code == 0
    assert err.splitlines() == ["ingest: running", "run: running", "ingest: succeeded", "run: succeeded"]
    assert len(api.made("/runs")) == 1


def test_a_fault_that_lasts_ends_the_waiting_and_not_the_run(api: Kubeflow, submit: Any) -> None:
    api.looks, api.faults = [run("RUNNING")], [None] + ["cut"] * 100
    code, _, err = submit("--wait")
    assert code == 3
    assert re.search(rf"did not answer {kubeflow.PATIENCE} times \(\w+\); the run goes on: ", sentence(err))
    assert len(api.faults) == 100 - kubeflow.PATIENCE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_the_waiting_and_says_how_to_end_the_run(number: int, api: Kubeflow, submit: Any) -> None:
    api.looks, api.looked = [run("RUNNING")], lambda: os.kill(os.getpid(), number)
    code, _, err = submit("--wait")
    assert code == 130
    assert f"the run goes on: {api.url}/#/runs/details/{RUN}" in err
    assert f"`curl -X POST {api.url}/apis/v2beta1/runs/{RUN}:terminate`" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["aio=algiers"], "no parameter 'aio'; did you mean aoi"),
        (["periods=two"], 'periods is "two"; a whole number is wanted'),
        (["experiments=unet_scrach"], "experiments is 'unet_scrach'; known here: unet_scratch"),
        (["aoi=town.geojson"], "a path of your machine, which does not exist in a pod"),
        (["algiers"], "'algiers' is not NAME=VALUE"),
        (["start=2023-06-01", "end=2023-05-01"], "2023-05-01"),
        (["--package", "absent.yaml"], "absent.yaml does not exist"),
        (["--every", "0 3 1 * *"], "--every is '0 3 1 * *' (5 fields); six are wanted"),
        (["--every", ""], "--every is '' (0 fields)"),
        (["--every", "@monthly", "--wait"], "--every and --wait are given"),
        (["--timeout-minutes", "5"], "together with --wait"),
        (["--wait", "--timeout-minutes", "0"], "minutes above 0 are wanted"),
        (["--wait", "--timeout-minutes", "nan"], "minutes above 0 are wanted"),
        (["--package", "pipeline.zip"], "pipeline.zip is no name of a YAML file"),
        (["--upload", " "], "--upload is empty"),
    ],
)
def test_what_is_wrong_never_reaches_the_server(words: list[str], said: str, api: Kubeflow, submit: Any) -> None:
    code, _, err = submit(*words)
    assert code == 2
    assert said in sentence(err)
    assert api.asked == []


def test_a_package_that_the_client_can_t_read_never_reaches_the_server(
    api: Kubeflow, submit: Any, package: Path, tmp_path: Path
) -> None:
    newer = tmp_path / "newer.yaml"
    newer.write_text(package.read_text().replace("componentRef:", "componentReference:"))
    code, _, err = submit("--package", str(newer))
    assert code == 2
    assert re.search(r"newer.yaml is no pipeline that KFP 2.17.0 reads \(.*componentReference", sentence(err))
    assert api.asked == []


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("localhost:8080", "is no address of Kubeflow Pipelines: http://host:port or https://host/path is wanted"),
        ("http://a:b", "is no address of Kubeflow Pipelines"),
        ("https://me:hunter2@kubeflow/?token=hunter2", "'https://kubeflow/' is no address of Kubeflow Pipelines"),
        ("https://kubeflow/_/pipeline/#/runs", "without what follows a ? or #"),
    ],
)
def test_what_is_no_address_is_refused_without_its_secrets(host: str, said: str, submit: Any) -> None:
    code, out, err = submit(host=host)
    assert code == 2
    assert said in sentence(err)
    assert "hunter2" not in out + err


def test_the_address_may_stand_in_the_environment(
    api: Kubeflow, package: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["submit", "--package", str(package)])
    assert ended.value.code == 2
    assert "no Kubeflow is named: give --host or set KFP_ENDPOINT" in sentence(capsys.readouterr().err)
    monkeypatch.setenv("KFP_ENDPOINT", f"{api.url}/")
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://me:hunter2@kubeflow.example/pipeline")
    with pytest.raises(SystemExit) as ended:
        main(["submit", "--package", str(package)])
    assert not ended.value.code
    assert f"https://kubeflow.example/pipeline/#/runs/details/{RUN}" in capsys.readouterr().out


def test_a_token_goes_along_and_is_shown_nowhere(api: Kubeflow, submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api.token = "the-right-token"
    api.looks = [run("SUCCEEDED")]
    monkeypatch.setenv("KFP_TOKEN", "the-right-token\n")
    code, out, err = submit("--wait")
    assert code == 0
    assert {one.headers["authorization"] for one in api.asked} == {"Bearer the-right-token"}
    monkeypatch.setenv("KFP_TOKEN", "hunter2-token")
    code, more, refused = submit("--wait", "--debug")
    assert code == 3
    assert "refused the token in KFP_TOKEN (HTTP 401: Unauthenticated" in sentence(refused)
    monkeypatch.setenv("KFP_TOKEN", "hunter2-token another")
    code, most, odd = submit()
    assert code == 2
    assert sentence(odd).startswith("KFP_TOKEN holds a space, a line break")
    for text in (out, err, more, refused, most, odd):
        assert "right-token" not in text
        assert "hunter2" not in text


def test_a_user_and_a_password_in_the_address_are_used_and_shown_nowhere(
    api: Kubeflow, submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = api.url.replace("://", "://me:hunter2@")
    code, out, err = submit(host=host)
    assert code == 0
    assert {one.headers["authorization"] for one in api.asked} == {"Basic bWU6aHVudGVyMg=="}
    monkeypatch.setenv("KFP_TOKEN", "a-token")
    code, more, refused = submit(host=host)
    assert code == 2
    assert "one of both is wanted" in sentence(refused)
    assert "hunter2" not in out + err + more + refused


@pytest.mark.parametrize(
    ("always", "said"),
    [
        ("login", "answers with something else than Kubeflow's API, such as a login page"),
        ("redirect", "answers with something else than Kubeflow's API, such as a login page"),
        (404, "answers with something else than Kubeflow's API"),
        (401, "refused a caller without KFP_TOKEN (HTTP 401: the service is not there): a valid token is wanted"),
        (403, "refused a caller without KFP_TOKEN (HTTP 403"),
        (503, "did not answer 4 times (HTTP 503: the service is not there)"),
        ("cut", "did not answer 4 times (ProtocolError)"),
    ],
)
def test_a_server_that_gives_no_api_is_one_sentence(always: Any, said: str, api: Kubeflow, submit: Any) -> None:
    api.always = always
    code, out, err = submit()
    assert code == 3
    assert said in sentence(err)
    assert err.count("\n") == 1, "no library says more"
    tries = {503: kubeflow.ATTEMPTS, "cut": kubeflow.ATTEMPTS, "redirect": 2}
    assert len(api.asked) == tries.get(always, 1), "no library tries more often"
    assert out == ""


def test_a_token_that_expires_while_waiting_ends_the_waiting_alone(
    api: Kubeflow, submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_TOKEN", "short-lived")
    for fault, said in ((401, "refused the token in KFP_TOKEN"), ("login", "such as a login page")):
        api.looks, api.faults = [run("RUNNING")], [None, fault]
        code, _, err = submit("--wait")
        assert code == 3
        assert said in sentence(err)
        assert sentence(err).endswith(f"the run goes on: {api.url}/#/runs/details/{RUN}")


def test_a_refused_connection_is_one_sentence(submit: Any) -> None:
    code, _, err = submit(host="http://me:hunter2@127.0.0.1:9")
    assert code == 3
    assert err == (
        "casbah: Kubeflow Pipelines at http://127.0.0.1:9 did not answer 4 times ([Errno 111] Connection refused); "
        "look at the address, or try again\n"
    )


def test_a_run_is_not_started_twice_where_its_answer_was_lost(api: Kubeflow, submit: Any) -> None:
    api.creating = ["cut"]
    code, _, err = submit("--run-name", "monthly")
    assert code == 3
    assert "whether the run 'monthly' was started is not known: look there" in sentence(err)
    assert len(api.made("/runs")) == 1


def test_what_the_server_refuses_is_said_in_its_words(api: Kubeflow, submit: Any) -> None:
    api.creating = [400]
    code, _, err = submit()
    assert code == 3
    assert "refused the request (HTTP 400: the service is not there)" in sentence(err)


def test_where_kubeflow_serves_several_users_a_namespace_is_wanted(api: Kubeflow, submit: Any, tmp_path: Path) -> None:
    api.several_users, api.namespaces = True, ("mine", "pod")
    code, _, err = submit()
    assert code == 2
    assert "serves several users; --namespace (or KFP_NAMESPACE) is wanted" in sentence(err)
    code, _, err = submit("--namespace", "theirs")
    assert code == 3
    assert "refused the request for namespace 'theirs' (HTTP 403: User 'me' is not authorized" in sentence(err)
    assert submit("--namespace", "mine")[0] == 0
    (tmp_path / "namespace").write_text("pod\n")
    assert submit()[0] == 0
    assert [one.query["namespace"] for one in api.asked if one.query.get("namespace")] == ["theirs", "mine", "pod"]


def test_the_namespace_may_stand_in_the_environment_and_an_empty_one_is_none(
    api: Kubeflow, submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_NAMESPACE", "")
    assert submit()[0] == 0, "a variable that CI leaves empty asks for nothing"
    api.several_users, api.namespaces = True, ("mine",)
    monkeypatch.setenv("KFP_NAMESPACE", "mine")
    assert submit()[0] == 0
    assert [one.query["namespace"] for one in api.asked if one.query.get("namespace")] == ["mine"]
    assert submit("--namespace", "theirs")[0] == 3, "the option is stronger"


def test_where_it_serves_one_a_namespace_is_refused(api: Kubeflow, submit: Any) -> None:
    code, _, err = submit("--namespace", "mine")
    assert code == 2
    assert "the namespace is 'mine'" in sentence(err)
    assert not api.made("/runs")


@pytest.mark.parametrize("cron", ["0 0 3 1 * *", "@every 12h", "@monthly"])
def test_a_recurring_run_carries_its_schedule_and_the_arguments(cron: str, api: Kubeflow, submit: Any) -> None:
    code, out, err = submit("--every", cron, "aoi=algiers", "seed=3", "snapshot=2026-12-01")
    assert code == 0
    (sent,) = api.made("/recurringruns")
    assert sent.body["trigger"] == {"cron_schedule": {"cron": cron}}
    assert sent.body["mode"] == "ENABLE"
    assert sent.body["no_catchup"] is True
    assert sent.body["experiment_id"] == EXPERIMENT
    assert sent.body["runtime_config"]["parameters"] == {"aoi": "algiers", "seed": 3, "snapshot": "2026-12-01"}
    assert sent.body["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "building-footprints"
    assert not api.made("/runs")
    assert f"{api.url}/#/recurringrun/details/{RECURRING}" in out
    assert "reads the world as of snapshot=2026-12-01" in err


def test_the_uploaded_version_is_the_one_that_runs(api: Kubeflow, submit: Any, package: Path) -> None:
    for version in ("version-1", "version-2"):
        code, out, _ = submit("--upload", "footprints", "seed=3")
        assert code == 0
        assert f"Version       {version}" in out
    first, second = (one.body for one in api.made("/runs"))
    assert first["pipeline_version_reference"] == {"pipeline_id": PIPELINE, "pipeline_version_id": "version-1"}
    assert second["pipeline_version_reference"] == {"pipeline_id": PIPELINE, "pipeline_version_id": "version-2"}
    assert "pipeline_spec" not in second
    assert second["runtime_config"]["parameters"] == {"seed": 3}
    (new,), (more,) = api.made("/pipelines/upload"), api.made("/pipelines/upload_version")
    assert new.query["name"] == "footprints"
    assert more.query["pipelineid"] == PIPELINE
    assert re.fullmatch(r"footprints-\d{8}-\d{6}-[0-9a-f]{6}", more.query["name"])
    assert package.read_bytes() in new.content
    assert package.read_bytes() in more.content


def test_a_schedule_can_run_the_uploaded_version(api: Kubeflow, submit: Any) -> None:
    assert submit("--upload", "footprints", "--every", "@weekly", "--no-cache")[0] == 0
    (sent,) = api.made("/recurringruns")
    assert sent.body["pipeline_version_reference"]["pipeline_version_id"] == "version-1"
    assert b"enableCache: true" not in api.made("/pipelines/upload")[0].content


def test_help_teaches_and_loads_no_kfp() -> None:
    program = """if True:
        import sys
        from casbah.cli import main
        try:
            main(["submit", "--help"])
        finally:
            assert "kfp" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "casbah submit --host http://localhost:8080 --wait aoi=algiers" in done.stdout


def test_where_kfp_is_not_installed_the_extra_that_brings_it_is_named(
    submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kfp", None)
    monkeypatch.delitem(sys.modules, kubeflow.__name__)
    monkeypatch.delattr(pipeline, "kubeflow")
    code, _, err = submit()
    assert code == 2
    assert sentence(err) == "casbah submit needs kfp: pip install 'casbah[geo,pipeline]'"
