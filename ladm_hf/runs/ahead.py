"""Items made ahead: a thread makes the next ones of an iterator while the one at hand is worked on."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds after which the thread looks whether anybody still waits for its items.
_PATIENCE = 0.2


def ahead(
    items: Iterator[T], most: int, closed: threading.Event, start: Callable[[T], bool] = lambda item: False
) -> Generator[T, None, None]:
    """The items of an iterator, in its order, up to `most` of them made before they are asked for.

    What an item starts goes on while the item before it is worked on: an item that was started, and those after it, are
    held back until the next one is started too, or none is there to be started.

    The thread ends with the iterator, at an error, which is raised in its place among the items, or when this generator
    is closed, which waits for the item that is being made.

    Args:
        items (iterator): what the thread goes through.
        most (`int`): items that wait to be asked for.
        closed (`Event`): is set when this generator ends; an iterator that waits for others must look at it.
        start (callable, *optional*): starts an item, in the thread that asks for items, or returns `False`. Where it
            raises an error the item is given before another is started, for the error to be met again in its place.
    """
    # filled and emptied in one step, which no signal breaks in two, as it does with a queue that has an end
    made: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    places: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(most):
        places.put(None)

    def put(kind: str, value: Any) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Empty):
                places.get(timeout=_PATIENCE)
                made.put((kind, value))
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
    held: deque[T] = deque()
    try:
        while True:
            try:
                # who waits for items gets those that are held back first
                kind, value = made.get(block=not held)
            except queue.Empty:
                yield held.popleft()
                continue
            places.put(None)
            try:
                started = kind == "item" and start(value)
            except Exception:
                held.append(value)
                while held:
                    yield held.popleft()
                continue
            if started or kind != "item":
                while held:
                    yield held.popleft()
            if kind == "end":
                return
            if kind == "error":
                raise value
            if started or held:
                held.append(value)
            else:
                yield value
    finally:
        closed.set()
        thread.join()
