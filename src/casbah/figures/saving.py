"""A figure as a file: raster or vector by the name's end, the same bytes from run to run, whole or not at all."""

import io
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import matplotlib as mpl
from matplotlib.figure import Figure

from casbah.errors import InputError, unwritable

PAPER_DPI = 300
"""Of PNG files, and of the pictures inside PDF and SVG: what journals ask for."""

METADATA: dict[str, dict[str, str | None]] = {
    # Dates and versions would make equal figures unequal files.
    "png": {"Software": "casbah"},
    "pdf": {"Creator": "casbah", "Producer": "casbah", "CreationDate": None},
    "svg": {"Creator": "casbah", "Date": None},
}

STYLE: dict[Any, Any] = {"svg.hashsalt": "casbah", "svg.fonttype": "none", "pdf.fonttype": 42}
"""Text stays text in both, to be searched, edited and read aloud."""


def encoded(figure: Figure, suffix: str) -> bytes:
    """The figure as `png`, `pdf` or `svg`."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=suffix, dpi=PAPER_DPI, metadata=METADATA[suffix])
    return buffer.getvalue()


def write_whole(output: Path, content: bytes) -> None:
    """Write a file beside `output` and rename it there; what can't be written leaves nothing.

    `InputError` where the place can't be written, `WorldError` where the disk is full or broken.
    """
    if output.is_dir():
        raise InputError(f"{output} is a directory; name a file")
    if blocking := next((place for place in output.parents if place.is_file()), None):
        raise InputError(f"{output} can't be written: {blocking} is a file, not a directory")
    partial = output.with_name(f".{output.name}.partial-{uuid4().hex[:8]}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(output)
    except OSError as error:
        sentence = f"{output} could not be written: {error.strerror or error}; nothing was left there"
        raise unwritable(error)(sentence) from error
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be removed either
            partial.unlink()
