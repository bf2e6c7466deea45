"""The files of finished chunks in an object store: where they are, whether they are whole, and their way into data/.

.ladm/data/train-00012-of-00064-<hash>.parquet     a finished chunk, by one put
data/train-00012-of-00064.parquet                  a copy of the one that counts, when all chunks are there
.ladm/finished.json                                data/ is whole; the store's checksums of its files
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ladm_hf.data.files import hash_file
from ladm_hf.data.object_store import PARALLEL
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.storage import Entry, Storage
from ladm_hf.data.temporary import temporary_folder
from ladm_hf.errors import StorageError
from ladm_hf.runs.output import PENDING, RunOutput, Say, parse

FINISHED_FILE = ".ladm/finished.json"
# How temporary folders on this machine are called.
TEMPORARY = "ladm-chunk-"

Records = Mapping[int, Mapping[str, Any]]


class ChunkFiles:
    """The files of the chunks of one run.

    Args:
        storage ([`Storage`]): of the run.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def broken(self, run: RunRecord, records: Records, say: Say) -> list[int]:
        """Chunks of these records that have no file of the recorded size and checksum."""
        files = self._list()
        places = {chunk: self._place(run, chunk, record, files) for chunk, record in records.items()}
        known = self.checksums()
        unknown = [
            chunk for chunk, place in places.items()
            if place is not None and not _is_known(records[chunk], files[place], known.get(place))
        ]  # fmt: skip
        if unknown:
            size = sum(records[chunk]["size"] for chunk in unknown)
            say(f"reading {len(unknown):,} finished chunks, {size / 1e6:,.0f} MB, to compare their checksums")

        def hash_of(chunk: int) -> str | None:
            # moved to data/ since it was found
            return self._hash(str(places[chunk])) or self._hash(f"data/{RunOutput.chunk_name(run, chunk)}")

        with ThreadPoolExecutor(PARALLEL) as pool:
            hashes = dict(zip(unknown, pool.map(hash_of, unknown), strict=True))
        changed = [chunk for chunk, found in hashes.items() if found != records[chunk].get("hash")]
        gone = [chunk for chunk, place in places.items() if place is None]
        return sorted({*changed, *gone})

    def _list(self) -> dict[str, Entry]:
        """The files of chunks. Another launch may be moving them to data/, whose listing comes last so that it has what
        the other one has no longer."""
        pending = self.storage.entries(PENDING)
        return {**pending, **self.storage.entries("data")}

    def _place(self, run: RunRecord, chunk: int, record: Mapping[str, Any], files: dict[str, Entry]) -> str | None:
        """Where the file of a record is; of several places one with its size. A listing may not have it yet."""
        name = RunOutput.chunk_name(run, chunk)
        names = [str(record.get("file")), f"data/{name}", f"{PENDING}/{name}"]
        for name in names:
            if name in files and files[name].size == record.get("size"):
                return name
        for name in names:
            entry = None if name in files else self.storage.entry(name)
            if entry is not None and entry.size == record.get("size"):
                files[name] = entry
                return name
        return None

    def _hash(self, name: str) -> str | None:
        with temporary_folder(TEMPORARY) as folder, contextlib.suppress(OSError, StorageError):
            self.storage.download(name, folder / "file")
            return hash_file(folder / "file")
        return None

    def is_published(self, run: RunRecord) -> bool:
        """Whether a launch has marked `data/` as whole."""
        return (parse(self.storage.read(FINISHED_FILE)) or {}).get("run") == run.run_id

    def publish(self, run: RunRecord, records: Records) -> bool:
        """Copies the files of records to data/ and marks that as whole; false where another launch was faster."""
        try:
            checksums = self._copy_to_data(run, records)
        except StorageError:
            # it has swept up
            if self.is_published(run):
                return False
            raise
        self.mark(run.run_id, checksums)
        return True

    def _copy_to_data(self, run: RunRecord, records: Records) -> dict[str, str | None]:
        """Copies the files of records to their places, where they are not there yet; the store's checksums by place."""
        targets = {chunk: f"data/{RunOutput.chunk_name(run, chunk)}" for chunk in range(run.num_chunks)}
        known, there = self.checksums(), self._list()

        def copy(chunk: int) -> bool:
            record, target = records[chunk], targets[chunk]
            if target in there and _is_known(record, there[target], known.get(target)):
                return False
            source = str(record.get("file") or target.replace("data", PENDING, 1))
            if source in there or self.storage.entry(source) is not None:
                self.storage.copy(source, target)
                return True
            if target not in there or self._hash(target) != record["hash"]:
                raise StorageError(f"{self.storage.name}/{source} is gone: run the same command again")
            return False

        def check(chunk: int) -> tuple[str, str | None]:
            target = targets[chunk]
            # a listing may still tell of what was there before, or of nothing
            entry = now[target] if target in now and target not in there else self.storage.entry(target)
            if entry is None or entry.size != records[chunk]["size"]:
                raise StorageError(f"{self.storage.name}/{target} is not what was written: run the same command again")
            return target, entry.checksum

        with ThreadPoolExecutor(PARALLEL) as pool:
            copied = dict(zip(targets, pool.map(copy, targets), strict=True))
            now = self.storage.entries("data") if any(copied.values()) else {}
            found = dict(pool.map(check, [chunk for chunk in targets if copied[chunk]]))
        return {target: found[target] if copied[chunk] else there[target].checksum for chunk, target in targets.items()}

    def checksums(self) -> dict[str, str]:
        """The store's checksums of the files of data/, as they were when it was finished."""
        found = (parse(self.storage.read(FINISHED_FILE)) or {}).get("checksums")
        return found if isinstance(found, dict) else {}

    def mark(self, run_id: str, checksums: Mapping[str, str | None]) -> None:
        """Says of which run data/ is whole, and the store's checksums of its files."""
        self.storage.put(FINISHED_FILE, json.dumps({"run": run_id, "checksums": checksums}).encode())


def _is_known(record: Mapping[str, Any], entry: Entry, checksum: str | None) -> bool:
    """Whether the store's checksum of a file says that it is what its record tells."""
    return entry.size == record.get("size") and entry.checksum is not None and (
        entry.checksum in (checksum, record.get("checksum"))
    )  # fmt: skip
