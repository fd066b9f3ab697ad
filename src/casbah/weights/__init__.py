"""Published weights of the backbones: known by one manifest, kept in a local store, mirrored, checked before use."""

from casbah.weights.checking import State, Verdict, state_of, verify
from casbah.weights.fetching import add, check_available, copy_to_mirror, fetch, offline, path, unanswered
from casbah.weights.local import DEFAULT, VARIABLE, Facts, LocalStore
from casbah.weights.manifest import Published, asked_for, entries, find, hub_endpoint, serving

__all__ = [
    "DEFAULT",
    "VARIABLE",
    "Facts",
    "LocalStore",
    "Published",
    "State",
    "Verdict",
    "add",
    "asked_for",
    "check_available",
    "copy_to_mirror",
    "entries",
    "fetch",
    "find",
    "hub_endpoint",
    "offline",
    "path",
    "serving",
    "state_of",
    "unanswered",
    "verify",
]
