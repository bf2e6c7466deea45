"""`score_dataset`: a dataset of any size into scored parquet, with any number of processes, losing nothing.

    scan -> run.json: chunks of equal tokens, fixed -> every rank takes the next chunk nobody has
    chunk -> rows -> scorer -> parquet under a temporary name -> checksum -> rename
    all chunks there -> their folder is renamed to data/

No rank waits for another while it works. A kill costs at most the chunk that each rank was at, on a GPU or at a URL the
one that was on its way to the disk or the store, and on a GPU the next one, which it had meanwhile. The next launch may
have any number of ranks: finished chunks are recognised by their checksums.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ladm_hf.data.columns import document_column
from ladm_hf.data.loaded import load_files
from ladm_hf.data.open import open_source
from ladm_hf.data.sources import Source
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.ranks import Ranks
from ladm_hf.runs.cascade import Cascade, FirstPass
from ladm_hf.runs.chunks import balanced_edges
from ladm_hf.runs.estimate import Estimate, estimate, most_tokens
from ladm_hf.runs.launch import Launch
from ladm_hf.runs.open import output_at
from ladm_hf.runs.output import FIRST_PASS, Output
from ladm_hf.runs.plan import check_second_pass, document_columns
from ladm_hf.runs.progress import run_status
from ladm_hf.scoring.scorer import LadmScorer

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)


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
    launch = Launch(output, scorer, ranks, progress, command, options, first_of)
    if cascade is not None:
        first = cascade.scorer_beside(scorer)
        ranks.share(lambda: None if restart else check_second_pass(output, {**given, **cascade.identity}, scorer))
        where = f"{os.fspath(output_dir).rstrip('/')}/{FIRST_PASS}"
        run_scoring(
            dataset, where, first, split=split, name=name, revision=revision, limit=limit, chunks=chunks,
            scores_only=True, restart=restart, progress=progress, storage_options=storage_options, command=command,
            first_of=(cascade, scorer),
        )  # fmt: skip
        first_output = output_at(where, storage_options)
        found = ranks.share(lambda: cascade.survivors(first_output, most_tokens(scorer)))
        launch.first = FirstPass.of(first_output, cascade, *found)
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
    scan = source.scan(document_columns(scorer), most_tokens(scorer))
    edges = balanced_edges(scan)
    costs = np.diff(np.interp(edges, scan.positions, scan.cost)).tolist()
    return estimate(source, scorer, document_column(scan.schema, document_columns(scorer)), scan.schema, edges, costs)


def _opened(dataset: Any, limit: int | None, **options: str | None) -> Source:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be positive, got {limit}")
    source = open_source(dataset, **options)
    if limit is not None:
        source.limit_rows(limit)
    return source


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
