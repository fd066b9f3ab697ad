"""OpenStreetMap through Overpass: every shape of building, and a server that is busy, down or overcharged."""

import math
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
import shapely
from label_sources import AREA, GRID, Answer, Server, degrees, overpass, relation, serving, square, way

from casbah.errors import InputError, WorldError
from casbah.grid import Grid
from casbah.label import overpass as room
from casbah.label.found import Area, Found
from casbah.label.overpass import Manners, read_overpass
from casbah.label.repair import repair

QUICK = Manners(attempts=3, pause=0.01, longest=0.05, connect=1.0, read=0.4, between=0.0)
GOOD = overpass([way(1, square(100, 100, 20))])


def ask(reply: Callable[[str, int], Answer], area: Area = AREA, **options: Any) -> tuple[Found, Server]:
    with serving(reply) as server:
        return read_overpass(area, server.url, manners=QUICK, **options), server


def areas(found: Found) -> list[float]:
    return found.frame.to_crs(GRID.crs).area.round(-1).tolist()


def test_ways_and_relations_become_polygons_with_their_courtyards() -> None:
    ring = square(100, 100, 40)
    elements = [
        way(7, square(10, 10, 20), building="house", name="Dar Hassan Pacha"),
        relation(3, [("outer", ring), ("inner", square(110, 110, 10)), ("inner", square(125, 125, 10))]),
        relation(4, [("outer", square(200, 200, 10)), ("outer", square(230, 200, 10))]),
    ]
    found, _ = ask(lambda *_: Answer(overpass(elements)))
    assert found.frame["id"].tolist() == ["relation/3", "relation/4", "way/7"]
    assert areas(found) == [1400, 200, 400]
    assert found.frame["tags"][2] == '{"building": "house", "name": "Dar Hassan Pacha"}'


def test_a_relation_whose_outer_ring_comes_in_pieces_in_any_direction_is_joined() -> None:
    ring = square(100, 100, 40)
    pieces = [("outer", ring[2:4][::-1]), ("", ring[:3]), ("outer", [ring[3], ring[0]])]
    found, _ = ask(lambda *_: Answer(overpass([relation(5, pieces)])))
    assert areas(found) == [1600]


def test_outer_rings_in_pieces_that_meet_in_a_point_are_both_found() -> None:
    first, second = square(100, 100, 20), square(120, 120, 20)
    middle = first[2]
    pieces = [first[2:], first[:3], [middle, *second[1:3]], [second[2], second[3], middle]]
    found, _ = ask(lambda *_: Answer(overpass([relation(5, [("outer", piece) for piece in pieces])])))
    assert areas(found) == [800]


def test_what_can_not_be_a_building_is_counted_with_its_reason() -> None:
    torn = relation(6, [("outer", square(100, 100, 40)[:3])])
    hidden = relation(8, [("outer", [None, *square(100, 100, 40)[1:]])])  # type: ignore[list-item]
    elements = [
        way(1, square(10, 10, 20)),
        way(2, square(50, 10, 20)[:4]),
        way(3, square(90, 10, 20), building="no"),
        way(4, square(130, 10, 20), location="underground"),
        torn,
        hidden,
    ]
    found, _ = ask(lambda *_: Answer(overpass(elements)))
    assert len(found.frame) == 1
    assert dict(found.dropped) == {
        "way that is not closed": 1,
        "tagged building=no": 1,
        "underground": 1,
        "relation whose rings do not close": 2,
    }
    assert repair(found, AREA)[1].read == 6


def test_licence_attribution_and_date_of_the_data_are_kept() -> None:
    found, _ = ask(lambda *_: Answer(GOOD))
    assert (found.licence, found.attribution) == ("ODbL-1.0", "(c) OpenStreetMap contributors")
    assert found.vintage == "2026-10-01"


def test_the_server_is_told_who_asks_where_and_for_which_day() -> None:
    found, server = ask(lambda *_: Answer(GOOD), snapshot="2023-06-01")
    headers, question = server.asked[0]
    assert headers["User-Agent"].startswith("casbah/")
    assert '[date:"2023-06-01T00:00:00Z"]' in question
    assert found.vintage == "2023-06-01"
    south, west, north, east = (float(v) for v in question.split('way["building"](')[1].split(")")[0].split(","))
    point = degrees(320, 320)
    assert west < point["lon"] < east
    assert south < point["lat"] < north


def test_a_snapshot_of_another_time_zone_is_asked_for_in_utc() -> None:
    found, server = ask(lambda *_: Answer(GOOD), snapshot="2023-06-01T00:00:00+02:00")
    assert '[date:"2023-05-31T22:00:00Z"]' in server.asked[0][1]
    assert found.vintage == "2023-05-31"


@pytest.mark.parametrize("day", ["last summer", "2999-01-01", "2999-01-01T00:00:00+02:00"])
def test_a_snapshot_that_is_no_day_so_far_is_refused(day: str) -> None:
    with pytest.raises(InputError, match=r"snapshot"):
        read_overpass(AREA, "http://127.0.0.1:1/", day, QUICK)


def test_a_large_area_is_asked_for_in_parts_and_a_building_on_their_border_counts_once() -> None:
    wide = Area(Grid("EPSG:32631", 500_000.0, 4_060_000.0, 1000, 2500))
    found, server = ask(lambda *_: Answer(GOOD), wide)
    west, south, east, north = wide.bounds_in("EPSG:4326")
    assert len(server.asked) == math.ceil((east - west) / room.PART) * math.ceil((north - south) / room.PART) == 3
    assert found.frame["id"].tolist() == ["way/1"]


def test_a_busy_server_is_asked_again_after_the_pause_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(room.time, "sleep", pauses.append)
    busy = [
        Answer(status=429, headers={"Retry-After": "2"}),
        Answer(status=504, headers={"Retry-After": formatdate(usegmt=True)}),
        Answer(GOOD),
    ]
    patient = Manners(attempts=3, pause=0.5, longest=90)
    with serving(lambda _, number: busy[number]) as server:
        found = read_overpass(AREA, server.url, manners=patient)
    assert len(found.frame) == 1
    assert pauses[0] == 2.0
    assert 0 < pauses[1] <= 1.0


def test_no_server_can_ask_for_a_pause_of_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(room.time, "sleep", pauses.append)
    busy = [Answer(status=429, headers={"Retry-After": "86400"}), Answer(GOOD)]
    with serving(lambda _, number: busy[number]) as server:
        read_overpass(AREA, server.url, manners=Manners(longest=90))
    assert pauses == [90.0]


def test_a_page_of_html_with_status_200_is_no_answer() -> None:
    page = "<html><head><title>OSM3S Response</title></head><body>The server is probably too busy</body></html>"
    answers = [Answer(page), Answer(GOOD)]
    found, server = ask(lambda _, number: answers[number])
    assert len(server.asked) == 2
    assert len(found.frame) == 1


@pytest.mark.parametrize("reply", ["[]", '"busy"', "null"])
def test_json_that_is_no_object_is_no_answer(reply: str) -> None:
    answers = [Answer(reply), Answer(GOOD)]
    found, server = ask(lambda _, number: answers[number])
    assert (len(server.asked), len(found.frame)) == (2, 1)


def test_a_part_that_times_out_on_the_server_is_asked_for_in_quarters() -> None:
    remark = 'runtime error: Query timed out in "query" at line 1 after 181 seconds.'
    wide = Area(Grid("EPSG:32631", 500_000.0, 4_060_000.0, 500, 500))

    def reply(question: str, number: int) -> Answer:
        return (
            Answer(overpass([], remark=remark))
            if number == 0
            else Answer(overpass([way(number, square(100, 100, 20))]))
        )

    found, server = ask(reply, wide)
    assert len(server.asked) == 5
    assert len(found.frame) == 4


def test_a_server_that_gives_up_on_the_smallest_part_is_a_fault_of_the_world() -> None:
    remark = 'runtime error: Query run out of memory in "query" at line 1 using about 512 MB of RAM.'
    with pytest.raises(WorldError, match=r"gave up on .* run out of memory"):
        ask(lambda *_: Answer(overpass([], remark=remark)))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(status=504), r"failed 3 times, at last because it answered 504 .* take an extract \(\.osm\.pbf\)"),
        (Answer(status=429, headers={"Retry-After": "0"}), r"it answered 429"),
        (Answer("<html><body>busy</body></html>"), r"it sent no JSON but 'busy'"),
        (Answer(hang=2.0), r"it did not answer in time|broke off"),
    ],
)
def test_a_server_that_stays_busy_or_hangs_ends_as_a_fault_of_the_world(answer: Answer, message: str) -> None:
    with pytest.raises(WorldError, match=message):
        ask(lambda *_: answer)


def test_a_refusal_is_shown_and_not_repeated() -> None:
    asked = []

    def reply(question: str, number: int) -> Answer:
        asked.append(question)
        return Answer("<html><body><p>Error: line 1: parse error</p></body></html>", status=400)

    with pytest.raises(WorldError, match=r"refused the question: 400 .*parse error"):
        ask(reply)
    assert len(asked) == 1


def test_a_server_that_is_down_is_a_fault_of_the_world() -> None:
    with pytest.raises(
        WorldError, match=r"http://127.0.0.1:9/ failed 3 times, at last because it could not be reached"
    ):
        read_overpass(AREA, "http://127.0.0.1:9/", manners=QUICK)


def test_a_server_that_is_no_url_is_refused() -> None:
    with pytest.raises(InputError, match=r"the Overpass server is 'overpass-api.de'; the http"):
        read_overpass(AREA, "overpass-api.de", manners=QUICK)


@pytest.mark.parametrize("url", ["http://", "http://[bad", "http://exa_mple..x/", "https://:443/"])
def test_a_url_that_names_no_server_is_refused_at_once(url: str) -> None:
    with pytest.raises(InputError) as raised:
        read_overpass(AREA, url, manners=QUICK)
    assert str(raised.value).startswith(f"the Overpass server is {url!r}, no address that can be asked")


def test_a_server_that_redirects_in_a_circle_is_a_fault_of_the_world() -> None:
    with pytest.raises(WorldError, match="at last because it sends from one address to another without end"):
        ask(lambda *_: Answer(status=307, headers={"Location": "/api/interpreter"}))


def test_a_bow_tie_is_repaired_to_both_of_its_wings() -> None:
    a, b, c, d, _ = square(100, 100, 20)
    found, _ = ask(lambda *_: Answer(overpass([way(1, [a, c, b, d, a])])))
    footprints, repairs = repair(found, AREA)
    assert repairs.repaired == 1
    assert footprints.is_valid.all()
    assert shapely.union_all(footprints.geometry.to_numpy()).area == pytest.approx(200, rel=0.02)


@pytest.mark.parametrize("status", [403, 504])
def test_a_password_or_token_of_the_server_is_never_said(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda *_: Answer(b"no", status=status)) as server:
        place = server.url.replace("http://", "http://me:hunter2@")
        with pytest.raises(WorldError) as raised:
            read_overpass(AREA, f"{place}?token=hunter2", manners=QUICK)
    assert server.url in str(raised.value)
    assert "hunter2" not in str(raised.value) + capsys.readouterr().err


def test_a_password_in_what_is_no_address_is_not_repeated() -> None:
    with pytest.raises(InputError, match="no address") as raised:
        read_overpass(AREA, "http://me:hunter2@[bad", manners=QUICK)
    assert "hunter2" not in str(raised.value)
