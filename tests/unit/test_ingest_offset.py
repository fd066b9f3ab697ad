"""The +1000 is taken off where it is inside, and only there, whatever a catalogue claims."""

from typing import Any

import numpy as np
import pytest

from casbah.darkness import read_pixels
from casbah.errors import InputError
from casbah.ingest.offset import claim_of, decide

DARK_WITHOUT = np.array([[300.0, 150.0], [700.0, 400.0]])
DARK_WITH = np.array([[1100.0, 1010.0], [1250.0, 1060.0]])
UNCLEAR = np.array([[1400.0, 870.0], [2500.0, 1900.0]])


def item(raster: float | None = None, **properties: Any) -> dict:
    asset: dict[str, Any] = {"href": "B04.tif", "type": "image/tiff"}
    if raster is not None:
        asset["raster:bands"] = [{"scale": 0.0001, "offset": raster}]
    return {"id": "one", "collection": "c", "properties": properties, "assets": {"B04": asset}}


KEYS = {"B04": "B04"}
OLD, NEW = {"s2:processing_baseline": "03.01"}, {"s2:processing_baseline": "05.09"}


@pytest.mark.parametrize(
    ("raster", "said", "claim"),
    [
        (None, NEW, 1000),
        (None, OLD, 0),
        (-0.1, NEW, 1000),
        (-1000, NEW, 1000),
        (0, OLD, 0),
        (-0.1, NEW | {"earthsearch:boa_offset_applied": True}, 0),
        (-0.1, NEW | {"earthsearch:boa_offset_applied": False}, 1000),
        (None, OLD | {"earthsearch:boa_offset_applied": False}, 0),
        (-0.1, OLD, None),
        (0, NEW, None),
        (None, {}, None),
    ],
)
def test_what_the_metadata_claim(raster: float | None, said: dict, claim: int | None) -> None:
    assert claim_of(item(raster, **said), KEYS).offset == claim


@pytest.mark.parametrize(
    ("said", "dark", "offset", "reason"),
    [
        (NEW, DARK_WITH, 1000, "agree"),
        (OLD, DARK_WITHOUT, 0, "agree"),
        (NEW, UNCLEAR, 1000, "the pixels do not tell"),
        (NEW, None, 1000, "no clear pixel"),
        # A catalogue that says "not applied" of pixels from which it was taken off.
        (NEW | {"earthsearch:boa_offset_applied": False}, DARK_WITHOUT, 0, "decide: the metadata .* say 1000"),
        # One that says "applied" of pixels that still carry it.
        (NEW | {"earthsearch:boa_offset_applied": True}, DARK_WITH, 1000, "decide: the metadata .* say 0"),
        ({}, DARK_WITH, 1000, "decide: the metadata .* leave it open"),
        # Haze, or a bright town: an old baseline has no offset to leave inside.
        (OLD, DARK_WITH, 0, r"metadata \(baseline 03.01\) stand, .* --offset 1000 would take it off"),
        (OLD | {"earthsearch:boa_offset_applied": False}, DARK_WITH, 0, "stand, though the pixels"),
    ],
)
def test_clear_pixels_overrule_metadata_and_unclear_ones_leave_it_to_them(
    said: dict, dark: np.ndarray | None, offset: int, reason: str
) -> None:
    import re

    decision = decide(item(**said), KEYS, dark, None)
    assert decision.offset == offset
    assert re.search(reason, decision.reason)


def test_where_nothing_tells_the_person_is_asked_and_their_answer_taken() -> None:
    with pytest.raises(InputError, match=r"item one: .* can't be told .* say it with --offset 0 or --offset 1000"):
        decide(item(0, **NEW), KEYS, UNCLEAR, None)
    decision = decide(item(0, **NEW), KEYS, UNCLEAR, 1000)
    assert (decision.offset, "given by --offset" in decision.reason) == (1000, True)


def test_a_dispute_over_an_old_baseline_is_told_and_can_be_decided() -> None:
    hazy = np.array([[1100.0, 950.0], [1250.0, 1000.0]])
    assert decide(item(**OLD), KEYS, hazy, None).disputed
    for given in (0, 1000):
        decision = decide(item(**OLD), KEYS, hazy, given)
        assert (decision.offset, decision.disputed) == (given, False)
    # Something contradicts the old baseline: then the pixels decide.
    assert decide(item(-0.1, **OLD), KEYS, hazy, None).offset == 1000


def test_bright_desert_is_not_taken_for_an_offset() -> None:
    """One band near 1000, the others far above: no dark surface, so the pixels do not tell."""
    assert read_pixels(np.array([[1200.0, 1050.0], [2900.0, 2500.0], [3700.0, 3500.0], [4600.0, 4400.0]]))[0] is None
