"""What is found, as a `Dataset` or `IterableDataset`: documents to train on, and the parquet files of a result."""

from __future__ import annotations

import glob
import logging
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from ladm_hf.data.columns import to_rows
from ladm_hf.data.data_files import load_with_datasets
from ladm_hf.data.open import READERS, Split, find_data, source_of
from ladm_hf.data.row_files import row_reader
from ladm_hf.data.shards import without_bars
from ladm_hf.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def open_documents(data: Any, split: str | None = None, streaming: bool = False) -> Any:
    """Rows as `datasets` holds them, read as they are for scoring: lines that are none are left out, with a warning.

    Args:
        data, split: see [`find_data`].
        streaming (`bool`, *optional*): an `IterableDataset` instead of a `Dataset`, which is kept in the cache of
            `datasets`.
    """
    from datasets import Dataset, Features, IterableDataset, load_dataset
    from datasets.exceptions import DatasetGenerationError

    found = find_data(data, split=split)
    content = found.content
    if isinstance(content, Dataset):
        return content.to_iterable_dataset() if streaming else content
    if isinstance(content, IterableDataset):
        if streaming or found.hub is None:
            return content
        return load_dataset(str(found.hub["id"]), revision=found.hub["revision"], split=found.split)
    if content.format not in READERS and not row_reader(content):
        return load_with_datasets(content, found.name, streaming=streaming)
    source = source_of(found)
    scan = source.scan((), sys.maxsize)
    rows = partial(_rows_of, found, scan.layout, int(scan.positions[-1]), source.fingerprint())
    features = Features.from_arrow_schema(scan.schema)
    if streaming:
        return IterableDataset.from_generator(rows, features=features)
    try:
        return Dataset.from_generator(rows, features=features)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _rows_of(found: Split, layout: dict[str, Any], size: int, fingerprint: str) -> Iterator[dict[str, Any]]:
    """The rows of files; the fingerprint of their content is there so that `datasets` caches no others."""
    source = source_of(found)
    source.restore_layout(layout)
    left_out = 0
    for part in source.read(0, size):
        # a text that is no valid UTF-8 is no text to learn from
        rows = to_rows(part.table, invalid=lambda raw: None)
        yield from (row for n, row in enumerate(rows) if n not in part.problems)
        left_out += len(part.problems)
    if left_out:
        logger.warning("%d lines of %s are no JSON objects and are left out", left_out, found.name)


def load_files(files: Sequence[Path], split: str) -> Dataset:
    """Parquet files as one data set, also where some hold no row (`load_dataset` fails on them before datasets 5.1)."""
    from datasets import Dataset, load_dataset

    filled = [file for file in files if pq.read_metadata(file).num_rows]
    if not filled:
        return Dataset(pq.read_table(files[0]))
    with without_bars():
        return load_dataset("parquet", data_files={split: [glob.escape(str(file)) for file in filled]}, split=split)
