"""Report and map of an evaluation in a real browser: they render, run without an error and ask for nothing."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from browsers import QUIET, chromium
from builders import make_tiles
from scored_models import make_bundle, use_predictor

from casbah.evaluate import evaluate
from casbah.products.evaluation import Evaluation

pytestmark = pytest.mark.integration

DUMPED = (*QUIET, "--enable-logging=stderr", "--virtual-time-budget=3000")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    chromium()
    place = tmp_path_factory.mktemp("town")
    tiles = make_tiles(place / "tiles")
    bundle = make_bundle(place / "model", tiles)
    with pytest.MonkeyPatch.context() as patch:
        use_predictor(patch)
        return evaluate(model=bundle.path, tiles=tiles.path, output=place / "evaluation", resamples=100)


def opened(page: Path, tmp_path: Path) -> tuple[str, str, list[str]]:
    """The DOM after scripts ran, what the console said, and every address that was asked for because of the page."""
    log = tmp_path / "net.json"
    where = [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--dump-dom", page.as_uri()]
    done = subprocess.run([chromium(), *DUMPED, *where], capture_output=True, text=True, timeout=120, check=True)
    asked = re.findall(r'"url":"((?:https?|wss?|ftp):[^"]*)"', log.read_text(errors="replace"))
    own = [url for url in asked if not re.search(r"google|gvt1|gstatic", url)]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console, own


def test_the_report_shows_its_tables_and_pictures(evaluation: Evaluation, tmp_path: Path) -> None:
    dom, console, asked = opened(evaluation.path / "report.html", tmp_path)
    value = evaluation.metrics.building.iou.value
    assert f"{value:.3f}" in dom
    scores = re.search(r'<table id="scores">.*?</table>', dom, re.S)
    assert scores is not None
    assert scores.group().count("<tr") == 4
    assert dom.count("<img ") == 3
    assert len(re.findall(r"<code>32631_", dom)) == len(evaluation.metrics.blocks)
    assert "SIMULATED DATA" in dom
    assert console == ""
    assert asked == []


def test_the_map_draws_its_layers_and_block_outlines(evaluation: Evaluation, tmp_path: Path) -> None:
    dom, console, asked = opened(evaluation.path / "map.html", tmp_path)
    assert 'data-ready="yes"' in dom
    for layer in ("colour", "truth", "probability", "error"):
        assert f'data-layer="{layer}"' in dom
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', dom, re.S)
    assert data is not None
    blocks = json.loads(data.group(1))["areas"][0]["blocks"]
    assert {block["split"] for block in blocks} == {"train", "val", "test"}
    assert dom.count("<rect ") == len(blocks)
    assert dom.count('type="range"') == 5
    assert "SIMULATED DATA" in dom
    assert console == ""
    assert asked == []


def test_the_browser_test_would_see_an_error_and_a_request(tmp_path: Path) -> None:
    chromium()
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:9/tile.png"><script>nothing.at.all()</script>')
    _, console, asked = opened(page, tmp_path)
    assert "nothing is not defined" in console
    assert asked[0].startswith("http://127.0.0.1:9/tile.png")
