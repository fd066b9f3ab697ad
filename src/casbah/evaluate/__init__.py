"""The evaluate stage: what a model scores on blocks it has not seen, and which model is the best one.

Scoring draws maps and runs models; choosing reads numbers. So each function is imported when it is asked for, and an
image that only chooses needs neither torch nor rasterio.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from casbah.evaluate.selection import select
    from casbah.evaluate.stage import evaluate

__all__ = ["evaluate", "select"]

_MODULES = {"evaluate": "stage", "select": "selection"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"casbah.evaluate.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'casbah.evaluate' has no attribute {name!r}")
