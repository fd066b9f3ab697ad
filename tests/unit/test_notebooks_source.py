"""The notebooks as they lie in git: no output, and nothing of Casbah but what a person may import."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat comes with the extra `dev`")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from api import PUBLIC, public_names  # noqa: E402 - it lies beside what it writes

FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code(file: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def foreign(source: str) -> list[str]:
    """What a cell takes of Casbah that is not public."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"import {one.name}" for one in node.names if one.name.split(".")[0] == "casbah"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "casbah":
            for one in node.names:
                whole = f"{node.module}.{one.name}"
                if whole in PUBLIC:
                    continue
                if node.module not in PUBLIC or one.name not in public_names(import_module(node.module)):
                    found.append(whole)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            found.append(node.attr)
    return found


def test_there_are_the_three_that_the_guide_names() -> None:
    assert [file.stem for file in FILES] == ["01_data_exploration", "02_finetune_prithvi", "03_results_analysis"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_output_is_kept_in_git(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    ran = [cell for cell in notebook.cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)]
    assert ran == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_only_public_names_of_casbah_are_imported(file: Path) -> None:
    assert [name for source in code(file) for name in foreign(source)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_reader_is_told_at_once_that_all_is_simulated(file: Path) -> None:
    first = nbformat.read(file, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert "simulated" in first.source


@pytest.mark.parametrize(
    "source",
    ["import casbah", "from casbah.tile.stage import tile", "from casbah.tile import Choices", "model._weights"],
)
def test_the_rule_sees_what_is_not_public(source: str) -> None:
    assert foreign(source)
