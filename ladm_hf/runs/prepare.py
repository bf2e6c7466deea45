"""Documents -> `text, meta, input_ids, index`: the form in which the paper's pool is published.

    row -> token ids -> too short: dropped
                     -> truncated to max_length                          overflow="truncate"
                     -> windows of max_length, numbered chunked_index    overflow="windows"

Chunks of the input go to worker processes, each of which writes its own parquet files; memory does not grow with the
number of documents.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ladm_hf.calculators.calculator import DEFAULT, Calculator, resolve
from ladm_hf.calculators.token_ids import made_with
from ladm_hf.data.loaded import load_files
from ladm_hf.data.open import open_source
from ladm_hf.data.sources import Source
from ladm_hf.data.writer import GroupWriter
from ladm_hf.errors import ConfigError
from ladm_hf.runs.chunks import balanced_edges
from ladm_hf.runs.prepared import OVERFLOWS, PaperForm
from ladm_hf.runs.prepared_files import Prepared, prepared_at

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# Estimated tokens of one file, where that makes enough of them for the workers.
CHUNK_TOKENS = 16_000_000
# Rows that are prepared between two writes.
PREPARE_ROWS = 64


@dataclass(frozen=True)
class _Job:
    """What a worker needs to prepare any chunk."""

    source: Source
    layout: dict[str, Any]
    calculator: Calculator
    form: PaperForm
    target: Prepared


def prepare_dataset(
    dataset: Any,
    output_dir: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = DEFAULT,
    model_revision: str | None = None,
    text_column: str = "text",
    min_tokens: int | None = None,
    max_length: int | None = None,
    overflow: str = "truncate",
    num_proc: int = 1,
    split: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Dataset:
    """Tokenises documents into `output_dir/data/*.parquet`, in the paper's form.

    Args:
        dataset (`Dataset`, `IterableDataset`, `str` or path):
            The documents, as for [`score_dataset`].
        output_dir (`str` or path):
            A new folder, or a URL of any protocol that fsspec knows.
        model (`str` or path, *optional*, defaults to `"ladm-nano"`):
            Calculator whose tokenizer is used.
        model_revision (`str`, *optional*):
            Its revision on the Hub.
        text_column (`str`, *optional*, defaults to `"text"`):
            Column of the text; a dot reaches into a struct.
        min_tokens (`int`, *optional*):
            Shorter documents and last windows are dropped. Defaults to the shortest that has a score, 2,305.
        max_length (`int`, *optional*):
            Most tokens of a row. Defaults to the calculator's `max_length`, 32,768.
        overflow (`str`, *optional*, defaults to `"truncate"`):
            What happens to longer documents: `"truncate"` keeps the beginning, `"windows"` cuts all of them into rows.
        num_proc (`int`, *optional*, defaults to `1`):
            Worker processes.
        split, name, revision (`str`, *optional*):
            Of a Hub dataset; the split also of a `DatasetDict`.
        progress (`bool`, *optional*):
            `None` shows a bar on a terminal.
        storage_options (mapping, *optional*):
            Options of the file system of a URL, see [`score_dataset`].

    Returns:
        `Dataset` with the columns `text` (of the tokens kept), `meta` (the input's `meta`, else its other columns),
        `input_ids` (`int32`, in place of the input's), `index` (the input's, if it is a number, else the number of the
        row) and, with windows, `chunked_index` (number of the window in its document). Where the input has a `meta`,
        its other columns are kept beside it, or in it where the result has another column of that name. A cut text
        need not give the same tokens again: with `LadmScorer(text_column=None)` exactly `input_ids` is scored.

    Raises:
        ConfigError: an option is out of range.
        InputError: the data cannot be read.
        RunError: the folder is not empty.
        StorageError: the disk is full; a store refuses or stays silent.
    """
    target = prepare_files(
        open_source(dataset, split=split, name=name, revision=revision),
        resolve(model, model_revision),
        output_dir,
        text_column=text_column,
        min_tokens=min_tokens,
        max_length=max_length,
        overflow=overflow,
        num_proc=num_proc,
        progress=progress,
        storage_options=storage_options,
    )
    with target.files() as files:
        return load_files(files, "train")


def prepare_files(
    source: Source,
    calculator: Calculator,
    output_dir: str | os.PathLike[str],
    *,
    text_column: str,
    min_tokens: int | None,
    max_length: int | None,
    overflow: str,
    num_proc: int,
    progress: bool | None,
    storage_options: Mapping[str, Any] | None = None,
) -> Prepared:
    """[`prepare_dataset`] of an open source, without loading the result: where it is."""
    min_tokens = calculator.config.min_tokens if min_tokens is None else min_tokens
    max_length = calculator.config.max_length if max_length is None else max_length
    _check_options(min_tokens, max_length, overflow, num_proc)
    target = prepared_at(output_dir, storage_options)
    target.check_new()
    scan = source.scan([text_column], max_length)
    job = _Job(
        source=source,
        layout=scan.layout,
        calculator=calculator,
        form=PaperForm.of(scan.schema, text_column, min_tokens, max_length, overflow, made_with(calculator)),
        target=target,
    )
    edges = balanced_edges(scan, max(1 if num_proc == 1 else 4 * num_proc, int(scan.cost[-1] // CHUNK_TOKENS)))
    starts = source.row_starts(edges)
    chunks = [(*edge, first) for edge, first in zip(itertools.pairwise(edges), starts, strict=True)]
    names = [f"train-{n:05d}-of-{len(chunks):05d}.parquet" for n in range(len(chunks))]
    with target.begun([calculator.identity, source.fingerprint(), str(job.form), edges], names):
        unreadable = _run(job, names, chunks, num_proc, progress)
    if unreadable:
        logger.warning(
            "%d rows of %s are left out, because their text cannot be read: `ladm score` gives each its reason",
            unreadable,
            source.name,
        )
    return target


def _check_options(min_tokens: int, max_length: int, overflow: str, num_proc: int) -> None:
    if overflow not in OVERFLOWS:
        raise ConfigError(f"overflow must be one of {', '.join(map(repr, OVERFLOWS))}, got {overflow!r}")
    if min_tokens < 0 or num_proc < 1:
        raise ConfigError(f"min_tokens must not be negative nor num_proc below 1, got {min_tokens} and {num_proc}")
    if max_length < max(1, min_tokens):
        raise ConfigError(f"max_length={max_length} is shorter than min_tokens={min_tokens}: nothing would be left")


def _run(job: _Job, names: list[str], chunks: list[tuple[int, int, int]], num_proc: int, progress: bool | None) -> int:
    """Prepares all chunks, in this process or in several; the number of rows whose text cannot be read."""
    disable = None if progress is None else not progress
    unreadable = 0
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(chunks), unit="chunk", desc="LADM prepare", disable=disable))
        if num_proc == 1:
            for name, chunk in zip(names, chunks, strict=True):
                unreadable += _prepare_chunk(job, name, *chunk)
                bar.update()
            return unreadable
        import multiprocessing

        # not forked: a fork of a process whose tokenizer or torch has used threads may hang
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(num_proc, mp_context=spawn, initializer=_start, initargs=(job,)))
        for done in as_completed(pool.submit(_work, name, *chunk) for name, chunk in zip(names, chunks, strict=True)):
            try:
                unreadable += done.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            bar.update()
    return unreadable


_worker_job: _Job | None = None


def _start(job: _Job) -> None:
    """Takes over what the parent found, once for each worker."""
    global _worker_job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    job.source.restore_layout(job.layout)
    _worker_job = job


def _work(name: str, start: int, stop: int, first: int) -> int:
    assert _worker_job is not None
    return _prepare_chunk(_worker_job, name, start, stop, first)


_tokenizers: dict[str, Any] = {}


def _prepare_chunk(job: _Job, name: str, start: int, stop: int, first: int) -> int:
    """Writes the file of a chunk; the number of its rows whose text cannot be read."""
    identity = job.calculator.identity
    unreadable = 0
    if identity not in _tokenizers:
        _tokenizers[identity] = job.calculator.load_tokenizer()
    with job.target.file(name) as path, GroupWriter(path, job.form.schema, path.parent) as writer:
        for found in job.source.read(start, stop):
            for low in range(0, found.table.num_rows, PREPARE_ROWS):
                part = found.slice(low, min(found.table.num_rows, low + PREPARE_ROWS))
                table, failed = job.form.prepare(_tokenizers[identity], part, first)
                if table.num_rows:
                    writer.write(table)
                first += part.table.num_rows
                unreadable += failed
    return unreadable
