"""Which extra of the installation brings what a command needs."""

import importlib.metadata
import re

EXTRAS = {
    "demo": "all",
    "ingest": "geo",
    "label": "geo",
    "tile": "geo",
    "weights": "train",
    "finetune": "train",
    "tune": "train",
    "evaluate": "train,report",
    "select": "train,report",
    "compare": "train,report",
    "predict": "train",
    "merge": "geo",
    "publish": "geo",
    "cells": "geo",
    "register": "train",
    "rollback": "train",
    "registry": "train",
    "footprints": "geo",
    "visualize": "train,report",
    "pipeline": "all",
    "submit": "geo,pipeline",
    "sample": "geo",
    "up": "stack",
    "down": "stack",
    "terratorch": "train",
    "doctor": "all",
}
"""Command -> the extras with which it runs."""

DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
"""Modules that are called otherwise than the package that brings them."""


def advice(command: str, error: ModuleNotFoundError) -> str | None:
    """The sentence for a command that lacks a module of an extra; None where the module belongs to none."""
    module = (error.name or "").partition(".")[0]
    if command not in EXTRAS or _plain(DISTRIBUTIONS.get(module, module)) not in _optional():
        return None
    return f"casbah {command} needs {module}: pip install 'casbah[{EXTRAS[command]}]'"


def _optional() -> set[str]:
    """What the extras bring, by plain names."""
    try:
        wanted = importlib.metadata.requires("casbah") or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    names = {_plain(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in wanted if "extra ==" in line}
    return names - {"casbah"}


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
