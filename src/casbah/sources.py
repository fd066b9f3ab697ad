"""The digest of code: what an earlier checkout left is not gone on from where this one would do something else."""

import hashlib
from collections.abc import Sequence
from pathlib import Path


def digest_of_sources(places: Sequence[Path]) -> str:
    """sha256 over names and bytes of Python files: those in folders, and files by themselves."""
    found = hashlib.sha256()
    for place in places:
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            name = f"{place.name}/{file.relative_to(place).as_posix()}" if place.is_dir() else place.name
            found.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()
