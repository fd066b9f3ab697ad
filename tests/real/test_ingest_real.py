"""Real imagery of four cities, and real items as three catalogues publish them."""

import json
from pathlib import Path

import numpy as np
import pytest
from catalogues import write_geojson

from casbah.bands import BAND_NAMES
from casbah.ingest import ingest
from casbah.ingest.assets import baseline_of, level_of, resolve, tile_of
from casbah.ingest.offset import claim_of

pytestmark = pytest.mark.real


@pytest.mark.parametrize("city", ["pisa", "montpellier", "valencia", "abudhabi"])
@pytest.mark.parametrize("periods", [1, 2])
def test_every_city_is_ingested_whole_at_its_own_level_without_a_false_offset(
    shared: Path, tmp_path: Path, city: str, periods: int
) -> None:
    place = shared / "data" / "sentinel-2"
    described = json.loads(next(place.glob(f"sentinel-2-l1c/*{city}*/*.json")).read_text())
    scene = ingest(
        aoi=write_geojson(tmp_path / "aoi.geojson", described["geometry"]),
        start="2015-01-01",
        end="2018-12-31",
        stac=str(place / "catalog.json"),
        output=tmp_path / "scene",
        periods=periods,
        workers=2,
    )
    assert (scene.info.level, scene.bands, scene.periods) == ("L1C", BAND_NAMES, periods)
    assert [len(period.dates) for period in scene.info.periods] == ([2] if periods == 1 else [1, 1])
    assert [source["offset"] for source in scene.info.sources] == [0, 0]
    assert scene.info.attribution == "Contains modified Copernicus Sentinel data 2015-2018"
    seen = scene.valid() > 0
    # The chips are rectangles in degrees, turned within their UTM grid; in them nothing is missing.
    assert seen.mean() > 0.93
    assert seen[:, 40:-40, 40:-40].all()
    blue = scene.reflectance()[:, 1][seen]
    assert 900 < np.median(blue) < 2300


@pytest.mark.parametrize(
    ("name", "offset", "baseline", "tile", "key"),
    [
        ("S2A_33TWM_20230815_0_L2A.earthsearch", 0, "05.09", "33TWM", "red"),
        ("S2B_33TWL_20230813_0_L2A.earthsearch", 0, "05.09", "33TWL", "red"),
        ("S2A_28QCH_20200714_0_L2A", 0, "02.14", "28QCH", "B04"),
        ("S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531", 0, "02.12", "06VVN", "B04"),
    ],
)
def test_items_of_three_catalogues_are_understood(
    shared: Path, name: str, offset: int, baseline: str, tile: str, key: str
) -> None:
    item = json.loads((shared / "data" / "stac-items" / f"{name}.json").read_text())
    found = resolve(item)
    assert set(found) == {*BAND_NAMES, "SCL"}
    for band, asset in found.items():
        assert (
            item["assets"][asset]["href"].split("/")[-1].removesuffix(".tif").split("_")[-1 if "earth" in name else 0]
        )
        assert f"{band}." in item["assets"][asset]["href"] or f"_{band}_" in item["assets"][asset]["href"]
    assert found["B04"] == key
    assert (level_of(item), baseline_of(item), tile_of(item)) == ("L2A", baseline, tile)
    assert claim_of(item, found).offset == offset
