"""`casbah compare --small` trains and scores every row of the study, on one date, by one command."""

import subprocess
import sys
from pathlib import Path

import pytest
from builders import make_tiles

from casbah.compare.rows import study
from casbah.products.comparison import Comparison

pytestmark = pytest.mark.integration


def test_one_command_trains_and_scores_every_row_in_its_small_variant(tmp_path: Path) -> None:
    tiles = make_tiles(tmp_path / "tiles")
    words = ["compare", "--small", "--tiles", str(tiles.path), "--output", str(tmp_path / "study")]
    words += ["--seeds", "1", "--budgets", "all", "--set", "trainer.max_epochs=1", "--set", "trees.rounds=3"]
    done = subprocess.run([sys.executable, "-c", "from casbah.cli import main; main()", *words])
    assert done.returncode == 0
    facts = Comparison.open(tmp_path / "study" / "report").facts
    assert not facts.failed
    assert {row.experiment for row in facts.rows} == set(study(small=True))
    assert all(row.iou.value is not None for row in facts.rows)
    assert {row.starts_from for row in facts.rows if "boosted" in row.experiment} == {"trees"}
    pretrained = [row.experiment for row in facts.rows if row.starts_from.startswith("pretrained")]
    assert not pretrained, "the small variants need no published weights"
