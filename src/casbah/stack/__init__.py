"""The embedded services of one machine: an S3 server (SeaweedFS) and MLflow (SQLite, artifacts in that store).

Loopback only, free ports, generated credentials, no telemetry. Everything lives under one directory, so two
directories are two stacks. `up` starts what does not run yet, `down` leaves no process behind.
"""

from casbah.stack.stack import DIRECTORY, Stack, down, find, up

__all__ = ["DIRECTORY", "Stack", "down", "find", "up"]
