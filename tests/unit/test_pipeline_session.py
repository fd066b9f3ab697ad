"""A local run touches nothing of a person's own, and finds mistakes before anything is started for it."""

import errno
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from casbah.errors import InputError, WorldError
from casbah.interruption import termination_as_interrupt
from casbah.pipeline import compiled, local, session
from casbah.products.evaluation import Evaluation
from casbah.products.manifest import Product
from casbah.products.model import ModelBundle


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled.compile_pipeline(tmp_path_factory.mktemp("compiled") / "pipeline.yaml")


def product(kind: type[Product], path: Path, mark: str) -> Path:
    """A directory that says it is a product of a kind; `mark` tells one from another."""
    with Product.write.__func__(  # type: ignore[attr-defined]
        type("Stand", (Product,), {"schema": kind.schema, "required": ()}), path, parameters={}
    ) as draft:
        (draft.directory / "mark").write_text(mark)
    return path


def results(folder: Path, mark: str) -> dict[str, Path]:
    """What a run leaves below its own directory."""
    made = {
        "model": product(ModelBundle, folder / mark / "model", mark),
        "evaluation": product(Evaluation, folder / mark / "evaluation", mark),
    }
    for name in session.PAGES:
        made[name] = folder / mark / name
        made[name].write_text(mark)
    return made


def contents(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("mine", ["model/weights.bin", "evaluation/notes.txt", "comparison.md", "registration.md"])
def test_a_directory_or_page_of_ones_own_is_never_replaced(mine: str, tmp_path: Path, package: Path) -> None:
    made = results(tmp_path / "run", "new")
    output = tmp_path / "here"
    (output / mine).parent.mkdir(parents=True)
    (output / mine).write_text("mine")
    with (
        pytest.raises(InputError, match=rf"{output}/{mine.split('/')[0]} .*already"),
        session.request({}, package, output=output),
    ):
        pass
    with pytest.raises(InputError, match="already"):
        session._copy(made, output)
    assert contents(output) == {mine: "mine"}


def test_the_demo_and_a_run_look_at_their_output_before_they_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from casbah.cli.root import app

    def start(self: session.Session) -> None:
        raise AssertionError("services were started")

    monkeypatch.setattr(session.Session, "__enter__", start)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("mine")
    for command in (["demo"], ["pipeline", "run", "aoi=sample"]):
        done = CliRunner().invoke(app, [*command, "--output", "."])
        assert isinstance(done.exception, InputError), done.output


def test_an_output_that_is_a_file_is_named(tmp_path: Path, package: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file is a file; name a directory"),
        session.request({}, package, output=tmp_path / "file"),
    ):
        pass


def test_the_results_of_an_earlier_run_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    output = tmp_path / "out"
    session._copy(results(tmp_path, "old"), output)
    (output / "notes.txt").write_text("mine")
    session._copy(results(tmp_path, "new"), output)
    assert (output / "model" / "mark").read_text() == (output / "evaluation" / "mark").read_text() == "new"
    assert (output / "comparison.md").read_text() == "new"
    assert (output / "notes.txt").read_text() == "mine"
    assert {one.name for one in output.iterdir()} == {
        "model", "evaluation", "comparison.md", "registration.md", "notes.txt",
    }  # fmt: skip


def test_a_disk_that_fills_up_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, output = results(tmp_path, "old"), results(tmp_path, "new"), tmp_path / "out"
    full = OSError(errno.ENOSPC, "No space left on device")

    copy = shutil.copytree

    def fill(source: Path, target: Path) -> None:
        copy(source, target)
        if source.name == "evaluation":
            raise shutil.Error([("a", "b", str(full))])

    session._copy(old, output)
    before = contents(output)
    monkeypatch.setattr(session.shutil, "copytree", fill)
    for place in (output, tmp_path / "fresh"):
        with pytest.raises(
            WorldError, match=r"could not be copied to .*No space left on device.*the run itself is whole"
        ):
            session._copy(new, place)
    assert contents(output) == before
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"experiments": "unet_scrach"}, "experiments is 'unet_scrach'; known here: unet_scratch"),
        ({"experiments": "unet_scratch_small,mine.yaml"}, "experiments is 'mine.yaml', a path of your machine"),
        ({"aoi": "algier"}, "aoi is 'algier'; known here: algiers"),
        ({"aoi": "s3:///town.geojson"}, "s3://bucket/key is wanted"),
        ({"labels": "overtur"}, "labels is 'overtur'; known here: overture"),
        ({"labelled_area": "land"}, "labelled_area is 'land'; known here: sample"),
        ({"start": "2023-10-01"}, "the start date 2023-10-01 lies after the end date 2023-09-30"),
        ({"periods": "0"}, "0 periods from 2023-06-01"),
        ({"max_cloud": "nan"}, 'max_cloud is "nan"; a number is wanted'),
        ({"max_cloud": "120"}, "max_cloud is 120; a percentage from 0 to 100 is wanted"),
        ({"max_cloud": "-1"}, "max_cloud is -1; a percentage from 0 to 100 is wanted"),
        ({"block_size": "inf"}, 'block_size is "inf"; a number is wanted'),
        ({"block_size": "100"}, "a block of 100 m holds no tile"),
        ({"tile_size": "0"}, "the tile size is 0 pixels"),
        ({"name": ""}, "name is '', which is no name for a registered model"),
        ({"name": "a/b"}, "name is 'a/b', which is no name for a registered model"),
        ({"name": "a+b"}, "name is 'a+b', which is no name for a registered model"),
        ({"trials": "-1"}, "trials is -1; 0 (nothing is tuned) or a whole number above is wanted"),
        ({"seed": "-1"}, "seed is -1; a whole number from 0"),
        ({"vintage": "last spring"}, "the vintage is 'last spring'; a year"),
    ],
)
def test_what_a_step_would_refuse_later_is_refused_before_anything_starts(
    given: dict[str, str], sentence: str, package: Path
) -> None:
    import re

    with pytest.raises(InputError, match=re.escape(sentence)), session.request(given, package):
        pass


def test_what_a_step_takes_passes_without_being_read(tmp_path: Path, package: Path) -> None:
    (tmp_path / "town.geojson").write_text("{}")
    given = {
        "aoi": str(tmp_path / "town.geojson"),
        "labels": "https://127.0.0.1:9/footprints.gpkg",
        "labelled_area": "sample",
        "experiments": '["s3://casbah/inputs/mine.yaml", "boosted_pixels"]',
        "start": "20230601",
        "max_cloud": "12.5",
        "block_size": "1440",
        "stac": "sample",
    }
    with session.request(given, package) as wanted:
        assert wanted.arguments == given


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_ends_a_session_like_ctrl_c(number: signal.Signals) -> None:
    mine = lambda *_: None  # noqa: E731 - any handler that does not end the tests
    before = signal.signal(number, mine)
    try:
        with pytest.raises(KeyboardInterrupt), termination_as_interrupt():
            signal.raise_signal(number)
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)


def test_under_nohup_a_closed_terminal_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with termination_as_interrupt():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_directory_that_can_hold_no_run_is_one_sentence(tmp_path: Path, package: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"can't be written .*name another --directory"):
        local.run(package, {"aoi": "sample"}, directory=tmp_path / "file" / "x", environment={})


def test_a_full_disk_is_no_mistake_of_the_person(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(WorldError, match="No space left on device"):
        local.run(package, {"aoi": "sample"}, directory=tmp_path / "x", environment={})
    with pytest.raises(WorldError, match="can't be written: No space left on device"):
        compiled.compile_pipeline(tmp_path / "a" / "b.yaml")
