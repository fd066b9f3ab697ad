"""`casbah terratorch` refuses on our tiles what `casbah finetune` refuses, in a sentence, and writes nothing."""

import sys
from pathlib import Path

import pytest
from builders import make_tiles

from casbah.cli import main
from casbah.errors import InputError
from casbah.experiments import FOLDER
from casbah.finetune.terratorch_command import checked
from casbah.models import torchvision_cure
from casbah.products.tiles import TileSet

torchvision_cure.apply()


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("terratorch") / "tiles")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def edited(target: Path, old: str, new: str) -> Path:
    """A copy of a built-in experiment with one word changed."""
    text = (FOLDER / "unet_scratch_small.yaml").read_text()
    assert old in text
    target.write_text(text.replace(old, new))
    return target


@pytest.mark.parametrize(
    "option", [["--config", "unet_scratch_small"], ["-c", "unet_scratch_small"], ["--config=unet_scratch_small"]]
)
def test_a_built_in_experiment_goes_by_its_name(tiles: TileSet, option: list[str]) -> None:
    given, file = checked(["fit", *option, "--data.init_args.tiles", str(tiles.path)])
    assert file == str(FOLDER / "unet_scratch_small.yaml")
    assert given[len(option)].removeprefix("--config=") == file


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_mistake_is_named_with_the_nearest_right_word_and_nothing_is_written(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("CASBAH_TILES", str(tiles.path))
    file = edited(tmp_path / "x.yaml", "backbone: tu-resnet18.a1_in1k", "backbone: tu-resnet18.a1_in2k")
    with pytest.raises(InputError, match=r"tu-resnet18\.a1_in1k"):
        checked([command, "--config", str(file)])
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "boosted_pixels"], "grows trees.*casbah finetune --config boosted_pixels"),
        (["--config", "unet_scrach"], "did you mean unet_scratch"),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--config", "unet_scratch_small"], "CASBAH_TILES"),
        (["--config", "unet_scratch_small", "--data.init_args.tiles=nowhere"], "nowhere does not exist"),
    ],
)
def test_what_can_not_be_run_is_said_at_once(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        checked(["fit", *arguments])
    assert not list(tmp_path.iterdir())


def test_what_is_not_ours_is_left_to_terratorch(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text("trainer: {}\nanything: 1\nanything: 2\ndata: {class_path: terratorch.datamodules.Sen1Floods11}\n")
    for arguments in (["fit", "--config", str(file)], ["predict", "-c", "x.yaml"], ["fit", "--help"], []):
        assert checked(arguments) == (arguments, None)


def test_a_file_may_name_the_checkpoint_to_start_from(tiles: TileSet, tmp_path: Path) -> None:
    file = edited(tmp_path / "x.yaml", "seed_everything: 0", "seed_everything: 0\nckpt_path: last.ckpt")
    _, found = checked(["validate", "--config", str(file), "--data.init_args.tiles", str(tiles.path)])
    assert found == str(file)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainer.max_epochs", "many"], "trainer.max_epochs is many; a whole number or null is wanted"),
        (["--data.init_args.jitter", "-1"], "data.init_args.jitter is -1; a finite number from 0 to 1 is wanted"),
        (["--data.init_args.batchsize", "3"], "data has no setting 'batchsize'"),
    ],
)
def test_an_option_that_the_parser_refuses_is_one_sentence(
    tiles: TileSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setenv("CASBAH_TILES", str(tiles.path))
    monkeypatch.setattr(sys, "argv", ["casbah"])
    with pytest.raises(SystemExit) as caught:
        main(["terratorch", "fit", "--config", "unet_scratch_small", *arguments])
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("casbah: ")
    assert words in last
    assert not list(tmp_path.iterdir())
