"""Real imagery and footprints of Pisa: little is wasted, nothing is shared, and every split finds the same shift."""

import itertools
from pathlib import Path

import pytest

from casbah.ingest import ingest
from casbah.label import label
from casbah.products.tiles import SPLITS, TileFolds
from casbah.tile import tile

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def folds(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> TileFolds:
    """Four aligned folds of 64 px tiles from two dates."""
    work, data = tmp_path_factory.mktemp("pisa"), shared / "data"
    area = data / "footprints" / "pisa" / "labelled_area.geojson"
    ingest(
        aoi=area,
        start="2015-01-01",
        end="2018-12-31",
        stac=str(data / "sentinel-2" / "catalog.json"),
        output=work / "scene",
        bands=["B02", "B03", "B04", "B08"],
        periods=2,
    )
    buildings = data / "footprints" / "pisa" / "buildings.gpkg"
    label(scene=work / "scene", source=str(buildings), labelled_area=area, output=work / "labels")
    paths = {"scenes": [work / "scene"], "labels": [work / "labels"], "output": work / "tiles"}
    made = tile(**paths, tile_size=64, folds=4, align=True)
    assert isinstance(made, TileFolds)
    return made


def test_a_small_labelled_area_is_not_wasted(folds: TileFolds):
    # 118 whole tiles of 64 px fit when nothing is kept free between blocks.
    table = folds.refit.table
    assert len(table) >= 110
    assert folds.refit.info.summary["labelled_pixels_used"] > 0.78
    for fold in folds.folds:
        test = fold.info.summary["splits"]["test"]
        assert test["blocks"] >= 6
        assert 0.03 < test["building_share"] < 0.15


def test_splits_keep_the_guard(folds: TileFolds):
    for fold in folds.folds:
        parts = [fold.table[fold.table["split"] == split].geometry for split in SPLITS]
        for a, b in itertools.combinations(parts, 2):
            assert min(b.distance(shape).min() for shape in a) >= 120


def test_every_split_finds_nearly_the_same_shift_by_itself(folds: TileFolds):
    # About half a row south and half a column east for 2018, by the README of the footprints.
    for tiles, split in itertools.product([*folds.folds, folds.refit], SPLITS):
        for shift in tiles.info.summary["splits"][split]["shifts"].values():
            assert (shift["east"], shift["north"]) == pytest.approx((7.4, -9.4), abs=2)
            if split != "val":
                assert shift["by"] == "own"
