"""A product opens only whole and unchanged, and what went wrong is said in one sentence."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import make_labels, make_scene

from casbah.errors import InputError, WorldError
from casbah.grid import Grid
from casbah.products.labels import LabelSet
from casbah.products.manifest import MANIFEST, Product, _exchange, replace_directory
from casbah.products.scene import Scene

SMALL = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 64, 64)


@pytest.fixture
def labels(tmp_path: Path) -> LabelSet:
    return make_labels(tmp_path / "labels", SMALL)


def edit_manifest(product: Product, **changes: object) -> None:
    path = product.path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_and_fail(path: Path, error: Exception) -> None:
    with LabelSet.write(path, parameters={}) as draft:
        (draft.directory / "mask.tif").write_text("half")
        raise error


def test_a_flipped_byte_is_found(labels: LabelSet) -> None:
    file = labels.path / "coverage.tif"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"coverage.tif is not the file that was written .* make the product again"):
        LabelSet.open(labels.path)


def test_a_copy_of_what_was_changed_is_refused_and_a_whole_one_is_the_same_product(
    labels: LabelSet, tmp_path: Path
) -> None:
    for link in (False, True):
        assert labels.copy_to(tmp_path / f"copy-{link}", link=link).digest == labels.digest
        LabelSet.open(tmp_path / f"copy-{link}")
    (labels.path / "coverage.tif").write_bytes(b"x")
    with pytest.raises(InputError, match=r"coverage.tif is not the file that was written"):
        labels.copy_to(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_missing_file_is_named(labels: LabelSet) -> None:
    (labels.path / "mask.tif").unlink()
    with pytest.raises(InputError, match=r"lacks mask.tif, which its manifest lists: copy the whole directory"):
        LabelSet.open(labels.path)


def test_a_manifest_that_forgets_a_file_of_its_schema_is_refused(labels: LabelSet) -> None:
    files = {n: json.loads(r.model_dump_json()) for n, r in labels.manifest.files.items() if n != "mask.tif"}
    edit_manifest(labels, files=files)
    with pytest.raises(InputError, match=r"is a labels without mask.tif: make the product again"):
        LabelSet.open(labels.path)


def test_a_newer_schema_says_which_casbah_wrote_it(labels: LabelSet) -> None:
    edit_manifest(labels, version=2, casbah="9.9")
    with pytest.raises(InputError, match=r"schema 2, written by casbah 9.9; .* reads up to schema 1: upgrade"):
        LabelSet.open(labels.path)


def test_a_newer_schema_of_another_shape_is_told_from_damage(labels: LabelSet) -> None:
    edit_manifest(labels, version=2, casbah="9.9", files=[["mask.tif", "0"]], inputs=None)
    with pytest.raises(InputError, match=r"schema 2, written by casbah 9.9; .* reads up to schema 1: upgrade"):
        LabelSet.open(labels.path)
    with pytest.raises(InputError, match="is a labels; a scene is wanted here"):
        Scene.open(labels.path)
    assert make_labels(labels.path, SMALL).manifest.version == 1, "a newer one is replaced as an older one is"


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret"])
def test_a_manifest_that_names_a_file_outside_is_refused(labels: LabelSet, name: str) -> None:
    (labels.path.parent / "secret").write_text("x")
    files = {n: json.loads(r.model_dump_json()) for n, r in labels.manifest.files.items()}
    edit_manifest(labels, files=files | {name: {"sha256": "0", "size": 1}})
    with pytest.raises(InputError, match="a file outside of the product: do not use it"):
        LabelSet.open(labels.path)


def test_another_kind_of_product_is_named(labels: LabelSet) -> None:
    with pytest.raises(InputError, match="is a labels; a scene is wanted here"):
        Scene.open(labels.path)


@pytest.mark.parametrize("content", ["{", "[]", '{"product": "labels"}', "\xff\xfe"])
def test_a_damaged_manifest_is_one_sentence(labels: LabelSet, content: str) -> None:
    (labels.path / MANIFEST).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"manifest.json is damaged: make the labels again"):
        LabelSet.open(labels.path)


def test_a_damaged_product_at_the_target_is_said_to_be_in_the_way(labels: LabelSet) -> None:
    (labels.path / MANIFEST).write_text("{")
    with pytest.raises(InputError) as raised:
        make_labels(labels.path, SMALL)
    wanted = (
        f"{labels.path} holds a damaged product (its manifest.json can't be read); delete it or name another output"
    )
    assert str(raised.value) == wanted


def test_a_file_of_a_product_is_told_from_its_directory(tmp_path: Path) -> None:
    item = make_scene(tmp_path / "scene", SMALL).path / "item.json"
    with pytest.raises(InputError) as raised:
        Scene.open(item)
    assert str(raised.value) == f"{item} is a file; a scene directory is wanted, such as {tmp_path / 'scene'}"


@pytest.mark.parametrize(("place", "words"), [("notes/deep/labels", "Not a directory"), ("n" * 300, "name too long")])
def test_an_output_that_can_not_be_made_is_bad_input(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(InputError, match=rf"the output .* can't be made there: .*{words}; name a directory that can"):
        make_labels(tmp_path / place, SMALL)
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_fault_that_a_library_keeps_in_its_cause_is_told_with_the_room_left(tmp_path: Path) -> None:
    fault = OSError("Write failed. See previous exception for details.")
    fault.__cause__ = RuntimeError("TIFFAppendToStrip: Write error at scanline 0")
    with pytest.raises(WorldError, match=r"TIFFAppendToStrip: .*; nothing was left there \([\d,]+ MB are free on its"):
        write_and_fail(tmp_path / "out", fault)


def test_a_missing_or_unfinished_directory_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing-here does not exist; a scene directory is wanted"):
        Scene.open(tmp_path / "nothing-here")
    with pytest.raises(InputError, match=r"has no manifest.json, so it is no finished scene: run the stage"):
        Scene.open(tmp_path)


def test_a_writer_killed_half_way_leaves_nothing_that_opens(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from casbah.products.labels import LabelSet
with LabelSet.write(sys.argv[1], parameters={}) as draft:
    for name in LabelSet.required:
        (draft.directory / name).write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match="does not exist"):
        LabelSet.open(tmp_path / "out")
    for leftover in tmp_path.iterdir():
        with pytest.raises(InputError):
            LabelSet.open(leftover)


def test_a_failed_rewrite_leaves_the_older_product(labels: LabelSet) -> None:
    with pytest.raises(RuntimeError):
        write_and_fail(labels.path, RuntimeError("stopped"))
    assert LabelSet.open(labels.path).digest == labels.digest
    assert [p.name for p in labels.path.parent.iterdir()] == ["labels"]


def test_a_full_disk_is_a_fault_of_the_world_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"out could not be written: No space left on device; nothing was left there"):
        write_and_fail(tmp_path / "out", OSError(errno.ENOSPC, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_at_the_very_last_file_leaves_the_older_product(
    labels: LabelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(new: Path, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("casbah.products.manifest.replace_directory", full)
    with pytest.raises(WorldError, match="No space left on device"):
        make_labels(labels.path, SMALL, seed=1)
    monkeypatch.setattr("casbah.products.manifest.replace_directory", replace_directory)
    assert LabelSet.open(labels.path).digest == labels.digest


def test_while_a_product_is_replaced_there_is_one_at_every_moment(
    labels: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    if not _exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system can't exchange two directories")
    rename, seen = Path.rename, []

    def watched(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        seen.append(labels.path.exists())
        return moved

    monkeypatch.setattr(Path, "rename", watched)
    newer = make_labels(labels.path, SMALL, seed=1)
    assert False not in seen
    assert LabelSet.open(labels.path).digest == newer.digest != labels.digest
    assert {file.name for file in tmp_path.iterdir()} == {"labels", "one", "other"}


def test_where_directories_can_not_be_exchanged_the_older_product_is_replaced_or_put_back(
    labels: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casbah.products.manifest._exchange", lambda one, other: False)
    newer = make_labels(labels.path, SMALL, seed=1)
    assert newer.digest != labels.digest
    with pytest.raises(FileNotFoundError):
        replace_directory(tmp_path / "nothing", labels.path)
    assert LabelSet.open(labels.path).digest == newer.digest
    assert [file.name for file in tmp_path.iterdir()] == ["labels"]


def test_a_product_whose_replacing_was_killed_is_said_to_wait_beside_it(
    labels: LabelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    rename = Path.rename

    def first_then_killed(self: Path, target: Path) -> Path:
        if target == labels.path:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr("casbah.products.manifest._exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", first_then_killed)
    with pytest.raises(Killed):
        make_labels(labels.path, SMALL, seed=1)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"a run was stopped while it replaced it; rename .*partial-old-") as raised:
        LabelSet.open(labels.path)
    waiting = next(labels.path.parent.glob(".labels.partial-old-*"))
    assert str(waiting) in str(raised.value)
    waiting.rename(labels.path)
    assert LabelSet.open(labels.path).digest == labels.digest


def test_something_else_at_the_target_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something else than a labels; name another output or empty it"):
        make_labels(tmp_path / "out", SMALL)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_equal_content_has_an_equal_digest_whenever_it_was_made(tmp_path: Path) -> None:
    first, second = make_scene(tmp_path / "a", SMALL, seed=1), make_scene(tmp_path / "b" / "a", SMALL, seed=1)
    assert first.digest == second.digest
    assert make_scene(tmp_path / "c", SMALL, seed=2).digest != first.digest
