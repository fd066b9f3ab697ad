"""What is sent to MLflow, and what is said where it fails."""

from typing import Any

import pytest

from casbah.finetune import tracking
from casbah.finetune.tracking import Tracker


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://ada:secret@mlflow.example:5000/x", "http://mlflow.example:5000/x"),
        ("http://mlflow.example:5000", "http://mlflow.example:5000"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_a_password_in_the_address_of_mlflow_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str, shown: str
) -> None:
    def down(*given: Any) -> None:
        raise ConnectionError

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(Tracker, "_start", down)
    Tracker("a", {})
    assert f"MLflow at {shown} failed (ConnectionError)" in capsys.readouterr().err


def test_an_epoch_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(tracking.Tracker, "log_history", lambda self, rows: sent.extend(step for step, _ in rows))
    tracker, history = Tracker("a", {}), [{"epoch": 0.0, "val/loss": 1.0}]
    tracker.follow(history)
    tracker.follow(history)
    history.append({"epoch": 1.0, "val/loss": 0.5})
    tracker.follow(history)
    assert sent == [0, 1]
