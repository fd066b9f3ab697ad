"""The evaluate stage: what a model scores on blocks it has not seen, and which model is the best one."""

from casbah.evaluate.selection import select
from casbah.evaluate.stage import evaluate

__all__ = ["evaluate", "select"]
