"""The demo keeps to its own services."""

import os
from pathlib import Path

import pytest

from casbah.pipeline.session import Session
from casbah.stack.stack import FOREIGN

pytestmark = pytest.mark.integration


def test_the_demo_leaves_a_store_and_a_registry_of_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "mine",
        "AWS_SECRET_ACCESS_KEY": "mine",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }
    for name, value in (mine | dict.fromkeys(FOREIGN, "of another server")).items():
        monkeypatch.setenv(name, value)
    with Session(tmp_path / "stack", embedded=True) as session:
        assert session.started
        for name, value in mine.items():
            assert os.environ[name] == session.environment[name] != value
        assert not set(FOREIGN) & set(os.environ), "its MLflow knows no run or user of another"
    assert {name: os.environ[name] for name in mine} == mine
