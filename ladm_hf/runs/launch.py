"""One rank of one launch of a run: begins or resumes it, takes chunks until none is left, and ends it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import threading
from collections.abc import Generator, Iterator
from typing import Any

from ladm_hf.data.run_record import SAME_CALL, RunRecord
from ladm_hf.data.sources import DatasetSource, Source
from ladm_hf.errors import InputError, RunError, StorageError
from ladm_hf.ranks import Ranks
from ladm_hf.runs.ahead import ahead
from ladm_hf.runs.cascade import FirstPass
from ladm_hf.runs.chunk_scorer import ChunkScorer, Part
from ladm_hf.runs.estimate import estimate
from ladm_hf.runs.jsonl import write_jsonl
from ladm_hf.runs.monitor import Heartbeat
from ladm_hf.runs.open import lock_of
from ladm_hf.runs.output import JSONL_FILE, Output
from ladm_hf.runs.plan import FirstOf, check_same, kept_columns, plan, scorer_identity
from ladm_hf.runs.uploads import Staged, Uploads
from ladm_hf.scoring.loader import DTYPES
from ladm_hf.scoring.scorer import LadmScorer

# Parts, of a few megabytes of text at most, that are read and tokenised while a device scores the one at hand; the
# beginning and the end of a chunk count as well.
PARTS_AHEAD = 6
# Estimated tokens that are worth an estimate before the work.
LONG_WORK = 2_000_000


class Launch:
    """One rank of one launch of a run.

    Args:
        output ([`Output`]): of the run.
        scorer ([`LadmScorer`]): of this pass.
        ranks ([`Ranks`]): the processes of the launch.
        progress (`bool`, *optional*): see [`score_dataset`].
        command (`str`): what resumes the run, for messages and `run.json`.
        options (`str`): options of the command line, kept beside `run.json`.
        first_of (`tuple` of [`Cascade`] and [`LadmScorer`], *optional*): whose first pass this run is.
    """

    def __init__(
        self,
        output: Output,
        scorer: LadmScorer,
        ranks: Ranks,
        progress: bool | None,
        command: str,
        options: str,
        first_of: FirstOf,
    ) -> None:
        self.output = output
        self.first_of = first_of
        self.first: FirstPass | None = None
        self.scorer = scorer
        self.ranks = ranks
        self.progress = progress
        self.command = command or SAME_CALL
        self.options = options
        self.source: Source
        self.record: RunRecord | None = None
        self.lock = lock_of(output) if ranks.is_main else None
        self.launch = ""
        self.chunks: ChunkScorer
        self._heart: Heartbeat | None = None
        self.uploads: Uploads
        self.left = threading.Event()

    @property
    def run(self) -> RunRecord:
        """The record of the run, once it has begun."""
        assert self.record is not None
        return self.record

    @property
    def heart(self) -> Heartbeat:
        """The signs of life, once the run has begun."""
        assert self._heart is not None
        return self._heart

    # Before the work

    def begin(self, options: dict[str, Any], chunks: int | None, jsonl: bool, restart: bool) -> bool:
        """Creates or resumes the run; false where it is finished already."""
        found = self.ranks.share(lambda: self._create_or_resume(options, chunks, jsonl, restart))
        if found is None:
            return False
        self.record, self.launch = found
        if not self.ranks.is_main:
            self._take_dtype(self.run)
            if isinstance(self.source, DatasetSource) and self.source.fingerprint() != self.run.identity["data"]:
                raise InputError(
                    f"rank {self.ranks.index} was given other rows than rank 0: a shuffle without a seed? "
                    "Every rank must build the same dataset."
                )
            self.source.restore_layout(dict(self.run.layout))
        self._heart = Heartbeat(self.output, self.run, self.launch, self.ranks, self.lock, self.progress)
        self.chunks = ChunkScorer(
            self.run, self.source, self.scorer, self.first, kept_columns(self.run.schema, self.first_of), self.heart,
            self.output.scratch,
        )  # fmt: skip
        # at a URL it takes requests, in a folder the disk must have written: a device need not wait for either
        self.uploads = Uploads(self.output.uploads or self.chunks.works_ahead())
        self.heart.start()
        return True

    def _create_or_resume(
        self, options: dict[str, Any], chunks: int | None, jsonl: bool, restart: bool
    ) -> tuple[RunRecord, str] | None:
        assert self.lock is not None
        self.output.begin()
        again = restart and self.output.exists()
        if again:
            self.output.check_own(self._say)
        else:
            # before the lock leaves its folder beside a run.json that is no run's
            self.output.load()
        self.lock.acquire(self._say)
        run = None if again else self.output.load()
        if run is not None:
            self._take_dtype(run)
        identity = {**options, **scorer_identity(self.scorer), **(self.first.identity if self.first else {})}
        if self.first_of is not None:
            identity["columns"] = self.first_of[0].by
        new = run is None
        if run is None:
            if not again:
                self.output.check_new()
            # of both passes, before the first has taken its time
            for scorer in (self.scorer, *([] if self.first_of is None else self.first_of[1:])):
                scorer.check_device(self.ranks.local)
            run = self._plan(identity, chunks)
            if again:
                self.output.clear()
        else:
            self._resume(run, identity, chunks)
            if self.output.is_complete(run, self._say):
                self.record = run
                if jsonl and not self.output.has(JSONL_FILE):
                    self._write_jsonl()
                return None
            self.scorer.check_device(
                self.ranks.local,
                f"{self.output.name} was begun in {self.scorer.dtype}: resume it on such a GPU, or use "
                "another dtype with another output folder, or with --restart (restart=True), which discards "
                f"{len(self.output.records(run)):,} finished chunks",
            )
        found = self.output.enter(
            dataclasses.replace(run, command=self.command), self.lock.launch, self.options, new=new
        )
        if found.run_id != run.run_id:
            self._resume(found, identity, chunks)
        done = len(self.output.records(found))
        if done:
            self._say(f"resuming with {done:,} of {found.num_chunks:,} chunks finished")
        return found, self.lock.launch

    def _resume(self, run: RunRecord, identity: dict[str, Any], chunks: int | None) -> None:
        """Refuses a run with other settings, and takes over how its data are laid out."""
        check_same(run, {**identity, "data": self.source.fingerprint()}, chunks, self.output)
        self.source.restore_layout(dict(run.layout))

    def _take_dtype(self, run: RunRecord) -> None:
        """Has `dtype="auto"` mean what the run was begun in, whatever it is on this machine."""
        recorded, asked = run.identity.get("dtype"), self.scorer
        if recorded not in DTYPES or recorded == asked.dtype:
            return
        self.scorer = asked.with_auto_dtype(recorded)
        if self.ranks.is_main and self.scorer.dtype != asked.dtype:
            self._say(
                f"this run was begun in {recorded} and continues in it; dtype='auto' would be {asked.dtype} on this "
                "machine"
            )

    def _plan(self, identity: dict[str, Any], chunks: int | None) -> RunRecord:
        return plan(self.source, self.scorer, identity, chunks, self.first, self.first_of)

    # The work

    def show_estimate(self) -> None:
        """Says on rank 0 what much work will take."""
        if not self.ranks.is_main or self.progress is False or self.scorer.on_error == "raise":
            return
        done = self.output.records(self.run)
        if sum(self.run.costs) - sum(self.run.costs[chunk] for chunk in done) < LONG_WORK:
            return
        found = estimate(
            self.source,
            self.scorer,
            self.chunks.column,
            self.run.schema,
            self.run.edges,
            self.run.costs,
            done=done,
            processes=self.ranks.world,
            rank=self.ranks.local,
        )
        if found is not None:
            self._say(f"estimate: {found}")

    def work(self) -> None:
        """Takes chunks until none is left."""
        items: Generator[Any, None, None] = self._take_chunks()
        if self.chunks.works_ahead():
            items = ahead(items, PARTS_AHEAD, self.left, self.chunks.start)
        attempt = f"{self.launch}-{self.ranks.index}"
        with self.uploads, contextlib.closing(self.chunks), contextlib.closing(items), self._leaving():
            for chunk in items:
                self.heart.begin_chunk(chunk)
                write = functools.partial(self.chunks.score, chunk, self._parts(items))
                staged = self.output.stage(self.run, chunk, write, attempt=attempt).after(self.chunks.take_writer())
                self.heart.end_chunk()
                self.uploads.add(staged, functools.partial(self._record, chunk))
            # here, for a first signal to be told what is waited for, and to break nothing off
            self.uploads.end()

    def _take_chunks(self) -> Generator[int | Part | None, None, None]:
        """The chunks that this rank takes: of each its number, its parts and, at its end, `None`."""
        for chunk in self.output.take(self.run, self.launch, self.ranks.index, self._check, self.heart.log):
            yield chunk
            yield from self.chunks.parts(chunk)
            yield None

    def _parts(self, items: Iterator[Any]) -> Iterator[Part]:
        """The parts of the chunk at hand, none after a chunk before it could not be made to count."""
        for part in iter(items.__next__, None):
            self.uploads.check()
            yield part

    def _record(self, chunk: int, staged: Staged) -> None:
        """Has a scored chunk count, unless another launch has taken the run over."""
        self.heart.check()
        try:
            record = staged.finish()
        except StorageError:
            # another launch removes what this one has not finished
            self.heart.look()
            raise
        self.heart.record_chunk(chunk, record)

    @contextlib.contextmanager
    def _leaving(self) -> Iterator[None]:
        """Ends the search for further chunks with the work, and says what an interrupted launch still waits for."""
        try:
            yield
        except BaseException as error:
            self.left.set()
            if self.output.uploads and self.uploads.left and isinstance(error, (KeyboardInterrupt, SystemExit)):
                self._say(
                    f"uploading {self.uploads.left} scored chunks before the end: press Ctrl-C again to lose them"
                )
            raise

    def _check(self) -> None:
        """Raises where no further chunk may be taken."""
        self.heart.check()
        self.uploads.check()
        if self.left.is_set():
            raise RunError("the launch has ended")

    # After the work

    def assemble(self, jsonl: bool) -> None:
        """Turns the finished chunks into the dataset, on rank 0, once every rank has finished."""
        self.heart.log("no chunk left, waiting for the other ranks")
        self.ranks.wait()
        self.ranks.share(lambda: self._assemble(jsonl))

    def _assemble(self, jsonl: bool) -> None:
        records = self.output.records(self.run)
        missing = self.run.num_chunks - len(records)
        if missing:
            raise RunError(f"{missing:,} chunks are missing, perhaps removed meanwhile: run the same command again")
        if jsonl:
            self._write_jsonl()
        else:
            self.output.remove(JSONL_FILE)
        self.output.publish(self.run)

    def _write_jsonl(self) -> None:
        self.output.write_file(JSONL_FILE, lambda path: write_jsonl(self.output, self.run, path))

    def end(self, error: BaseException | None) -> None:
        """Stops the signs of life, lets go of the lock and, where work is left, says how to resume."""
        if self._heart is not None:
            self._heart.end(error)
        if self.lock is None:
            return
        mine = self.lock.held()
        self.lock.release()
        if isinstance(error, (KeyboardInterrupt, SystemExit)) and mine and self.record is not None:
            records = self.output.records(self.run)
            self._say(f"stopped with {len(records):,} of {self.run.num_chunks:,} chunks finished and kept.")
            self._say(f"to resume: {self.command}")

    def _say(self, message: str) -> None:
        if self._heart is not None:
            self._heart.bar.say(message)
        elif self.progress is not False:
            print(f"ladm: {message}", file=sys.stderr, flush=True)
