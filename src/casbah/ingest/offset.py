"""Whether an item's digital numbers carry the +1000 of processing baseline 04.00, from its metadata and its pixels.

ESA adds 1000 to every digital number from baseline 04.00 (2022-01-25) on, and to older dates that it reprocesses, so
that dark pixels need not be cut at zero (Sentinel-2 Products Specification Document, RADIO_ADD_OFFSET and
BOA_ADD_OFFSET). Catalogues take it off or not, and what they say of it disagrees with what they did. So both are asked.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casbah.bands import BOA_OFFSET
from casbah.darkness import read_pixels
from casbah.errors import InputError
from casbah.ingest.assets import Item, baseline_of

FIRST_BASELINE = "04.00"


@dataclass(frozen=True)
class Decision:
    """What is taken off an item's digital numbers (0 or 1000), and why, in words for `item.json`.

    `disputed` where pixels and metadata say different things, which a person has to hear.
    """

    offset: int
    reason: str
    disputed: bool = False


@dataclass(frozen=True)
class Claim:
    """What the metadata say: the offset inside the pixels, None where they contradict each other or are silent.

    `before` where the baseline is older than the offset and nothing contradicts it: there was none to leave inside.
    """

    offset: int | None
    words: str
    before: bool = False


def claim_of(item: Item, asset_keys: dict[str, str]) -> Claim:
    """What an item's metadata say of the offset that is still inside its pixels.

    `earthsearch:boa_offset_applied: true` stands alone, because Earth Search writes a `raster:bands` offset of -0.1
    beside it for pixels that it did correct. Without the flag the processing baseline and the `raster:bands` offset
    have to agree where both are there.
    """
    flag = item["properties"].get("earthsearch:boa_offset_applied")
    baseline = baseline_of(item)
    by_baseline = None if baseline is None else (BOA_OFFSET if baseline >= FIRST_BASELINE else 0)
    by_raster = _raster_offset(item, asset_keys)
    before = by_baseline == 0 and not by_raster
    words = [f"baseline {baseline}" if baseline else "no baseline given"]
    if by_raster is not None:
        words.append(f"raster:bands offset {-by_raster / 10_000:g}")
    if flag is True:
        return Claim(0, "boa_offset_applied true, " + ", ".join(words), before)
    if flag is False:
        words.insert(0, "boa_offset_applied false")
    claims = {value for value in (by_baseline, by_raster) if value is not None}
    return Claim(claims.pop() if len(claims) == 1 else None, ", ".join(words), before)


def decide(item: Item, asset_keys: dict[str, str], dark: NDArray[np.float64] | None, undecided: int | None) -> Decision:
    """The offset to take off an item: pixels that speak clearly overrule metadata, unclear ones leave it to them.

    One thing they do not overrule: a baseline from before the offset existed. Haze lifts dark pixels as the offset
    does, and products that were reprocessed with it say so by a newer baseline.

    `dark` (bands, 2) is the item's `DARK_PERCENTILES` in digital numbers, None where it has no clear pixel;
    `undecided` is taken where neither metadata nor pixels tell, or where they dispute over an old baseline.
    `InputError` where neither tell and that is None.
    """
    claim = claim_of(item, asset_keys)
    seen, shown = read_pixels(dark)
    if seen is None and claim.offset is None:
        if undecided is None:
            raise InputError(
                f"item {item['id']}: whether its pixels carry the +1000 offset can't be told from its metadata "
                f"({claim.words}) nor from its pixels ({shown}); say it with --offset 0 or --offset 1000"
            )
        return Decision(undecided, f"given by --offset; metadata ({claim.words}) and pixels ({shown}) leave it open")
    if seen is None:
        return Decision(int(claim.offset or 0), f"metadata ({claim.words}); the pixels do not tell ({shown})")
    if seen == BOA_OFFSET and claim.before:
        if undecided is not None:
            return Decision(undecided, f"given by --offset; metadata ({claim.words}) and pixels ({shown}) disagree")
        return Decision(
            0,
            f"metadata ({claim.words}) stand, though the pixels ({shown}) look like an offset of {BOA_OFFSET}, as "
            f"those of haze do; --offset {BOA_OFFSET} would take it off",
            disputed=True,
        )
    if seen == claim.offset:
        return Decision(seen, f"metadata ({claim.words}) and pixels ({shown}) agree")
    said = "leave it open" if claim.offset is None else f"say {claim.offset}"
    reason = f"pixels ({shown}) decide: the metadata ({claim.words}) {said}"
    return Decision(seen, reason, disputed=claim.offset is not None)


def _raster_offset(item: Item, asset_keys: dict[str, str]) -> int | None:
    found: set[int] = set()
    for name, key in asset_keys.items():
        if name == "SCL":
            continue
        asset: dict[str, Any] = item["assets"][key]
        for entry in asset.get("raster:bands") or asset.get("bands") or []:
            value = entry.get("offset", entry.get("raster:offset"))
            if value is not None:
                # Reflectance offsets (-0.1) and offsets in digital numbers (-1000) are both met.
                found.add(round(-float(value) * (10_000 if abs(float(value)) < 1 else 1)))
    return found.pop() if len(found) == 1 and found <= {0, BOA_OFFSET} else None
