"""A path that can't be looked at or read is bad input and one sentence, whatever the command."""

from pathlib import Path

import pytest
from builders import make_scene
from predictors import bundle

from casbah.cli import main
from casbah.errors import InputError
from casbah.figures.visualize import visualize
from casbah.grid import Grid
from casbah.predict import predict

SMALL = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 64, 64)


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(str(ended.value.code)), capsys.readouterr().err


def test_a_name_that_is_too_long_and_a_directory_in_the_place_of_a_file_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = bundle(tmp_path / "model").path
    long = tmp_path / ("x" * 300)
    code, sentence = said(capsys, "predict", "--model", model, "--scene", long, "--output", tmp_path / "map")
    assert code == 2
    assert (
        sentence
        == f"casbah: {long} can't be reached: File name too long; check the path, and who may read and write there\n"
    )
    (model / "manifest.json").unlink()
    (model / "manifest.json").mkdir()
    code, sentence = said(capsys, "predict", "--model", model, "--scene", model, "--output", tmp_path / "map")
    assert code == 2
    assert f"{model / 'manifest.json'} can't be reached: Is a directory" in sentence
    assert not (tmp_path / "map").exists()


def test_a_path_that_nobody_named_stays_a_defect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(path: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory", "/opt/casbah/lib/its-own.json")

    monkeypatch.setattr("casbah.predict.imagery.sha256_of", lost)
    (tmp_path / "r.tif").write_bytes(b"II*\0")
    model = bundle(tmp_path / "model").path
    words = ("predict", "--model", model, "--scene", tmp_path / "r.tif", "--output", tmp_path / "map")
    code, sentence = said(capsys, *words)
    assert (code, "a defect in Casbah (FileNotFoundError" in sentence) == (1, True)


def test_what_may_not_be_read_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for anybody but root; root may read everything."""
    model = bundle(tmp_path / "model").path
    raster = tmp_path / "r.tif"
    raster.write_bytes(b"II*\0")

    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("casbah.predict.imagery.sha256_of", refused)
    code, sentence = said(capsys, "predict", "--model", model, "--scene", raster, "--output", tmp_path / "map")
    assert (code, "can't be reached: Permission denied; check the path, and who" in sentence) == (2, True)


def test_a_bundle_whose_description_is_none_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("{", "[]", '{"experiment": "x"}'):
        made = bundle(tmp_path / "model")
        made = made.copy_to(tmp_path / "edited", replaced={"training.json": {}})
        (made.path / "training.json").write_text(content)
        with pytest.raises(InputError, match=r"training.json describes no training \(.*\): make or fetch the model"):
            _ = made.training


def test_a_scene_that_was_cut_short_can_not_be_drawn_and_that_is_said(tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "scene", SMALL)
    file = scene.reflectance_path(0)
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("casbah.products.manifest._check_file", lambda *_: None)
        with pytest.raises(
            InputError, match=r"a raster of .*scene could not be read \(.*\): it is cut short or damaged"
        ):
            visualize(scene=scene.path, output=tmp_path / "scene.png")
    assert not (tmp_path / "scene.png").exists()


def test_an_address_of_a_model_in_a_store_is_named_as_it_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("predict", "--model", "s3://user:secret@place/model", "--scene", tmp_path, "--output", tmp_path / "map")
    code, sentence = said(capsys, *words)
    assert code == 2
    assert sentence.startswith(
        "casbah: the model s3://place/model is at an address; a bundle's directory, models:/NAME"
    )
    with pytest.raises(InputError, match=r"^the model s3://place/model is at an address"):
        predict(Path("s3://user:secret@place/model"), tmp_path, tmp_path / "map")


def test_an_output_that_can_not_be_moved_to_its_place_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    monkeypatch.chdir(here)
    cases = [
        (Path(), r"the output \. is the directory that you are in"),
        (Path("../here"), r"the output \.\./here is the directory that you are in"),
        (tmp_path / "link", rf"link is a link to {here}: name a directory itself"),
        (tmp_path / "dangling", r"dangling is a link to .*nowhere: name a directory itself"),
        (tmp_path / "circle", r"circle is a link to .*circle: name a directory itself"),
    ]
    for output, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            make_scene(output, SMALL)
    lost = tmp_path / "lost"
    lost.mkdir()
    monkeypatch.chdir(lost)
    lost.rmdir()
    (here / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something else"):
        make_scene(here, SMALL)
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir()), "no workplace was left"
