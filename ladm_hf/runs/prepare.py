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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from ladm_hf.calculators.calculator import DEFAULT, Calculator, resolve
from ladm_hf.calculators.token_ids import made_with
from ladm_hf.data.columns import document_column, documents, pick
from ladm_hf.data.files import storage_errors
from ladm_hf.data.open import load_files, open_source
from ladm_hf.data.sources import Rows, Source
from ladm_hf.data.temporary import remove_abandoned, temporary_folder
from ladm_hf.data.writer import GroupWriter
from ladm_hf.errors import ColumnError, ConfigError, RunError
from ladm_hf.runs.chunks import balanced_edges
from ladm_hf.runs.folder import RunFolder

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# How the folder of unfinished work is called.
TEMPORARY = ".prepare-"
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
        `input_ids` (`int32`, in place of the input's), `index` (the input's, if it is a number, else the number of the
        row) and, with windows, `chunked_index` (number of the window in its document). Where the input has a `meta`,
        its other columns are kept beside it, or in it where the result has another column of that name. A cut text
        need not give the same tokens again: with `LadmScorer(text_column=None)` exactly `input_ids` is scored.

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
    remove_abandoned(TEMPORARY, folder.path)
    if folder.path.exists() and any(folder.path.iterdir()):
        raise RunError(f"{folder.path} is not empty: choose a new folder")
    survey = source.survey([text_column], max_length)
    job = _Job(
        source=source,
        layout=survey.layout,
        calculator=calculator,
        column=document_column(survey.schema, [text_column]),
        schema=_schema(survey.schema, text_column, overflow).with_metadata(made_with(calculator)),
        min_tokens=min_tokens,
        max_length=max_length,
        overflow=overflow,
        folder=folder.path,
    )
    edges = balanced_edges(survey, max(1 if num_proc == 1 else 4 * num_proc, int(survey.cost[-1] // CHUNK_TOKENS)))
    starts = source.row_starts(edges)
    chunks = [(*edge, first) for edge, first in zip(itertools.pairwise(edges), starts, strict=True)]
    with storage_errors(folder.path, "the result"):
        folder.path.mkdir(parents=True, exist_ok=True)
    with temporary_folder(TEMPORARY, folder.path) as work:
        job = replace(job, folder=work / "data")
        job.folder.mkdir()
        unreadable = _run(job, chunks, num_proc, progress)
        with storage_errors(folder.path, "the result"):
            os.rename(job.folder, folder.data)
    if unreadable:
        logger.warning(
            "%d rows of %s are left out, because their text cannot be read: `ladm score` gives each its reason",
            unreadable, source.name,
        )  # fmt: skip
    return sorted(folder.data.iterdir())


def _run(job: _Job, chunks: list[tuple[int, int, int]], num_proc: int, progress: bool | None) -> int:
    """Prepares all chunks, in this process or in several; the number of rows whose text cannot be read."""
    names = [f"train-{n:05d}-of-{len(chunks):05d}.parquet" for n in range(len(chunks))]
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
    job.source.adopt(job.layout)
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
    with GroupWriter(job.folder / name, job.schema, job.folder) as writer:
        for found in job.source.read(start, stop):
            for low in range(0, found.table.num_rows, PREPARE_ROWS):
                part = found.slice(low, min(found.table.num_rows, low + PREPARE_ROWS))
                kept = _Kept()
                unreadable += _keep(job, _tokenizers[identity], part, first, kept)
                if kept.rows:
                    writer.write(_table(job, part.table.take(kept.rows), kept))
                first += part.table.num_rows
    return unreadable


@dataclass
class _Kept:
    """The rows of the result, in lists of one length: the input's row of each, and what is made of its text."""

    rows: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    input_ids: list[Any] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    chunked_index: list[int] = field(default_factory=list)


def _keep(job: _Job, tokenizer: Any, found: Rows, first: int, kept: _Kept) -> int:
    """Adds the rows that are kept of some documents; the number of documents that cannot be read."""
    table = found.table
    texts = documents(pick(table, job.column))
    numbered = _is_numbered(table.schema)
    numbers = table["index"].to_pylist() if numbered else [None] * table.num_rows
    for row, (text, number) in enumerate(zip(texts, numbers, strict=True)):
        if row in found.problems or not isinstance(text, str) or not text.strip():
            continue
        encoded = tokenizer(text, verbose=False, return_offsets_mapping=tokenizer.is_fast)
        ids = encoded["input_ids"]
        for window, low in enumerate(range(0, len(ids) if job.overflow == "windows" else 1, job.max_length)):
            part = ids[low : low + job.max_length]
            if len(part) < max(1, job.min_tokens):
                continue
            cut = text if len(part) == len(ids) else _text_of(tokenizer, text, encoded, low, low + len(part))
            kept.rows.append(row)
            kept.text.append(cut)
            kept.input_ids.append(part)
            kept.index.append(first + row if number is None else number)
            kept.chunked_index.append(window)
    return len(found.problems) + sum(isinstance(text, bytes) for n, text in enumerate(texts) if n not in found.problems)


def _has_meta(source: pa.Schema, text_column: str) -> bool:
    return "meta" in source.names and text_column != "meta"


def _is_numbered(source: pa.Schema) -> bool:
    return "index" in source.names and pa.types.is_integer(source.field("index").type)


def _schema(source: pa.Schema, text_column: str, overflow: str) -> pa.Schema:
    """The columns of the result.

    Raises:
        ColumnError: a column of the input has no place in it.
    """
    made = [pa.field("text", pa.large_string()), pa.field("input_ids", pa.list_(pa.int32()))]
    made.append(pa.field("index", pa.int64()))
    if overflow == "windows":
        made.append(pa.field("chunked_index", pa.int32()))
    replaced = {text_column, "input_ids", "meta", *(["index"] if _is_numbered(source) else [])}
    others = [field for field in source if field.name not in replaced]
    if not _has_meta(source, text_column):
        meta, others = pa.struct(others) if others else pa.null(), []
    else:
        # a column whose name the result has for something else
        displaced = [field for field in others if field.name in {column.name for column in made}]
        meta = source.field("meta").type
        if displaced:
            meta = _with_fields(meta, displaced)
        others = [field for field in others if field not in displaced]
    return pa.schema([made[0], pa.field("meta", meta), *made[1:], *others])


def _with_fields(meta: pa.DataType, displaced: Sequence[pa.Field]) -> pa.DataType:
    """The type of a `meta` that also holds other columns."""
    for column in displaced:
        if not pa.types.is_struct(meta) or meta.get_field_index(column.name) >= 0:
            raise ColumnError(
                f"the result has a column {column.name!r} of its own, and 'meta', which holds {meta}, has no place for "
                f"the input's: rename the input's column {column.name!r}"
            )
    return pa.struct([*meta, *displaced])


def _table(job: _Job, source: pa.Table, kept: _Kept) -> pa.Table:
    """The result's rows, made from the input's row of each. What is not made from the text stays the bytes it is."""
    made = {"text": kept.text, "input_ids": kept.input_ids, "index": kept.index}
    if job.overflow == "windows":
        made["chunked_index"] = kept.chunked_index
    columns = []
    for wanted in job.schema:
        if wanted.name in made:
            columns.append(pa.array(made[wanted.name], wanted.type))
        elif wanted.name == "meta":
            columns.append(_meta(source, wanted.type, job.column))
        else:
            columns.append(source[wanted.name])
    return pa.table(columns, schema=job.schema)


def _meta(source: pa.Table, kind: pa.DataType, text_column: str) -> pa.Array:
    """The column `meta`: the input's, with displaced columns among its fields, else all other columns."""
    has_meta = _has_meta(source.schema, text_column)
    if has_meta and source["meta"].type == kind:
        return source["meta"]
    if not pa.types.is_struct(kind):
        return pa.nulls(source.num_rows)
    inner = source["meta"].combine_chunks() if has_meta else None
    own = set() if inner is None else {field.name for field in inner.type}
    values = [pc.struct_field(inner, f.name) if f.name in own else source[f.name].combine_chunks() for f in kind]
    return pa.StructArray.from_arrays(values, fields=list(kind))


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
