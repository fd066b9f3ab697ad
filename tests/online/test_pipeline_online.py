"""The case study's defaults against the real services: Earth Search has what the pipeline asks it for."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from reach import reachable

from casbah.pipeline import compiled, inputs

pytestmark = pytest.mark.online


@pytest.fixture(scope="module")
def defaults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pipeline's own default arguments, which are those of the case study."""
    package = compiled.compile_pipeline(tmp_path_factory.mktemp("compiled") / "pipeline.yaml")
    return {name: facts["defaultValue"] for name, facts in compiled.parameters(package).items()}


@pytest.fixture
def earth_search(defaults: dict[str, str]) -> str:
    """The address of the STAC API; the test is skipped where it is out of reach."""
    host = str(urlsplit(defaults["stac"]).hostname)
    if not reachable(host):
        pytest.skip(f"no way to {host}")
    return defaults["stac"]


def test_the_defaults_of_the_pipeline_find_imagery_of_algiers(
    earth_search: str, defaults: dict[str, str], tmp_path: Path
) -> None:
    import geopandas
    import pystac_client

    area = geopandas.read_file(inputs.area(defaults["aoi"], tmp_path)).to_crs(4326)
    found = pystac_client.Client.open(inputs.catalogue(earth_search)).search(
        collections=["sentinel-2-l2a"],
        bbox=tuple(area.total_bounds),
        datetime=f"{defaults['start']}/{defaults['end']}",
        query={"eo:cloud_cover": {"lt": defaults["max_cloud"]}},
        max_items=20,
    )
    assert len(list(found.items())) >= 5, "enough dates for a composite without clouds"
    assert inputs.is_osm(defaults["labels"])
