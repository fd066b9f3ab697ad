"""One process that scores a trained row: `python -m casbah.compare.scoring_process MODEL TILES OUTPUT`.

Both splits and the maps in one go, since loading torch takes longer than scoring a few blocks.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from casbah.compare.ground import Ground
from casbah.compare.shown import write_probabilities
from casbah.errors import CasbahError
from casbah.evaluate import evaluate
from casbah.interruption import end_with_parent
from casbah.products.model import ModelBundle

SPLITS = ("val", "test")
SHOWN = "shown.npz"


def main(words: Sequence[str]) -> int:
    """Write `OUTPUT/val`, `OUTPUT/test` and `OUTPUT/shown.npz`; the exit code is that of a command.

    `words` are MODEL, TILES and OUTPUT.
    """
    model, tiles, output = map(Path, words)
    try:
        ground = Ground.open(tiles)
        for split in SPLITS:
            evaluate(model=model, tiles=tiles, output=output / split, split=split)
        write_probabilities(bundles(model, ground), ground, output / SHOWN)
    except CasbahError as error:
        print(f"casbah: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def bundles(model: Path, ground: Ground) -> tuple[ModelBundle, ...]:
    """The models of a row, one a part of the ground. (Their files were checked when they were scored.)"""
    paths = [model if part.fold is None else model / f"fold_{part.fold}" for part in ground.parts]
    return tuple(ModelBundle.open(path, verify=False) for path in paths)


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
