"""Which finished chunks of a run in an object store count: one small object for each, created once.

    .ladm/chunks/00012.json

What this process recorded is known from the answers, not from listings, which may lag behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ladm_hf.data.object_store import PARALLEL
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.storage import Storage
from ladm_hf.runs.output import CHUNKS, parse


class ChunkRecords:
    """The records of the chunks of one run.

    Attributes:
        own (`set[int]`): chunks that this process has recorded.

    Args:
        storage ([`Storage`]): of the run.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.own: set[int] = set()
        # by object: its version and content
        self._read: dict[str, tuple[str, dict[str, Any] | None]] = {}

    def create(self, run: RunRecord, chunk: int, content: bytes) -> dict[str, Any]:
        """Creates the record of a chunk; the one that counts, which is another worker's where that was first."""
        name = _name(chunk)
        if not self.storage.create(name, content):
            there = parse(self.storage.read(name))
            if there is not None and there.get("run") == run.run_id:
                self.own.add(chunk)
                return there
            self.storage.put(name, content)
        self.own.add(chunk)
        return parse(content) or {}

    def finished(self, run: RunRecord) -> set[int]:
        """Chunks that have a record, looked at only by name."""
        names = {name.rpartition("/")[2] for name in self.storage.entries(CHUNKS)}
        return {chunk for chunk in range(run.num_chunks) if _name(chunk).rpartition("/")[2] in names}

    def own_and_foreign(self, run: RunRecord) -> tuple[dict[int, dict[str, Any]], list[int]]:
        """The records of finished chunks, and the chunks whose record cannot be read or is of another run."""
        found = self._all(run)
        own = {chunk: r for chunk, r in found.items() if r is not None and r.get("run") == run.run_id}
        return own, [chunk for chunk in found if chunk not in own]

    def _all(self, run: RunRecord) -> dict[int, dict[str, Any] | None]:
        listed = self.storage.entries(CHUNKS)
        names = {chunk: _name(chunk) for chunk in range(run.num_chunks)}
        there = {chunk: name for chunk, name in names.items() if name in listed or chunk in self.own}
        versions = {name: listed[name].version if name in listed else "" for name in there.values()}
        missing = [name for name in there.values() if self._read.get(name, (None,))[0] != versions[name]]
        with ThreadPoolExecutor(PARALLEL) as pool:
            for name, content in zip(missing, pool.map(self.storage.read, missing), strict=True):
                self._read[name] = (versions[name], parse(content))
        return {chunk: self._read[name][1] for chunk, name in there.items()}

    def discard(self, chunks: Iterable[int]) -> None:
        """Forgets that some chunks are finished."""
        chunks = list(chunks)
        self.storage.delete(map(_name, chunks))
        self.own -= set(chunks)
        for chunk in chunks:
            self._read.pop(_name(chunk), None)

    def clear(self) -> None:
        """Forgets what was read and recorded of a run that is gone."""
        self._read.clear()
        self.own.clear()


def _name(chunk: int) -> str:
    return f"{CHUNKS}/{chunk:05d}.json"
