"""Experiments: read strictly, checked by name before anything is trained, and resolved with every default."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from casbah import experiments
from casbah.errors import InputError
from casbah.seeds import checked_seed

NETWORK, TREES, ENSEMBLE = "network", "boosted_pixels", "ensemble"

OTHERS = {TREES: "grows trees", ENSEMBLE: "blends other models"}
"""Values of the top-level key `kind` of experiments that are no networks, which have no such key: what each does."""

TOP_LEVEL = (
    "seed_everything",
    "trainer",
    "model",
    "data",
    "optimizer",
    "lr_scheduler",
    "custom_modules_path",
    "predict_output_dir",
    "output_file_prefix",
    "out_dtype",
    "deploy_config_file",
)
"""What TerraTorch's command line takes in a file."""

PLACES = ("tiles", "dirpath", "default_root_dir", "logger")
"""Settings that say where files lie, or who listens: they change no weight, and no digest."""


@dataclass(frozen=True)
class Experiment:
    """`settings` as the file has them, with overrides applied."""

    name: str
    settings: dict[str, Any]
    source: str

    @property
    def kind(self) -> str:
        """`network`, or the `kind` that it names."""
        return self.settings.get("kind", NETWORK)

    @property
    def is_network(self) -> bool:
        """Whether TerraTorch's command line takes it too."""
        return self.kind == NETWORK

    @property
    def seed_key(self) -> str:
        """The setting that is the seed."""
        return "seed_everything" if self.is_network else "seed"

    @property
    def seed(self) -> int:
        """What the file says under `seed_key`, else 0; `InputError` where that is no seed."""
        return checked_seed(self.settings.get(self.seed_key, 0), f"{self.source}: {self.seed_key}")


class _Strict(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and reads 1e-3 as a number, as TerraTorch does."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before merge keys (<<) are filled in: what they bring may stand again.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"a key in line {key.start_mark.line + 1} is a list or a mapping; a name is wanted")
            if (key.tag, key.value) in seen:
                raise InputError(f"the key {key.value!r} stands twice (again in line {key.start_mark.line + 1})")
            seen.add((key.tag, key.value))
        return node


_Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def read(config: str | Path, overrides: Sequence[str] = (), also: Sequence[str] = ()) -> Experiment:
    """Read an experiment from a file, or a built-in one by its name; `overrides` are `dotted.key=value`.

    It may hold the top-level keys in `also` beside those in `TOP_LEVEL`.

    `InputError` where there is no such file or name, where it is no YAML mapping, or where a key stands twice.
    """
    path = located(config)
    settings = read_mapping(path, "experiment; a YAML mapping with the keys trainer, data and model is wanted")
    for override in overrides:
        _override(settings, override)
    experiment = Experiment(path.stem, settings, str(path))
    if "kind" in settings:
        if settings["kind"] not in OTHERS:
            raise unknown("the kind", str(settings["kind"]), OTHERS, f"{path}")
    else:
        _check_sections(settings, str(path), (*TOP_LEVEL, *also))
    _ = experiment.seed
    return experiment


def located(config: str | Path) -> Path:
    """The YAML of an experiment, given by its path or a built-in name; `InputError` where there is none."""
    path = Path(config)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise InputError(
            f"{path} does not exist; give the YAML of an experiment, or one of {', '.join(experiments.names())}"
        )
    return experiments.find(str(config))


def names_model(entry: str) -> bool:
    """Whether a member of an ensemble is the path of a trained model (or of those of folds), and no experiment."""
    return entry not in experiments.names() and Path(entry).is_dir()


def check_range(
    what: str, value: float | None, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> None:
    """`InputError` where a number that a setting gives is not finite, or out of its range; None passes."""
    if value is None or (math.isfinite(value) and least <= value <= most and value > above):
        return
    lower = f"above {above:g}" if math.isfinite(above) else f"from {least:g} on"
    wanted = lower if math.isinf(most) else f"from {least:g} to {most:g}"
    raise InputError(f"{what} is {value:g}; a finite number {wanted} is wanted")


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def without_places(value: Any) -> Any:
    """A resolved configuration without what only says where files lie."""
    if isinstance(value, Mapping):
        return {key: without_places(inner) for key, inner in value.items() if key not in PLACES}
    if isinstance(value, list):
        return [without_places(inner) for inner in value]
    return value


def unknown(what: str, found: str, known: Iterable[str], where: str) -> InputError:
    """The one sentence for a name that does not exist, with the nearest ones that do."""
    known = sorted(set(known))
    near = get_close_matches(found, known, n=3, cutoff=0.6)
    listed = ", ".join(known[:40]) + (", …" if len(known) > 40 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {listed}"
    return InputError(f"{where}: {what} {found!r} is unknown; {hint}")


def read_mapping(path: Path, wanted: str) -> dict[str, Any]:
    """A YAML file that is a mapping; `InputError` where it is none, or a key stands twice: it holds no `wanted`."""
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _Strict)  # noqa: S506 - a SafeLoader
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise InputError(f"{path} is not YAML{where}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no {wanted}")
    return settings


def _override(settings: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise InputError(
            f"override {override!r} is not understood; dotted.key=value is wanted, as trainer.max_epochs=3"
        )
    try:
        value = yaml.load(text, _Strict)  # noqa: S506 - a SafeLoader
    except InputError as error:
        raise InputError(f"override {override!r}: {error}") from None
    except yaml.YAMLError:
        raise InputError(f"the value in the override {override!r} is not YAML") from None
    *parents, last = dotted.split(".")
    place: Any = settings
    for number, part in enumerate(parents, 1):
        key: Any = _position(place, part, override) if isinstance(place, list) else part
        if isinstance(place, dict) and place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict | list):
            found = ".".join(parents[:number])
            raise InputError(f"override {override!r}: {found} is {place!r}, which has nothing below it to set")
    place[_position(place, last, override) if isinstance(place, list) else last] = value


def _position(items: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise InputError(f"override {override!r}: {part!r} is no position in a list of {len(items)}")
    return int(part)


def _check_sections(settings: Mapping[str, Any], where: str, top_level: Sequence[str]) -> None:
    for key in settings:
        if key not in top_level:
            raise unknown("the key", str(key), (*top_level, "kind"), where)
    for key in ("model", "data"):
        section = settings.get(key)
        if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
            raise InputError(f"{where}: {key} names no class; a class_path (and init_args) is wanted under {key}")
        for inner in section:
            if inner not in ("class_path", "init_args"):
                raise unknown(f"the key {key}.", str(inner), ("class_path", "init_args"), where)
        if not isinstance(section.get("init_args", {}), dict):
            raise InputError(f"{where}: {key}.init_args is no mapping of names to values")
