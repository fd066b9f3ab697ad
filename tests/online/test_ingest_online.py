"""Ingest against the public catalogue that is its default."""

from pathlib import Path

import pytest
import requests
from catalogues import write_geojson

from casbah.cli.ingest import EARTH_SEARCH
from casbah.ingest import Patience, ingest

pytestmark = pytest.mark.online


def test_a_corner_of_algiers_is_ingested_from_earth_search(tmp_path: Path) -> None:
    try:
        requests.get(EARTH_SEARCH, timeout=5).raise_for_status()
    except requests.RequestException as error:
        pytest.skip(f"{EARTH_SEARCH} can't be reached: {error}")
    west, south, east, north = 3.05, 36.76, 3.06, 36.77
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    scene = ingest(
        aoi=write_geojson(tmp_path / "aoi.geojson", {"type": "Polygon", "coordinates": [ring]}),
        start="2023-07-01",
        end="2023-07-31",
        stac=EARTH_SEARCH,
        bands=["red", "nir08"],
        output=tmp_path / "scene",
        patience=Patience(read=120),
    )
    assert (scene.info.level, scene.info.simulated, scene.grid.crs) == ("L2A", False, "EPSG:32631")
    assert (scene.valid() > 0).mean() > 0.95
    assert all(source["baseline"] for source in scene.info.sources)
