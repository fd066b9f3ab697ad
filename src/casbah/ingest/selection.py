"""What was chosen: the items of each time step and their offsets, saved so that a scene can be made again."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from casbah.addresses import without_secrets
from casbah.errors import InputError
from casbah.ingest.assets import SCL, Item, require
from casbah.ingest.composite import Source, Step
from casbah.ingest.reading import Layer
from casbah.progress import say

FILE = "items.json"
VERSION = 1

STRIPPED = "casbah:secret_left_out"
"""Marks an asset whose address had a password or a signature in it, which no file of Casbah's holds."""


class ChosenItem(BaseModel):
    """One item of a time step: its id, the look (day) it belongs to, and the decision on its offset."""

    model_config = ConfigDict(frozen=True)
    id: str
    day: str
    offset: int
    reason: str


class ChosenPeriod(BaseModel):
    """One time step: its dates (both inclusive) and its items, in the order in which they are laid over each other."""

    model_config = ConfigDict(frozen=True)
    start: str
    end: str
    items: tuple[ChosenItem, ...]


class Choice(BaseModel):
    """All that reading decided before a pixel was composited."""

    model_config = ConfigDict(frozen=True)
    version: int = VERSION
    level: str
    periods: tuple[ChosenPeriod, ...]
    attributions: tuple[str, ...] = ()
    simulated: bool = False


@dataclass(frozen=True)
class Selection:
    """The choice and the items themselves, by id."""

    choice: Choice
    items: dict[str, Item]

    def to_geojson(self) -> dict[str, Any]:
        """A GeoJSON FeatureCollection of the STAC items, with the choice under `casbah`; no address holds a secret."""
        return {
            "type": "FeatureCollection",
            "features": [_stripped(self.items[name]) for name in sorted(self.items)],
            "casbah": json.loads(self.choice.model_dump_json()),
        }

    def steps(self, bands: tuple[str, ...]) -> list[Step]:
        """The time steps, ready to read; `InputError` where an item lacks a band."""
        return [
            Step(tuple(self._look(period, day, bands) for day in _days(period)), bands)
            for period in self.choice.periods
        ]

    @property
    def complete(self) -> bool:
        """Whether every address is the one that the catalogue gave, with whatever secret it held."""
        return not any(asset.get(STRIPPED) for item in self.items.values() for asset in item["assets"].values())

    def renewed(self, items: Iterable[Item]) -> "Selection":
        """The same choice with the addresses of `items`, where they are among them."""
        fresh = {item["id"]: item for item in items}
        return replace(self, items={name: fresh.get(name, item) for name, item in self.items.items()})

    def without(self, exclude: Collection[str]) -> "Selection":
        """The choice less the items `exclude`; `InputError` where that leaves a period none."""
        unknown = sorted(set(exclude) - set(self.items))
        if unknown:
            say(f"{', '.join(unknown)} of --exclude is not among the items of the list")
        periods = []
        for period in self.choice.periods:
            kept = tuple(chosen for chosen in period.items if chosen.id not in exclude)
            if not kept:
                raise InputError(f"--exclude leaves no item from {period.start} to {period.end}; exclude fewer")
            periods.append(period.model_copy(update={"items": kept}))
        items = {name: item for name, item in self.items.items() if name not in exclude}
        return Selection(self.choice.model_copy(update={"periods": tuple(periods)}), items)

    def _look(self, period: ChosenPeriod, day: str, bands: tuple[str, ...]) -> tuple[Source, ...]:
        return tuple(source_of(self.items[c.id], bands, c.offset) for c in period.items if c.day == day)


def source_of(item: Item, bands: tuple[str, ...], offset: int = 0) -> Source:
    """An item as something to read; `InputError` where it lacks a band."""
    keys = require(item, bands)

    def layer(name: str) -> Layer:
        asset = item["assets"][keys[name]]
        return Layer(item["id"], name, asset["href"], nearest=name == SCL, stripped=bool(asset.get(STRIPPED)))

    return Source(item["id"], {name: layer(name) for name in bands}, layer(SCL) if SCL in keys else None, offset)


def read_selection(path: str | Path) -> Selection:
    """Read a saved `items.json`; `InputError` where it is missing, damaged, or of a newer kind."""
    path = Path(path)
    if path.is_dir():
        path = path / FILE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        choice = Choice.model_validate(saved["casbah"])
        items = {item["id"]: item for item in saved["features"]}
    except FileNotFoundError:
        raise InputError(f"the item list {path} does not exist; give the {FILE} of a scene") from None
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no item list that `casbah ingest` wrote ({type(error).__name__}); give the {FILE} of a scene"
        ) from None
    if choice.version > VERSION:
        raise InputError(
            f"{path} is an item list of version {choice.version}; this casbah reads up to {VERSION}: upgrade it"
        )
    absent = {c.id for period in choice.periods for c in period.items} - set(items)
    if absent:
        raise InputError(f"{path} lists {', '.join(sorted(absent))} without the item itself; give the file unchanged")
    return Selection(choice, items)


def _stripped(value: Any) -> Any:
    """An item, or a part of one, without the secrets in its addresses."""
    if isinstance(value, list):
        return [_stripped(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    parts = {key: _stripped(entry) for key, entry in value.items()}
    href = value.get("href")
    if isinstance(href, str) and without_secrets(href) != href:
        parts |= {"href": without_secrets(href), STRIPPED: True}
    return parts


def _days(period: ChosenPeriod) -> list[str]:
    return sorted({chosen.day for chosen in period.items})
