"""The real Overpass and Overture services, where there is an internet."""

import pytest
from reach import reachable

from casbah.grid import Grid
from casbah.label.found import Area
from casbah.label.overpass import read_overpass
from casbah.label.overture import read_overture

pytestmark = pytest.mark.online

CASBAH = Area(Grid("EPSG:32631", 506_000.0, 4_071_000.0, 100, 100))
"""One square kilometre of the old town of Algiers."""


def test_openstreetmap_has_buildings_in_the_casbah() -> None:
    if not reachable("overpass-api.de"):
        pytest.skip("no way to overpass-api.de")
    found = read_overpass(CASBAH, snapshot="2024-01-01")
    assert len(found.frame) > 100
    assert found.vintage == "2024-01-01"


def test_overture_has_buildings_in_the_casbah() -> None:
    if not reachable("overturemaps-us-west-2.s3.us-west-2.amazonaws.com"):
        pytest.skip("no way to Overture's bucket")
    found = read_overture(CASBAH)
    assert len(found.frame) > 100
    assert "OpenStreetMap" in found.attribution
