"""Searches an experiment's settings on validation alone: `casbah.tune.tune(config=…, tiles=…, output=…)`."""

from casbah.tune.run import tune

__all__ = ["tune"]
