"""The mirror of published weights in the object store: `s3://casbah/weights/<name>/<file>` and its facts."""

from pathlib import Path

from pydantic import ValidationError

from casbah.errors import InputError
from casbah.storage import BUCKET, Location, Store, endpoint
from casbah.weights.local import FACTS, Facts
from casbah.weights.manifest import Published

PLACE = Location(BUCKET, "weights")


def named() -> bool:
    """Whether the environment names an object store of one's own (AWS_ENDPOINT_URL), which may hold a mirror."""
    return endpoint() is not None


class Mirror:
    """The mirror in the store that the environment names; `InputError` where its credentials are missing."""

    def __init__(self) -> None:
        self._store = Store.from_environment()

    @property
    def where(self) -> str:
        return f"{PLACE} at {self._store.endpoint}"

    def facts(self, entry: Published) -> Facts | None:
        """What the mirror says of a file, which is whole when it says anything; None where it has none."""
        place = PLACE / entry.name / FACTS
        if not self._store.exists(place):
            return None
        try:
            facts = Facts.model_validate_json(self._store.read(place))
        except (ValidationError, UnicodeDecodeError):
            raise InputError(f"{place} is damaged: delete it and run `casbah weights mirror {entry.name}`") from None
        return facts

    def get(self, entry: Published, target: Path) -> None:
        """Copy a file from the mirror."""
        self._store.get(PLACE / entry.name / entry.file, target)

    def put(self, entry: Published, file: Path, facts: Facts) -> bool:
        """Copy a file to the mirror, its facts last; False where it is there. `InputError` where another one is."""
        there = self.facts(entry)
        if there is not None and there.sha256 != facts.sha256:
            raise InputError(
                f"{PLACE / entry.name} holds another file of this name: its sha256 is {there.sha256}, and that of "
                f"{file} {facts.sha256}; one of them was tampered with, or published anew. Delete the wrong one"
            )
        if there is not None:
            return False
        self._store.ensure_bucket()
        self._store.put(file, PLACE / entry.name / entry.file)
        self._store.write(facts.model_dump_json(indent=2).encode(), PLACE / entry.name / FACTS)
        return True
