"""Finished rows on disk, so that an interrupted `dataset.map(scorer, batched=True)` does not score them again.

    FOLDER/<hash of the scorer>/<host>-<process>-<random>.rows      records of one size, appended by one process each

A record is the hash of the document (16 bytes), its score and its signals of the model (float64 each), its tokens
(int32) and a check sum (4 bytes): 32 bytes without signals. The hash of the scorer is of its signals too. A
process appends only to a file of its own, so workers need no lock, and a record cut off by a kill is the last of its
file and fails its check. Only documents with a score are kept: the others cost nothing to look at again.

The standard `sqlite3` would open a journal at once, where this one reads all of it into memory. But several processes
that write one database need locks that network file systems do not give reliably (its write-ahead log not at all), they
wait for each other at every batch, and a damaged page stops all of them instead of losing its rows.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ladm_hf.data.files import storage_errors

Key = tuple[int, int]


class Finished(NamedTuple):
    """What is kept of a document: its score and tokens, its status, and its signals of the model."""

    score: float
    tokens: int
    status: str = "ok"
    signals: tuple[float, ...] = ()


def _record(num_signals: int) -> np.dtype[Any]:
    """The type of a record."""
    signals = [("signals", "<f8", (num_signals,))] if num_signals else []
    fields = [("high", "<u8"), ("low", "<u8"), ("score", "<f8"), *signals, ("tokens", "<i4"), ("check", "<u4")]
    return np.dtype(fields)


class Journal:
    """The finished rows of one scorer in a folder.

    Args:
        folder (`str` or path): shared by all scorers and processes.
        identity (`object`): what determines the scores, beside the document; its `repr` is hashed.
        num_signals (`int`, *optional*, defaults to `0`): signals beside each score.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Any, num_signals: int = 0) -> None:
        self.identity = identity
        self._type = _record(num_signals)
        self.folder = Path(folder).expanduser() / xxhash.xxh3_128_hexdigest(repr(identity).encode())
        self._old = _read_all(self.folder, self._type)
        self._new: dict[Key, Finished] = {}
        self._file: tuple[int, int] | None = None

    def get(self, key: Key) -> Finished | None:
        """What is kept of a document, `None` if it is not finished."""
        if key in self._new:
            return self._new[key]
        at = int(np.searchsorted(self._old["high"], np.uint64(key[0])))
        while at < len(self._old) and int(self._old["high"][at]) == key[0]:
            if int(self._old["low"][at]) == key[1]:
                record = self._old[at]
                signals = record["signals"].tolist() if "signals" in record.dtype.names else ()
                return Finished(float(record["score"]), int(record["tokens"]), signals=tuple(signals))
            at += 1
        return None

    def add(self, rows: Iterable[tuple[Key, Finished]]) -> None:
        """Keeps finished rows: in the file before this returns.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        rows = [row for row in rows if row[0] not in self._new]
        records = np.zeros(len(rows), dtype=self._type)
        for record, (key, found) in zip(records, rows, strict=True):
            record["high"], record["low"], record["score"], record["tokens"] = *key, found.score, found.tokens
            if found.signals:
                record["signals"] = found.signals
        records["check"] = _checks(records)
        if len(records):
            with storage_errors(self.folder, "the journal"):
                data = memoryview(records.tobytes())
                try:
                    while data:
                        data = data[os.write(self._descriptor(), data) :]
                except OSError:
                    # a record may be half written: what comes later goes to another file
                    self._file = None
                    raise
        self._new.update(rows)

    def _descriptor(self) -> int:
        """The file of this process; a forked one opens its own."""
        if self._file is None or self._file[0] != os.getpid():
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.rows"
            descriptor = os.open(self.folder / name, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o644)
            self._file = (os.getpid(), descriptor)
        return self._file[1]

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            if self._file is not None and self._file[0] == os.getpid():
                os.close(self._file[1])


def document_key(document: Any) -> Key | None:
    """The hash of a text or of token ids; `None` for anything else, which has no score."""
    if isinstance(document, str):
        data = b"t" + document.encode("utf-8", "surrogatepass")
    elif isinstance(document, np.ndarray):
        data = b"i" + np.ascontiguousarray(document, dtype=np.int64).tobytes()
    else:
        return None
    digest = xxhash.xxh3_128_intdigest(data)
    return digest >> 64, digest & (2**64 - 1)


def with_journal(
    journal: Journal,
    documents: Sequence[Any],
    limit: int,
    score: Callable[[list[Any]], list[Finished]],
) -> list[Finished]:
    """Scores documents, taking the finished ones from a journal and keeping the others as they finish.

    Args:
        journal ([`Journal`]): the journal.
        documents (sequence): texts, or token ids as arrays.
        limit (`int`): characters or tokens that are scored before they are kept; one document at least.
        score: scores documents.

    Returns:
        One [`Finished`] for each document.
    """
    keys = [document_key(document) for document in documents]
    found = [None if key is None else journal.get(key) for key in keys]
    todo = [i for i, row in enumerate(found) if row is None]
    start = 0
    while start < len(todo):
        stop, size = start, 0
        while stop < len(todo) and (stop == start or size < limit):
            document = documents[todo[stop]]
            size += len(document) if keys[todo[stop]] is not None else 0
            stop += 1
        group = todo[start:stop]
        results = score([documents[i] for i in group])
        finished = []
        for i, result in zip(group, results, strict=True):
            found[i] = result
            key = keys[i]
            if key is not None and result.status == "ok":
                finished.append((key, result))
        journal.add(finished)
        start = stop
    return [row for row in found if row is not None]


def _read_all(folder: Path, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """All sound records of a folder, sorted by hash."""
    parts = [np.zeros(0, dtype=kind)]
    for file in sorted(folder.glob("*.rows")):
        data = file.read_bytes()
        records = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], dtype=kind)
        parts.append(records[records["check"] == _checks(records)])
    records = np.concatenate(parts)
    return records[np.argsort(records["high"], kind="stable")]


def _checks(records: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Check sum of each record, of the bytes before it."""
    size = records.dtype.itemsize
    data = records.tobytes()
    return np.array(
        [xxhash.xxh32_intdigest(data[at : at + size - 4]) for at in range(0, len(data), size)], dtype=np.uint32
    )
