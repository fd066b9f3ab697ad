"""The mirror of published weights in a real object store: what a machine without the internet trains from."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hubs import COMMIT, Hub, serve

from casbah import stack, weights
from casbah.cli import main
from casbah.errors import InputError, WorldError
from casbah.storage import Location, Store
from casbah.weights import entries

pytestmark = pytest.mark.integration

PRITHVI, SCALEMAE = "prithvi_eo_v2_tiny_tl", "scalemae_vit_large"
CONTENT = bytes(range(256)) * 30_000


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    directory = tmp_path_factory.mktemp("stack") / "stack"
    try:
        yield stack.up(directory).environment()
    finally:
        stack.down(directory)


@pytest.fixture
def hub(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with two files, beside an object store that is the environment's."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    prefix = hashlib.sha256(CONTENT).hexdigest()[:8]
    monkeypatch.setitem(entries(), SCALEMAE, entries()[SCALEMAE].model_copy(update={"sha256_prefix": prefix}))
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for name in (PRITHVI, SCALEMAE):
            hub.files["/" + entries()[name].address().removeprefix(hub.url).lstrip("/")] = CONTENT
        yield hub


def elsewhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine: nothing in its own store, and no internet."""
    monkeypatch.setenv("CASBAH_WEIGHTS", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def remove(*names: str) -> None:
    store = Store.from_environment()
    for name in names:
        for found in list(store.list(Location("casbah", f"weights/{name}/"))):
            store.remove(found)


def test_a_machine_without_the_internet_fetches_from_the_mirror_what_another_put_there(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove(PRITHVI)
    elsewhere(tmp_path / "far", monkeypatch)
    with pytest.raises(WorldError, match="the mirror has no copy, and HF_HUB_OFFLINE is set"):
        weights.check_available(PRITHVI)
    with pytest.raises(InputError, match=rf"mirror s3://casbah/weights .* has no {PRITHVI}"):
        weights.fetch(PRITHVI, source="mirror")

    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "near"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for said in (f"s3://casbah/weights/{PRITHVI}/Prithvi_EO_V2_tiny_TL.pt", "(was there)"):
        with pytest.raises(SystemExit) as ended:
            main(["weights", "mirror", PRITHVI])
        assert not ended.value.code
        assert said in capsys.readouterr().out

    elsewhere(tmp_path / "far", monkeypatch)
    asked = len(hub.asked)
    weights.check_available(PRITHVI)
    assert weights.path(PRITHVI).read_bytes() == CONTENT
    assert len(hub.asked) == asked, "the hub is not asked"
    facts = weights.LocalStore().facts(entries()[PRITHVI])
    assert facts is not None
    assert facts.revision == COMMIT, "where it came from at first"


def test_the_mirrors_hash_is_a_pin_for_every_machine(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(PRITHVI)
    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "near"))
    weights.copy_to_mirror(PRITHVI)
    good, bad = hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(CONTENT[::-1]).hexdigest()

    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "other"))
    path = next(name for name in hub.files if "tiny-TL" in name)
    hub.files[path.replace("/main/", f"/{COMMIT}/")] = CONTENT[::-1]
    with pytest.raises(InputError, match=rf"sha256 is {bad}, and the first file of this name had {good}"):
        weights.fetch(PRITHVI, source="hub")

    stick = tmp_path / "stick.pt"
    stick.write_bytes(CONTENT[::-1])
    weights.add(PRITHVI, stick)
    with pytest.raises(InputError, match=rf"holds another file of this name: its sha256 is {good}.*{bad}"):
        weights.copy_to_mirror(PRITHVI)

    place = Location("casbah", f"weights/{PRITHVI}/Prithvi_EO_V2_tiny_TL.pt")
    Store.from_environment().write(CONTENT[::-1], place)
    elsewhere(tmp_path / "far", monkeypatch)
    with pytest.raises(InputError, match=rf"sha256 is {bad}, and the first file of this name had {good}"):
        weights.path(PRITHVI)
    assert not (tmp_path / "far" / PRITHVI).exists()


def test_a_licence_that_was_accepted_for_the_mirror_holds_for_its_users(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove(SCALEMAE)
    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "near"))
    with pytest.raises(InputError, match=r"--accept-licence cc-by-nc-4\.0"):
        weights.copy_to_mirror(SCALEMAE)
    weights.copy_to_mirror(SCALEMAE, accept=["cc-by-nc-4.0"])
    elsewhere(tmp_path / "far", monkeypatch)
    assert weights.path(SCALEMAE).read_bytes() == CONTENT
    assert "cc-by-nc-4.0 was accepted by whoever put it into the mirror" in capsys.readouterr().err
