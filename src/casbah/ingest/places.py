"""Where the s3:// addresses of items are read: in the configured object store, or at a public bucket's own address."""

import os

from casbah.addresses import shown
from casbah.errors import CasbahError, InputError
from casbah.ingest.assets import SCL, Item, resolve
from casbah.progress import say
from casbah.storage import BUCKET, Location, Store, endpoint

PUBLIC = {
    bucket: f"https://{bucket}.s3.us-west-2.amazonaws.com"
    for bucket in ("sentinel-cogs", "e84-earth-search-sentinel-data")
}
"""Buckets of Earth Search that anybody may read, and their https addresses."""

READER_PAYS = ("sentinel-s2-l1c", "sentinel-s2-l2a")
"""Buckets of the original JPEG 2000 files, whose owner has Amazon bill the reader."""


class Buckets:
    """Knows which buckets the configured store serves: Casbah's own, those of the addresses given, and its mirrors."""

    def __init__(self, *given: str) -> None:
        self._ours = {BUCKET} | {Location.parse(address).bucket for address in given if address.startswith("s3://")}
        self._mirrored: dict[str, bool] = {}

    def placed(self, item: Item, bands: tuple[str, ...]) -> Item:
        """The item with addresses that can be read; `InputError` where one of `bands` lies where the reader pays."""
        assets = dict(item["assets"])
        for name, key in resolve(item).items():
            href = assets[key]["href"]
            bucket = href.removeprefix("s3://").split("/")[0] if href.startswith("s3://") else ""
            if bucket in PUBLIC and not self._has(bucket, href):
                assets[key] = assets[key] | {"href": f"{PUBLIC[bucket]}/{Location.parse(href).key}"}
            wanted = name in bands or name == SCL
            if bucket in READER_PAYS and wanted and not _pays() and not self._has(bucket, href):
                raise InputError(
                    f"{name} of item {item['id']} lies in s3://{bucket}, where Amazon bills the reader: choose a "
                    "--collection of free files (sentinel-2-l2a on Earth Search), or set AWS_REQUEST_PAYER=requester "
                    "and the credentials of your own account, without AWS_ENDPOINT_URL"
                )
        return item | {"assets": assets}

    def _has(self, bucket: str, href: str) -> bool:
        """Whether the configured store, where it is not Amazon's own, holds the bucket; it is asked once."""
        if bucket not in self._mirrored:
            self._mirrored[bucket] = bucket in self._ours or (bool(endpoint()) and self._found(href))
            if not self._mirrored[bucket] and bucket in PUBLIC and (named := endpoint()):
                say(f"s3://{bucket} is not in the object store at {shown(named)}: it is read from {PUBLIC[bucket]}")
        return self._mirrored[bucket]

    @staticmethod
    def _found(href: str) -> bool:
        try:
            return Store.configured() and Store.from_environment().exists(Location.parse(href))
        except CasbahError:
            # A store that is down, or that refuses, is none to read a public bucket from.
            return False


def _pays() -> bool:
    return os.environ.get("AWS_REQUEST_PAYER") == "requester" and not endpoint()
