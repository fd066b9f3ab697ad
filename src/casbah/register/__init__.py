"""The register stage: versions in MLflow, champion and challenger."""

from casbah.register.leftovers import settle
from casbah.register.pruning import Pruning, prune
from casbah.register.reporting import report
from casbah.register.stage import Registration, register, rollback
from casbah.register.versions import CHALLENGER, CHAMPION, NAME

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "NAME",
    "Pruning",
    "Registration",
    "prune",
    "register",
    "report",
    "rollback",
    "settle",
]
