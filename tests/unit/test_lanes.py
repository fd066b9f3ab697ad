"""Reading, computing and writing go on side by side, in order, and a fault of any of them is told."""

import threading
from collections.abc import Iterator

import pytest

from casbah.lanes import ahead, behind

SOON = 10.0
"""Seconds until something that should happen beside is given up on."""


def test_the_next_item_is_made_while_the_last_one_is_worked_on() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    with ahead(items(), 1) as made:
        assert next(made) == 1
        assert second.wait(SOON), "nothing was read while the first item was worked on"
        assert list(made) == [2]


def test_no_more_is_made_ahead_than_was_allowed() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    with ahead(items(), 2) as taken:
        assert next(taken) == 0
        threading.Event().wait(0.2)
        # Two wait, and one is in the hand of the thread that found no room.
        assert len(made) <= 4


def test_what_is_handed_over_is_done_while_the_next_is_made() -> None:
    began, go_on, done = threading.Event(), threading.Event(), []

    def write(number: int) -> None:
        began.set()
        assert go_on.wait(SOON)
        done.append(number)

    with behind(write, 2) as save:
        save(1)
        assert began.wait(SOON)
        save(2)  # does not wait for the first
        assert not done
        go_on.set()
    assert done == [1, 2], "the end waits for all of it"


def test_a_fault_beside_is_raised_where_its_result_is_wanted() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the network failed")

    with pytest.raises(OSError, match="the network failed"), ahead(items(), 1) as made:
        list(made)

    def write(number: int) -> None:
        raise OSError(f"the disk failed at {number}")

    with pytest.raises(OSError, match="the disk failed at 1"), behind(write, 1) as save:
        save(1)
