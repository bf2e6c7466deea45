"""Items made ahead by a thread: in order, bounded, errors in their place, and no thread left."""

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
