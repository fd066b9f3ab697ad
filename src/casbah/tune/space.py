"""Search spaces: which settings of an experiment are tried, and within what bounds."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casbah.errors import InputError
from casbah.finetune.experiment import TREES, Experiment, read_mapping, unknown
from casbah.tune import decoder

FOLDER = Path(__file__).parent / "spaces"

WORDS = ("low", "high", "log", "whole", "choices", "around", "scales", "from", "times", "only")
"""What an entry of a space file may hold."""

DIGITS = 4
"""Significant digits of a number that is tried: finer differences change no score, and are hard to read."""


@dataclass(frozen=True)
class Dimension:
    """One setting and the values that are tried: `low` to `high`, or one of `choices`.

    With `times`, what is drawn is multiplied by the value of that setting in the same trial.
    """

    key: str
    low: float = math.nan
    high: float = math.nan
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()
    times: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The choices as text, for what can't hold a list."""
        return tuple(json.dumps(choice) for choice in self.choices)

    def rounded(self, value: Any) -> Any:
        """A drawn number as it is tried: to `DIGITS` significant digits, and within the bounds."""
        if self.choices or self.whole:
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def ends(self) -> list[Any]:
        """Values whose check covers all: every choice; both bounds and a value between them."""
        if self.choices:
            return list(self.labels)
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [self.low, self.high, round(middle) if self.whole else self.rounded(middle)]


@dataclass(frozen=True)
class Space:
    """All that is tried, and the file that says so."""

    dimensions: tuple[Dimension, ...]
    source: str

    def settings(self, drawn: Mapping[str, Any], experiment: Mapping[str, Any]) -> dict[str, Any]:
        """Dotted keys -> values of one trial, the necks that a decoder needs among them.

        `drawn` has a number, or the label of a choice, for some or all of the dimensions.
        """
        found: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.key in drawn and dimension.times is None:
                value = drawn[dimension.key]
                found[dimension.key] = json.loads(value) if dimension.choices else value
        for dimension in self.dimensions:
            if dimension.key in drawn and dimension.times is not None:
                base = found.get(dimension.times, setting(experiment, dimension.times))
                if not _number(base):
                    raise InputError(
                        f"{self.source}: {dimension.key} is tried as a share of {dimension.times}, which is {base!r} "
                        "in the experiment; a number is wanted there"
                    )
                found[dimension.key] = float(f"{drawn[dimension.key] * base:.{DIGITS}g}")
        return found | decoder.necks(found, experiment)

    def drawn(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What would have to be drawn for an experiment's settings; what lies outside of the space is left out."""
        found: dict[str, Any] = {}
        for dimension in self.dimensions:
            value = setting(settings, dimension.key)
            if dimension.choices:
                if json.dumps(value) in dimension.labels:
                    found[dimension.key] = json.dumps(value)
                continue
            base = setting(settings, dimension.times) if dimension.times else 1
            if not _number(value) or not _number(base) or not base:
                continue
            value = value / base if dimension.times else value
            if dimension.low <= value <= dimension.high and (not dimension.whole or value == int(value)):
                found[dimension.key] = int(value) if dimension.whole else float(value)
        return found

    def described(self) -> dict[str, dict[str, Any]]:
        """The space as JSON can hold it."""
        return {dimension.key: _described(dimension) for dimension in self.dimensions}


def _described(dimension: Dimension) -> dict[str, Any]:
    if dimension.choices:
        return {"choices": list(dimension.choices)}
    found: dict[str, Any] = {"low": dimension.low, "high": dimension.high, "log": dimension.log}
    return (
        found | ({"whole": True} if dimension.whole else {}) | ({"times": dimension.times} if dimension.times else {})
    )


def of(experiment: Experiment, file: str | Path | None = None) -> Space:
    """The space that a file names, or the built-in one for the kind of the experiment.

    `InputError` where there is none, or where an entry is not understood.
    """
    path = Path(file) if file is not None else _built_in(experiment)
    if not path.is_file():
        raise InputError(f"{path} does not exist; the YAML of a search space is wanted")
    source = str(path) if file is not None else f"the built-in space {path.stem}"
    entries = read_mapping(path, "search space; a YAML mapping of dotted.key to {low, high} or {choices} is wanted")
    found = [_dimension(str(key), entry, experiment.settings, source) for key, entry in entries.items()]
    dimensions = tuple(dimension for dimension in found if dimension is not None)
    if not dimensions:
        raise InputError(f"{source} holds nothing to try for {experiment.name}")
    return Space(dimensions, source)


def setting(settings: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        if isinstance(settings, Mapping):
            settings = settings.get(part)
        elif isinstance(settings, list) and part.isdigit() and int(part) < len(settings):
            settings = settings[int(part)]
        else:
            return None
    return settings


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings as `--set` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _built_in(experiment: Experiment) -> Path:
    if experiment.kind == TREES:
        return FOLDER / "trees.yaml"
    if not experiment.is_network:
        raise InputError(
            f"{experiment.source}: there is no built-in space for the kind {experiment.kind}; tune what it is made of, "
            "or name a space with --space"
        )
    task = experiment.settings["model"]["class_path"]
    if task.rpartition(".")[2] != "BuildingSegmentationTask":
        raise InputError(
            f"{experiment.source}: there is no built-in space for model.class_path {task}; name one with --space"
        )
    return FOLDER / "networks.yaml"


def _pretrained(settings: Mapping[str, Any]) -> bool:
    model_args = setting(settings, "model.init_args.model_args") or {}
    return bool(model_args.get("backbone_pretrained") or model_args.get("pretrained"))


CONDITIONS: dict[str, Callable[[Mapping[str, Any], str], bool]] = {
    "pretrained backbone": lambda settings, key: _pretrained(settings),
    "exchangeable decoder": lambda settings, key: decoder.exchangeable(settings),
    "decoder of one width": lambda settings, key: decoder.of_one_width(settings),
    "stated": lambda settings, key: setting(settings, key) is not None,
}
"""What `only` may ask of the experiment and the entry's key; an entry whose condition does not hold is left out."""


def _dimension(key: str, entry: Any, settings: Mapping[str, Any], source: str) -> Dimension | None:
    where = f"{source}: {key}"
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is {entry!r}; {{low: …, high: …}} or {{choices: […]}} is wanted")
    for word in entry:
        if word not in WORDS:
            raise unknown("the word", str(word), WORDS, where)
    if "only" in entry:
        if entry["only"] not in CONDITIONS:
            raise unknown("the condition under only,", str(entry["only"]), CONDITIONS, where)
        if not CONDITIONS[entry["only"]](settings, key):
            return None
    kinds = [kind for kind in ("choices", "scales", "around", "low") if kind in entry]
    if len(kinds) != 1:
        found = " and ".join(kinds) if kinds else "none of them"
        raise InputError(f"{where} has {found}; one of low and high, choices, around and scales is wanted")
    if kinds[0] == "choices":
        return Dimension(key, choices=_choices(entry["choices"], where))
    if kinds[0] == "scales":
        return _scaled(key, entry, settings, where)
    return _range(key, entry, settings, where)


def _choices(given: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(given, list) or len(given) < 2:
        raise InputError(f"{where}.choices is {given!r}; a list of two or more is wanted")
    labels = [json.dumps(choice, default=str) for choice in given]
    if len(set(labels)) < len(labels):
        raise InputError(f"{where}.choices holds the same twice: {', '.join(labels)}")
    return tuple(json.loads(label) for label in labels)


def _scaled(key: str, entry: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> Dimension:
    """Choices that are multiples of what the experiment says, each number of a list by itself: whole where that is."""
    value = setting(settings, key)
    value = value if _numbers(value) else _stated(key, entry, settings, where)
    scales = _choices(entry["scales"], f"{where}.scales")
    for scale in scales:
        if not _number(scale) or scale <= 0:
            raise InputError(f"{where}.scales holds {scale!r}; numbers above 0 are wanted")
    found = [_times(value, scale) for scale in scales]
    return Dimension(key, choices=_choices([each for at, each in enumerate(found) if each not in found[:at]], where))


def _times(value: Any, scale: float) -> Any:
    if isinstance(value, list):
        return [_times(number, scale) for number in value]
    return round(value * scale) if isinstance(value, int) else value * scale


def _range(key: str, entry: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> Dimension:
    flags = {name: entry.get(name, False) for name in ("log", "whole")}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise InputError(f"{where}.{name} is {flag!r}; true or false is wanted")
    times = entry.get("times")
    if times is not None and (not isinstance(times, str) or flags["whole"]):
        raise InputError(f"{where}.times is {times!r}; the dotted key of another setting is wanted, and no whole: true")
    if "around" in entry:
        factor, value = entry["around"], _stated(key, entry, settings, where)
        if not _number(factor) or factor <= 1 or value <= 0:
            raise InputError(
                f"{where} is tried around {value!r} by a factor of {factor!r}; above 0 and above 1 is wanted"
            )
        low, high, flags["log"] = value / factor, value * factor, True
    else:
        low, high = entry["low"], entry.get("high")
    for name, bound in (("low", low), ("high", high)):
        if not _number(bound):
            raise InputError(f"{where}.{name} is {bound!r}; a finite number is wanted")
    if not low < high:
        raise InputError(f"{where} goes from {low:g} to {high:g}; low is to be below high")
    if flags["log"] and low <= 0:
        raise InputError(f"{where}.low is {low:g}; a range with log: true starts above 0")
    if flags["whole"]:
        if low != int(low) or high != int(high):
            raise InputError(f"{where} goes from {low:g} to {high:g}; with whole: true both are whole numbers")
        return Dimension(key, int(low), int(high), **flags)
    return Dimension(key, float(f"{low:.{DIGITS}g}"), float(f"{high:.{DIGITS}g}"), **flags, times=times)


def _stated(key: str, entry: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> Any:
    """What the experiment says of a setting, or what `from` says where it is silent."""
    value = setting(settings, key)
    value = entry.get("from") if value is None else value
    if not _number(value):
        raise InputError(f"{where} is {value!r} in the experiment; a number is wanted there, or under from")
    return value


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_number(each) for each in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
