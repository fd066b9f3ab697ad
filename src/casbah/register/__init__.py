"""The register stage: versions in MLflow, champion and challenger."""

from casbah.register.leftovers import settle
from casbah.register.stage import CHALLENGER, CHAMPION, NAME, Registration, register, rollback

__all__ = ["CHALLENGER", "CHAMPION", "NAME", "Registration", "register", "rollback", "settle"]
