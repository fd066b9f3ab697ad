"""The Job that sets up a cluster's object store does what it says, in a real one, as often as it is run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from casbah import stack

pytestmark = pytest.mark.integration

SETUP = Path(__file__).parents[2] / "manifests" / "setup"
DAYS = {"CHECKPOINTS_DAYS": "30", "UPLOADS_DAYS": "7", "KFP_BUCKET": "mlpipeline", "KFP_ARTIFACTS_DAYS": "0"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    directory = tmp_path_factory.mktemp("stack") / "stack"
    try:
        yield stack.up(directory).environment()
    finally:
        stack.down(directory)


def set_up(environment: dict[str, str], **days: str) -> str:
    """Run the Job's script; what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, str(SETUP / "setup.py")]
    done = subprocess.run(command, env={**clean, **environment, **DAYS, **days}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rules(environment: dict[str, str], bucket: str) -> dict[str, Any]:
    """The rules of a bucket by their names."""
    client = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
                          aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
                          aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"])  # fmt: skip
    return {rule["ID"]: rule for rule in client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}


def test_checkpoints_expire_and_unfinished_uploads_are_ended(environment: dict[str, str]) -> None:
    for _ in range(2):
        assert "bucket mlflow: there" in set_up(environment)
        found = rules(environment, "casbah")
        assert found["checkpoints"]["Filter"] == {"Prefix": "checkpoints/"}
        assert found["checkpoints"]["Expiration"] == {"Days": 30}
        assert found["abort-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
        assert set(found) == {"checkpoints", "abort-uploads"}, "no rule of a prefix that holds weights or inputs"
        assert set(rules(environment, "mlflow")) == {"abort-uploads"}


def test_old_artifacts_of_kubeflow_go_only_where_somebody_asks_for_it(environment: dict[str, str]) -> None:
    set_up(environment)
    given = {"KFP_BUCKET": "mlflow", "KFP_ARTIFACTS_DAYS": "90"}
    assert "kfp-artifacts" in set_up(environment, **given)
    found = rules(environment, "mlflow")["kfp-artifacts"]
    assert found["Filter"] == {"Prefix": "v2/artifacts/"}
    assert found["Expiration"] == {"Days": 90}
