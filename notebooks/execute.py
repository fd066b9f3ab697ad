"""Runs the notebooks in order, and keeps them with their output beside what they made.

    python notebooks/execute.py build/notebooks

Each runs in a process of its own, with the folder named as its working directory, so that later ones find what earlier
ones made. The notebooks in git hold no output.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
SECONDS = 1800
"""A cell that takes longer hangs: all of them together take a few minutes on two cores."""


def execute(folder: Path) -> Iterator[tuple[str, nbformat.NotebookNode]]:
    """Run every notebook with `folder` as its working directory: its name, and itself with output.

    `nbclient.exceptions.CellExecutionError` where a cell fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=SECONDS, resources=where).execute()
        yield file.stem, notebook


def main(folder: Path) -> None:
    """Run them all, and write each as `<name>.ipynb` in the folder."""
    for name, notebook in execute(folder):
        nbformat.write(notebook, folder / f"{name}.ipynb")
        print(folder / f"{name}.ipynb", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
