"""A run goes on only from whole checkpoints that this very code wrote, and says what becomes of those it leaves."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_tiles

import casbah.finetune
from casbah import progress
from casbah.errors import InputError, WorldError
from casbah.finetune import checkpoints, finetune
from casbah.products.tiles import TileSet
from casbah.storage import Location

TINY = ("trainer.max_epochs=1", "model.init_args.flips_at_test=false")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("checkpoints") / "tiles")


@pytest.fixture(scope="module")
def kept(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a finished run."""
    place = tmp_path_factory.mktemp("kept")
    train(tiles, place / "first", place / "checkpoints")
    return place / "checkpoints"


def train(tiles: TileSet, output: Path, place: Path, resume: bool = False) -> Any:
    return finetune(
        config="unet_scratch_small", tiles=tiles.path, output=output, checkpoints=place, resume=resume, overrides=TINY
    )


def copied(kept: Path, target: Path) -> Path:
    """A copy of the checkpoints, and the one state among them."""
    import shutil

    shutil.copytree(kept, target)
    (state,) = target.glob("*/last.ckpt")
    return state


def test_a_finished_state_is_gone_on_from_by_the_code_that_wrote_it_alone(
    tiles: TileSet, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(kept, tmp_path / "c")
    train(tiles, tmp_path / "same", tmp_path / "c", resume=True)
    assert "1 epochs were done before" in capsys.readouterr().err
    monkeypatch.setattr(checkpoints, "code", lambda: "of a loss that was mended")
    train(tiles, tmp_path / "other", tmp_path / "c", resume=True)
    assert "done before" not in capsys.readouterr().err
    assert len(list((tmp_path / "c").glob("*/last.ckpt"))) == 2


def test_the_digest_of_the_code_changes_with_every_file_that_trains(tmp_path: Path) -> None:
    (tmp_path / "finetune").mkdir()
    (tmp_path / "finetune/loss.py").write_text("weight = 1\n")
    before = checkpoints.digest_of_sources([tmp_path / "finetune"])
    assert checkpoints.digest_of_sources([tmp_path / "finetune"]) == before
    (tmp_path / "finetune/loss.py").write_text("weight = 2\n")
    changed = checkpoints.digest_of_sources([tmp_path / "finetune"])
    (tmp_path / "finetune/more.py").write_text("")
    assert len({before, changed, checkpoints.digest_of_sources([tmp_path / "finetune"])}) == 3
    assert {folder.name for folder in checkpoints.TRAINS} == {"finetune", "models"}


@pytest.mark.parametrize(
    "content", [b"\0" * 4096, b"<html><body>502 Bad Gateway</body></html>", b"", b"PK\x03\x04 cut off"]
)
def test_a_state_that_is_no_checkpoint_is_told_in_a_sentence(
    tiles: TileSet, kept: Path, tmp_path: Path, content: bytes
) -> None:
    copied(kept, tmp_path / "c").write_bytes(content)
    with pytest.raises(InputError, match=r"last\.ckpt is damaged.*without --resume"):
        train(tiles, tmp_path / "model", tmp_path / "c", resume=True)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("value", [{"epoch": 3}, [1, 2], {"callbacks": []}])
def test_a_state_of_something_else_is_told_in_a_sentence(
    tiles: TileSet, kept: Path, tmp_path: Path, value: Any
) -> None:
    torch.save(value, copied(kept, tmp_path / "c"))
    with pytest.raises(InputError, match=r"last\.ckpt is damaged"):
        train(tiles, tmp_path / "model", tmp_path / "c", resume=True)


@pytest.mark.parametrize("harm", ["cut short", "gone"])
def test_weights_of_the_best_epoch_that_are_damaged_are_told_in_a_sentence(
    tiles: TileSet, kept: Path, tmp_path: Path, harm: str
) -> None:
    (weights,) = copied(kept, tmp_path / "c").parent.glob("best-*.safetensors")
    if harm == "gone":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"best-0000\.safetensors is damaged.*without --resume"):
        train(tiles, tmp_path / "model", tmp_path / "c", resume=True)


def fill(path: Path) -> None:
    path.write_bytes(b"half of")
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def refuse(path: Path) -> None:
    raise OSError(errno.EROFS, "Read-only file system", str(path))


def lose_weights(path: Path) -> None:
    """What safetensors itself raises where a file can't be made."""
    from casbah.finetune import callbacks

    callbacks.save_weights(torch.nn.Linear(4, 4), path.parent / "unmounted" / path.name)


@pytest.mark.parametrize(
    ("write", "reason"),
    [(fill, "No space left"), (refuse, "Read-only file system"), (lose_weights, "No such file or directory")],
)
def test_a_disk_that_fails_is_told_from_a_defect(tmp_path: Path, write: Callable[[Path], None], reason: str) -> None:
    from casbah.finetune.callbacks import write_whole

    with pytest.raises(WorldError, match=rf"could not be written to .*checkpoints: {reason}.*--resume"):
        write_whole(tmp_path / "checkpoints/last.ckpt", write)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_trees_on_a_disk_that_fails_raise_what_the_product_tells(tmp_path: Path) -> None:
    from casbah.models.boosted import ARRAYS, Forest, Stages

    forest = Forest(**{name: np.zeros(1, kind) for name, kind in ARRAYS.items()})
    with pytest.raises(OSError, match="No such file"):
        Stages(forest).save(tmp_path / "unmounted" / "weights.safetensors")


def test_a_folder_for_checkpoints_that_can_not_be_made_is_said_before_anything_is_trained(
    tiles: TileSet, tmp_path: Path
) -> None:
    with pytest.raises(WorldError, match=r"could not be written to /proc/x.*another --checkpoints"):
        train(tiles, tmp_path / "model", Path("/proc/x"))
    assert not (tmp_path / "model").exists()


def test_a_disk_that_fills_up_in_mid_run_costs_no_whole_epoch(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    casbah.finetune.EpochModelCheckpoint  # noqa: B018 - cures torchvision
    from lightning.pytorch import Trainer

    options: dict[str, Any] = {"config": "unet_scratch_small", "tiles": tiles.path, "output": tmp_path / "model"}
    options["overrides"] = [*TINY, "trainer.max_epochs=3"]
    save, saved = Trainer.save_checkpoint, []

    def full_after_one(self: Any, path: Any, **more: Any) -> None:
        if saved:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        saved.append(path)
        save(self, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", full_after_one)
        with pytest.raises(WorldError, match="No space left on device; the last whole epoch is kept"):
            finetune(**options)
    bundle = finetune(**options, resume=True)
    assert "1 epochs were done before" in capsys.readouterr().err
    assert bundle.training.epochs == 3


def test_the_store_is_taken_only_where_an_endpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.Store, "from_environment", lambda: Shelf([]))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "for somebody's work at Amazon")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert checkpoints.place(None, tmp_path / "m", "k").remote is None
    named = checkpoints.place("s3://mine/here", tmp_path / "m", "k").remote
    assert str(named) == "s3://mine/here/k"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert str(checkpoints.place(None, tmp_path / "m", "k").remote) == "s3://casbah/checkpoints/k"


def test_a_store_that_fails_leads_to_the_option_that_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf([], down=True)
    monkeypatch.setattr(checkpoints.Store, "from_environment", lambda: shelf)
    place = checkpoints.Place(tmp_path / "k", Location("casbah", "checkpoints/k"), keep=False)
    with pytest.raises(WorldError, match=r"is down.*--checkpoints DIRECTORY"):
        place.prepare(resume=False)


def mirrored(shelf: "Shelf", directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the files of a run to the store as a new process does after its first epoch."""
    monkeypatch.setattr(checkpoints.Store, "from_environment", lambda: shelf)
    place = checkpoints.Place(directory, Location("casbah", "checkpoints/k"), keep=True)
    place.mirror(directory)
    place.close(finished=False)


def test_best_weights_that_another_machine_left_in_the_store_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(["checkpoints/k/best-0003.safetensors"])
    (tmp_path / "best-0003.safetensors").write_bytes(b"what this machine made of epoch 3")
    (tmp_path / "last.ckpt").write_bytes(b"state")
    mirrored(shelf, tmp_path, monkeypatch)
    assert shelf.sent == ["best-0003.safetensors", "last.ckpt"], "the state last, which names the other"


def test_best_weights_that_did_not_change_are_sent_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf([])
    monkeypatch.setattr(checkpoints.Store, "from_environment", lambda: shelf)
    place = checkpoints.Place(tmp_path, Location("casbah", "checkpoints/k"), keep=True)
    (tmp_path / "best-0000.safetensors").write_bytes(b"best")
    for epoch in range(3):
        state = tmp_path / "state"
        state.write_bytes(bytes(10 + epoch))
        state.replace(tmp_path / "last.ckpt")
        place._upload(tmp_path)
    assert shelf.sent.count("best-0000.safetensors") == 1
    assert shelf.sent.count("last.ckpt") == 3


def test_a_store_that_goes_down_is_said_with_where_the_checkpoints_are_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"state")
    mirrored(Shelf([], down=True), tmp_path, monkeypatch)
    assert f"training goes on, and its checkpoints lie in {tmp_path} alone until" in capsys.readouterr().err


def test_the_digest_of_a_run_follows_the_content_of_its_pretrained_weights(tmp_path: Path) -> None:
    casbah.finetune.EpochModelCheckpoint  # noqa: B018 - cures torchvision
    from casbah.finetune import fit
    from casbah.finetune.experiment import digest

    def of(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        model_args = {"backbone": "prithvi", "backbone_ckpt_path": str(tmp_path / name)}
        return digest(fit._by_content({"model": {"init_args": {"model_args": model_args}}}))

    first = of("w.pt", b"a")
    assert of("w.pt", b"b") != first
    assert of("elsewhere.pt", b"a") == first


class Shelf:
    """An object store in memory."""

    def __init__(self, keys: list[str], down: bool = False) -> None:
        self.keys, self.down = keys, down
        self.sent: list[str] = []

    def put(self, source: Path, target: Location) -> None:
        self.keys.append(target.key)
        self.sent.append(source.name)

    def ensure_bucket(self, bucket: str) -> None:
        if self.down:
            raise WorldError("the store is down")

    def exists(self, location: Location) -> bool:
        return location.key in self.keys

    def list(self, prefix: Location) -> list[Location]:
        self.ensure_bucket(prefix.bucket)
        return [Location(prefix.bucket, key) for key in self.keys if key.startswith(prefix.key)]

    def remove(self, location: Location) -> None:
        self.keys.remove(location.key)


def test_without_resume_older_checkpoints_are_put_away_everywhere_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf = Shelf(["checkpoints/k/best-0003.safetensors", "checkpoints/k/last.ckpt", "checkpoints/other/last.ckpt"])
    monkeypatch.setattr(checkpoints.Store, "from_environment", lambda: shelf)
    place = checkpoints.Place(tmp_path / "k", Location("casbah", "checkpoints/k"), keep=False)
    assert place.prepare(resume=False) is False
    said = capsys.readouterr().err
    assert "put away" in said
    assert "--resume" in said
    assert shelf.keys == ["checkpoints/other/last.ckpt"], "or old weights would pass for those of a new epoch 3"


def test_time_left_counts_only_what_was_done_since_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.task("epochs", 60, done=50) as task:
        clock[0] = 20.0
        task.advance(1)
    assert "51/60 (180 s left)" in capsys.readouterr().err
