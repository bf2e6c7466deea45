"""The folder of a run: which chunks are finished, and how a file becomes finished at once.

    OUTPUT/run.json                                what is scored, with what, and the chunks
    OUTPUT/options.yaml                            the options of `ladm score`, for `--options`
    OUTPUT/data/train-00012-of-00064.parquet       the scored data, there only when all of them are
    OUTPUT/scores.jsonl                            on request
    OUTPUT/logs/rank-00000.log
    OUTPUT/.ladm/data/                             finished chunks of an unfinished run; renamed to data/ as a whole
    OUTPUT/.ladm/chunks/00012.json                 rows, tokens and checksum of a finished chunk
    OUTPUT/.ladm/claims/<launch>/00012             the chunk has been taken by a rank of this launch
    OUTPUT/.ladm/ranks/00000.json                  what a rank is doing
    OUTPUT/.ladm/lock                              the launch that writes

A chunk is finished when its parquet file has the size and checksum that its record tells, and the record names this
run. The record is written before the file is renamed into place, so neither a crash nor a second launch can make half a
file count, nor can a file of an earlier run.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ladm_hf.data.files import OPTIONS_FILE, hash_file, storage_errors, sync_folder, write_atomically
from ladm_hf.data.run_record import RUN_FILE, RunRecord
from ladm_hf.data.storage import LocalFolder, is_url
from ladm_hf.errors import RunError
from ladm_hf.runs.output import JSONL_FILE, PENDING, RunOutput, Say, Write, silent
from ladm_hf.runs.uploads import Staged

_CHUNK_NAME = re.compile(r"\w+-\d{5}-of-\d{5}\.parquet")


class RunFolder(RunOutput):
    """Paths and records of one run.

    Args:
        path (`str` or path): the output folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if is_url(path):
            raise RunError(f"expected a folder, found the URL {os.fspath(path)!r}")
        folder = LocalFolder(Path(path))
        super().__init__(folder)
        self.path = self.scratch = folder.path
        self.hidden = self.path / ".ladm"
        self.pending = self.path / PENDING
        self.data = self.path / "data"
        self.jsonl = self.path / JSONL_FILE

    # run.json

    def load(self) -> RunRecord | None:
        """What `run.json` holds, `None` where there is no run.

        Raises:
            RunRecordError: it is no `run.json` of ours.
        """
        return RunRecord.load(self.path / RUN_FILE) if self.exists() else None

    def begin(self) -> None:
        """Makes the folder."""
        with storage_errors(self.path, "the folder"):
            self.path.mkdir(parents=True, exist_ok=True)

    def check_new(self) -> None:
        """Refuses a folder that holds somebody else's data."""
        for path in (self.data, self.jsonl):
            if path.exists():
                raise RunError(f"{self.path} has no {RUN_FILE} but already a {path.name}: choose another output folder")

    def check_own(self, say: Say = silent) -> None:
        """Refuses to remove what no run has written."""
        if not self.hidden.is_dir():
            raise RunError(
                f"{self.path} has a {RUN_FILE} but no {self.hidden.name}, so it may not be a run: choose another "
                f"output folder, or remove {RUN_FILE} and data yourself"
            )
        others = sorted(file.name for file in _entries(self.data) if not _CHUNK_NAME.fullmatch(file.name))
        if others:
            raise RunError(f"{self.data} holds {others[0]!r}, which is not of the run: move it elsewhere first")

    def clear(self) -> None:
        """Removes the run, but not the lock. Killed on the way it leaves no chunk that another run could take for its
        own, and `run.json` to clear again."""
        with storage_errors(self.path, "the folder"):
            self._clear()

    def _clear(self) -> None:
        for folder in (self.hidden / "chunks", self.pending, self.hidden / "claims", self.hidden / "ranks"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in _entries(self.data):
            if _CHUNK_NAME.fullmatch(file.name):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.data.rmdir()
        self.jsonl.unlink(missing_ok=True)
        (self.path / RUN_FILE).unlink(missing_ok=True)

    def enter(self, run: RunRecord, launch: str, options: str, *, new: bool) -> RunRecord:
        """Makes the folder ready for a launch that holds the lock."""
        with storage_errors(self.path, RUN_FILE):
            if new:
                self._clear()
            self.reopen()
            self.prepare(launch)
            run.save(self.path)
            if options:
                write_atomically(self.path / OPTIONS_FILE, options)
        return run

    def prepare(self, launch: str) -> None:
        """Makes the folders of a launch and removes what dead launches left."""
        shutil.rmtree(self.hidden / "claims", ignore_errors=True)
        shutil.rmtree(self.hidden / "ranks", ignore_errors=True)
        for folder in (self.pending, self.hidden / "chunks", self._claims(launch), self.hidden / "ranks"):
            folder.mkdir(parents=True, exist_ok=True)
        leftovers = [self.path.glob(f"{name}.tmp-*") for name in (RUN_FILE, OPTIONS_FILE, self.jsonl.name)]
        leftovers += [folder.glob("*.tmp-*") for folder in (self.hidden, self.pending, self.hidden / "chunks")]
        for leftover in itertools.chain(*leftovers):
            leftover.unlink(missing_ok=True)
        (self.path / "logs").mkdir(exist_ok=True)

    # Chunks

    def chunk_file(self, run: RunRecord, chunk: int) -> Path:
        """The file of a finished chunk, wherever it is by now."""
        return (self.data if self.data.is_dir() else self.pending) / self.chunk_name(run, chunk)

    def finished(self, run: RunRecord) -> set[int]:
        """Chunks whose file is there, looked at only by name."""
        folder = self.data if self.data.is_dir() else self.pending
        names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
        return {chunk for chunk in range(run.num_chunks) if self.chunk_name(run, chunk) in names}

    def record(self, chunk: int) -> dict[str, Any] | None:
        """The record of a finished chunk, whose file may still be missing or broken."""
        try:
            return super().record(chunk)
        except OSError:
            return None

    def take(self, run: RunRecord, launch: str, rank: int, check: Callable[[], None], log: Say) -> Iterator[int]:
        """Chunks for this rank, one after the other, until another rank has each of them."""
        for chunk in range(run.num_chunks):
            check()
            if not self.claim(launch, chunk) or self.is_sound(run, chunk):
                continue
            if self.record(chunk) is not None:
                log(f"chunk {chunk} is damaged or unfinished: scoring it again")
            yield chunk

    def is_complete(self, run: RunRecord, say: Say) -> bool:
        """Whether `data/` is there and all of its files are what their records say."""
        if not self.is_published(run):
            return False
        broken = [chunk for chunk in range(run.num_chunks) if not self.is_sound(run, chunk)]
        if broken:
            say(f"{len(broken):,} chunks of the finished run are damaged and will be scored again")
        return not broken

    def is_published(self, run: RunRecord) -> bool:
        """Whether `data/` is there, as it is only when it is whole."""
        return self.data.is_dir()

    @contextlib.contextmanager
    def local_chunk(self, run: RunRecord, chunk: int) -> Iterator[Path]:
        """The file of a finished chunk."""
        yield self.chunk_file(run, chunk)

    def records(self, run: RunRecord) -> dict[int, dict[str, Any]]:
        """The records of all chunks whose file is there with the right size; checksums are not looked at."""
        found = {}
        folder = self.data if self.data.is_dir() else self.pending
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)} if folder.is_dir() else {}
        for chunk in range(run.num_chunks):
            record = self.record(chunk) if self.chunk_name(run, chunk) in sizes else None
            if record is None or record.get("run") != run.run_id:
                continue
            if record.get("size") == sizes[self.chunk_name(run, chunk)]:
                found[chunk] = record
        return found

    def is_sound(self, run: RunRecord, chunk: int) -> bool:
        """Whether a chunk is finished: size and checksum of its file are those on record, and the record this run's."""
        record = self.record(chunk)
        if record is None or record.get("run") != run.run_id:
            return False
        file = self.chunk_file(run, chunk)
        try:
            return bool(record["size"] == file.stat().st_size and record["hash"] == hash_file(file))
        except (OSError, KeyError):
            return False

    def stage(self, run: RunRecord, chunk: int, write: Callable[[Path], dict[str, Any]], *, attempt: str) -> Staged:
        """Writes a chunk under a temporary name, which [`Staged.finish`] changes."""
        target = self.pending / self.chunk_name(run, chunk)
        temporary = target.with_name(f"{target.name}.tmp-{attempt}")

        def discard() -> None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

        try:
            figures = write(temporary)
        except BaseException:
            discard()
            raise
        return Staged(functools.partial(self._place, run, chunk, temporary, figures), discard)

    def _place(self, run: RunRecord, chunk: int, temporary: Path, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Records the file of a chunk and gives it its name."""
        with storage_errors(self.path, f"chunk {chunk}"):
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            record = {
                **figures,
                "run": run.run_id,
                "size": temporary.stat().st_size,
                "hash": hash_file(temporary),
            }
            write_atomically(self.hidden / "chunks" / f"{chunk:05d}.json", json.dumps(record))
            os.replace(temporary, self.pending / self.chunk_name(run, chunk))
            sync_folder(self.pending)
        return record

    def claim(self, launch: str, chunk: int) -> bool:
        """Takes a chunk for this rank; false where another rank of the launch has it."""
        with storage_errors(self.path, "a claim"):
            try:
                os.close(os.open(self._claims(launch) / f"{chunk:05d}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                return False
            except FileNotFoundError as error:
                raise RunError(f"the run in {self.path} was removed or taken over by another launch") from error
        return True

    def publish(self, run: RunRecord | None = None) -> None:
        """Turns the finished chunks into `data/`, at once."""
        with storage_errors(self.path, "data/"):
            if not self.data.is_dir():
                os.rename(self.pending, self.data)
                sync_folder(self.path)
        shutil.rmtree(self.hidden / "claims", ignore_errors=True)

    def reopen(self) -> None:
        """Takes `data/` back, because a chunk in it is broken."""
        if self.data.is_dir():
            shutil.rmtree(self.pending, ignore_errors=True)
            os.rename(self.data, self.pending)

    def write_file(self, name: str, write: Write) -> None:
        """Writes a file beside the data, whole or not at all."""
        temporary = self.path / f"{name}.tmp-{os.getpid()}"
        try:
            with storage_errors(self.path, name):
                write(temporary)
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, self.path / name)
        finally:
            temporary.unlink(missing_ok=True)

    def _claims(self, launch: str) -> Path:
        return self.hidden / "claims" / launch

    # Ranks

    def report(self, rank: int, values: dict[str, Any]) -> None:
        """Tells what a rank is doing. A full disk does not stop it."""
        # not in a folder that was removed meanwhile
        if (self.hidden / "ranks").is_dir():
            self._report(f"{rank:05d}", values)

    def ranks(self) -> dict[int, dict[str, Any]]:
        """The last report of each rank."""
        reports = {}
        for file in sorted((self.hidden / "ranks").glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                reports[int(file.stem)] = json.loads(file.read_text(encoding="utf-8"))
        return reports

    def log(self, rank: int, lines: str) -> None:
        """Adds to the log of a rank. A full disk does not stop it."""
        with (
            contextlib.suppress(OSError),
            open(self.path / "logs" / f"rank-{rank:05d}.log", "a", encoding="utf-8") as file,
        ):
            file.write(lines)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
