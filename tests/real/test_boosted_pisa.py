"""On real imagery and real footprints, trees beat the built-up index, and a second date helps them."""

from pathlib import Path

import pytest

from casbah.evaluate import evaluate
from casbah.finetune import trees
from casbah.ingest import ingest
from casbah.label import label
from casbah.tile import tile

QUICK = {"trees": {"rounds": 60, "learning_rate": 0.2, "patience": 10}, "background_share": 0.1}


def scored(shared: Path, place: Path, start: str, periods: int) -> tuple[float, float]:
    """Building IoU of the trees and of the built-up index on one hold-out split of Pisa."""
    data = shared / "data"
    area = data / "footprints/pisa/labelled_area.geojson"
    catalogue = {"stac": str(data / "sentinel-2/catalog.json"), "level": "L1C"}
    ingest(aoi=str(area), start=start, end="2018-02-11", periods=periods, output=place / "scene", **catalogue)
    label(
        scene=place / "scene",
        source=str(data / "footprints/pisa/buildings.gpkg"),
        labelled_area=area,
        output=place / "labels",
    )
    tiles = tile(
        scenes=[place / "scene"],
        labels=[place / "labels"],
        output=place / "tiles",
        tile_size=64,
        test_fraction=0.4,
        val_fraction=0.2,
    )
    trees.train(settings=QUICK, tiles=tiles, output=place / "model", seed=0)
    metrics = evaluate(model=place / "model", tiles=tiles.path, output=place / "evaluation").metrics
    return metrics.building.iou.value or 0.0, metrics.baselines["built-up index"].iou.value or 0.0


@pytest.mark.long
@pytest.mark.real
def test_trees_beat_the_built_up_index_and_two_dates_beat_one(shared: Path, tmp_path: Path) -> None:
    one, index = scored(shared, tmp_path / "one", "2018-02-11", 1)
    two, _ = scored(shared, tmp_path / "two", "2015-07-04", 2)
    assert one > index + 0.05
    assert two > one
    assert 0.3 < one < 0.6, "0.8 at 10 m would be a sign of leakage"
