"""Finished chunks on their way to where they count: one at a time, by a thread, while the next chunk is scored."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Staged:
    """A finished chunk that does not count yet.

    Args:
        finish: puts it where it counts, and returns its record.
        discard: removes what is left of it on this machine; may be called more than once.
    """

    def __init__(self, finish: Callable[[], dict[str, Any]], discard: Callable[[], None]) -> None:
        self.finish = finish
        self.discard = discard


class Uploads:
    """Makes chunks count, in the order in which they are added.

    Args:
        beside (`bool`): whether a thread does it. Else it is done when [`Uploads.add`] returns.

    Used in a `with` block, which ends when the last chunk counts. Where it ends by another error, chunks that were
    added are still made to count, and an error in doing so is not raised.
    """

    def __init__(self, beside: bool) -> None:
        self._beside = beside
        self._added: queue.SimpleQueue[tuple[Staged, Callable[[Staged], None]] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._left = 0
        self._error: BaseException | None = None

    @property
    def left(self) -> int:
        """Chunks that do not count yet."""
        return self._left

    def add(self, staged: Staged, finish: Callable[[Staged], None]) -> None:
        """Calls `finish` with a chunk, beside the caller, who waits while an earlier one has not been finished.

        Raises:
            The error of this chunk, or of an earlier one.
        """
        if not self._beside:
            self._finish(staged, finish)
        else:
            with self._changed:
                self._left += 1
            self._added.put((staged, finish))
            self._wait(1)
        self.check()

    def check(self) -> None:
        """Raises the error of a chunk that could not be made to count."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Uploads:
        if self._beside:
            threading.Thread(target=self._run, name="ladm-upload", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait(0)
        finally:
            self._added.put(None)
        if error is None:
            self.check()

    def _wait(self, most: int) -> None:
        """Waits until at most so many chunks are left."""
        with self._changed:
            self._changed.wait_for(lambda: self._left <= most)

    def _run(self) -> None:
        while (added := self._added.get()) is not None:
            self._finish(*added)
            with self._changed:
                self._left -= 1
                self._changed.notify_all()

    def _finish(self, staged: Staged, finish: Callable[[Staged], None]) -> None:
        try:
            # what could not be uploaded once cannot now: an error ends the work
            if self._error is None:
                finish(staged)
        except BaseException as error:  # raised where the next chunk is added
            self._error = error
        finally:
            staged.discard()
