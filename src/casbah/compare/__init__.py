"""The study: every model on the same tiles, tuned and chosen on validation, reported on test.

`compare` trains and scores what is missing and writes the report; `report` writes it from models and evaluations that
are there. Each function is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from casbah.compare.stage import compare, report

__all__ = ["compare", "report"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("casbah.compare.stage"), name)
    raise AttributeError(f"module 'casbah.compare' has no attribute {name!r}")
