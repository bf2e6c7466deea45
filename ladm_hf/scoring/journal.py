"""Finished rows on disk, so that an interrupted `dataset.map(scorer, batched=True)` does not score them again.

    FOLDER/<hash of the scorer>/<host>-<process>-<random>.rows      records of one size, appended by one process each

In an object store, where nothing can be appended, a process writes its records in objects of up to 256 kB, the last one
again and again as it grows: at most so often that this takes a twentieth of the time, and at the end of the process. A
kill costs the rows since then.

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
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ladm_hf.data.files import storage_errors
from ladm_hf.data.object_store import PARALLEL, storage_at
from ladm_hf.data.results import refuse_repository
from ladm_hf.data.storage import is_url

Key = tuple[int, int]

# Bytes of an object in an object store, and how many times as long as a write of it the pause to the next one is.
_OBJECT_BYTES = 1 << 18
_REST = 20


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
        folder (`str` or path): shared by all scorers and processes; a folder or a URL of fsspec.
        identity (`object`): what determines the scores, beside the document; its `repr` is hashed.
        num_signals (`int`, *optional*, defaults to `0`): signals beside each score.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Any, num_signals: int = 0) -> None:
        self.identity = identity
        self._type = _record(num_signals)
        name = xxhash.xxh3_128_hexdigest(repr(identity).encode())
        refuse_repository(folder)
        self._objects = _Objects(f"{os.fspath(folder).rstrip('/')}/{name}") if is_url(folder) else None
        self.folder = Path(folder).expanduser() / name
        files = self._objects.read_all() if self._objects else _read_files(self.folder)
        self._old = _sorted(files, self._type)
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
        """Keeps finished rows: in the file before this returns, or in the object store soon.

        Raises:
            StorageError: the disk is full or cannot be written; the store refuses or stays silent.
        """
        rows = [row for row in rows if row[0] not in self._new]
        records = np.zeros(len(rows), dtype=self._type)
        for record, (key, found) in zip(records, rows, strict=True):
            record["high"], record["low"], record["score"], record["tokens"] = *key, found.score, found.tokens
            if found.signals:
                record["signals"] = found.signals
        records["check"] = _checks(records)
        if len(records) and self._objects:
            self._objects.append(records.tobytes())
        elif len(records):
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
            descriptor = os.open(self.folder / _file_name(), os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o644)
            self._file = (os.getpid(), descriptor)
        return self._file[1]

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            if self._file is not None and self._file[0] == os.getpid():
                os.close(self._file[1])


class _Objects:
    """The records of the processes of one scorer in an object store."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._process, self._written, self._next = 0, 0, 0.0
        self._begin()

    def read_all(self) -> list[bytes]:
        """The contents of all objects, in the order of their names."""
        storage = storage_at(self.url)
        names = sorted(name for name in storage.entries("") if name.endswith(".rows"))
        with ThreadPoolExecutor(PARALLEL) as pool:
            return [content or b"" for content in pool.map(storage.read, names)]

    def append(self, records: bytes) -> None:
        """Adds records, and writes what there is unless that was done a moment ago."""
        if self._process != os.getpid():
            # a forked process has objects and connections of its own
            self._process, self._storage = os.getpid(), storage_at(self.url)
            self._begin()
            # a worker of a pool ends without the interpreter's own farewell
            Finalize(None, self.flush, exitpriority=10)
        self._content += records
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> None:
        """Writes the records of the last object again, if there are new ones."""
        if self._process != os.getpid() or len(self._content) == self._written:
            return
        began = time.monotonic()
        self._storage.put(self._name, self._content)
        self._next = time.monotonic() + (_REST - 1) * (time.monotonic() - began)
        self._written = len(self._content)
        if self._written >= _OBJECT_BYTES:
            self._begin()

    def _begin(self) -> None:
        self._name, self._content, self._written, self._next = _file_name(), b"", 0, 0.0


def _file_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.rows"


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


def _read_files(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.glob("*.rows"))]


def _sorted(files: Iterable[bytes], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """All sound records of some files, sorted by hash."""
    parts = [np.zeros(0, dtype=kind)]
    for data in files:
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
