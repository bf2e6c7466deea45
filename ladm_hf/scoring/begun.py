"""A call whose host's part threads have begun: it is started, for a device to compute meanwhile, and finished; or
cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Begun(Generic[T]):
    """Finishes a call when it is called itself, once.

    Args:
        finish (callable): gives what the call gives.
        futures (sequence of `Future`): what threads do for it meanwhile.
        start (callable, *optional*): called once, before `finish`: gives a device its work and leaves it at that.

    Attributes:
        seconds (`float`): taken by starting and finishing so far.
    """

    def __init__(
        self, finish: Callable[[], T], futures: Sequence[Future[Any]] = (), start: Callable[[], None] | None = None
    ) -> None:
        self._finish, self._futures, self._start = finish, futures, start
        self._error: BaseException | None = None
        self.seconds = 0.0

    def start(self) -> None:
        """Gives a device its work, where it computes on its own; else nothing happens before the call is finished.

        Raises:
            What the call itself then raises again, for the rows before these to be finished first.
        """
        start, self._start = self._start, None
        if start is not None:
            began = time.monotonic()
            try:
                start()
            except BaseException as error:
                self._error = error
                raise
            self.seconds += time.monotonic() - began

    def __call__(self) -> T:
        try:
            self.start()
            if self._error is not None:
                raise self._error
            began = time.monotonic()
            found = self._finish()
            self.seconds += time.monotonic() - began
            return found
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Has the threads leave out what they have not begun: nobody waits for it, but the interpreter at its end."""
        for future in self._futures:
            future.cancel()

    def then(self, change: Callable[[T], U]) -> Begun[U]:
        """The same call with another result."""
        return Begun(lambda: change(self()), self._futures, self.start)
