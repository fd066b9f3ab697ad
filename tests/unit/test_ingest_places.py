"""Items of public buckets are read from where anybody may read them, unless one's own store holds them."""

import json
from pathlib import Path
from typing import Any

import pytest

from casbah.errors import InputError, WorldError
from casbah.ingest.catalogue import _listed
from casbah.ingest.places import Buckets
from casbah.storage import Location, Store

KEY = "sentinel-s2-l2a-cogs/33/T/WM/2023/8/S2A_33TWM_20230815_0_L2A"
TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def earth_search() -> dict[str, Any]:
    """An item as Earth Search writes it: relative addresses, and where they count from in the link `canonical`."""
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2A_33TWM_20230815_0_L2A",
        "properties": {},
        "links": [{"rel": "canonical", "href": f"s3://sentinel-cogs/{KEY}/S2A_33TWM_20230815_0_L2A.json"}],
        "assets": {
            "red": {"href": "B04.tif", "type": TIFF},
            "red-jp2": {"href": "s3://sentinel-s2-l2a/tiles/33/T/WM/2023/8/15/0/B04.jp2", "type": "image/jp2"},
        },
    }
    return _listed("items.json", [item])[0]


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("ACCESS_KEY_ID", "me"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)


def red(item: dict[str, Any], *given: str) -> str:
    return Buckets(*given).placed(item, ("B04",))["assets"]["red"]["href"]


def test_a_public_bucket_is_read_at_its_public_address() -> None:
    assert red(earth_search()) == f"https://sentinel-cogs.s3.us-west-2.amazonaws.com/{KEY}/B04.tif"


@pytest.mark.parametrize("answer", [False, WorldError("down")])
def test_ones_own_store_is_not_asked_for_what_it_does_not_have(
    own_store: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], answer: Any
) -> None:
    asked = []

    def exists(_: Store, location: Location) -> bool:
        asked.append(location)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Store, "exists", exists)
    buckets = Buckets("https://earth-search.example.org")
    for _ in range(3):
        placed = buckets.placed(earth_search(), ("B04",))
        assert placed["assets"]["red"]["href"].startswith("https://sentinel-cogs.s3.us-west-2.amazonaws.com/")
    assert len(asked) == 1
    assert "s3://sentinel-cogs is not in the object store at http://127.0.0.1:9" in " ".join(
        capfd.readouterr().err.split()
    )


def test_a_mirror_in_ones_own_store_and_the_bucket_of_the_catalogue_are_read_there(
    own_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "exists", lambda *_: True)
    assert red(earth_search()) == f"s3://sentinel-cogs/{KEY}/B04.tif"
    monkeypatch.setattr(Store, "exists", lambda *_: False)
    assert red(earth_search(), "s3://sentinel-cogs/catalog.json") == f"s3://sentinel-cogs/{KEY}/B04.tif"
    item = earth_search()
    item["assets"]["red"]["href"] = "s3://somewhere/B04.tif"
    assert red(item) == "s3://somewhere/B04.tif"


def test_where_the_reader_pays_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    item = earth_search()
    del item["assets"]["red"]
    with pytest.raises(InputError, match=r"B04 of item S2A_33TWM.* lies in s3://sentinel-s2-l2a, where Amazon bills"):
        Buckets().placed(item, ("B04",))
    Buckets().placed(item, ("B03",))
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    assert Buckets().placed(item, ("B04",)) == item


@pytest.mark.real
@pytest.mark.parametrize("name", ["S2A_33TWM_20230815_0_L2A.earthsearch", "S2B_33TWL_20230813_0_L2A.earthsearch"])
def test_real_items_of_earth_search_lie_where_its_other_assets_do(shared: Path, name: str) -> None:
    item = json.loads((shared / "data" / "stac-items" / f"{name}.json").read_text())
    (placed,) = (Buckets().placed(one, ("B04",)) for one in _listed("items.json", [item]))
    beside = item["assets"]["aot"]["href"].rsplit("/", 1)[0]
    assert placed["assets"]["red"]["href"] == f"{beside}/B04.tif"


def test_keys_in_the_address_of_ones_own_store_are_not_said(
    own_store: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter2@127.0.0.1:9")
    red(earth_search())
    said = capfd.readouterr().err
    assert "not in the object store at http://127.0.0.1:9" in said
    assert "hunter2" not in said
