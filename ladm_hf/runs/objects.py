"""A run in an object store: any number of independent launches work on it at once, and none waits for a lock.

    .ladm/data/train-00012-of-00064-<hash>.parquet     a finished chunk, by one put
    .ladm/chunks/00012.json                            which of these counts, with its rows, tokens and checksum
    .ladm/finished.json                                data/ is whole; the store's checksums of its files

The name of a chunk's file depends on its place and content. Two workers that finish the same chunk with the same bytes
write the same object; where the bytes differ, the record is created once and names the one that counts. When all
records are there, each file that counts is copied to its place in data/, whose name depends on the place alone: no
reader of data/*.parquet finds rows twice, whoever comes late. Any launch may copy, several at once do the same.

What this process wrote is known from the answers, not from listings, which may lag behind.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import gettempdir
from typing import Any, ClassVar

from ladm_hf.data.files import OPTIONS_FILE, hash_file, storage_errors
from ladm_hf.data.run_record import RUN_FILE, RunRecord
from ladm_hf.data.shards import SHARD_NAME
from ladm_hf.data.storage import Storage
from ladm_hf.data.temporary import temporary_folder
from ladm_hf.errors import RunError, StorageError
from ladm_hf.runs.chunk_files import TEMPORARY, ChunkFiles
from ladm_hf.runs.chunk_records import ChunkRecords
from ladm_hf.runs.output import CLAIMS, JSONL_FILE, PENDING, RunOutput, Say, Write, silent
from ladm_hf.runs.uploads import Staged
from ladm_hf.runs.workers import BEAT, LEASE, Workers, worker_name

# Seconds for which a listing of what others have taken or finished is good enough.
LISTING_SECONDS = 10.0
# Seconds, at most, between two looks at what others are doing, where nothing is left but that: the first and the last.
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 30.0


class RunObjects(RunOutput):
    """The objects of one run.

    Args:
        storage ([`Storage`]): where they lie.
    """

    report_seconds: ClassVar[float | None] = BEAT
    shared: ClassVar[bool] = True
    uploads: ClassVar[bool] = True

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self.workers = Workers(storage)
        self.scratch = Path(gettempdir())
        self._records = ChunkRecords(storage)
        self._files = ChunkFiles(storage)
        # chunks that are finished as far as is known, and those that this process has taken and not recorded yet
        self._done: set[int] = set()
        self._taken: set[int] = set()
        # set when this process has recorded a chunk
        self._recorded = threading.Event()
        self._reported = False
        self._log = ""
        self._logged = 0

    # run.json

    def begin(self) -> None:
        """Sees whether the store answers."""
        self.storage.read(RUN_FILE)

    def check_new(self) -> None:
        """Refuses a place that holds somebody else's data."""
        for name, there in (("data", self.storage.entries("data")), (JSONL_FILE, self.has(JSONL_FILE))):
            if there:
                raise RunError(f"{self.name} has no {RUN_FILE} but already a {name}: choose another output")

    def check_own(self, say: Say = silent) -> None:
        """Refuses to remove what no run has written, or what others are writing."""
        if not self.storage.entries(".ladm"):
            raise RunError(
                f"{self.name} has a {RUN_FILE} but no .ladm, so it may not be a run: choose another output, or remove "
                f"{RUN_FILE} and data yourself"
            )
        others = [name for name in self.storage.entries("data") if not SHARD_NAME.fullmatch(name[len("data/") :])]
        if others:
            raise RunError(f"{self.name} holds {others[0]!r}, which is not of the run: move it elsewhere first")
        self.workers.check_idle(say)

    def clear(self) -> None:
        """Removes the run, `run.json` last."""
        data = [name for name in self.storage.entries("data") if SHARD_NAME.fullmatch(name[len("data/") :])]
        for names in (self.storage.entries(".ladm"), data, [JSONL_FILE], [RUN_FILE]):
            self.storage.delete(names)
        self._records.clear()
        self._done.clear()

    def enter(self, run: RunRecord, launch: str, options: str, *, new: bool) -> RunRecord:
        """Creates the run, or checks the chunks of the one that is there; the record in force."""
        if new and not self.storage.create(RUN_FILE, run.to_json()):
            # another launch was faster; with other settings it is refused by who asked
            run = self.load() or run
        self.workers.run_id = run.run_id
        if options and new:
            self.storage.put(OPTIONS_FILE, options.encode())
        self.workers.forget_the_dead()
        records, foreign = self._records.own_and_foreign(run)
        self._discard([*foreign, *self._files.broken(run, records, silent)])
        return run

    # Chunks

    def take(self, run: RunRecord, launch: str, rank: int, check: Callable[[], None], log: Say) -> Iterator[int]:
        """Chunks for this rank, one after the other, until every chunk is finished."""
        worker, self.workers.run_id = worker_name(launch, rank), run.run_id
        # each worker begins elsewhere, so that few want the same chunk
        first = zlib.crc32(worker.encode()) % max(1, run.num_chunks)
        order = [*range(first, run.num_chunks), *range(first)]
        claims: dict[int, int] = {}
        listed, pause = -LISTING_SECONDS, min(FIRST_PAUSE, LEASE / 10)
        while True:
            check()
            if time.monotonic() - listed >= LISTING_SECONDS:
                self._done |= self.finished(run)
                claims, listed = self.workers.claims(), time.monotonic()
            chunk = self._free(order, claims, worker)
            # nobody can have finished what nobody had claimed, where a claim lets one in
            is_new = chunk is not None and self.storage.exclusive
            if chunk is None:
                self._recorded.clear()
                before = len(self._done)
                self._done = self.finished(run) | self._records.own
                claims, listed = self.workers.claims(), time.monotonic()
                left = [chunk for chunk in order if chunk not in self._done]
                if not left and not self._discard(self._records.own_and_foreign(run)[1]):
                    return
                chunk = self._free(order, claims, worker)
                chunk = self._abandoned(left, claims, worker, log) if chunk is None else chunk
                if len(self._done) > before:
                    pause = min(FIRST_PAUSE, LEASE / 10)
            if chunk is None:
                self._wait(pause * random.uniform(0.5, 1.0), check)
                pause = min(2 * pause, LONGEST_PAUSE, LEASE / 3)
            elif is_new or self.record(chunk) is None:
                self._taken.add(chunk)
                yield chunk
            else:
                self._done.add(chunk)

    def _wait(self, seconds: float, check: Callable[[], None]) -> None:
        """Waits for a while, or until this process has recorded a chunk."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._recorded.wait(min(1.0, left)):
            check()

    def _free(self, order: Iterable[int], claims: dict[int, int], worker: str) -> int | None:
        """Takes the first chunk that nobody has."""
        for chunk in order:
            if chunk not in claims and chunk not in self._done and chunk not in self._records.own:
                claims[chunk] = 0
                if self.workers.claim(chunk, 0, worker):
                    return chunk
        return None

    def _abandoned(self, left: Iterable[int], claims: dict[int, int], worker: str, log: Say) -> int | None:
        """Takes over the first chunk whose worker is dead."""
        self.workers.look()
        dead: dict[str, bool] = {worker: True}
        for chunk in left:
            if chunk in self._taken or chunk in self._records.own:
                # its rows are read ahead of the scores of an earlier one, or it is being uploaded
                continue
            holder = self.workers.holder(chunk, claims[chunk]) if chunk in claims else worker
            if holder not in dead:
                dead[holder] = self.workers.is_dead(holder)
            if dead[holder]:
                claims[chunk] = claims.get(chunk, -1) + 1
                if self.workers.claim(chunk, claims[chunk], worker):
                    log(f"chunk {chunk} was left by {holder}")
                    return chunk
        return None

    def stage(self, run: RunRecord, chunk: int, write: Callable[[Path], dict[str, Any]], *, attempt: str) -> Staged:
        """Writes a chunk to this machine's disk, whence [`Staged.finish`] uploads it.

        Raises:
            StorageError: the disk is full; from `finish`, the store refuses or stays silent.
        """
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(temporary_folder(TEMPORARY))
            file = folder / self.chunk_name(run, chunk)
            figures = write(file)
            finish = functools.partial(self._upload, run, chunk, file, figures)
            return Staged(finish, stack.pop_all().close)

    def _upload(self, run: RunRecord, chunk: int, file: Path, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Uploads the file of a chunk; the record of the one that counts."""
        digest, size = hash_file(file), file.stat().st_size
        name = f"{PENDING}/{file.stem}-{digest}.parquet"
        entry = self.storage.upload(file, name)
        record = {
            **figures, "run": run.run_id, "size": size, "hash": digest, "file": name, "checksum": entry.checksum,
        }  # fmt: skip
        counts = self._records.create(run, chunk, json.dumps(record).encode())
        self._taken.discard(chunk)
        self._recorded.set()
        return counts

    def finished(self, run: RunRecord) -> set[int]:
        """Chunks that have a record, looked at only by name."""
        return self._records.finished(run)

    def records(self, run: RunRecord) -> dict[int, dict[str, Any]]:
        """The records of all finished chunks; their files are not looked at."""
        return self._records.own_and_foreign(run)[0]

    def _discard(self, chunks: Collection[int]) -> bool:
        """Forgets that some chunks are finished; whether there was any."""
        self._records.discard(chunks)
        self._done -= set(chunks)
        return bool(chunks)

    # What is in the files

    def is_complete(self, run: RunRecord, say: Say) -> bool:
        """Whether `data/` is whole and all of its files are what their records say."""
        if not self.is_published(run):
            return False
        records = self.records(run)
        broken = self._files.broken(run, records, say) + [n for n in range(run.num_chunks) if n not in records]
        if broken:
            say(f"{len(broken):,} chunks of the finished run are damaged and will be scored again")
            self._files.mark("", self._files.checksums())
        return not broken

    def is_published(self, run: RunRecord) -> bool:
        """Whether a launch has marked `data/` as whole."""
        return self._files.is_published(run)

    @contextlib.contextmanager
    def local_chunk(self, run: RunRecord, chunk: int) -> Iterator[Path]:
        """A copy of the file of a finished chunk on this machine, for the time of a `with` block."""
        own = self.chunk_name(run, chunk)
        name = f"data/{own}" if self.is_published(run) else str((self.record(chunk) or {}).get("file"))
        with temporary_folder(TEMPORARY) as folder:
            self.storage.download(name, folder / own)
            yield folder / own

    def publish(self, run: RunRecord) -> None:
        """Copies the chunks that count to their places in `data/`, and marks it as whole."""
        if self._files.publish(run, self.records(run)):
            for prefix in (PENDING, CLAIMS):
                self.storage.delete(self.storage.entries(prefix))

    def write_file(self, name: str, write: Write) -> None:
        """Writes a file beside the data, whole or not at all."""
        with temporary_folder(TEMPORARY) as folder:
            with storage_errors(folder, name):
                write(folder / name)
            self.storage.upload(folder / name, name)

    # Ranks

    def report(self, rank: int, values: dict[str, Any]) -> None:
        """Tells what a rank is doing, brings its log up to date, and looks for signs of life of others."""
        worker = worker_name(values["launch"], rank)
        # without a first report its claims would be taken for those of the dead
        self._report(worker, self.workers.report(worker, values), retry=not self._reported)
        self._reported = True
        if len(self._log) > self._logged:
            text = self._log
            with contextlib.suppress(OSError, StorageError):
                self.storage.put(f"logs/{worker}.log", text.encode(), retry=False)
                self._logged = len(text)

    def ranks(self) -> dict[int, dict[str, Any]]:
        """The last report of each rank of each launch, numbered through."""
        return dict(enumerate(self.workers.reports().values()))

    def log(self, rank: int, lines: str) -> None:
        """Adds to the log of a rank, which goes to the store with its reports."""
        self._log += lines
