"""Finished chunks on their way to where they count: one at a time, by a thread, while the next chunk is scored."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ladm_hf.data.writer import GroupWriter


class Staged:
    """A finished chunk that does not count yet.

    Args:
        finish: puts it where it counts, and returns its record.
        discard: removes what is left of it on this machine; may be called more than once.
    """

    def __init__(self, finish: Callable[[], dict[str, Any]], discard: Callable[[], None]) -> None:
        self.finish = finish
        self.discard = discard

    def after(self, writer: GroupWriter) -> Staged:
        """The same where the end of the file has yet to be written."""

        def finish() -> dict[str, Any]:
            writer.finish()
            return self.finish()

        def discard() -> None:
            writer.close()
            self.discard()

        return Staged(finish, discard)


class Uploads:
    """Makes chunks count, in the order in which they are added.

    Args:
        beside (`bool`): whether a thread does it. Else it is done when [`Uploads.add`] returns.

    Used in a `with` block, which ends when the last chunk counts. Where it ends by another error, chunks that were
    added are still made to count, and an error in doing so is not raised.
    """

    def __init__(self, beside: bool) -> None:
        self._beside = beside
        # each is filled and emptied in one step, which no signal breaks in two
        self._added: queue.SimpleQueue[tuple[Staged, Callable[[Staged], None]] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._number_added = self._number_ended = 0
        # held while the thread lives: Thread.join takes a thread for ended once a signal broke it off
        self._running = threading.Lock()
        self._error: BaseException | None = None

    @property
    def left(self) -> int:
        """Chunks that do not count yet."""
        return self._number_added - self._number_ended

    def add(self, staged: Staged, finish: Callable[[Staged], None]) -> None:
        """Calls `finish` with a chunk, beside the caller, who waits while an earlier one has not been finished.

        Raises:
            The error of this chunk, or of an earlier one.
        """
        if not self._beside:
            self._finish(staged, finish)
        else:
            self._added.put((staged, finish))
            self._number_added += 1
            while self.left > 1:
                self._ended.get()
        self.check()

    def check(self) -> None:
        """Raises the error of a chunk that could not be made to count."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Waits until every chunk that was added counts.

        Raises:
            The error of one that could not be made to count.
        """
        self._wait()
        self.check()

    def __enter__(self) -> Uploads:
        if self._beside:
            self._running.acquire()
            threading.Thread(target=self._run, name="ladm-upload", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait()
        if error is None:
            self.check()

    def _wait(self) -> None:
        if self._beside:
            self._added.put(None)
            with self._running:
                pass

    def _run(self) -> None:
        while (added := self._added.get()) is not None:
            self._finish(*added)
            self._number_ended += 1
            self._ended.put(None)
        self._running.release()

    def _finish(self, staged: Staged, finish: Callable[[Staged], None]) -> None:
        try:
            try:
                # what could not be uploaded once cannot now: an error ends the work
                if self._error is None:
                    finish(staged)
            finally:
                staged.discard()
        except BaseException as error:  # raised where the next chunk is added
            self._error = self._error or error
