"""Where a run writes: what its two kinds, a folder and an object store, keep alike and are asked for.

OUTPUT/run.json                                what is scored, with what, and the chunks
OUTPUT/options.yaml                            the options of `ladm score`, for `--options`
OUTPUT/data/train-00012-of-00064.parquet       the scored data
OUTPUT/scores.jsonl                            on request
OUTPUT/first_pass/                             the first of two passes, a run of its own
OUTPUT/.ladm/chunks/00012.json                 rows, tokens, size and checksum of a finished chunk
OUTPUT/.ladm/ranks/                            what each rank is doing
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ladm_hf.data.run_record import RUN_FILE, RunRecord
from ladm_hf.data.storage import Storage
from ladm_hf.errors import StorageError
from ladm_hf.runs.uploads import Staged

CHUNKS, PENDING, CLAIMS, RANKS = (f".ladm/{name}" for name in ("chunks", "data", "claims", "ranks"))
JSONL_FILE = "scores.jsonl"
# Where the first of two passes writes, a run of its own.
FIRST_PASS = "first_pass"

Say = Callable[[str], None]
Write = Callable[[Path], Any]


def silent(message: str) -> None:
    """Says nothing."""


class RunOutput:
    """What both kinds of output keep alike.

    Attributes:
        storage ([`Storage`]): where it lies.
        name (`str`): the path or URL for people, without credentials.
        report_seconds (`float`, *optional*): between two reports of a rank; `None` is the usual.
        shared (`bool`): whether several launches may work on the run at once.
        uploads (`bool`): whether a finished chunk takes requests to count, which may be made while the next is scored.
    """

    report_seconds: ClassVar[float | None] = None
    shared: ClassVar[bool] = False
    uploads: ClassVar[bool] = False

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.name = storage.name

    def exists(self) -> bool:
        """Whether a run was ever begun here."""
        return self.storage.entry(RUN_FILE) is not None

    def load(self) -> RunRecord | None:
        """What `run.json` holds, `None` where there is no run.

        Raises:
            RunRecordError: it is no `run.json` of ours.
        """
        content = self.storage.read(RUN_FILE)
        return None if content is None else RunRecord.from_json(content, f"{self.name}/{RUN_FILE}")

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.storage.entry(name) is not None

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        self.storage.delete([name])

    @staticmethod
    def chunk_name(run: RunRecord, chunk: int) -> str:
        """The name of the file of a finished chunk."""
        return f"{run.split}-{chunk:05d}-of-{run.num_chunks:05d}.parquet"

    def record(self, chunk: int) -> dict[str, Any] | None:
        """The record of a finished chunk, whose file may still be missing or broken."""
        return parse(self.storage.read(f"{CHUNKS}/{chunk:05d}.json"))

    def finish(
        self: Output, run: RunRecord, chunk: int, write: Callable[[Path], dict[str, Any]], *, attempt: str
    ) -> dict[str, Any]:
        """Writes a chunk so that it is there whole or not at all, and returns the record of the one that counts.

        Args:
            write: writes the given file and returns the chunk's figures for the record.
            attempt (`str`): different for each writer.

        Raises:
            StorageError: the file system refused, or the store; nothing half-written is left.
        """
        staged = self.stage(run, chunk, write, attempt=attempt)
        try:
            return staged.finish()
        finally:
            staged.discard()

    def _report(self, name: str, values: Mapping[str, Any], *, retry: bool = False) -> None:
        """Tells what a rank is doing. A full disk or a silent store does not stop it."""
        content = json.dumps({**values, "time": time.time()}).encode()
        with contextlib.suppress(OSError, StorageError):
            self.storage.put(f"{RANKS}/{name}.json", content, retry=retry)


class Lock(Protocol):
    """Who may write an output: one launch where it is a folder, all that want to where it is an object store.

    Attributes:
        launch (`str`): name of this launch.
        loss (`str`): why the work stops where `held` is false.
    """

    launch: str

    @property
    def loss(self) -> str: ...
    def acquire(self, say: Say = silent) -> None: ...
    def check_free(self, say: Say = silent) -> None: ...
    def is_alive(self) -> bool: ...
    def owner(self) -> Any: ...
    def active(self) -> list[dict[str, Any]]: ...
    def held(self) -> bool: ...
    def release(self) -> None: ...


class Output(Protocol):
    """What a launch asks of its output.

    Attributes:
        name (`str`): the path or URL for people.
        storage ([`Storage`]): where it lies.
        report_seconds (`float`, *optional*): between two reports of a rank; `None` is the usual.
        shared (`bool`): whether several launches may work on the run at once.
        uploads (`bool`): whether a finished chunk takes requests to count, which may be made while the next is scored.
    """

    name: str
    storage: Storage
    report_seconds: ClassVar[float | None]
    shared: ClassVar[bool]
    uploads: ClassVar[bool]

    @property
    def scratch(self) -> Path:
        """The folder of this machine's disk that files are first written in, for messages."""

    def exists(self) -> bool: ...
    def load(self) -> RunRecord | None: ...
    def begin(self) -> None:
        """Sees whether something can be written."""

    def check_new(self) -> None:
        """Refuses a place that holds somebody else's data."""

    def check_own(self, say: Say = silent) -> None:
        """Refuses to remove what no run has written, or what others are writing."""

    def clear(self) -> None:
        """Removes the run, `run.json` last."""

    def enter(self, run: RunRecord, launch: str, options: str, *, new: bool) -> RunRecord:
        """Makes the place ready for a launch; the record in force, which another launch may have just created."""

    def is_complete(self, run: RunRecord, say: Say) -> bool:
        """Whether the run is finished and all of its files are what their records say."""

    def is_published(self, run: RunRecord) -> bool:
        """Whether `data/` is whole, looked at only by name."""

    def take(self, run: RunRecord, launch: str, rank: int, check: Callable[[], None], log: Say) -> Iterator[int]:
        """Chunks for this rank, one after the other, until every chunk is finished or another rank has it.

        Args:
            check: called now and then, raises where the work must stop.
            log: takes lines for the log.
        """

    def stage(self, run: RunRecord, chunk: int, write: Callable[[Path], dict[str, Any]], *, attempt: str) -> Staged:
        """Writes a chunk to a file that does not count yet.

        Args:
            write: writes the given file and returns the chunk's figures for the record.
            attempt (`str`): different for each writer.
        """

    def finished(self, run: RunRecord) -> set[int]:
        """Finished chunks, looked at only by name."""

    def records(self, run: RunRecord) -> dict[int, dict[str, Any]]:
        """The records of the finished chunks; checksums are not looked at."""

    def local_chunk(self, run: RunRecord, chunk: int) -> AbstractContextManager[Path]:
        """The file of a finished chunk on this machine, for the time of a `with` block."""

    def publish(self, run: RunRecord) -> None:
        """Turns the finished chunks into `data/`."""

    def has(self, name: str) -> bool: ...
    def remove(self, name: str) -> None: ...
    def write_file(self, name: str, write: Write) -> None:
        """Writes a file beside the data, whole or not at all."""

    def report(self, rank: int, values: dict[str, Any]) -> None:
        """Tells what a rank is doing."""

    def ranks(self) -> dict[int, dict[str, Any]]:
        """The last report of each rank."""

    def log(self, rank: int, lines: str) -> None:
        """Adds to the log of a rank. A full disk does not stop it."""


def parse(content: bytes | None) -> dict[str, Any] | None:
    """A JSON object, `None` where there is none."""
    try:
        found = json.loads(content or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
