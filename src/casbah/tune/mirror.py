"""A study in an object store: what a machine that is lost had found is taken up by the next one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import casbah
from casbah.errors import CasbahError
from casbah.exclusion import alone
from casbah.finetune import checkpoints
from casbah.finetune.experiment import digest
from casbah.progress import say
from casbah.storage import Location, Store
from casbah.tune.record import JOURNAL


class Mirror:
    """The journal and the trials' checkpoints of one study, below `address/tuning/<digest of what is asked for>/`.

    That is what it was `begun` with (see `casbah.tune.record.WORDS`), the number of `trials`, and the code that trains:
    a study of more trials is another one there, since the best of more can't be that of fewer. The journal is sent
    after every trial. A model is not: of a network the best trial's checkpoints stay, from which it is made again
    without training, and those of the others go; trees are grown again.
    """

    def __init__(self, address: str, directory: Path, begun: Mapping[str, Any], trials: int) -> None:
        asked = [*begun.values(), trials, casbah.__version__, checkpoints.code()]
        self.place = Location.parse(address) / "tuning" / digest(asked)
        self._directory = directory
        self._store = Store.from_environment()
        self.lost = False
        """Whether the store failed, or is ahead: from then on checkpoints lie on this machine alone."""

    def fetch(self) -> None:
        """Bring the journal where it is longer than the one on this machine, and so holds more trials.

        `WorldError` where the store can't be reached.
        """
        self._store.ensure_bucket(self.place.bucket)
        there, here = self.place / JOURNAL, self._directory / JOURNAL
        if not self._store.exists(there):
            return
        found = self._store.read(there)
        with alone(self._directory, "casbah tune"):
            if not here.is_file() or here.stat().st_size < len(found):
                say(f"the study goes on from {there}")
                here.write_bytes(found)

    def checkpoints(self, trial: int) -> str:
        """The address below which a trial keeps its checkpoints."""
        return str(self._trial(trial))

    def keep(self, best: int | None, recorded: int) -> None:
        """Send the journal; of trials 0 to `recorded`, only the `best` one's checkpoints are of any use then.

        A store that fails is told once, and costs what it would have saved.
        """
        here, there = self._directory / JOURNAL, self.place / JOURNAL
        try:
            if self._store.exists(there) and len(self._store.read(there)) > here.stat().st_size:
                self._lose(f"{there} holds more trials than {here}: another machine makes the same study")
                return
            self._store.put(here, there)
            for location in self._store.list(self._trials):
                number = location.key.removeprefix(self._trials.key).partition("/")[0]
                if number != str(best) and int(number) <= recorded:
                    self._store.remove(location)
        except CasbahError as error:
            self._lose(str(error))

    def _lose(self, why: str) -> None:
        if not self.lost:
            say(f"{why}; tuning goes on, and what it finds from here on is kept on this machine alone")
        self.lost = True

    @property
    def _trials(self) -> Location:
        return Location(self.place.bucket, f"{self.place.key}/trials/")

    def _trial(self, number: int) -> Location:
        return self._trials / str(number)
