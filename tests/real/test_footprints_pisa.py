"""Footprints drawn from the cover of real buildings in Pisa, as a perfect model sees it: what 10 m lets be found."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from builders import make_labels, make_prediction
from scipy.ndimage import gaussian_filter

from casbah.cover import exact_fractions, united
from casbah.footprints import footprints
from casbah.grid import Grid
from casbah.products.footprints import FootprintSet

pytestmark = pytest.mark.real

CRS = "EPSG:32632"
THRESHOLD = 0.35
"""Of the highest IoU of pixels, about."""


@pytest.fixture(scope="module")
def pisa(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A prediction (the exact cover, blurred by half a pixel) and the labels."""
    data, work = shared / "data" / "footprints" / "pisa", tmp_path_factory.mktemp("pisa")
    area = geopandas.read_file(data / "labelled_area.geojson").to_crs(CRS).union_all()
    frame = geopandas.read_file(data / "buildings.gpkg").to_crs(CRS)
    buildings = shapely.get_parts(united(shapely.make_valid(frame.geometry.to_numpy())))
    buildings = buildings[shapely.get_dimensions(buildings) == 2]
    grid = Grid.covering(CRS, area.bounds)
    probability = gaussian_filter(exact_fractions(buildings, grid), 0.5)
    make_prediction(work / "prediction", probability, grid, threshold=THRESHOLD)
    truth = geopandas.GeoDataFrame({"id": range(len(buildings))}, geometry=buildings, crs=CRS)
    make_labels(work / "labels", grid, footprints=truth, labelled_area=shapely.geometry.mapping(area))
    return work / "prediction", work / "labels"


@pytest.fixture(scope="module")
def drawn(pisa: tuple[Path, Path]) -> FootprintSet:
    prediction, labels = pisa
    return footprints(prediction, prediction.parent / "made", labels=labels)


def test_large_buildings_are_found_and_small_ones_missed_as_the_files_say(drawn: FootprintSet) -> None:
    found = drawn.info.objects["ground"]["undeclared"]["found"]
    shares = [
        found[size]["share"]["value"] for size in ("below 100 m2", "100-500 m2", "500-2000 m2", "2000 m2 and more")
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-2] > 0.95
    assert found["all"]["merged"] > found["all"]["found"] / 3, "buildings merge at 10 m"


def test_nothing_is_invented_where_every_probability_is_a_buildings(drawn: FootprintSet) -> None:
    assert drawn.info.objects["ground"]["undeclared"]["invented"]["all"]["share"]["value"] < 0.01


def test_a_real_town_has_valid_polygons_of_their_contours_area(pisa: tuple[Path, Path], drawn: FootprintSet) -> None:
    plain = footprints(pisa[0], pisa[0].parent / "plain", simplify=0, square=False, minimum_area=25).footprints()
    shaped = drawn.footprints().set_index("id")
    assert shapely.is_valid(shaped.geometry.to_numpy()).all()
    ratio = shaped.geometry.area / plain.set_index("id").geometry.area.loc[shaped.index]
    # A hole of 25 to 50 m2 is filled in the one and not in the other.
    assert np.mean((ratio > 0.95) & (ratio < 1.05)) > 0.999
    assert drawn.info.area == pytest.approx(drawn.info.area_of_contours, rel=0.001)


def test_a_real_town_is_the_same_from_windows_of_64_pixels(pisa: tuple[Path, Path], drawn: FootprintSet) -> None:
    made = footprints(*pisa[:1], pisa[0].parent / "windows", labels=pisa[1], window=64)
    assert made.digest == drawn.digest
