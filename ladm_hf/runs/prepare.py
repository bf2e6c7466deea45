"""Documents -> `text, meta, input_ids, index`: the form in which the paper's pool is published.

    row -> token ids -> too short: dropped
                     -> truncated to max_length                          overflow="truncate"
                     -> windows of max_length, numbered chunked_index    overflow="windows"

Chunks of the input go to worker processes, each of which writes its own parquet files; memory does not grow with the
number of documents.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tqdm.auto import tqdm

from ladm_hf.calculators.calculator import DEFAULT, Calculator, resolve
from ladm_hf.data.columns import document_column, documents, pick
from ladm_hf.data.files import storage_errors
from ladm_hf.data.open import load_files, open_source
from ladm_hf.data.sources import Rows, Source
from ladm_hf.data.writer import GroupWriter
from ladm_hf.errors import ConfigError, RunError
from ladm_hf.runs.chunks import balanced_edges
from ladm_hf.runs.folder import RunFolder

if TYPE_CHECKING:
    from datasets import Dataset

OVERFLOWS = ("truncate", "windows")
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
    column: str
    schema: pa.Schema
    min_tokens: int
    max_length: int
    overflow: str
    folder: Path


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
) -> Dataset:
    """Tokenises documents into `output_dir/data/*.parquet`, in the paper's form.

    Args:
        dataset (`Dataset`, `IterableDataset`, `str` or path):
            The documents, as for [`score_dataset`].
        output_dir (`str` or path):
            A new folder.
        model (`str` or path, *optional*, defaults to `"ladm-nano"`):
            Calculator whose tokenizer is used.
        model_revision (`str`, *optional*):
            Its revision on the Hub.
        text_column (`str`, *optional*, defaults to `"text"`):
            Column of the text; a dot goes into a struct.
        min_tokens (`int`, *optional*):
            Shorter documents and last windows are dropped. Defaults to the shortest that has a score, 2,305.
        max_length (`int`, *optional*):
            Most tokens of a row. Defaults to the calculator's `max_length`, 32,768.
        overflow (`str`, *optional*, defaults to `"truncate"`):
            What happens to longer documents: `"truncate"` keeps the beginning, `"windows"` cuts all of them into rows.
        num_proc (`int`, *optional*, defaults to `1`):
            Worker processes.
        split, name, revision (`str`, *optional*):
            Of a Hub data set; the split also of a `DatasetDict`.
        progress (`bool`, *optional*):
            `None` shows a bar on a terminal.

    Returns:
        `Dataset` with the columns `text` (of the tokens kept), `meta` (the input's `meta`, else its other columns),
        `input_ids` (`int32`), `index` (the input's, if it is a number, else the number of the row) and, with windows,
        `chunked_index` (number of the window in its document). Where the input has a `meta`, its other columns are
        kept beside it. A cut text need not give the same tokens again: with `LadmScorer(text_column=None)` exactly
        `input_ids` is scored.

    Raises:
        ConfigError: an option is out of range.
        InputError: the data cannot be read.
        RunError: the folder is not empty.
    """
    files = prepare_files(
        open_source(dataset, split=split, name=name, revision=revision), resolve(model, model_revision), output_dir,
        text_column=text_column, min_tokens=min_tokens, max_length=max_length, overflow=overflow, num_proc=num_proc,
        progress=progress,
    )  # fmt: skip
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
) -> list[Path]:
    """[`prepare_dataset`] of an open source, without loading the result: its files."""
    min_tokens = calculator.config.min_tokens if min_tokens is None else min_tokens
    max_length = calculator.config.max_length if max_length is None else max_length
    if overflow not in OVERFLOWS:
        raise ConfigError(f"overflow must be one of {', '.join(map(repr, OVERFLOWS))}, got {overflow!r}")
    if min_tokens < 0 or num_proc < 1:
        raise ConfigError(f"min_tokens must not be negative nor num_proc below 1, got {min_tokens} and {num_proc}")
    if max_length < max(1, min_tokens):
        raise ConfigError(f"max_length={max_length} is shorter than min_tokens={min_tokens}: nothing would be left")
    folder = RunFolder(output_dir)
    if folder.path.exists() and any(folder.path.iterdir()):
        raise RunError(f"{folder.path} is not empty: choose a new folder")
    survey = source.survey([text_column], max_length)
    job = _Job(
        source=source,
        layout=survey.layout,
        calculator=calculator,
        column=document_column(survey.schema, [text_column]),
        schema=_schema(survey.schema, text_column, overflow),
        min_tokens=min_tokens,
        max_length=max_length,
        overflow=overflow,
        folder=folder.hidden / "data",
    )
    edges = balanced_edges(survey, max(1 if num_proc == 1 else 4 * num_proc, int(survey.cost[-1] // CHUNK_TOKENS)))
    starts = source.row_starts(edges)
    chunks = [(*edge, first) for edge, first in zip(itertools.pairwise(edges), starts, strict=True)]
    try:
        with storage_errors(folder.path, "the result"):
            job.folder.mkdir(parents=True)
        _run(job, chunks, num_proc, progress)
        with storage_errors(folder.path, "the result"):
            os.rename(job.folder, folder.data)
    finally:
        shutil.rmtree(folder.hidden, ignore_errors=True)
    return sorted(folder.data.iterdir())


def _run(job: _Job, chunks: list[tuple[int, int, int]], num_proc: int, progress: bool | None) -> None:
    """Prepares all chunks, in this process or in several."""
    names = [f"train-{n:05d}-of-{len(chunks):05d}.parquet" for n in range(len(chunks))]
    disable = None if progress is None else not progress
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(chunks), unit="chunk", desc="LADM prepare", disable=disable))
        if num_proc == 1:
            for name, chunk in zip(names, chunks, strict=True):
                _prepare_chunk(job, name, *chunk)
                bar.update()
            return
        import multiprocessing

        # not forked: a fork of a process whose tokenizer or torch has used threads may hang
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(num_proc, mp_context=spawn, initializer=_start, initargs=(job,)))
        for done in as_completed(pool.submit(_work, name, *chunk) for name, chunk in zip(names, chunks, strict=True)):
            try:
                done.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            bar.update()


_worker_job: _Job | None = None


def _start(job: _Job) -> None:
    """Takes over what the parent found, once for each worker."""
    global _worker_job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    job.source.adopt(job.layout)
    _worker_job = job


def _work(name: str, start: int, stop: int, first: int) -> None:
    assert _worker_job is not None
    _prepare_chunk(_worker_job, name, start, stop, first)


_tokenizers: dict[str, Any] = {}


def _prepare_chunk(job: _Job, name: str, start: int, stop: int, first: int) -> None:
    identity = job.calculator.identity
    if identity not in _tokenizers:
        _tokenizers[identity] = job.calculator.load_tokenizer()
    with GroupWriter(job.folder / name, job.schema, job.folder) as writer:
        for found in job.source.read(start, stop):
            for low in range(0, found.table.num_rows, PREPARE_ROWS):
                part = found.slice(low, min(found.table.num_rows, low + PREPARE_ROWS))
                table = pa.Table.from_pylist(list(_prepared(job, _tokenizers[identity], part, first)), job.schema)
                if table.num_rows:
                    writer.write(table)
                first += part.table.num_rows


def _prepared(job: _Job, tokenizer: Any, rows: Rows, first: int) -> Iterator[dict[str, Any]]:
    """The rows that are kept of some documents."""
    table = rows.table
    texts = [text if isinstance(text, str) and text.strip() else None for text in documents(pick(table, job.column))]
    wanted = [name for name in table.column_names if name not in (job.column, "input_ids", "chunked_index")]
    for row, (text, other) in enumerate(zip(texts, table.select(wanted).to_pylist(), strict=True)):
        if text is None or row in rows.problems:
            continue
        encoded = tokenizer(text, verbose=False, return_offsets_mapping=tokenizer.is_fast)
        ids = encoded["input_ids"]
        index = other["index"] if isinstance(other.get("index"), int) else first + row
        # what the schema has no column for is left out
        columns = {"meta": other or None, **other, "index": index}
        for window, low in enumerate(range(0, len(ids) if job.overflow == "windows" else 1, job.max_length)):
            kept = ids[low : low + job.max_length]
            if len(kept) < max(1, job.min_tokens):
                continue
            cut = text if len(kept) == len(ids) else _text_of(tokenizer, text, encoded, low, low + len(kept))
            yield {**columns, "text": cut, "input_ids": kept, "chunked_index": window}


def _schema(source: pa.Schema, text_column: str, overflow: str) -> pa.Schema:
    """The columns of the result."""
    names = ("text", text_column, "meta", "input_ids", "index", "chunked_index")
    others = [field for field in source if field.name not in names]
    if "meta" in source.names:
        meta = source.field("meta")
    else:
        packed = others
        if "index" in source.names and not pa.types.is_integer(source.field("index").type):
            packed = [*others, source.field("index")]
        meta = pa.field("meta", pa.struct(packed) if packed else pa.null())
        others = []
    made = [
        pa.field("text", pa.large_string()),
        meta,
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("index", pa.int64()),
    ]
    if overflow == "windows":
        made.append(pa.field("chunked_index", pa.int32()))
    return pa.schema([*made, *others])


def _text_of(tokenizer: Any, text: str, encoded: Any, low: int, high: int) -> str:
    """The text of the tokens `low..high`: cut from the document where the tokenizer knows the places."""
    if "offset_mapping" not in encoded:
        decoded: str = tokenizer.decode(encoded["input_ids"][low:high], skip_special_tokens=True)
        return decoded
    offsets = encoded["offset_mapping"]
    begin = 0 if low == 0 else offsets[low][0]
    # special tokens at the end of a document have no place in it
    end = offsets[high][0] if high < len(offsets) and offsets[high] != (0, 0) else len(text)
    return text[begin:end]
