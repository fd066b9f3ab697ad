"""A run goes on only from whole checkpoints that this very code wrote, and says what becomes of those it leaves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_tiles

from casbah import progress
from casbah.errors import InputError
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
        config="unet_scratch", tiles=tiles.path, output=output, checkpoints=place, resume=resume, overrides=TINY
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


class Shelf:
    """An object store in memory."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def ensure_bucket(self, bucket: str) -> None:
        pass

    def exists(self, location: Location) -> bool:
        return location.key in self.keys

    def list(self, prefix: Location) -> list[Location]:
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
