"""What items say of themselves is understood in every catalogue's own words."""

from typing import Any

import pytest

from casbah.errors import InputError
from casbah.ingest.assets import baseline_of, level_of, require, resolve, solar_day, tile_of

TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(assets: dict[str, Any] | None = None, name: str = "S2A_31SEA_20230601_0_L2A", **properties: Any) -> dict:
    geometry = {"type": "Point", "coordinates": [3, 36]}
    said = {"datetime": "2023-06-01T10:30:00Z"} | properties
    return {"id": name, "collection": "x", "geometry": geometry, "properties": said, "assets": assets or {}}


def asset(href: str, **more: Any) -> dict:
    return {"href": href, "type": TIFF} | more


def test_earth_search_names_are_resolved_and_its_jpeg_2000_twins_passed_over() -> None:
    found = resolve(
        item(
            {
                "red-jp2": asset(
                    "B04.jp2", type="image/jp2", gsd=10, **{"eo:bands": [{"name": "red", "common_name": "red"}]}
                ),
                "red": asset("B04.tif", gsd=10, **{"eo:bands": [{"name": "red", "common_name": "red"}]}),
                "nir08": asset("B8A.tif", **{"eo:bands": [{"name": "nir08", "common_name": "nir08"}]}),
                "rededge1": asset("B05.tif", **{"eo:bands": [{"name": "rededge1", "common_name": "rededge"}]}),
                "visual": asset("TCI.tif", **{"eo:bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}]}),
                "thumbnail": asset("t.jpg", type="image/jpeg", roles=["thumbnail"]),
                "scl": asset("SCL.tif"),
            }
        )
    )
    assert found == {"B04": "red", "B8A": "nir08", "B05": "rededge1", "SCL": "scl"}


def test_a_common_name_that_several_bands_share_decides_nothing() -> None:
    """Planetary Computer calls both B05 and B8A `rededge`; their names tell them apart."""
    found = resolve(
        item(
            {
                "B8A": asset("B8A.tif", **{"eo:bands": [{"name": "B8A", "common_name": "rededge"}]}),
                "B05": asset("B05.tif", **{"eo:bands": [{"name": "B05", "common_name": "rededge"}]}),
            }
        )
    )
    assert found == {"B8A": "B8A", "B05": "B05"}


def test_bands_are_found_by_their_metadata_where_the_keys_say_nothing() -> None:
    found = resolve(
        item(
            {
                "asset_1": asset("x.tif", **{"eo:bands": [{"name": "b", "common_name": "nir"}]}),
                "asset_2": asset("y.tif", bands=[{"name": "B11", "eo:common_name": "swir16"}]),
            }
        )
    )
    assert found == {"B08": "asset_1", "B11": "asset_2"}


def test_of_one_band_at_several_resolutions_the_finest_is_taken() -> None:
    found = resolve(item({"B02_60m": asset("a.tif"), "B02_10m": asset("b.tif"), "B02_20m": asset("c.tif")}))
    assert found == {"B02": "B02_10m"}


def test_a_missing_band_is_named_with_what_there_is() -> None:
    with pytest.raises(InputError, match=r"no asset for B12 \(its assets: B02, B04\); .* --bands B02,B04"):
        require(item({"B02": asset("a.tif"), "B04": asset("b.tif")}), ("B02", "B04", "B12"))


@pytest.mark.parametrize(
    ("said", "name", "level"),
    [
        ({"processing:level": "L1C"}, "x", "L1C"),
        ({"s2:product_type": "S2MSI2A"}, "x", "L2A"),
        ({"s2:product_uri": "S2A_MSIL2A_20230815T095031_N0509_R079.SAFE"}, "x", "L2A"),
        ({}, "S2A_28QCH_20200714_0_L2A", "L2A"),
        ({}, "chip", None),
    ],
)
def test_the_level_is_read_from_whatever_says_it(said: dict, name: str, level: str | None) -> None:
    assert level_of(item(name=name, **said)) == level


def test_the_baseline_is_read_from_the_property_or_the_product_name() -> None:
    assert baseline_of(item(**{"s2:processing_baseline": "05.09"})) == "05.09"
    assert baseline_of(item(**{"sentinel:product_id": "S2A_MSIL2A_20200714T115221_N0214_R123_T28QCH_2020"})) == "02.14"
    assert baseline_of(item()) is None


def test_the_tile_is_read_from_the_property_or_the_id() -> None:
    assert tile_of(item(**{"grid:code": "MGRS-33TWM"})) == "33TWM"
    assert tile_of(item(name="S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531")) == "06VVN"
    assert tile_of(item(name="chip")) is None


def test_one_overpass_is_one_day_even_where_utc_midnight_falls_into_it() -> None:
    late, early = item(datetime="2023-06-01T23:58:00Z"), item(datetime="2023-06-02T00:02:00Z")
    for one in (late, early):
        one["geometry"] = {"type": "Point", "coordinates": [178, -18]}
    assert solar_day(late) == solar_day(early)
