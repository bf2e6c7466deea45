"""Items made ahead by a thread: in order, bounded, errors in their place, started early, and no thread left."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from ladm_hf.runs.ahead import ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ladm-ahead"]


def test_items_come_in_order_and_no_more_are_made_than_allowed() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(50):
            made.append(n)
            yield n

    taken = []
    for item in ahead(items(), 2, threading.Event()):
        time.sleep(0.001)
        taken.append(item)
        # those in the queue and the one that waits for a place there
        assert len(made) <= len(taken) + 3
    assert taken == list(range(50))
    assert not threads()


def test_an_error_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("three")

    found = ahead(items(), 5, threading.Event())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="three"):
        next(found)
    assert not threads()


def test_closing_it_ends_the_thread() -> None:
    found = ahead(itertools.count(), 1, threading.Event())
    assert next(found) == 0
    assert threads()
    found.close()
    assert not threads()


def test_closing_it_ends_an_iterator_that_waits_for_others() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert closed.wait(20)

    found = ahead(items(), 1, closed)
    assert next(found) == 0
    found.close()
    assert not threads()


def test_an_item_that_was_started_waits_for_the_next_one_that_is() -> None:
    events: list[str] = []
    all_made = threading.Event()

    def items() -> Iterator[int]:
        yield from (1, 10, 2, 3, 11, 4)
        all_made.set()

    def start(item: int) -> bool:
        assert all_made.wait(20)
        if item >= 10:
            events.append(f"start {item}")
        return item >= 10

    for item in ahead(items(), 10, threading.Event(), start):
        events.append(f"give {item}")
    assert events == [
        "give 1", "start 10", "start 11", "give 10", "give 2", "give 3", "give 11", "give 4",
    ]  # fmt: skip


def test_an_item_is_not_held_back_for_one_that_waits_for_it() -> None:
    given = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert given.wait(20)
        yield 2

    for item in ahead(items(), 10, threading.Event(), lambda item: True):
        given.set()
        assert item in (1, 2)


def test_an_item_that_cannot_be_started_is_given_before_another_is_started() -> None:
    events: list[str] = []
    all_made = threading.Event()

    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        all_made.set()

    def start(item: int) -> bool:
        assert all_made.wait(20)
        events.append(f"start {item}")
        if item == 2:
            raise ValueError("two")
        return True

    for item in ahead(items(), 10, threading.Event(), start):
        events.append(f"give {item}")
    assert events == ["start 1", "start 2", "give 1", "give 2", "start 3", "give 3"]


def test_an_error_comes_after_the_items_that_are_held_back() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    found = ahead(items(), 10, threading.Event(), lambda item: True)
    assert next(found) == 1
    with pytest.raises(ValueError, match="two"):
        next(found)
