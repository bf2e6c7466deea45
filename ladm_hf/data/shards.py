"""Data sets as parquet files named `split-00000-of-00002.parquet`."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ladm_hf.data.writer import GroupWriter

if TYPE_CHECKING:
    from datasets import Dataset

SHARD_NAME = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}\.parquet")
# About the most bytes of one file, before compression.
SHARD_BYTES = 500_000_000


def by_split(files: list[Path]) -> dict[str, Any]:
    """Files called `split-00000-of-00002.parquet` belong to that split, if all are called so; else all are `train`."""
    names = [SHARD_NAME.fullmatch(file.name) for file in files]
    splits: dict[str, Any] = {}
    for file, name in zip(files, names, strict=True):
        splits.setdefault(name["split"] if name and all(names) else "train", []).append(file)
    return splits


def write_shards(dataset: Dataset, split: str, folder: Path, shard_bytes: int | None = None) -> list[Path]:
    """Writes parquet files of about `shard_bytes` before compression each; returns them in order, one at least."""
    folder.mkdir(parents=True, exist_ok=True)
    # An index mapping (after select, shuffle or filter) leaves the table at its full size.
    bytes_here = dataset.data.nbytes * dataset.num_rows / max(1, dataset.data.num_rows)
    count = max(1, min(dataset.num_rows, -(-int(bytes_here) // (shard_bytes or SHARD_BYTES))))
    files = [folder / f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
    with without_bars():
        for i, file in enumerate(files):
            dataset.shard(count, i, contiguous=True).to_parquet(file)
    return files


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


def write_tables(
    tables: Iterable[pa.Table], schema: pa.Schema, split: str, folder: Path, shard_bytes: int | None = None
) -> list[Path]:
    """Writes tables, as they come, into parquet files of about `shard_bytes` before compression each."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    writer: GroupWriter | None = None
    written = 0
    try:
        for table in itertools.chain([schema.empty_table()], tables):
            if writer is None or written >= (shard_bytes or SHARD_BYTES):
                if writer is not None:
                    writer.__exit__(None)
                parts.append(folder / f".{split}-{len(parts):05d}.parquet")
                writer, written = GroupWriter(parts[-1], schema, folder), 0
            if table.num_rows:
                writer.write(table)
            written += table.nbytes
    except BaseException as error:
        if writer is not None:
            writer.__exit__(type(error))
        raise
    assert writer is not None
    writer.__exit__(None)
    return [part.rename(folder / f"{split}-{i:05d}-of-{len(parts):05d}.parquet") for i, part in enumerate(parts)]
