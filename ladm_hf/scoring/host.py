"""The host's part of scoring by processes: token ids, and what is counted beside the score.

Threads of one process take the interpreter's lock from one another and from the one that launches a device's kernels.
So each thread that does the host's part has a process of its own behind it, which is fed through its pipes:

    thread -> (method, arguments) -> process -> result -> thread

Started like this, and not by `multiprocessing`, a process imports neither torch nor the caller's script. It ends when
its input does, and with it the caller. Where one cannot be started, or dies, the thread does the work itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from ladm_hf.arrays import Ints
from ladm_hf.scoring.encoder import Encoder
from ladm_hf.scoring.repetition import repetition
from ladm_hf.scoring.text_signals import text_signals

# Isolated, for no folder to stand before the caller's own on the path.
_COMMAND = (
    "-I", "-c",
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ladm_hf.scoring.host import serve; serve()",
)  # fmt: skip
# There are as many processes as cores.
_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# What a pipe of answers should hold, so that one comes in few pieces. Linux gives a user 64 MiB for all pipes together.
PIPE_BYTES = 1 << 18


class HostPart:
    """What the host does for documents, here.

    Args:
        encoder ([`Encoder`], *optional*): gives token ids of texts.
    """

    def __init__(self, encoder: Encoder | None) -> None:
        self.encoder = encoder

    def encode(self, texts: list[str]) -> list[Ints | str]:
        """Token ids, or the status, of each text."""
        assert self.encoder is not None
        return self.encoder(texts)

    def count(self, documents: list[Any], signals: Sequence[str]) -> list[tuple[float, Mapping[str, float]]]:
        """Repetition and text signals of each document: a text, token ids, or anything else, which has neither."""
        return [(repetition(document), text_signals(document, signals)) for document in documents]


class HostProcesses:
    """A [`HostPart`] by processes, one for each thread that calls a method.

    Args:
        part ([`HostPart`]): what is done.
    """

    def __init__(self, part: HostPart) -> None:
        self.part = part
        self._pickled: bytes | None = None
        self._pickling = threading.Lock()
        self._own = threading.local()
        # each with the process that started it, which a fork of that one is not
        self._processes: list[tuple[int, subprocess.Popen[bytes]]] = []
        self._failed = False
        weakref.finalize(self, _end, self._processes)

    def encode(self, texts: list[str]) -> list[Ints | str]:
        """See [`HostPart.encode`]."""
        found: list[Ints | str] = self._ask("encode", texts)
        return found

    def count(self, documents: list[Any], signals: Sequence[str]) -> list[tuple[float, Mapping[str, float]]]:
        """See [`HostPart.count`]."""
        found: list[tuple[float, Mapping[str, float]]] = self._ask("count", documents, signals)
        return found

    def _ask(self, method: str, *arguments: Any) -> Any:
        if not self._failed:
            try:
                process = self._process()
                _send((method, arguments), process.stdin)
                return _receive(process.stdout)
            except Exception as error:  # of a start, of a pipe, or of what cannot be pickled
                self._give_up(error)
        return getattr(self.part, method)(*arguments)

    def _process(self) -> subprocess.Popen[bytes]:
        """The process of this thread."""
        process: subprocess.Popen[bytes] | None = getattr(self._own, "process", None)
        if process is None:
            with self._pickling:
                # a tokenizer takes a while, and all threads ask for it at once
                self._pickled = self._pickled or pickle.dumps(self.part)
            # anything else there is passed over by imports too
            path = [entry for entry in sys.path if isinstance(entry, str)]
            # in a session of its own, for Ctrl-C to reach the caller alone
            process = self._own.process = subprocess.Popen(
                [sys.executable, *_COMMAND, json.dumps(path)], env=os.environ | _ENVIRONMENT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._processes.append((os.getpid(), process))
            _widen(process.stdout)
            assert process.stdin is not None
            _send_pickled(self._pickled, process.stdin)
        return process

    def _give_up(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            warnings.warn(
                f"a process that prepares documents for the device failed ({type(error).__name__}: {error}): "
                "threads do it from here on, which gives the same scores, later",
                RuntimeWarning,
                stacklevel=2,
            )


def serve() -> None:
    """Answers on the standard output what comes from the standard input, until that ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # what a library prints is no answer
    os.dup2(2, 1)
    with contextlib.suppress(EOFError, BrokenPipeError):
        part = _receive(requests)
        while True:
            method, arguments = _receive(requests)
            _send(getattr(part, method)(*arguments), answers)


def _send(value: Any, pipe: Any) -> None:
    _send_pickled(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), pipe)


def _send_pickled(data: bytes, pipe: Any) -> None:
    # in one piece, as it is received in two: each call of the system takes the interpreter's lock anew
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()


def _receive(pipe: Any) -> Any:
    size = int.from_bytes(pipe.read(8), "little")
    data = pipe.read(size)
    if not size or len(data) < size:
        raise EOFError("the process at the other end has ended")
    return pickle.loads(data)


def _widen(pipe: Any) -> None:
    """Lets a pipe hold more, where the system does: what is read at once takes the interpreter's lock once."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _end(processes: list[tuple[int, subprocess.Popen[bytes]]]) -> None:
    """Ends processes, whatever they are at, since nobody waits for it, but none that a fork was born with."""
    for caller, process in processes:
        if os.getpid() == caller:
            process.kill()
            with contextlib.suppress(OSError):
                process.communicate()
