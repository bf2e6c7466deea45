"""Standard output and standard error that cannot make a command fail.

What the encoding of the terminal cannot show is written as an escape, and a reader that went away (`ladm ... | head`, a
closed session) is written to no more. Neither loses work that is done.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Output:
    """A text stream that drops what can no longer be written."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Sends the rest nowhere, so that neither a later line nor the end of Python fails on it."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._name == "stdout" and not isinstance(error, (BrokenPipeError, ValueError)):
            print(f"ladm: standard output cannot be written: {error}", file=sys.stderr)


@contextlib.contextmanager
def unfailing_output() -> Iterator[None]:
    """Replaces standard output and standard error for the time of a `with` block."""
    before = sys.stdout, sys.stderr
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        # a stream is None where the process was started with it closed
        stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, cast(TextIO, _Output(stream, name)))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Shows a warning as one line, without the place in the code that gave it, for the time of a `with` block."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *place, **line: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
