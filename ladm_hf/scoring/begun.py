"""A call whose host's part threads have begun: it is finished, or cancelled."""

from __future__ import annotations

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
    """

    def __init__(self, finish: Callable[[], T], futures: Sequence[Future[Any]] = ()) -> None:
        self._finish, self._futures = finish, futures

    def __call__(self) -> T:
        try:
            return self._finish()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Has the threads leave out what they have not begun: nobody waits for it, but the interpreter at its end."""
        for future in self._futures:
            future.cancel()

    def then(self, change: Callable[[T], U]) -> Begun[U]:
        """The same call with another result."""
        return Begun(lambda: change(self._finish()), self._futures)
