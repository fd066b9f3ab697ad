"""`casbah doctor` tells what is broken from what is only absent, and its exit code says which."""

import base64
import importlib.util
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from casbah import doctor, mlflow_server, stack, storage
from casbah.cli import main
from casbah.errors import InputError
from casbah.stack import services


def found(directory: Path) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.findings(directory)}


def test_nothing_running_is_absent_and_not_broken(tmp_path: Path) -> None:
    findings = found(tmp_path)
    assert findings["python"].good
    assert findings["GDAL"].good
    assert findings["torchvision"].good, findings["torchvision"].text
    assert findings["object store"].good is None
    assert "`casbah up` starts one" in findings["MLflow"].text


def test_services_that_do_not_answer_are_broken_and_end_with_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "very-secret"),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--directory", str(tmp_path)])
    out, err = capsys.readouterr()
    assert ended.value.code == 3
    assert "BAD object store  the object store at http://127.0.0.1:9 failed" in out
    assert "BAD MLflow        http://127.0.0.1:9 does not answer" in out
    assert err == "casbah: object store, MLflow will not do; the lines above say why\n"
    assert "very-secret" not in out
    assert "Traceback" not in out


def test_a_password_in_an_address_is_sent_and_never_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str | None] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_response(200 if asked[-1] else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:pass%20word@127.0.0.1:{server.server_port}")
    try:
        assert found(tmp_path)["MLflow"].text == f"answers at http://127.0.0.1:{server.server_port}"
        mlflow_server.check(f"http://me:pass%20word@127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["Basic " + base64.b64encode(b"me:pass word").decode()] * 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@127.0.0.1:9")
    with pytest.raises(SystemExit):
        main(["doctor", "--directory", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "BAD MLflow        http://127.0.0.1:9 does not answer" in out
    assert "hidden" not in out + err


def test_where_a_program_of_the_services_is_absent_it_is_named_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "weed", lambda: None)
    for subject in ("object store", "MLflow"):
        assert "`casbah up` lacks weed: pip install 'casbah[stack]'" in found(tmp_path)[subject].text
    with pytest.raises(InputError, match=r"`weed` is not installed: pip install 'casbah\[stack\]'"):
        stack.up(tmp_path / "stack")
    assert not (tmp_path / "stack").exists()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    assert "`casbah up` lacks mlflow" in found(tmp_path)["MLflow"].text
