"""`casbah doctor` tells what is broken from what is only absent, and its exit code says which."""

from pathlib import Path

import pytest

from casbah import doctor, storage
from casbah.cli import main


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
