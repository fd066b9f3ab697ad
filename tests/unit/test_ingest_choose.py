"""Periods and items: the least cloudy first, each place seen, no more read than helps."""

from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from casbah.errors import InputError
from casbah.ingest.choose import Span, below_cloud, describe, greedy, parse_dates, split

YEAR = Span(date(2023, 1, 1), date(2023, 12, 31))


def item(day: str, cloud: float | None = 0.0, name: str = "") -> dict[str, Any]:
    said = {"datetime": f"{day}T10:30:00Z"} | ({} if cloud is None else {"eo:cloud_cover": cloud})
    return {"id": name or day, "geometry": {"type": "Point", "coordinates": [3, 36]}, "properties": said, "assets": {}}


def nothing(_: int) -> None:
    return None


def test_dates_are_iso_and_in_order() -> None:
    assert parse_dates("2023-06-01", "2023-06-01").end == date(2023, 6, 1)
    with pytest.raises(
        InputError, match=r"the start date 2023-09-01 lies after the end date 2023-06-01; exchange them"
    ):
        parse_dates("2023-09-01", "2023-06-01")
    for wrong in ("2023-13-01", "01.06.2023", "", "yesterday"):
        with pytest.raises(InputError, match="is not an ISO date; write it as YYYY-MM-DD"):
            parse_dates("2023-01-01", wrong)


def test_periods_cut_the_dates_equally_without_gap_or_overlap() -> None:
    days = [item("2023-02-01"), item("2023-05-01"), item("2023-11-01")]
    parts = [part for part, _ in split(YEAR, days, 3)]
    assert (parts[0].start, parts[-1].end) == (YEAR.start, YEAR.end)
    assert all((after.start - before.end).days == 1 for before, after in pairwise(parts))
    assert [len(found) for _, found in split(YEAR, days, 3)] == [1, 1, 1]


def test_a_catalogue_of_few_dates_is_dealt_out_so_that_each_period_has_some() -> None:
    days = [item("2023-01-05"), item("2023-01-15"), item("2023-02-05"), item("2023-02-15")]
    dealt = split(YEAR, days, 2)
    assert [[one["id"] for one in found] for _, found in dealt] == [
        ["2023-01-05", "2023-01-15"],
        ["2023-02-05", "2023-02-15"],
    ]
    assert (dealt[0][0].end.isoformat(), dealt[1][0].start.isoformat()) == ("2023-02-04", "2023-02-05")


def test_more_periods_than_days_are_refused_with_how_many_are_possible() -> None:
    with pytest.raises(InputError, match=r"3 periods were asked for, .* only 1 days with imagery .* --periods 1"):
        split(YEAR, [item("2023-01-05")], 3)


def test_items_that_do_not_state_their_cloud_pass_the_limit() -> None:
    assert [one["id"] for one in below_cloud([item("a", 30), item("b", None), item("c", 20)], 20)] == ["b", "c"]


def test_the_clearest_come_first_and_no_more_than_the_looks_are_taken() -> None:
    items = [item("2023-06-01", 15), item("2023-06-02", 0), item("2023-06-03", 5), item("2023-06-04", None)]
    everywhere = [np.ones(10, bool)] * 4
    assert greedy(items, everywhere, nothing, looks=2) == [1, 2]
    assert greedy(items, everywhere, nothing, looks=6) == [1, 2, 0, 3]


def test_an_unseen_place_is_worth_more_than_a_clearer_second_look() -> None:
    west, east = np.arange(10) < 5, np.arange(10) >= 5
    items = [item("2023-06-01", 0), item("2023-06-02", 1), item("2023-06-03", 18)]
    assert greedy(items, [west, west, east], nothing, looks=2)[:2] == [0, 2]


def test_an_item_whose_own_mask_shows_cloud_over_the_area_is_passed_over() -> None:
    items = [item("2023-06-01", 0), item("2023-06-02", 19)]
    masks = [np.zeros(10, bool), np.ones(10, bool)]
    assert greedy(items, [np.ones(10, bool)] * 2, lambda i: masks[i]) == [1]


def test_tiles_that_overlap_are_one_look_of_their_day() -> None:
    """Ten dates as twins of two tiles: as many days are taken as of one tile alone, and no twin is read for nothing."""
    days = [f"2023-06-{day:02d}" for day in range(1, 11)]
    twins = [item(day, name=f"{tile}_{day}") for day in days for tile in ("31SDA", "31SEA")]
    chosen = greedy(twins, [np.ones(10, bool)] * 20, nothing, looks=6)
    assert (len(chosen), len({twins[i]["properties"]["datetime"] for i in chosen})) == (6, 6)


def test_a_neighbouring_tile_of_the_same_day_adds_what_the_first_does_not_show() -> None:
    left, right = np.arange(10) < 6, np.arange(10) >= 4
    both = [item("2023-06-01", name="31SDA"), item("2023-06-01", name="31SEA")]
    assert greedy(both, [left, right], nothing, looks=1) == [0, 1]


def test_an_item_that_covers_nothing_of_the_area_is_never_read() -> None:
    def refuse(_: int) -> None:
        raise AssertionError("it was read")

    assert greedy([item("2023-06-01")], [np.zeros(10, bool)], refuse) == []


def test_the_nearest_dates_are_told_with_their_cloud() -> None:
    words = describe([item("2020-01-01", 5), item("2024-02-01", 61), item("2024-01-03", None)], YEAR, most=2)
    assert words == "2024-01-03 (cloud unknown), 2024-02-01 (61 % cloud)"
