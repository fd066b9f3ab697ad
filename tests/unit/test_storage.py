"""What a person reads when the object store, or the disk beside it, fails; and that nothing half-written is left."""

import errno
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from minio.error import S3Error

from casbah import storage
from casbah.errors import InputError, WorldError
from casbah.storage import Location, Store

HERE = Location("casbah", "weights/a.bin")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)


def test_a_password_in_the_address_of_the_store_is_neither_used_nor_shown() -> None:
    assert Store("http://ada:hunter2@host:9", "key", "secret").endpoint == "http://host:9"
    with pytest.raises(InputError, match="host:9") as caught:
        Store("ftp://ada:hunter2@host:9", "key", "secret")
    assert "hunter2" not in str(caught.value)


def dead_store() -> Store:
    """A store at a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Store(f"http://127.0.0.1:{port}", "key", "secret")


def answering(store: Store, monkeypatch: pytest.MonkeyPatch, method: str, *answers: Any) -> list[int]:
    """Let the client's method give these answers in turn (the last one for ever); returns the calls made."""
    calls: list[int] = []

    def answer(**kwargs: Any) -> Any:
        given = answers[min(len(calls), len(answers) - 1)]
        calls.append(1)
        if isinstance(given, Exception):
            raise given
        return given(**kwargs) if callable(given) else given

    monkeypatch.setattr(store._client, method, answer)
    return calls


def refusal(code: str) -> S3Error:
    return S3Error(None, code, "message", "resource", "request", "host")  # type: ignore[arg-type]


def test_a_store_that_is_down_is_one_sentence_after_bounded_retries(tmp_path: Path) -> None:
    store = dead_store()
    began = time.monotonic()
    with pytest.raises(WorldError, match=rf"{store.endpoint} failed 4 times on s3://casbah/weights/a.bin .*is it up\?"):
        store.get(HERE, tmp_path / "a.bin")
    assert time.monotonic() - began < 5
    assert not list(tmp_path.iterdir())


def test_a_fault_that_passes_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dead_store()
    calls = answering(store, monkeypatch, "stat_object", refusal("SlowDown"), refusal("InternalError"), object())
    assert store.exists(HERE)
    assert len(calls) == 3


def test_wrong_credentials_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dead_store()
    calls = answering(store, monkeypatch, "stat_object", refusal("SignatureDoesNotMatch"))
    with pytest.raises(WorldError, match="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        store.exists(HERE)
    assert len(calls) == 1


def test_a_full_disk_is_one_sentence_and_leaves_no_part_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(tmp_file_path: str, **_: Any) -> None:
        Path(tmp_file_path).write_bytes(b"half of")
        raise OSError(errno.ENOSPC, "No space left on device", tmp_file_path)

    store = dead_store()
    calls = answering(store, monkeypatch, "fget_object", fill)
    with pytest.raises(WorldError, match=r"s3://casbah/weights/a.bin could not be copied .*No space left on device"):
        store.get(HERE, tmp_path / "a.bin")
    assert len(calls) == 1, "trying again fills no disk"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_uploading_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin").write_bytes(b"content")
    store = dead_store()
    answering(store, monkeypatch, "fput_object", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(WorldError, match="No space left on device") as raised:
        store.put(tmp_path / "a.bin", HERE)
    assert raised.value.exit_code == 3


def test_a_store_whose_disk_is_full_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin").write_bytes(b"content")
    store = dead_store()
    answering(store, monkeypatch, "fput_object", refusal("InternalError"))
    with pytest.raises(WorldError, match=r"failed 4 times on s3://casbah/weights/a.bin \(InternalError"):
        store.put(tmp_path / "a.bin", HERE)


def test_an_object_that_is_not_there_is_an_input_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    store = dead_store()
    answering(store, monkeypatch, "fget_object", refusal("NoSuchKey"))
    with pytest.raises(InputError, match=r"s3://casbah/weights/a.bin does not exist in the object store at"):
        store.get(HERE, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_a_missing_file_is_not_blamed_on_the_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.bin does not exist, so it can't be copied"):
        dead_store().put(tmp_path / "nothing.bin", HERE)


def test_no_store_configured_says_how_to_get_one() -> None:
    with pytest.raises(InputError, match="`casbah up` starts one on this machine"):
        Store.from_environment()


@pytest.mark.parametrize("uri", ["casbah/key", "http://host/key", "s3:///key"])
def test_an_address_that_is_none_is_an_input_error(uri: str) -> None:
    with pytest.raises(InputError, match="s3://bucket/key is wanted"):
        Location.parse(uri)


def test_an_open_file_of_the_store_costs_no_cache_of_its_own() -> None:
    assert "VSI_CACHE" not in storage.gdal_options(), "25 MB for each open file, beside GDAL's own cache"
