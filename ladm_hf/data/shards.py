"""Data sets as parquet files named `split-00000-of-00002.parquet`."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from ladm_hf.data.writer import GroupWriter

if TYPE_CHECKING:
    from datasets import Dataset

SHARD_NAME = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}\.parquet")
# About the most bytes of one file, before compression.
SHARD_BYTES = 500_000_000


def named(parts: Iterable[Path], split: str) -> list[Path]:
    """Gives finished parts of a split, in one folder, their names, once it is known how many there are."""
    files = list(parts)
    names = shard_names(split, len(files))
    return [file.rename(file.with_name(name)) for file, name in zip(files, names, strict=True)]


def shard_names(split: str, count: int) -> list[str]:
    """The names of the files of a split."""
    return [f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]


def dataset_parts(dataset: Dataset, folder: Path, shard_bytes: int | None = None) -> Iterator[Path]:
    """Writes parquet files of about `shard_bytes` before compression each, one at least; each is handed on when it is
    finished."""
    folder.mkdir(parents=True, exist_ok=True)
    # An index mapping (after select, shuffle or filter) leaves the table at its full size.
    bytes_here = dataset.data.nbytes * dataset.num_rows / max(1, dataset.data.num_rows)
    count = max(1, min(dataset.num_rows, -(-int(bytes_here) // (shard_bytes or SHARD_BYTES))))
    for i in range(count):
        part = _part(folder, i)
        with without_bars():
            dataset.shard(count, i, contiguous=True).to_parquet(part)
        yield part


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Without the progress bars of `datasets`, for the time of a `with` block: where the reader of standard error went
    away, as `head` does, they raise, and what took hours would end on the bar of its last seconds."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def table_parts(
    tables: Iterable[pa.Table], schema: pa.Schema, folder: Path, shard_bytes: int | None = None
) -> Iterator[Path]:
    """Writes tables, as they come, into parquet files of about `shard_bytes` before compression each, one at least;
    each is handed on when it is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    rest = iter(tables)
    table = next(rest, None)
    for i in itertools.count():
        part, written = _part(folder, i), 0
        with GroupWriter(part, schema, folder) as writer:
            while table is not None and written < (shard_bytes or SHARD_BYTES):
                if table.num_rows:
                    writer.write(table)
                written += table.nbytes
                table = next(rest, None)
        yield part
        if table is None:
            return


def _part(folder: Path, number: int) -> Path:
    return folder / f".part-{number:05d}.parquet"
