"""What `casbah terratorch` checks of an experiment on our tiles before TerraTorch's own command runs it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from casbah.errors import CasbahError, InputError
from casbah.finetune.complaint import gist, ours
from casbah.finetune.experiment import OTHERS, Experiment, located, read

COMMANDS = ("fit", "validate", "test")
OPTIONS = ("--config", "-c")
TILES = ("--data.init_args.tiles", "--data.tiles")

OF_COMMANDS = ("ckpt_path", "weights_only", "verbose")
"""Top-level keys that only TerraTorch's sub-commands take."""


def checked(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments with the path of a built-in experiment in the place of its name, and the experiment's file.

    The file is None where nothing is ours: another command, no or several files, or another data module. `InputError`
    where the experiment names what does not exist, or its tiles can't be opened; nothing has been written then.
    """
    given = list(arguments)
    places = [place for option in OPTIONS for place in _values(given, option)]
    if not given or given[0] not in COMMANDS or len(places) != 1:
        return given, None
    number, start = places[0]
    name = given[number][start:]
    file = located(name)
    given[number] = given[number][:start] + str(file)
    if not _is_ours(file):
        return given, None
    experiment = read(file, also=OF_COMMANDS)
    if not experiment.is_network:
        raise InputError(
            f"{file} {OTHERS[experiment.kind]}, which TerraTorch does not know: train it by "
            f"`casbah finetune --config {name} --tiles TILES --output MODEL`"
        )
    if not experiment.settings["data"]["class_path"].startswith("casbah.finetune."):
        return given, None
    _check(experiment, given)
    return given, str(file)


def _values(arguments: Sequence[str], option: str) -> list[tuple[int, int]]:
    """Where an option's values stand: the number of the argument, and of its character that each begins with."""
    found = []
    for number, word in enumerate(arguments):
        if word.startswith(f"{option}="):
            found.append((number, len(option) + 1))
        elif word == option and number + 1 < len(arguments):
            found.append((number + 1, 0))
    return found


def _is_ours(file: Path) -> bool:
    """Whether a file may be an experiment on our tiles; others are TerraTorch's to read."""
    text = file.read_text(encoding="utf-8", errors="replace")
    return "casbah.finetune." in text or "kind:" in text


def _check(experiment: Experiment, arguments: Sequence[str]) -> None:
    import casbah.finetune
    from casbah.finetune import names

    names.check(experiment, task=object)
    named = [arguments[number][start:] for option in TILES for number, start in _values(arguments, option)]
    tiles = named[-1] if named else experiment.settings["data"].get("init_args", {}).get("tiles")
    _ = casbah.finetune.TileDataModule(tiles=tiles).tile_set


@contextmanager
def in_a_sentence(where: str) -> Iterator[None]:
    """Make one `InputError` of the usage and the complaint that the parser prints, and of what our classes refuse."""
    from jsonargparse import ArgumentParser

    before: Any = ArgumentParser.error

    def refuse(self: Any, message: str, ex: Exception | None = None) -> None:
        if not self.exit_on_error:  # the parser is trying whether a value fits
            before(self, message, ex)
        raise InputError(f"{where} is refused by TerraTorch's parser: {gist(message)}")

    ArgumentParser.error = refuse  # type: ignore[method-assign,assignment]
    try:
        yield
    except CasbahError:
        raise
    except Exception as error:
        if (refused := ours(error)) is not None:
            raise refused from None
        raise
    finally:
        ArgumentParser.error = before  # type: ignore[method-assign]
