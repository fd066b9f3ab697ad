"""The object store: one client for MinIO, SeaweedFS, AWS S3 and every other server of that protocol.

Configured by the environment, as every S3 tool is: `AWS_ENDPOINT_URL` (http(s)://host:port; Amazon's own where unset),
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` (of temporary credentials), `AWS_REGION` (us-east-1
where unset).
"""

import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from casbah.addresses import shown
from casbah.errors import InputError, WorldError

BUCKET = "casbah"
"""Holds `checkpoints/` (the state and the best weights of trainings so far), `weights/` (the mirror of published ones),
`sample/`, `inputs/` (files that a person gave to a run), and `maps/` (published ones)."""

ATTEMPTS = 4
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; doubled for each further one."""

CREDENTIAL_FAULTS = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"}
ABSENT = {"NoSuchKey", "NoSuchBucket", "NoSuchObject"}


@dataclass(frozen=True)
class Location:
    """An object or a prefix: `s3://bucket/key`."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "Location":
        parts = urlsplit(uri)
        if parts.scheme not in ("s3", "minio") or not parts.netloc:
            raise InputError(f"{uri!r} is not an object store address; s3://bucket/key is wanted")
        return cls(parts.netloc, parts.path.lstrip("/"))

    def __truediv__(self, name: str) -> "Location":
        return Location(self.bucket, f"{self.key.rstrip('/')}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def endpoint() -> str | None:
    """Where the environment says that the object store is; None for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


class Store:
    """A thin face of the `minio` client: bounded retries, and errors that name the object and the endpoint."""

    def __init__(
        self,
        endpoint: str,
        access_key: str | None,
        secret_key: str | None,
        region: str = "us-east-1",
        attempts: int = ATTEMPTS,
        session_token: str | None = None,
    ) -> None:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"AWS_ENDPOINT_URL is {shown(endpoint)!r}; http(s)://host:port is wanted")
        if parts.username:
            raise InputError(
                f"AWS_ENDPOINT_URL holds a user name ({shown(endpoint)} would do without); give the keys in "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        self.endpoint = f"{parts.scheme}://{parts.netloc}"
        self.attempts = attempts
        http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=5, read=60),
            maxsize=16,
            retries=urllib3.Retry(0),
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE"),
        )
        self._client = Minio(
            parts.netloc,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            region=region,
            secure=parts.scheme == "https",
            http_client=http,
        )

    @classmethod
    def from_environment(cls) -> "Store":
        """The store that the environment names; `InputError` where credentials are missing."""
        access, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if not access or not secret:
            raise InputError(
                "no object store is configured: set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                "(`casbah up` starts one on this machine and prints how to use it)"
            )
        return cls(
            endpoint() or "https://s3.amazonaws.com",
            access,
            secret,
            os.environ.get("AWS_REGION", "us-east-1"),
            session_token=os.environ.get("AWS_SESSION_TOKEN"),
        )

    @staticmethod
    def configured() -> bool:
        """Whether the environment names credentials of a store."""
        return bool(os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"))

    def ensure_bucket(self, bucket: str = BUCKET) -> None:
        """Make the bucket where it does not exist."""

        def make() -> None:
            if not self._client.bucket_exists(bucket_name=bucket):
                self._client.make_bucket(bucket_name=bucket)

        self._attempt(f"s3://{bucket}", make)

    def put(self, source: Path, target: Location) -> None:
        """Upload a file; the object appears whole or not at all. `InputError` where there is no such file."""
        if not source.is_file():
            raise InputError(f"{source} does not exist, so it can't be copied to {target}")
        self._attempt(
            str(target),
            lambda: self._client.fput_object(bucket_name=target.bucket, object_name=target.key, file_path=str(source)),
        )

    def write(self, content: bytes, target: Location) -> None:
        """Store a small object from memory; it appears whole or not at all."""
        self._attempt(
            str(target),
            lambda: self._client.put_object(
                bucket_name=target.bucket, object_name=target.key, data=io.BytesIO(content), length=len(content)
            ),
        )

    def get(self, source: Location, target: Path) -> None:
        """Download an object to `target`, which appears whole or not at all; `InputError` where it does not exist."""
        partial = target.with_name(f".{target.name}.partial-{uuid4().hex[:8]}")

        def fetch() -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._client.fget_object(
                bucket_name=source.bucket,
                object_name=source.key,
                file_path=str(target),
                tmp_file_path=str(partial),
            )

        try:
            self._attempt(str(source), fetch)
        finally:
            partial.unlink(missing_ok=True)

    def read(self, source: Location) -> bytes:
        """The bytes of a small object."""

        def fetch() -> bytes:
            response = self._client.get_object(bucket_name=source.bucket, object_name=source.key)
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

        return self._attempt(str(source), fetch)

    def exists(self, location: Location) -> bool:
        """Whether the object exists."""

        def look() -> bool:
            try:
                self._client.stat_object(bucket_name=location.bucket, object_name=location.key)
            except S3Error as error:
                if error.code in ABSENT:
                    return False
                raise
            return True

        return self._attempt(str(location), look)

    def version(self, location: Location) -> dict[str, str]:
        """What tells this content of an object from an earlier one: `etag`, `size`, `modified` (ISO).

        `InputError` where it does not exist.
        """

        def look() -> dict[str, str]:
            found = self._client.stat_object(bucket_name=location.bucket, object_name=location.key)
            modified = found.last_modified.isoformat() if found.last_modified else ""
            return {"etag": str(found.etag), "size": str(found.size), "modified": modified}

        return self._attempt(str(location), look)

    def list(self, prefix: Location) -> Iterator[Location]:
        """Every object below a prefix; none where the bucket does not exist."""

        def names() -> list[str]:
            try:
                found = self._client.list_objects(bucket_name=prefix.bucket, prefix=prefix.key, recursive=True)
                return [str(item.object_name) for item in found]
            except S3Error as error:
                if error.code in ABSENT:
                    return []
                raise

        for name in self._attempt(str(prefix), names):
            yield Location(prefix.bucket, name)

    def remove(self, location: Location) -> None:
        """Delete an object (no error where there is none)."""
        self._attempt(
            str(location), lambda: self._client.remove_object(bucket_name=location.bucket, object_name=location.key)
        )

    def _attempt(self, what: str, act: Callable[[], Any]) -> Any:
        pause, last = FIRST_PAUSE, ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(pause)
                pause *= 2
            try:
                return act()
            except S3Error as error:
                self._refuse(what, error)
                last = f"{error.code}: {error.message}"
            except (urllib3.exceptions.HTTPError, MinioException) as error:
                last = type(getattr(error, "reason", None) or error).__name__
            except OSError as error:
                # Not the store's: this machine's disk is full, or a file may not be read. Trying again changes nothing.
                raise WorldError(
                    f"{what} could not be copied to or from this machine: {error.strerror or error}"
                    + (f" ({error.filename})" if error.filename else "")
                ) from error
            except ValueError as error:
                raise InputError(f"{what} is no valid name in an object store: {error}") from None
        times = "once" if self.attempts == 1 else f"{self.attempts} times"
        raise WorldError(f"the object store at {self.endpoint} failed {times} on {what} ({last}): is it up?")

    def _refuse(self, what: str, error: S3Error) -> None:
        """Raise at once for the answers that no second attempt changes."""
        if error.code in ABSENT:
            raise InputError(f"{what} does not exist in the object store at {self.endpoint}") from None
        if error.code in CREDENTIAL_FAULTS:
            raise WorldError(
                f"the object store at {self.endpoint} refused the credentials for {what} ({error.code}): "
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None


def gdal_options() -> dict[str, Any]:
    """Options for `rasterio.Env` that make GDAL read `s3://` from the same store as `Store`, with retries."""
    options: dict[str, Any] = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_HTTP_MAX_RETRY": 4,
        "GDAL_HTTP_RETRY_DELAY": 0.5,
        "GDAL_HTTP_CONNECTTIMEOUT": 10,
        "GDAL_HTTP_TIMEOUT": 60,
        "GDAL_HTTP_MULTIRANGE": "YES",
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    }
    if named := endpoint():
        parts = urlsplit(named if "://" in named else f"http://{named}")
        options |= {
            "AWS_S3_ENDPOINT": parts.netloc,
            "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO",
            "AWS_VIRTUAL_HOSTING": False,
        }
    if not Store.configured():
        options["AWS_NO_SIGN_REQUEST"] = "YES"
    return options
