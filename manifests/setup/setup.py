"""Makes the buckets and what expires in them; in MinIO also a user for pipelines and one for MLflow.

Safe to run again: it makes what is missing and sets the rest anew. Configured by the environment (job.yaml).
"""

import os
import sys
import time
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.credentials import StaticProvider
from minio.error import MinioAdminException, MinioException
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, Rule
from minio.minioadmin import MinioAdmin

BUCKETS = {"casbah": "casbah-pipelines", "mlflow": "casbah-mlflow"}
"""Each bucket, and the policy that lets one user work in it."""

PATIENCE = 600.0
"""Seconds that a store gets to answer: its pod may still be pulled."""

BUCKET_ACTIONS = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
OBJECT_ACTIONS = [
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
]


def policy(bucket: str) -> dict:
    """Read and write in one bucket, and nothing else: not even to see that there are others."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": BUCKET_ACTIONS, "Resource": [f"arn:aws:s3:::{bucket}"]},
            {"Effect": "Allow", "Action": OBJECT_ACTIONS, "Resource": [f"arn:aws:s3:::{bucket}/*"]},
        ],
    }


def expiry(name: str, prefix: str, days: int) -> list[Rule]:
    """The rule that objects below a prefix go after so many days; none for 0."""
    if not days:
        return []
    return [Rule(ENABLED, rule_filter=Filter(prefix=prefix), rule_id=name, expiration=Expiration(days=days))]


def abort(days: int) -> list[Rule]:
    """The rule that parts of uploads which nobody finished go; none for 0.

    MinIO refuses such a rule: there the days are 0, and MINIO_API_STALE_UPLOADS_EXPIRY does the same.
    """
    if not days:
        return []
    return [
        Rule(
            ENABLED,
            rule_filter=Filter(prefix=""),
            rule_id="abort-uploads",
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(days_after_initiation=days),
        )
    ]


def main() -> int:
    endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    keys = StaticProvider(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    secure = endpoint.scheme == "https"
    store = Minio(endpoint.netloc, credentials=keys, secure=secure, region=os.environ.get("AWS_REGION", "us-east-1"))
    wait(store)
    for bucket in BUCKETS:
        if not store.bucket_exists(bucket_name=bucket):
            store.make_bucket(bucket_name=bucket)
        print(f"bucket {bucket}: there", flush=True)
    uploads = abort(int(os.environ["UPLOADS_DAYS"]))
    rules = {
        "casbah": expiry("checkpoints", "checkpoints/", int(os.environ["CHECKPOINTS_DAYS"])) + uploads,
        "mlflow": uploads,
    }
    if days := int(os.environ["KFP_ARTIFACTS_DAYS"]):
        rules[os.environ["KFP_BUCKET"]] = expiry("kfp-artifacts", "v2/artifacts/", days) + uploads
    for bucket, wanted in rules.items():
        if wanted:
            store.set_bucket_lifecycle(bucket_name=bucket, config=LifecycleConfig(wanted))
            print(f"bucket {bucket}: {', '.join(str(rule.rule_id) for rule in wanted)}", flush=True)
    if os.environ.get("PIPELINES_ACCESS_KEY"):
        users(MinioAdmin(endpoint.netloc, credentials=keys, secure=secure))
    return 0


def wait(store: Minio) -> None:
    """Return once the store answers; its last complaint is the Job's where it never does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            store.bucket_exists(bucket_name="casbah")
            return
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            if time.monotonic() > deadline:
                raise
            print(f"the store does not answer yet ({type(error).__name__})", flush=True)
            time.sleep(5)


def users(admin: MinioAdmin) -> None:
    """One user a bucket; a key that was changed in its Secret is changed here too."""
    for bucket, prefix in (("casbah", "PIPELINES"), ("mlflow", "MLFLOW")):
        name = os.environ[f"{prefix}_ACCESS_KEY"]
        admin.policy_add(BUCKETS[bucket], policy=policy(bucket))
        admin.user_add(name, os.environ[f"{prefix}_SECRET_KEY"])
        try:
            admin.attach_policy([BUCKETS[bucket]], user=name)
        except MinioAdminException as error:
            if "PolicyChangeAlreadyApplied" not in str(error):
                raise
        print(f"policy {BUCKETS[bucket]}: its user has it", flush=True)


if __name__ == "__main__":
    sys.exit(main())
