"""The process of one trial: `casbah finetune`, or the check before the first, ended as soon as its parent is gone."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from casbah.interruption import end_with_parent


def main(arguments: list[str]) -> None:
    """Run `casbah` with these arguments, or `check` what a JSON text describes."""
    end_with_parent()
    if arguments[0] == "check":
        _check(json.loads(arguments[1]))
        return
    from casbah.cli import main as casbah

    casbah(arguments)


def _check(asked: Mapping[str, Any]) -> None:
    from casbah.errors import CasbahError
    from casbah.tune.training import DEFECT

    try:
        _check_all(asked)
    except CasbahError as error:
        print(f"casbah: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - the last door of this process, as in casbah.cli
        print(f"casbah: {DEFECT} ({type(error).__name__}: {error})", file=sys.stderr)
        sys.exit(CasbahError.exit_code)


def _check_all(asked: Mapping[str, Any]) -> None:
    from casbah.errors import InputError
    from casbah.finetune.run import check
    from casbah.products.tiles import TileSet

    config, overrides, max_labels = asked["config"], asked["overrides"], asked["max_labels"]
    tiles = [TileSet.open(Path(path), verify=False) for path in asked["tiles"]]
    for tile_set in tiles:
        check(config=config, tiles=tile_set, max_labels=max_labels, overrides=overrides)
    for words, more in asked["variants"]:
        try:
            check(config=config, tiles=tiles[0], max_labels=max_labels, overrides=[*overrides, *more])
        except InputError as error:
            raise InputError(f"{words}: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
