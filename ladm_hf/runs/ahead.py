"""Items made ahead: a thread makes the next ones of an iterator while the one at hand is worked on."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds after which the thread looks whether anybody still waits for its items.
_PATIENCE = 0.2


def ahead(items: Iterator[T], most: int, closed: threading.Event) -> Generator[T, None, None]:
    """The items of an iterator, in its order, up to `most` of them made before they are asked for.

    The thread ends with the iterator, at an error, which is raised in its place among the items, or when this generator
    is closed, which waits for the item that is being made.

    Args:
        items (iterator): what the thread goes through.
        most (`int`): items that wait to be asked for.
        closed (`Event`): is set when this generator ends; an iterator that waits for others must look at it.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(most)

    def put(kind: str, value: Any) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                made.put((kind, value), timeout=_PATIENCE)
                return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # raised where the items are asked for
            put("error", error)

    thread = threading.Thread(target=make, name="ladm-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        closed.set()
        thread.join()
