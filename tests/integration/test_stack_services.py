"""What `casbah up` and `casbah down` promise, with real servers and real processes."""

import json
import os
import secrets
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from casbah import stack
from casbah.errors import InputError, WorldError
from casbah.stack import process
from casbah.stack.process import MARK, Service, members
from casbah.stack.stack import STATE
from casbah.storage import BUCKET, Location, Store

pytestmark = pytest.mark.integration

CASBAH = str(Path(sys.executable).parent / "casbah")


def store_of(running: stack.Stack) -> Store:
    return Store(running.endpoint, running.credentials.access_key, running.credentials.secret_key)


def services_of(directory: Path) -> dict[str, Service]:
    content = json.loads((directory / STATE).read_text())
    return {name: Service.model_validate(value) for name, value in content["services"].items()}


def processes_of(directory: Path) -> list[psutil.Process]:
    return [one for service in services_of(directory).values() for one in members(service)]


def test_an_object_and_an_mlflow_artifact_survive_a_round_trip_through_the_store(
    running: stack.Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    store = Store.from_environment()
    payload = secrets.token_bytes(3 << 20)
    (tmp_path / "in").write_bytes(payload)
    store.put(tmp_path / "in", Location(BUCKET, "a/b"))
    store.get(Location(BUCKET, "a/b"), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == payload

    import mlflow

    mlflow.set_tracking_uri(running.tracking_uri)
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "in"))
    assert any(
        location.key.endswith(f"{run.info.run_id}/artifacts/in") for location in store.list(Location(BUCKET, "mlflow/"))
    )


def test_up_twice_finds_the_same_services_and_starts_none(running: stack.Stack) -> None:
    before = {one.pid for one in processes_of(running.directory)}
    assert stack.up(running.directory) == running
    assert {one.pid for one in processes_of(running.directory)} == before
    assert stack.find(running.directory) == running


def test_every_port_is_on_loopback(running: stack.Stack) -> None:
    listening = [
        connection.laddr
        for one in processes_of(running.directory)
        for connection in one.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_credentials_are_readable_by_the_owner_alone_and_in_no_command_line(running: stack.Stack) -> None:
    for name in ("credentials.json", STATE, "internal.key"):
        assert stat.S_IMODE((running.directory / name).stat().st_mode) == 0o600
    commands = " ".join(" ".join(one.cmdline()) for one in processes_of(running.directory))
    assert "weed" in commands
    assert running.credentials.secret_key not in commands
    assert running.credentials.access_key not in commands
    tokens = {
        value for one in processes_of(running.directory) for name, value in one.environ().items() if "JWT" in name
    }
    assert len(tokens) == 4
    assert not [token for token in tokens if token in commands]
    for log in (running.directory / "log").iterdir():
        assert running.credentials.secret_key not in log.read_text()


def test_up_prints_the_secret_only_when_asked(running: stack.Stack) -> None:
    def printed(*more: str) -> str:
        command = [CASBAH, "up", "--directory", str(running.directory), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    assert running.credentials.secret_key not in printed()
    assert running.endpoint in printed()
    lines = printed("--env")
    shell = subprocess.run(["sh", "-c", f"{lines}\nenv"], capture_output=True, text=True, check=True)
    for name, value in running.environment().items():
        assert f"{name}={value}" in shell.stdout.splitlines()


def test_wrong_credentials_are_one_sentence_that_names_the_variables(running: stack.Stack) -> None:
    store = Store(running.endpoint, running.credentials.access_key, "not-the-secret")
    with pytest.raises(
        WorldError, match=r"refused the credentials .* check AWS_ACCESS_KEY_ID and AWS_SECRET"
    ) as raised:
        store.read(Location(BUCKET, ".ready"))
    assert raised.value.exit_code == 3
    with pytest.raises(WorldError, match="refused the credentials"):
        store.exists(Location(BUCKET, ".ready"))


def test_two_stacks_live_side_by_side_with_their_own_data(running: stack.Stack, tmp_path: Path) -> None:
    other = stack.up(tmp_path / "two")
    try:
        assert other.endpoint != running.endpoint
        store_of(running).write(b"one", Location(BUCKET, "whose"))
        store_of(other).write(b"two", Location(BUCKET, "whose"))
        assert store_of(running).read(Location(BUCKET, "whose")) == b"one"
        assert store_of(other).read(Location(BUCKET, "whose")) == b"two"
    finally:
        stack.down(tmp_path / "two")
    assert store_of(running).read(Location(BUCKET, "whose")) == b"one"


def test_a_killed_stack_comes_up_again_with_its_data_and_goes_down_without_a_trace(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    directory = tmp_path / "killed"
    request.addfinalizer(lambda: stack.down(directory))
    first = stack.up(directory)
    store_of(first).write(b"precious", Location(BUCKET, "kept"))
    for one in processes_of(directory):
        one.kill()
    again = stack.up(directory)
    assert store_of(again).read(Location(BUCKET, "kept")) == b"precious"
    assert again.endpoint == first.endpoint, "a program that was told the address finds it again"

    # Only the first process of MLflow dies: its worker lives on without it, and `down` has to find it all the same.
    group = services_of(directory)["mlflow"].group
    os.kill(group, signal.SIGKILL)
    marks = {service.mark for service in services_of(directory).values()}
    assert stack.down(directory) == ["store", "mlflow"]
    assert not processes_of(directory)
    assert not [one for one in psutil.process_iter() if carries(one, marks)]
    for service in services_of(directory).values():
        for port in service.ports.values():
            assert not list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))
    assert stack.down(directory) == []


def carries(one: psutil.Process, marks: set[str]) -> bool:
    try:
        return one.environ().get(MARK) in marks and one.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_down_never_touches_a_stranger_that_has_the_recorded_process_id(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        (tmp_path / "log").mkdir()
        stale = Service(group=stranger.pid, mark="0" * 32, ports={"s3": 1, "http": 1})
        state = {"version": 1, "services": {"store": stale.model_dump(), "mlflow": stale.model_dump()}}
        (tmp_path / STATE).write_text(json.dumps(state))
        assert stack.find(tmp_path) is None
        assert stack.down(tmp_path) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    service = process.start(
        [sys.executable, "-c", deaf], environment=dict(os.environ), directory=tmp_path, log=log, ports={}
    )
    while "deaf" not in log.read_text():
        time.sleep(0.05)
    began = time.monotonic()
    process.stop(service, grace=0.5)
    assert time.monotonic() - began < 5
    assert not members(service)


def test_a_taken_port_is_passed_over(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert process.free_ports(["s3"], {"s3": port}) != {"s3": port}
    found = process.free_ports(["a", "b", "c"])
    assert len(set(found.values())) == 3


def test_a_damaged_state_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text("{")
    with pytest.raises(InputError, match=r"stack\.json is damaged"):
        stack.down(tmp_path)


def test_a_directory_that_can_not_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't hold a stack"):
        stack.up(tmp_path / "file" / "stack")


def test_a_service_that_can_not_start_says_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bin" / "weed"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no luck today; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("casbah.stack.services.sys.executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(WorldError, match=r"the object store did not start: no luck today .*store\.log"):
        stack.up(tmp_path / "stack")
    assert not processes_of(tmp_path / "stack")


def test_telemetry_is_off_everywhere(running: stack.Stack) -> None:
    commands = {one.pid: one for one in processes_of(running.directory)}
    weed = next(one for one in commands.values() if "mini" in one.cmdline())
    assert "-master.telemetry=false" in weed.cmdline()
    for one in commands.values():
        if "mlflow" in " ".join(one.cmdline()):
            assert one.environ()["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert urllib.request.urlopen(f"{running.tracking_uri}/health").status == 200


def test_no_port_but_s3_gives_or_takes_an_object_and_s3_only_with_keys(running: stack.Stack) -> None:
    store = store_of(running)
    large = secrets.token_bytes(12 << 20)
    store.write(b"mine", Location(BUCKET, "private.txt"))
    store.write(large, Location(BUCKET, "large"))
    assert store.read(Location(BUCKET, "large")) == large
    ports = services_of(running.directory)["store"].ports

    def status(port: str, path: str, method: str = "GET") -> int:
        body = b"theirs" if method != "GET" else None
        request = urllib.request.Request(f"http://127.0.0.1:{ports[port]}{path}", data=body, method=method)
        try:
            return int(urllib.request.urlopen(request, timeout=10).status)
        except urllib.error.HTTPError as error:
            return error.code

    refused = {401, 403, 404}
    assert status("s3", f"/{BUCKET}/private.txt") == 403
    for method in ("GET", "PUT", "POST", "DELETE"):
        assert status("filer", f"/buckets/{BUCKET}/private.txt", method) in refused
    assert status("filer", f"/buckets/{BUCKET}/") in refused
    # The master would sign a token for whoever asks it where to put or find an object.
    for path in ("/dir/assign", "/dir/lookup?fileId=1,01&read=yes", f"/col/delete?collection={BUCKET}"):
        assert status("master", path) in refused
    for method in ("GET", "PUT", "DELETE"):
        assert status("volume", "/1,0100000000", method) in refused
    assert store.read(Location(BUCKET, "private.txt")) == b"mine"


@pytest.mark.parametrize("port", ["s3", "filer", "master", "volume", "admin"])
def test_the_store_talks_to_itself_only_with_its_own_certificate(running: stack.Stack, port: str) -> None:
    address = ("127.0.0.1", services_of(running.directory)["store"].ports[port] + process.GRPC_OFFSET)
    trusting = ssl.create_default_context(cafile=str(running.directory / "internal.crt"))
    trusting.set_alpn_protocols(["h2"])

    def greeting(context: ssl.SSLContext) -> bytes:
        with (
            socket.create_connection(address, 10) as plain,
            context.wrap_socket(plain, server_hostname=address[0]) as tls,
        ):
            return tls.recv(1)

    with pytest.raises((ssl.SSLError, ConnectionError), match=r"certificate required|reset"):
        greeting(trusting)
    trusting.load_cert_chain(running.directory / "internal.crt", running.directory / "internal.key")
    assert greeting(trusting), "the same call with the certificate gets the settings of HTTP/2"


def test_what_the_services_write_is_the_owners_alone_even_in_a_directory_of_somebody_else(tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    directory.mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        stack.up(directory)
        open_to_others = [
            file for file in (*directory.iterdir(), *(directory / "log").iterdir()) if file.stat().st_mode & 0o077
        ]
    finally:
        os.umask(before)
        stack.down(directory)
    assert (directory / "mlflow.db").is_file()
    assert [file for file in open_to_others if file.name != "lock"] == []
