"""The notebooks run from the first cell to the last, one after the other, and leave what they promise."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="nbclient comes with the extra `dev`")
pytest.importorskip("ipykernel", reason="ipykernel comes with the extra `dev`")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))

from execute import execute  # noqa: E402 - it lies beside what it runs
from nbformat import NotebookNode  # noqa: E402

from casbah.products.comparison import Comparison  # noqa: E402
from casbah.products.footprints import FootprintSet  # noqa: E402
from casbah.products.labels import LabelSet  # noqa: E402
from casbah.products.model import ModelBundle  # noqa: E402
from casbah.products.prediction import Prediction  # noqa: E402
from casbah.products.scene import Scene  # noqa: E402
from casbah.products.tiles import TileSet  # noqa: E402

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, NotebookNode]]:
    """Where they worked, and each with its output."""
    folder = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
            (folder / name).mkdir()
            patch.setenv(name, str(folder / name))
        for name in ("AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        return folder / "runs" / "notebooks", dict(execute(folder))


def said(notebook: NotebookNode) -> str:
    """What the cells printed, and the words of what they showed."""
    words = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                words.append(output.text)
            elif "data" in output:
                words.append(output.data.get("text/markdown", ""))
    return "\n".join(words)


def pictures(notebook: NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))


def test_the_first_makes_scene_labels_and_tiles_and_shows_them(ran: tuple[Path, dict[str, NotebookNode]]) -> None:
    work, notebooks = ran
    scene, labels, tiles = Scene.open(work / "scene"), LabelSet.open(work / "labels"), TileSet.open(work / "tiles")
    assert labels.manifest.inputs["scene"] == scene.digest
    assert all(len(tiles.split(split)) for split in ("train", "val", "test"))
    assert f"{labels.info.footprints:,} polygons from footprints.gpkg (SIMULATED)" in said(
        notebooks["01_data_exploration"]
    )
    nearest = float(said(notebooks["01_data_exploration"]).rpartition("closer to a test tile than ")[2].split()[0])
    assert nearest >= tiles.info.guard
    assert pictures(notebooks["01_data_exploration"]) == 5


def test_the_second_trains_prithvi_on_these_tiles_and_says_what_it_started_from(
    ran: tuple[Path, dict[str, NotebookNode]],
) -> None:
    work, notebooks = ran
    bundle = ModelBundle.open(work / "prithvi")
    assert bundle.training.tiles == TileSet.open(work / "tiles").digest
    assert (bundle.training.epochs, bundle.training.weights_origin) == (2, "random weights")
    words = said(notebooks["02_finetune_prithvi"])
    assert f"{bundle.training.parameters:,} parameters from random weights" in words
    assert "built-up index" in words


def test_the_third_keeps_that_model_and_sets_it_beside_the_trees(ran: tuple[Path, dict[str, NotebookNode]]) -> None:
    work, notebooks = ran
    rows = {row.experiment: row for row in Comparison.open(work / "comparison").facts.rows}
    assert set(rows) == {"prithvi_tiny_upernet", "boosted_pixels"}
    training = ModelBundle.open(work / "prithvi").manifest.created
    assert training < Comparison.open(work / "comparison").manifest.created
    assert f"| boosted_pixels | {rows['boosted_pixels'].validation_iou:.3f} |" in said(notebooks["03_results_analysis"])


def test_the_third_leaves_a_map_with_its_polygons_under_one_address(ran: tuple[Path, dict[str, NotebookNode]]) -> None:
    work, notebooks = ran
    prediction, drawn = Prediction.open(work / "map"), FootprintSet.open(work / "buildings")
    assert prediction.grid == Scene.open(work / "scene").grid
    assert drawn.manifest.inputs["prediction"] == prediction.digest
    assert set(drawn.info.objects["ground"]) == {"unseen", "seen"}
    collection = json.loads((work / "published" / "collection.json").read_text())
    assert collection["summaries"]["casbah:simulated"] == [True]
    assert f"polygons     {drawn.info.polygons:,}" in said(notebooks["03_results_analysis"])
