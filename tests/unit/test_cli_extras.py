"""A command whose extra is not installed says which one brings it, and anything else missing stays a defect."""

import re
import tomllib
from pathlib import Path

import pytest
import typer

from casbah import stack
from casbah.cli import main
from casbah.cli.extras import EXTRAS
from casbah.cli.root import app

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(str(ended.value.code)), capsys.readouterr().err


def lacking(module: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {module!r}", name=module)


@pytest.mark.parametrize("module", ["psutil", "cryptography.x509"])
def test_a_missing_extra_is_named_with_how_to_install_it(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(directory: Path) -> None:
        raise lacking(module)

    monkeypatch.setattr(stack, "up", fail)
    name = module.split(".")[0]
    assert said(capsys, "up", "--directory", str(tmp_path)) == (
        2,
        f"casbah: casbah up needs {name}: pip install 'casbah[stack]'\n",
    )


def test_a_missing_module_of_no_extra_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for module in ("casbah.nowhere", "jsn"):

        def fail(directory: Path, module: str = module) -> None:
            raise lacking(module)

        monkeypatch.setattr(stack, "up", fail)
        code, sentence = said(capsys, "up", "--directory", str(tmp_path))
        assert code == 1
        assert sentence.startswith("casbah: a defect in Casbah (ModuleNotFoundError")


def test_every_command_names_extras_that_there_are() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(EXTRAS)
    known = PROJECT["project"]["optional-dependencies"]
    for extras in EXTRAS.values():
        assert set(re.split(",", extras)) <= set(known)
