"""Published weights come whole and checked, or not at all; and who is offline knows at once what to do."""

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hubs import COMMIT, Hub, serve

from casbah import storage, weights
from casbah.cli import main
from casbah.errors import InputError, WorldError
from casbah.weights import download, entries
from casbah.weights.checking import verify

CONTENT = bytes(range(256)) * 12_000
"""3 MB, so that a cut leaves whole pieces behind."""
PRITHVI = "prithvi_eo_v2_tiny_tl"
PATH = "/ibm-nasa-geospatial/Prithvi-EO-2.0-tiny-TL/resolve/main/Prithvi_EO_V2_tiny_TL.pt"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        hub.files[PATH] = CONTENT
        yield hub


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty store, and no patience."""
    root = tmp_path / "weights"
    monkeypatch.setenv("CASBAH_WEIGHTS", str(root))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(download, "ANSWER", 0.3)
    if "hub" in request.fixturenames:
        monkeypatch.setenv("HF_ENDPOINT", request.getfixturevalue("hub").url)
    return root


def change(monkeypatch: pytest.MonkeyPatch, name: str, **facts: Any) -> None:
    """Let an entry of the manifest say something else."""
    monkeypatch.setitem(entries(), name, entries()[name].model_copy(update=facts))


def nothing_counts(store: Path, name: str = PRITHVI) -> None:
    assert weights.LocalStore().facts(entries()[name]) is None
    assert not (store / name).exists()


def states() -> dict[str, str]:
    return {verdict.name: verdict.state for verdict in verify()}


def test_a_download_is_pinned_with_the_commit_that_it_came_from(
    hub: Hub, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = weights.path(PRITHVI)
    assert file == store / PRITHVI / "Prithvi_EO_V2_tiny_TL.pt"
    assert file.read_bytes() == CONTENT
    facts = weights.LocalStore().facts(entries()[PRITHVI])
    assert facts is not None
    assert (facts.sha256, facts.bytes, facts.revision) == (sha256(CONTENT), len(CONTENT), COMMIT)
    assert f"sha256 {sha256(CONTENT)} is pinned" in capsys.readouterr().err
    asked = len(hub.asked)
    assert weights.path(PRITHVI) == file
    assert len(hub.asked) == asked, "what is here is not asked for again"
    assert states()[PRITHVI] == "pinned"


@pytest.mark.parametrize(
    "faults",
    [["cut"], ["cut", 503, "cut", 429, 500], ["cut", "slow"], [500], ["cut", "short"], ["cut", "elsewhere"]],
)
def test_a_download_that_was_cut_goes_on_where_it_stopped(hub: Hub, faults: list[Any]) -> None:
    hub.large = False
    hub.faults[:] = faults
    assert weights.path(PRITHVI).read_bytes() == CONTENT
    asked = [ranged for _, _, ranged in hub.asked]
    assert asked[0] is None
    if "cut" in faults:
        assert asked[-1] is not None
        assert int(asked[-1].removeprefix("bytes=").rstrip("-")) >= len(CONTENT) // 2, "it was not begun anew"


def test_a_server_that_is_cut_anew_each_time_is_given_up(hub: Hub) -> None:
    """Without a tag nothing can be gone on with: as many bytes again are no progress."""
    hub.large, hub.etag = False, 'W/"weak"'
    hub.faults[:] = ["cut", "cut", 500] * 5
    with pytest.raises(WorldError, match="failed 4 times in a row"):
        weights.path(PRITHVI)
    assert len(hub.asked) < 8


def test_no_file_counts_that_was_not_pinned(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(weights.LocalStore, "_set_pin", killed)
    with pytest.raises(KeyboardInterrupt):
        weights.path(PRITHVI)
    nothing_counts(store)


def test_a_part_never_counts_and_another_run_goes_on_with_it(hub: Hub, store: Path) -> None:
    hub.large = False
    hub.faults[:] = ["cut", *[500] * 4]
    with pytest.raises(WorldError, match=r"failed 4 times in a row \(it answered 500\); 1\.5 MB .* are kept"):
        weights.path(PRITHVI)
    nothing_counts(store)
    assert states()[PRITHVI] == "partial"
    hub.faults.clear()
    assert weights.path(PRITHVI).read_bytes() == CONTENT
    assert hub.asked[-1][2] == f"bytes={len(CONTENT) // 2}-"
    assert not list(store.glob(".*.partial"))


def test_a_part_of_a_file_that_was_published_anew_is_thrown_away(hub: Hub) -> None:
    hub.large = False
    hub.faults[:] = ["cut", *[500] * 4]
    with pytest.raises(WorldError):
        weights.path(PRITHVI)
    hub.faults.clear()
    hub.etag, hub.files[PATH] = '"second"', CONTENT[::-1]
    assert weights.path(PRITHVI).read_bytes() == CONTENT[::-1]


def test_a_part_that_was_whole_when_the_process_died_needs_no_second_download(hub: Hub, store: Path) -> None:
    partial = store / f".{PRITHVI}.partial"
    partial.mkdir(parents=True)
    entry = entries()[PRITHVI]
    download.download(entry.address(), partial / entry.file, "x")
    assert weights.path(PRITHVI).read_bytes() == CONTENT
    assert hub.ranges == [None, f"bytes={len(CONTENT)}-"]


def test_bytes_that_are_not_those_the_hub_speaks_of_are_thrown_away(hub: Hub, store: Path) -> None:
    original = hub.files[PATH]

    class Changing(dict[str, bytes]):
        """The store behind the hub has another file than the hub says."""

        count = 0

        def get(self, key: str, default: Any = None) -> Any:
            Changing.count += 1
            return original if Changing.count == 1 else original[::-1]

    hub.files = Changing(hub.files)
    with pytest.raises(
        InputError, match=rf"its sha256 is {sha256(original[::-1])}, and the hub says {sha256(original)}"
    ):
        weights.path(PRITHVI)
    nothing_counts(store)
    assert not list(store.glob(".*.partial")), "a resumed download would keep the wrong bytes"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"sha256": "0" * 64}, rf"its sha256 is {sha256(CONTENT)}, and the manifest says {'0' * 64}"),
        ({"md5": "0" * 32}, rf"its md5 is {hashlib.md5(CONTENT).hexdigest()}, and the manifest says {'0' * 32}"),
        ({"sha256_prefix": "01234567"}, rf"its sha256 is {sha256(CONTENT)[:8]}, and its published name says 01234567"),
        ({"bytes": 5}, "3072000 bytes and the published file of prithvi_eo_v2_tiny_tl 5"),
    ],
)
def test_a_file_that_is_not_the_published_one_never_counts(
    hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], words: str
) -> None:
    change(monkeypatch, PRITHVI, **facts)
    with pytest.raises(InputError, match=words):
        weights.path(PRITHVI)
    nothing_counts(store)


@pytest.mark.parametrize("facts", [{"sha256": sha256(CONTENT)}, {"sha256_prefix": sha256(CONTENT)[:8]}])
def test_a_file_with_a_published_hash_is_good(hub: Hub, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any]) -> None:
    change(monkeypatch, PRITHVI, **facts)
    weights.path(PRITHVI)
    assert states()[PRITHVI] == "good"


def test_a_later_file_with_another_hash_is_refused_naming_both(hub: Hub, store: Path) -> None:
    weights.path(PRITHVI)
    import shutil

    shutil.rmtree(store / PRITHVI)
    other = PATH.replace("main", COMMIT)
    hub.files[other] = CONTENT[::-1]
    with pytest.raises(
        InputError, match=rf"sha256 is {sha256(CONTENT[::-1])}, and the first file of this name had {sha256(CONTENT)}"
    ):
        weights.path(PRITHVI)
    assert hub.asked[-2][1] == other, "the commit that was pinned is asked for, not main"
    nothing_counts(store)


@pytest.mark.parametrize("damage", [lambda content: content[:-1] + b"x", lambda content: content[:1000]])
def test_a_file_that_was_changed_in_the_store_is_found_before_it_is_used(hub: Hub, damage: Any) -> None:
    file = weights.path(PRITHVI)
    file.write_bytes(damage(CONTENT))
    with pytest.raises(InputError, match=rf"{sha256(damage(CONTENT))}.*{sha256(CONTENT)}.*tampered"):
        weights.path(PRITHVI)
    assert states()[PRITHVI] == "tampered"


def test_verify_tells_what_is_unknown_partial_and_gone(
    hub: Hub, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.path(PRITHVI).unlink()
    (store / "my_own").mkdir()
    found = states()
    assert (found["my_own"], found[PRITHVI], found["galileo_nano"]) == ("unknown", "tampered", "absent")
    with pytest.raises(SystemExit) as ended:
        main(["weights", "verify"])
    assert ended.value.code == 2
    assert f"{PRITHVI}: not the files that came" in capsys.readouterr().err


def test_other_hosts_are_asked_directly(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["/records/1/content"] = CONTENT
    hub.large = False
    change(monkeypatch, "satmae_vit_large", url=f"{hub.url}/records/1/content", md5=hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert weights.path("satmae_vit_large").read_bytes() == CONTENT
    assert states()["satmae_vit_large"] == "good"


def test_a_file_that_the_hub_has_not_got_is_said_at_once(hub: Hub, store: Path) -> None:
    hub.files.clear()
    with pytest.raises(WorldError, match=r"answered 404.*HF_ENDPOINT"):
        weights.path(PRITHVI)
    assert len(hub.asked) == 1
    nothing_counts(store)


def test_a_mirror_that_is_down_says_how_to_do_without_it_and_the_hub_alone_does(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    with pytest.raises(WorldError, match=rf"127\.0\.0\.1:9 failed .*casbah weights fetch {PRITHVI} --from hub"):
        weights.path(PRITHVI)
    assert weights.fetch(PRITHVI, source="hub").read_bytes() == CONTENT
    assert "is not compared with what the mirror has" in capsys.readouterr().err


def test_offline_without_a_mirror_fails_within_a_second_and_names_two_commands(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    commands = rf"casbah weights mirror {PRITHVI}`.*casbah weights add {PRITHVI} FILE"
    since = time.monotonic()
    with pytest.raises(WorldError, match=rf"127\.0\.0\.1:{port} does not answer \(no connection\).*{commands}"):
        weights.path(PRITHVI)
    with pytest.raises(WorldError, match=commands):
        weights.check_available(PRITHVI)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WorldError, match=rf"HF_HUB_OFFLINE is set.*{commands}"):
        weights.path(PRITHVI)
    assert time.monotonic() - since < 1
    nothing_counts(store)


def test_a_hub_that_takes_the_call_and_says_nothing_is_refused_without_trying_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.large = False
    hub.faults[:] = ["slow"] * 9
    since = time.monotonic()
    with pytest.raises(WorldError, match=r"does not answer \(timed out\)"):
        weights.path(PRITHVI)
    assert time.monotonic() - since < 1
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    weights.check_available(PRITHVI)


def test_a_licence_that_is_not_for_commerce_is_shown_and_accepted_by_name(
    hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "scalemae_vit_large"
    entry = entries()[name]
    hub.files[f"/{entry.hub}/resolve/{entry.revision}/{entry.file}"] = CONTENT
    change(monkeypatch, name, sha256_prefix=sha256(CONTENT)[:8])
    for look in (weights.path, weights.check_available):
        with pytest.raises(InputError, match=r"non-commercial licence cc-by-nc-4\.0.*--accept-licence cc-by-nc-4\.0"):
            look(name)
    assert hub.asked == [], "nothing is asked for before"
    with pytest.raises(InputError, match="'cc-by-nc' is the name of no licence"):
        weights.fetch(name, accept=["cc-by-nc"])
    with pytest.raises(InputError, match="non-commercial licence cc-by-nc-4"):
        weights.fetch(name, accept=["nvidia-segformer"])
    weights.fetch(name, accept=["cc-by-nc-4.0"])
    assert weights.path(name).read_bytes() == CONTENT, "it is remembered"
    (store / "licences.json").unlink()
    with pytest.raises(InputError, match="non-commercial"):
        weights.path(name)


def test_a_file_brought_by_hand_is_checked_as_a_download_is(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    stick = tmp_path / "stick.pt"
    stick.write_bytes(CONTENT)
    with pytest.raises(InputError, match="the manifest says eab6acacf527886a"):
        weights.add("galileo_nano", stick)
    nothing_counts(store, "galileo_nano")
    file = weights.add(PRITHVI, stick)
    assert weights.path(PRITHVI) == file
    assert file.read_bytes() == CONTENT
    stick.write_bytes(CONTENT[::-1])
    with pytest.raises(InputError, match=rf"{sha256(CONTENT[::-1])}.*{sha256(CONTENT)}"):
        weights.add(PRITHVI, stick)
    assert weights.path(PRITHVI).read_bytes() == CONTENT
    with pytest.raises(InputError, match="is no file"):
        weights.add(PRITHVI, tmp_path / "nowhere.pt")


def test_the_real_galileo_file_is_the_published_one(shared: Path) -> None:
    file = shared / "weights/galileo-nano/encoder.pt"
    if not file.is_file():
        pytest.skip(f"no {file}")
    assert weights.add("galileo_nano", file).is_file()
    assert states()["galileo_nano"] == "good"


def test_a_disk_that_is_full_is_said_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casbah.weights.local.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(WorldError, match=r"3 MB are to be downloaded and 0 MB are free.*CASBAH_WEIGHTS"):
        weights.path(PRITHVI)


def test_a_store_that_can_not_be_written_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "file/weights"))
    with pytest.raises(InputError, match="CASBAH_WEIGHTS name another directory"):
        weights.path(PRITHVI)


def test_the_commands_print_files_and_refuse_unknown_names(
    hub: Hub, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    main_ended(["weights", "fetch", PRITHVI])
    assert capsys.readouterr().out.strip().endswith("Prithvi_EO_V2_tiny_TL.pt")
    main_ended(["weights", "list"])
    listed = capsys.readouterr().out
    assert "pinned, 3.1 MB" in listed
    assert "(non-commercial)" in listed
    assert all(name in listed for name in entries())
    assert "satmae_vit_large: the licence is that which a pull request" in listed, "what is known of it by hearsay"
    with pytest.raises(SystemExit) as ended:
        main(["weights", "fetch", "prithvi_eo_v2_tiny"])
    assert ended.value.code == 2
    assert "did you mean prithvi_eo_v2_tiny_tl" in capsys.readouterr().err


def main_ended(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code


def test_a_backbone_is_served_as_the_experiment_writes_it() -> None:
    assert weights.serving("prithvi_eo_v2_300", smp=False) is entries()["prithvi_eo_v2_300"]
    assert weights.serving("terratorch_prithvi_eo_v2_300", smp=False) is entries()["prithvi_eo_v2_300"]
    assert weights.serving("resnet50", smp=True) is entries()["resnet50_imagenet"]
    assert weights.serving("resnet50", smp=False) is None, "that one is timm's"
    assert weights.serving("tu-resnet50", smp=True) is None
    assert weights.find("mit_b2").name == "mit_b2_imagenet"


def test_reading_the_manifest_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import casbah.weights, casbah.cli, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
