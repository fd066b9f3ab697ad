"""The experiments that come with Casbah: one YAML each, found by name in a checkout, an install and a pod alike.

`configs/experiments` in the repository is a link to this folder.
"""

from difflib import get_close_matches
from pathlib import Path

from casbah.errors import InputError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The built-in experiments, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The YAML of a built-in experiment; `InputError` naming the nearest ones where there is none of that name."""
    file = FOLDER / f"{name}.yaml"
    if name in names():
        return file
    near = get_close_matches(name, names(), n=3, cutoff=0.4) or names()
    raise InputError(f"there is no built-in experiment {name!r}; did you mean {', '.join(near)}?")
