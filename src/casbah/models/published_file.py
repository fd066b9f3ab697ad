"""Reads a file of published weights without running code in it."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from casbah.errors import InputError

HARMLESS = (argparse.Namespace,)
"""What a pickle may hold beside tensors and plain values: the settings of SatMAE's training lie in a Namespace, which
only takes attributes when it is made."""

INNER = ("model", "state_dict")
"""Under which key the weights lie where a training's whole state was saved."""

ZIP, PICKLE = b"PK", b"\x80"


def read_state(file: Path) -> dict[str, Tensor]:
    """Names and tensors of a published file: safetensors, or what `torch.save` wrote.

    A training's state is unpacked to its weights. `InputError` where the file is cut or damaged, wants to run code, or
    holds no weights.
    """
    try:
        with open(file, "rb") as source:
            begin = source.read(2)
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror or error}") from None
    content = _pickled(file) if begin[:2] == ZIP or begin[:1] == PICKLE else _safe(file)
    for key in INNER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = {}
    if isinstance(content, Mapping):
        state = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{file} holds no weights: names and tensors are wanted, as `torch.save` of a state dict has")
    return state


def _safe(file: Path) -> Any:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is cut or damaged, or no file of weights ({_first(error)}): fetch it again") from None


def _pickled(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(list(HARMLESS)):
            # A whole training's state is several GB, of which the weights are a third: map it, and read what is used.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file) or None)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)|(?:function|class|type) '?(\S+?)'?>?(?:\s|$)", str(error))
        wanted = f" ({named.group(1) or named.group(2)})" if named else ""
        raise InputError(
            f"{file} holds more than weights and plain values{wanted}, which might run code: it is not loaded"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is cut or damaged, or no file of weights ({_first(error)}): fetch it again") from None


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:120]
