"""The record of a study: what it was begun with, and its finished trials, in a journal that Optuna reads."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from casbah.errors import InputError
from casbah.exclusion import LOCK
from casbah.tune import suggestions
from casbah.tune.space import Space

JOURNAL = "journal.log"

NAME = "casbah"
"""Of the study in its journal."""

WORDS = {
    "experiment": "another experiment or other --set",
    "tiles": "other tiles",
    "max_labels": "another --max-labels",
    "seed": "another --seed",
    "space": "another search space",
}
"""What a study is begun with, and how a difference is told."""


@dataclass(frozen=True)
class Trial:
    """One training of a study: `iou` where it finished, else the `reason` why it did not.

    `drawn` are Optuna's numbers and labels, `settings` the dotted keys and values that they stand for. `seconds` were
    spent training. `config` is the digest of the bundle's configuration, `code` that of the code that trained.
    """

    number: int
    drawn: dict[str, Any]
    settings: dict[str, Any]
    iou: float | None
    reason: str | None
    seconds: float
    epochs: int | None
    config: str | None
    code: str


class Record:
    """A study's journal in its directory."""

    def __init__(self, directory: Path, space: Space, begun: Mapping[str, Any]) -> None:
        self.directory, self.space = directory, space
        _mend(directory / JOURNAL)
        # Optuna waits long for a lock that a kill left; the whole study is locked already.
        (directory / f"{JOURNAL}.lock").unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(str(directory / JOURNAL)))
        self._study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize", load_if_exists=True)
        if not self._study.user_attrs:
            self._study.set_user_attr("begun", dict(begun))

    @property
    def frozen(self) -> list[FrozenTrial]:
        """The finished trials as Optuna keeps them, in order."""
        return self._study.get_trials(deepcopy=False)

    @property
    def trials(self) -> list[Trial]:
        """The finished trials, in order."""
        return [_trial(found) for found in self.frozen]

    def add(self, trial: Trial) -> None:
        """Keep a finished trial: one line, written whole."""
        facts = {name: getattr(trial, name) for name in ("settings", "reason", "seconds", "epochs", "config", "code")}
        state = TrialState.FAIL if trial.iou is None else TrialState.COMPLETE
        self._study.add_trial(
            suggestions.frozen(self.space, trial.drawn, state=state, value=trial.iou, user_attrs=facts)
        )


def _trial(found: FrozenTrial) -> Trial:
    iou = found.value if found.state is TrialState.COMPLETE else None
    return Trial(number=found.number, drawn=dict(found.params), iou=iou, **found.user_attrs)


def earlier(directory: Path) -> optuna.Study | None:
    """The study in a directory; None where nothing is there yet. `InputError` where something else lies there."""
    try:
        if not directory.exists() or not _holdings(directory):
            return None
    except OSError as error:
        raise InputError(
            f"the output {directory} can't be made there: {error.strerror}; name a directory that can be written"
        ) from None
    journal = directory / JOURNAL
    if not journal.is_file():
        raise InputError(f"{directory} already holds something else than a study; name another output or empty it")
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.load_study(study_name=NAME, storage=storage)
        return study if study.user_attrs else None
    except KeyError:  # killed before its first line
        return None
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{journal} is damaged; name another output, or delete it to begin again") from None


def _holdings(directory: Path) -> list[str]:
    """What lies in a directory beside what a study killed in its first moment leaves."""
    return [path.name for path in directory.iterdir() if path.name not in (LOCK, "trials")]


def check_same(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """`InputError` naming what differs where the study in a directory was begun with something else than `now`."""
    differing = [words for name, words in WORDS.items() if before.get(name) != now[name]]
    if differing:
        raise InputError(
            f"{directory} holds a study of {' and '.join(differing)}; go on with what it was begun with, or name "
            "another output"
        )


def _mend(journal: Path) -> None:
    """Cut off a last line that a kill left unfinished: what follows it would not be read."""
    if not journal.is_file():
        return
    content = journal.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(journal, content.rfind(b"\n") + 1)
