"""`score_dataset`: a dataset of any size into scored parquet, with any number of processes, losing nothing.

    scan -> run.json: chunks of equal tokens, fixed -> every rank takes the next chunk nobody has
    chunk -> rows -> scorer -> parquet under a temporary name -> checksum -> rename
    all chunks there -> their folder is renamed to data/

No rank waits for another while it works. A kill costs at most the chunk that each rank was at, and the next launch may
have any number of ranks: finished chunks are recognised by their checksums.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.calculators.token_ids import check_made_with
from ladm_hf.data.columns import document_column, document_roots, documents_of, lengths, pick
from ladm_hf.data.loaded import load_files
from ladm_hf.data.open import open_source
from ladm_hf.data.run_record import SAME_CALL, RunRecord
from ladm_hf.data.score_columns import SCORE_FIELDS, score_columns
from ladm_hf.data.sources import DatasetSource, Rows, Source
from ladm_hf.data.writer import GroupWriter
from ladm_hf.errors import ConfigError, InputError, ResumeError, RowError, RunError
from ladm_hf.ranks import Ranks
from ladm_hf.runs.ahead import ahead
from ladm_hf.runs.cascade import Cascade, FirstPass, both_passes, check_same_tokenizer
from ladm_hf.runs.chunks import balanced_edges, output_schema
from ladm_hf.runs.estimate import Estimate, estimate, most_tokens
from ladm_hf.runs.jsonl import write_jsonl
from ladm_hf.runs.monitor import Heartbeat
from ladm_hf.runs.open import lock_of, output_at
from ladm_hf.runs.output import FIRST_PASS, JSONL_FILE, Output
from ladm_hf.runs.progress import ErrorCounts, run_status
from ladm_hf.runs.uploads import Staged, Uploads
from ladm_hf.scoring.loader import DTYPES
from ladm_hf.scoring.scorer import LadmScorer

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

# Rows go to the scorer in parts: of so many estimated tokens at first, more where that takes less than some seconds.
FIRST_PART_TOKENS = 32_768
PART_SECONDS = 5.0
# Parts, of a few megabytes of text at most, that are read and tokenised while a device scores the one at hand.
PARTS_AHEAD = 3
# Estimated tokens that are worth an estimate before the work.
LONG_WORK = 2_000_000
# Kinds of errors that the record of a chunk counts, the most frequent ones.
KEPT_ERRORS = 100


def score_dataset(
    dataset: Dataset | IterableDataset | str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    scorer: LadmScorer | None = None,
    *,
    split: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    num_chunks: int | None = None,
    scores_only: bool = False,
    jsonl: bool = False,
    restart: bool = False,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    cascade: Cascade | None = None,
) -> Dataset:
    """Scores a dataset into `output_dir/data/*.parquet`, or resumes the run that an earlier launch began.

    Under `torchrun` or `accelerate launch`, call it on every rank with the same arguments and a folder that all ranks
    share, or a URL. At a URL, other launches with the same arguments may work on the same run.

    Args:
        dataset (`Dataset`, `IterableDataset`, `str` or path):
            The data: in memory, a stream, a folder of `save_to_disk`, a path, glob or URL of parquet or JSON lines, or
            a Hub id, whose files are read where they lie.
        output_dir (`str` or path):
            Folder of the run, or its URL in an object store of any protocol that fsspec knows: `s3://bucket/run`,
            `gs://bucket/run`, `hf://buckets/owner/bucket/run`.
        scorer ([`LadmScorer`], *optional*):
            Defaults to `LadmScorer()`.
        split, name, revision (`str`, *optional*):
            Split, configuration and revision of a Hub dataset; the split also of a `DatasetDict`.
        limit (`int`, *optional*):
            Score only the first `limit` rows: a trial, in a folder of its own.
        num_chunks (`int`, *optional*):
            Pieces in which the work is handed out and kept. Defaults to pieces of about 4M tokens, 64 at least.
        scores_only (`bool`, *optional*, defaults to `False`):
            Writes only `index` (number of the row in the input, from 0) and the score columns, instead of all columns.
        jsonl (`bool`, *optional*, defaults to `False`):
            Writes `scores.jsonl` too, in the form of the published script: `index`, `chunked_index`, `score`, `meta`.
        restart (`bool`, *optional*, defaults to `False`):
            Discards the run in `output_dir` and starts over.
        progress (`bool`, *optional*):
            `None` shows a bar on a terminal and lines now and then elsewhere; `False` shows nothing.
        storage_options (mapping, *optional*):
            Options of the file system of a URL, such as `{"endpoint_url": ..., "profile": ...}` for S3, beside what
            fsspec finds in its configuration.
        cascade ([`Cascade`], *optional*):
            Scores everything by another calculator first, into `output_dir/first_pass`, and by `scorer` only what that
            ranks highest in each domain. The other rows keep their place, with their first score in
            `ladm_first_score`, no `ladm_score` and the status `first_pass_only`.

    Returns:
        `Dataset`: the scored rows in the order of the input, on every rank.

    Raises:
        InputError: the data cannot be read.
        ResumeError: the folder holds a run with other settings; the message names every difference.
        RunLockedError: another launch is writing the folder.
        StorageError: the disk is full or cannot be written; the store refuses or stays silent.
    """
    run_scoring(
        dataset,
        output_dir,
        scorer,
        split=split,
        name=name,
        revision=revision,
        limit=limit,
        chunks=num_chunks,
        scores_only=scores_only,
        jsonl=jsonl,
        restart=restart,
        progress=progress,
        storage_options=storage_options,
        cascade=cascade,
    )
    status = run_status(output_dir, storage_options=storage_options)
    if not status.num_scored:
        logger.warning("%s", status.why_nothing_was_scored())
    return _load(output_at(output_dir, storage_options))


def run_scoring(
    dataset: Any,
    output_dir: str | os.PathLike[str],
    scorer: LadmScorer | None = None,
    *,
    split: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    chunks: int | None = None,
    scores_only: bool = False,
    jsonl: bool = False,
    restart: bool = False,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    command: str = "",
    options: str = "",
    cascade: Cascade | None = None,
    first_of: tuple[Cascade, LadmScorer] | None = None,
) -> None:
    """[`score_dataset`] without loading the result.

    Args:
        first_of (`tuple` of [`Cascade`] and [`LadmScorer`], *optional*): whose first pass this run is, and what scores
            the second.
        command (`str`, *optional*): what resumes the run, for messages and `run.json`.
        options (`str`, *optional*): options of the command line, kept beside `run.json`.
    """
    if chunks is not None and chunks < 1:
        raise ConfigError(f"num_chunks must be positive, got {chunks}")
    if scores_only and jsonl:
        raise ConfigError("jsonl needs the columns index and meta, which scores_only leaves out: choose one")
    if isinstance(dataset, (str, os.PathLike)) and os.path.realpath(dataset) == os.path.realpath(output_dir):
        raise InputError(
            f"the data are in {os.fspath(dataset)!r}, where the run would be written beside them and be taken for the "
            "data by the next launch: choose another output folder"
        )
    ranks, scorer = Ranks(), scorer or LadmScorer()
    output = output_at(output_dir, storage_options)
    given = {"split": _split_name(dataset, split), "scores_only": scores_only}
    given |= {} if limit is None else {"limit": limit}
    launch = _Launch(output, scorer, ranks, progress, command, options, first_of)
    if cascade is not None:
        first = cascade.scorer_beside(scorer)
        ranks.share(lambda: None if restart else _check_second_pass(output, {**given, **cascade.identity}, scorer))
        where = f"{os.fspath(output_dir).rstrip('/')}/{FIRST_PASS}"
        run_scoring(
            dataset, where, first, split=split, name=name, revision=revision, limit=limit, chunks=chunks,
            scores_only=True, restart=restart, progress=progress, storage_options=storage_options, command=command,
            first_of=(cascade, scorer),
        )  # fmt: skip
        first_output = output_at(where, storage_options)
        launch.first = FirstPass.of(first_output, cascade, ranks.share(lambda: cascade.survivors(first_output)))
    with _terminable():
        try:
            launch.source = _opened(dataset, limit, split=split, name=name, revision=revision)
            if launch.begin(given, chunks, jsonl, restart):
                launch.show_estimate()
                launch.work()
                launch.assemble(jsonl)
        except BaseException as error:
            launch.end(error)
            raise
        launch.end(None)


def estimate_scoring(
    dataset: Any,
    scorer: LadmScorer,
    *,
    split: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Estimate | None:
    """How long [`score_dataset`] would take with one process; writes nothing. `None` where there is no token."""
    source = _opened(dataset, limit, split=split, name=name, revision=revision)
    scan = source.scan(_candidates(scorer), most_tokens(scorer))
    edges = balanced_edges(scan)
    costs = np.diff(np.interp(edges, scan.positions, scan.cost)).tolist()
    return estimate(source, scorer, document_column(scan.schema, _candidates(scorer)), scan.schema, edges, costs)


def _opened(dataset: Any, limit: int | None, **options: str | None) -> Source:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be positive, got {limit}")
    source = open_source(dataset, **options)
    if limit is not None:
        source.limit_rows(limit)
    return source


class _Part(NamedTuple):
    """Rows that go to the scorer together.

    Attributes:
        rows ([`Rows`]): the rows.
        cost (`float`): their estimated tokens.
        limit (`int`, *optional*): estimated tokens at which they were cut; `None` where the rows ended before.
        score (callable): gives their score columns by name.
    """

    rows: Rows
    cost: float
    limit: int | None
    score: Callable[[], dict[str, Any]]


class _Launch:
    """One rank of one launch of a run."""

    def __init__(
        self,
        output: Output,
        scorer: LadmScorer,
        ranks: Ranks,
        progress: bool | None,
        command: str,
        options: str,
        first_of: tuple[Cascade, LadmScorer] | None,
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
        self.source_schema = self.schema = pa.schema([])
        self.column = ""
        self.part_tokens = FIRST_PART_TOKENS
        self._heart: Heartbeat | None = None
        self.uploads = Uploads(output.uploads)
        self.left = False

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

    @property
    def row_starts(self) -> tuple[int, ...]:
        assert self.run.row_starts is not None
        return self.run.row_starts

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
        self.source_schema = self.run.schema
        self.column = document_column(self.source_schema, _candidates(self.scorer))
        self.schema = output_schema(self.source_schema, self.run.scores_only, self.run.score_columns, self._kept())
        self._heart = Heartbeat(self.output, self.run, self.launch, self.ranks, self.lock, self.progress)
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
        identity = {**options, **_identity(self.scorer), **(self.first.identity if self.first else {})}
        if self.first_of is not None:
            identity["columns"] = self.first_of[0].by
        new = run is None
        if run is None:
            if not again:
                self.output.check_new()
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
        _check_same(run, {**identity, "data": self.source.fingerprint()}, chunks, self.output)
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
        """Looks at the data and fixes the chunks."""
        scan = self.source.scan(_candidates(self.scorer), most_tokens(self.scorer))
        columns = score_columns(self.scorer.signals, self.first is not None)
        output_schema(scan.schema, identity["scores_only"], columns, self._kept(scan.schema))
        column = document_column(scan.schema, _candidates(self.scorer))
        if column == self.scorer.input_ids_column:
            check_made_with(scan.schema.metadata, self.scorer.calculator, column, self.source.name)
            if self.first_of is not None:
                check_same_tokenizer(self.scorer, self.first_of[1])
        edges = balanced_edges(scan, chunks) if self.first is None else self.first.run.edges
        # a stream is hashed while it is scanned
        identity = {**identity, "data": self.source.fingerprint()}
        if self.first is not None:
            self.first.check_data(identity["data"])
        calculator = self.scorer.calculator
        run = RunRecord.new(
            self.source,
            scan,
            identity,
            edges,
            score_columns=columns,
            calculator=calculator.origin,
            calculator_revision=calculator.revision,
        )
        if self.first is None:
            return run
        return dataclasses.replace(run, costs=self.first.costs(most_tokens(self.scorer)))

    def _kept(self, schema: pa.Schema | None = None) -> list[str]:
        """Columns of the source that stand beside scores alone: that of the domain, where another pass follows."""
        return [] if self.first_of is None else self.first_of[0].columns(schema or self.source_schema)

    # The work

    def show_estimate(self) -> None:
        """Says on rank 0 what much work will take."""
        done = self.output.records(self.run)
        left = sum(self.run.costs) - sum(self.run.costs[chunk] for chunk in done)
        if not self.ranks.is_main or self.progress is False or left < LONG_WORK or self.scorer.on_error == "raise":
            return
        found = estimate(
            self.source,
            self.scorer,
            self.column,
            self.source_schema,
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
        if self._works_ahead():
            items = ahead(items, PARTS_AHEAD)
        attempt = f"{self.launch}-{self.ranks.index}"
        with self.uploads, contextlib.closing(items), self._leaving():
            for chunk in items:
                self.heart.begin_chunk(chunk)
                write = functools.partial(self._score_chunk, chunk, iter(items.__next__, None))
                staged = self.output.stage(self.run, chunk, write, attempt=attempt)
                self.heart.end_chunk()
                self.uploads.add(staged, functools.partial(self._record, chunk))

    def _record(self, chunk: int, staged: Staged) -> None:
        """Has a scored chunk count, unless another launch has taken the run over."""
        self.heart.check()
        self.heart.record_chunk(chunk, staged.finish())

    @contextlib.contextmanager
    def _leaving(self) -> Iterator[None]:
        """Ends the search for further chunks with the work, and says what an interrupted launch still waits for."""
        try:
            yield
        except BaseException as error:
            self.left = True
            if self.uploads.left and isinstance(error, (KeyboardInterrupt, SystemExit)):
                self._say(
                    f"uploading {self.uploads.left} scored chunks before the end: press Ctrl-C again to lose them"
                )
            raise

    def _check(self) -> None:
        """Raises where no further chunk may be taken."""
        self.heart.check()
        self.uploads.check()
        if self.left:
            raise RunError("the launch has ended")

    def _works_ahead(self) -> bool:
        """Whether a thread reads and tokenises while a device scores; never for a scorer with a call of its own."""
        return type(self.scorer).__call__ is LadmScorer.__call__ and self.scorer.works_ahead(self.ranks.local)

    def _take_chunks(self) -> Generator[int | _Part | None, None, None]:
        """The chunks that this rank takes: of each its number, its parts and, at its end, `None`."""
        for chunk in self.output.take(self.run, self.launch, self.ranks.index, self._check, self.heart.log):
            yield chunk
            yield from self._parts(chunk)
            yield None

    def _score_chunk(self, chunk: int, parts: Iterator[_Part], path: Path) -> dict[str, Any]:
        """Scores the parts of a chunk into a parquet file."""
        began = time.monotonic()
        rows = tokens = 0
        statuses: collections.Counter[str] = collections.Counter()
        errors = ErrorCounts()
        with GroupWriter(path, self.schema, self.output.scratch) as writer:
            for part in parts:
                self.heart.check()
                began_part, table = time.monotonic(), part.rows.table
                scores = self._score(part, f"chunk {chunk}, rows from {rows} on")
                if part.limit == self.part_tokens and time.monotonic() - began_part < PART_SECONDS:
                    self.part_tokens *= 2
                if self.run.scores_only:
                    first = self.row_starts[chunk] + rows
                    columns = [pa.array(np.arange(first, first + table.num_rows))]
                    columns += [table[name] for name in self._kept() if name != "index"]
                else:
                    columns = table.columns
                writer.write(pa.table([*columns, *scores], schema=self.schema))
                ok = pc.equal(scores[2], "ok")
                scored = pc.sum(pc.filter(scores[1], ok)).as_py() or 0
                rows += table.num_rows
                tokens += scored
                texts = scores[2].to_pylist()
                statuses.update(status.split(":")[0] for status in texts)
                errors.update(collections.Counter(status for status in texts if status.startswith("error")))
                self.heart.advance(scored, part.cost)
        return {
            "rows": rows,
            "tokens": tokens,
            "statuses": statuses,
            "errors": errors.most_common(KEPT_ERRORS),
            "seconds": time.monotonic() - began,
            "rank": self.ranks.index,
            "host": socket.gethostname(),
        }

    def _parts(self, chunk: int) -> Iterator[_Part]:
        """The rows of a chunk in parts that take some seconds each."""
        columns = None
        if self.run.scores_only:
            columns = list(dict.fromkeys([*document_roots(self.source_schema, self.column), *self._kept()]))
        first = None if self.first is None else self.first.chunk(chunk)
        start, stop = self.run.edges[chunk : chunk + 2]
        done = 0
        for found in self._read(start, stop, columns):
            tokens = np.minimum(lengths(pick(found.table, self.column)), most_tokens(self.scorer))
            mine = None if first is None else first.slice(done, found.table.num_rows)
            costs = 1 + (tokens if mine is None else tokens * mine["survives"].to_numpy())
            low = 0
            while low < len(costs):
                limit = self.part_tokens
                high = low + max(1, int(np.searchsorted(np.cumsum(costs[low:]), limit, "right")))
                rows = found.slice(low, high)
                score = self._begin(rows, None if mine is None else mine.slice(low, high - low))
                yield _Part(rows, float(costs[low:high].sum()), limit if high < len(costs) else None, score)
                low = high
            done += found.table.num_rows

    def _begin(self, rows: Rows, first: pa.Table | None) -> Callable[[], dict[str, Any]]:
        """What scores some rows, whose texts are being tokenised already where that is done ahead."""
        texts = documents_of(rows.table, self.column)
        for row in rows.problems:
            texts[row] = None
        if first is not None:
            texts = [text for text, survives in zip(texts, first["survives"].to_pylist(), strict=True) if survives]
        batch = {self.column: texts}
        if self._works_ahead():
            score = self.scorer.begin(batch, self.ranks.local)
        else:
            score = functools.partial(self.scorer, batch, rank=self.ranks.local)
        return score if first is None else lambda: both_passes(first, score())

    def _read(self, start: int, stop: int, columns: list[str] | None) -> Iterator[Rows]:
        try:
            yield from self.source.read(start, stop, columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"cannot read {self.source.unit} {start:,} to {stop:,} of {self.source.name}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _score(self, part: _Part, where: str) -> list[pa.Array]:
        """The score columns of some rows."""
        problems = part.rows.problems
        try:
            if problems and self.scorer.on_error == "raise":
                row = min(problems)
                raise RowError(f"row {row}: {problems[row]}. With on_error='status' such rows get NaN.")
            found = part.score()
        except RowError as error:
            raise RowError(f"in {where}: {error}") from error
        found["ladm_status"] = [problems.get(row, status) for row, status in enumerate(found["ladm_status"])]
        fields = [field for field in SCORE_FIELDS if field.name in self.run.score_columns]
        return [pa.array(found[field.name], field.type) for field in fields]

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


def _candidates(scorer: LadmScorer) -> Sequence[str]:
    return [name for name in (scorer.text_column, scorer.input_ids_column) if name is not None]


def _identity(scorer: LadmScorer) -> dict[str, Any]:
    """What determines the scores, each by a name for people."""
    config = {f"config.{name}": value for name, value in scorer.config.to_dict().items()}
    return {
        "model": scorer.calculator.identity,
        "dtype": scorer.dtype,
        **config,
        "text_column": scorer.text_column,
        "input_ids_column": scorer.input_ids_column,
        "schema_version": scorer.identity.schema_version,
        # runs of before there were signals have none
        **({"signals": ",".join(scorer.signals)} if scorer.signals else {}),
        **({"short_context": scorer.identity.short_context} if scorer.identity.short_context else {}),
    }


def _check_same(run: RunRecord, identity: dict[str, Any], chunks: int | None, output: Output) -> None:
    before = dict(run.identity)
    if chunks is not None and chunks != run.num_chunks:
        before["num_chunks"], identity = run.num_chunks, {**identity, "num_chunks": chunks}
    differences = [
        f"  {name}: {before.get(name)!r} there, {identity.get(name)!r} now"
        for name in dict.fromkeys([*before, *identity])
        if before.get(name) != identity.get(name)
    ]
    if differences:
        lines = "\n".join(differences)
        raise ResumeError(
            f"{output.name} holds a run with other settings:\n{lines}\nUse the same settings to resume it, another "
            f"output folder, or --restart (restart=True) to discard its {len(output.records(run)):,} finished chunks."
        )


def _check_second_pass(output: Output, given: dict[str, Any], scorer: LadmScorer) -> None:
    """Refuses, before a first pass begins, an output of which the second would be refused.

    Raises:
        ResumeError: it holds a run with other settings, as far as they are known by now.
        RunError: it holds other data.
    """
    run = output.load()
    if run is None:
        output.check_new()
        return
    if run.identity.get("dtype") in DTYPES:
        scorer = scorer.with_auto_dtype(run.identity["dtype"])
    known = {**given, **_identity(scorer)}
    found = {name: value for name, value in run.identity.items() if name in known or not name.startswith("cascade.")}
    found.pop("data", None)
    _check_same(dataclasses.replace(run, identity=found), known, None, output)


def _split_name(dataset: Any, split: str | None) -> str:
    """The split that the result is written as."""
    name = str(split or getattr(dataset, "split", None) or "train")
    return name if name.isidentifier() else "train"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turns SIGTERM, which schedulers send before they preempt, into an orderly end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        # Slurm signals a process and torchrun above it, which passes its own on: the second must not break off the end
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _load(output: Output) -> Dataset:
    run = output.load()
    assert run is not None
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(output.local_chunk(run, chunk)) for chunk in range(run.num_chunks)]
        return load_files(files, run.split)
