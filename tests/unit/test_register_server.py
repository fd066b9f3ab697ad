"""What MLflow or its store does to `register` and `rollback` is one sentence, without a password in it."""

import base64
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from casbah import mlflow_server
from casbah.cli import main
from casbah.errors import InputError, WorldError
from casbah.register import rollback


class Guarded(http.server.BaseHTTPRequestHandler):
    """Lets in who says `me:secret`; shuts the door in the face of who asks for `/broken`."""

    wanted = "Basic " + base64.b64encode(b"me:secret").decode()
    answer = 401

    def do_GET(self) -> None:
        if self.path.startswith("/broken"):
            self.wfile.write(b"no HTTP at all\r\n\r\n")
            return
        self.send_response(200 if self.headers.get("Authorization") == self.wanted else self.answer)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_server, "PAUSE", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_user_and_a_password_in_the_address_are_used(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guarded, "answer", 500)
    mlflow_server.check(f"http://me:secret@{address}")
    with pytest.raises(WorldError, match=r"did not answer 3 times \(HTTP 500\); nothing was registered") as refused:
        mlflow_server.check(f"http://me:other@{address}")
    assert "other" not in str(refused.value)


def test_a_refused_user_is_told_which_variables_to_look_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(WorldError, match=r"refused its user .*401.* MLFLOW_TRACKING_USERNAME and") as refused:
        rollback(tracking_uri=f"http://me:passwort@{address}")
    assert "passwort" not in str(refused.value)


def test_a_server_that_speaks_no_http_is_a_fault_of_the_world(address: str) -> None:
    with pytest.raises(WorldError, match="did not answer 3 times"):
        mlflow_server.check(f"http://{address}/broken")


def test_rollback_speaks_of_the_champion_where_mlflow_is_down() -> None:
    with pytest.raises(WorldError, match=r"refused\); the champion is the one it was: run `casbah rollback`"):
        rollback(tracking_uri="http://127.0.0.1:9")


@pytest.mark.parametrize("uri", ["foo://x", "127.0.0.1:5000", "localhost:5000", "http://", "http://a:b", "mlruns"])
def test_what_is_no_address_of_a_server_is_refused_at_the_door(uri: str) -> None:
    with pytest.raises(InputError, match=r"is no address of an MLflow server: http://host:port"):
        rollback(tracking_uri=uri)


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "it's", 'a"b', ".."])
def test_a_name_that_mlflow_does_not_take_ends_with_two(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rollback", "--name", name, "--tracking-uri", "http://127.0.0.1:9"])
    assert ended.value.code == 2
    assert "is no name for a registered model: letters, digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("InvalidAccessKeyId", "refused the credentials (InvalidAccessKeyId): check AWS_ACCESS_KEY_ID"),
        ("AccessDenied", "refused the credentials (AccessDenied): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("SlowDown", "failed (Failed to upload a to b: An error occurred (SlowDown)"),
    ],
)
def test_a_store_that_refuses_an_upload_is_named_with_its_variables(
    code: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import ClientError

    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://store:9000")
    error = ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")
    with pytest.raises(WorldError) as raised, mlflow_server.talking("http://me:secret@mlflow"):
        raise S3UploadFailedError(f"Failed to upload a to b: {error}")
    assert "(http://store:9000, for MLflow at http://mlflow)" in str(raised.value)
    assert said in str(raised.value)
    assert raised.value.exit_code == 3


def test_a_store_without_any_credentials_says_so() -> None:
    from botocore.exceptions import NoCredentialsError

    with (
        pytest.raises(WorldError, match=r"Amazon S3.* refused the credentials \(there are none\)"),
        mlflow_server.talking("http://mlflow"),
    ):
        raise NoCredentialsError


def test_a_password_is_not_said_where_a_library_writes_the_address_in_its_own_way() -> None:
    with pytest.raises(WorldError) as raised, mlflow_server.talking("http://me:hunter2@mlflow//"):
        raise OSError("no answer from http://me:hunter2@mlflow/health")
    assert "no answer from http://mlflow/health" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_server_with_users_that_denies_an_unknown_name_has_no_champion_of_it() -> None:
    from mlflow.exceptions import MlflowException

    from casbah.register.versions import champion_of

    class Denying:
        def __init__(self, versions: list[str]) -> None:
            self.versions = versions

        def search_model_versions(self, wanted: str) -> list[str]:
            return self.versions

        def get_model_version_by_alias(self, name: str, alias: str) -> str:
            raise MlflowException("Permission denied", error_code=7)

    assert champion_of(Denying([]), "casbah-buildings") is None
    with pytest.raises(MlflowException, match="Permission denied"):
        champion_of(Denying(["1"]), "casbah-buildings")
