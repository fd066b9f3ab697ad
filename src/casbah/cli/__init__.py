"""`casbah`: one sub-command per stage.

Each module here adds its commands to `casbah.cli.root.app` and imports its stage only when a command runs, so that
`casbah --help` answers at once.
"""

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import typer

from casbah.cli.extras import advice
from casbah.cli.root import app
from casbah.errors import BAD_PATH, CasbahError, InputError, unreachable

MODULES = (
    "demo",
    "ingest",
    "label",
    "tile",
    "weights",
    "finetune",
    "tune",
    "evaluate",
    "compare",
    "predict",
    "register",
    "registry",
    "merge",
    "footprints",
    "publish",
    "visualize",
    "pipeline",
    "submit",
    "sample",
    "stack",
    "terratorch",
    "doctor",
)
"""In the order in which `--help` lists their commands."""

for _module in MODULES:
    import_module(f"casbah.cli.{_module}")

STOPPED = 130
"""The shell's exit code of a command stopped by Ctrl-C."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit code 0, 2 (bad input), 3 (a fault of the world), 1 (a defect of Casbah)."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        app([word for word in given if word != "--debug"], prog_name="casbah")
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(STOPPED)
    except CasbahError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"casbah: {error}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if debug:
            traceback.print_exc()
        command = next((word for word in given if not word.startswith("-")), "")
        if (sentence := advice(command, error)) is None:
            _defect(error)
        typer.echo(f"casbah: {sentence}", err=True)
        sys.exit(InputError.exit_code)
    except OSError as error:
        if debug:
            traceback.print_exc()
        if error.errno not in BAD_PATH or not _was_given(error.filename, given):
            _defect(error)
        typer.echo(f"casbah: {unreachable(error)}", err=True)
        sys.exit(InputError.exit_code)
    except Exception as error:  # noqa: BLE001 - the last door: a defect is one line unless --debug
        if debug:
            traceback.print_exc()
        _defect(error)


def _was_given(filename: object, words: list[str]) -> bool:
    """Whether a file is one that the command line names, or lies in such a directory."""
    if not isinstance(filename, str):
        return False
    file = Path.cwd() / filename
    named = {part for word in words for part in (word, word.partition("=")[2]) if part}
    return any(file.is_relative_to(Path.cwd() / name) for name in named)


def _defect(error: Exception) -> NoReturn:
    kind = type(error).__name__
    typer.echo(f"casbah: a defect in Casbah ({kind}: {error}); run again with --debug and report it", err=True)
    sys.exit(CasbahError.exit_code)
