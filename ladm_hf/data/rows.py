"""Rows of anything that can be opened, or a part of them: read by column or written, without holding them all.

Dataset, table, save_to_disk folder    -> DatasetRows: a view, its texts stay where they are
files, Hub id, stream                  -> SourceRows: the columns asked for, and the rows asked for, by passes over them
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Bools
from ladm_hf.data.columns import nested_type, pick, root_column, to_objects
from ladm_hf.data.open import find_data, from_table, source_of
from ladm_hf.data.results import read_record
from ladm_hf.data.shards import dataset_parts, named, table_parts
from ladm_hf.data.sources import MAX_TABLE_ROWS, Source
from ladm_hf.data.storable import storable_features, to_storable
from ladm_hf.data.temporary import temporary_folder
from ladm_hf.errors import ColumnError, InputError
from ladm_hf.text import without_credentials

if TYPE_CHECKING:
    from datasets import Dataset

_LENGTHS = "length of {}"


class DatasetRows:
    """The rows of a `Dataset`.

    Args:
        dataset (`Dataset`): the rows.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def schema(self) -> pa.Schema:
        """Columns, with the types of Arrow."""
        return self._dataset.features.arrow_schema

    def dataset(self) -> Dataset:
        """The rows as a `Dataset`."""
        return self._dataset

    def columns(self, names: Sequence[str], lengths_of: Sequence[str] = ()) -> Dataset:
        """A data set that holds the named columns at least."""
        return self._dataset

    def problems(self) -> dict[int, str]:
        """Rows that could not be read, with the reason."""
        return {}

    def value(self, row: int, column: str) -> Any:
        """One value, `None` where there is no such column."""
        if column not in self._dataset.column_names:
            return None
        return self._dataset.select_columns([column]).with_format(None)[row][column]

    def write(
        self, folder: Path, split: str, shard_bytes: int | None = None, without: Sequence[str] = ()
    ) -> list[Path]:
        """Writes parquet files `split-00000-of-00002.parquet` and returns them in order."""
        return named(self.parts(folder, shard_bytes, without), split)

    def parts(self, folder: Path, shard_bytes: int | None = None, without: Sequence[str] = ()) -> Iterator[Path]:
        """Writes parquet files and hands on each when it is finished."""
        dataset = self._dataset.remove_columns(list(without)) if without else self._dataset
        features = storable_features(dataset.features, "the data set")
        if features == dataset.features:
            return dataset_parts(dataset, folder, shard_bytes)
        schema = features.arrow_schema
        tables = (to_storable(table, schema) for table in dataset.with_format("arrow").iter(MAX_TABLE_ROWS))
        return table_parts(tables, schema, folder, shard_bytes)

    def long_columns(self, row_bytes: int) -> list[str]:
        """Columns that are nested, or hold more bytes a row than that."""
        table = self._dataset.data
        rows = max(1, table.num_rows)
        return [
            field.name
            for field in table.schema
            if pa.types.is_nested(field.type) or table.column(field.name).nbytes > row_bytes * rows
        ]


class SourceRows:
    """Rows of files or of a stream, read in passes: nothing of their size is kept in memory or in a cache.

    Args:
        source ([`Source`]): where they are.
        stop (`int`): size of the source, in its units.
        schema (`pa.Schema`): its columns.
        kept (`bool` array, *optional*): of all rows of the source, those that are meant.
        extra (`pa.Table`, *optional*): further columns of the rows that are meant; one of the same name is replaced.
    """

    def __init__(
        self, source: Source, stop: int, schema: pa.Schema, kept: Bools | None = None, extra: pa.Table | None = None
    ) -> None:
        self._source, self._stop, self._kept, self._extra = source, stop, kept, extra
        self._source_schema = schema
        self._problems: dict[int, str] | None = None

    def part(self, kept: Bools, extra: pa.Table | None = None, without: Sequence[str] = ()) -> SourceRows:
        """Some of the rows of a source of which all were meant, with further columns and without some."""
        assert self._kept is None
        fields = [field for field in self._source_schema if field.name not in without]
        schema = pa.schema(fields, metadata=_features(self._source_schema, fields, pa.schema([])))
        return SourceRows(self._source, self._stop, schema, kept, extra)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns, with the types of Arrow and what `datasets` notes of them."""
        extra = self._extra.schema if self._extra is not None else pa.schema([])
        fields = [field for field in self._source_schema if field.name not in extra.names]
        return pa.schema([*fields, *extra], metadata=_features(self._source_schema, fields, extra))

    @cached_property
    def _length(self) -> int:
        if self._kept is not None:
            return int(self._kept.sum())
        if self._source.unit == "rows":
            return self._stop
        return sum(table.num_rows for table in self.tables(self._source_schema.names[:1]))

    def __len__(self) -> int:
        return self._length

    def tables(self, names: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, a few megabytes at a time.

        Args:
            names (sequence of `str`, *optional*): columns; all where none are given.
        """
        wanted = self.schema.names if names is None else list(names)
        stored = [] if self._extra is None else [name for name in self._extra.column_names if name in wanted]
        read = [name for name in wanted if name not in stored]
        # a table without columns has no rows
        passed = read or self._source_schema.names[:1]
        schema = pa.schema([self.schema.field(name) for name in wanted], metadata=self.schema.metadata)
        problems: dict[int, str] = {}
        at = done = 0
        for found in self._source.read(0, self._stop, passed):
            problems.update({at + row: problem for row, problem in found.problems.items()})
            table, size = found.table, found.table.num_rows
            mask = None if self._kept is None else self._kept[at : at + size]
            at += size
            if mask is not None and not mask.all():
                if not mask.any():
                    continue
                table = table.filter(pa.array(mask))
            columns = [table[name] if name in read else self._stored(name, done, table.num_rows) for name in wanted]
            done += table.num_rows
            yield pa.table(columns, schema=schema)
        self._problems = problems

    def _stored(self, name: str, first: int, count: int) -> pa.ChunkedArray:
        assert self._extra is not None
        return self._extra[name].slice(first, count)

    def columns(self, names: Sequence[str], lengths_of: Sequence[str] = ()) -> Dataset:
        """A data set of the named columns alone, nested ones by their dotted names where they are fields of a struct.

        Args:
            names (sequence of `str`): columns, those that are not there left out.
            lengths_of (sequence of `str`): columns of lists, of which only the lengths are read; see [`lengths_name`].
        """
        schema = self.schema
        there = [name for name in dict.fromkeys(names) if root_column(schema, name) in schema.names]
        lists = [name for name in lengths_of if name in schema.names]
        roots = list(dict.fromkeys([*(root_column(schema, name) for name in there), *lists]))
        parts: list[pa.Table] = []
        for table in self.tables(roots):
            values: dict[str, pa.ChunkedArray] = {}
            for name in there:
                # text that may hold JSON is looked into later
                whole = name in schema.names or nested_type(schema, name) is None
                root = name if name in schema.names else root_column(schema, name)
                values[root if whole else name] = table[root] if whole else pick(table, name)
            for name in lists:
                values[lengths_name(name)] = pc.list_value_length(table[name]).cast(pa.int64())
            parts.append(pa.table(values))
        if not parts:
            fields = [(name, nested_type(schema, name) or pa.null()) for name in there]
            fields += [(lengths_name(name), pa.int64()) for name in lists]
            parts = [pa.schema(fields).empty_table()]
        return from_table(_named_labels(pa.concat_tables(parts), schema))

    def problems(self) -> dict[int, str]:
        """Rows of the source that could not be read, with the reason."""
        if self._problems is None:
            for _ in self.tables(self._source_schema.names[:1]):
                pass
        return self._problems or {}

    def value(self, row: int, column: str) -> Any:
        """One value, `None` where there is no such column."""
        if column not in self.schema.names:
            return None
        if self._source.unit == "rows" and (self._extra is None or column not in self._extra.column_names):
            place = row if self._kept is None else int(np.flatnonzero(self._kept)[row])
            return to_objects(next(iter(self._source.read(place, place + 1, [column]))).table[column])[0]
        for table in self.tables([column]):
            if row < table.num_rows:
                return to_objects(table[column].slice(row, 1))[0]
            row -= table.num_rows
        raise IndexError(row)

    def dataset(self) -> Dataset:
        """The rows as a `Dataset`, over an Arrow file in the temporary folder that is removed when Python ends."""
        from datasets import Dataset

        until_exit = contextlib.ExitStack()
        folder = until_exit.enter_context(temporary_folder("ladm-rows-"))
        atexit.register(until_exit.close)
        file = str(folder / "rows.arrow")
        rows = 0
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, self.schema) as writer:
            for table in self.tables():
                writer.write_table(table)
                rows += table.num_rows
        return Dataset.from_file(file) if rows else from_table(self.schema.empty_table())

    def write(
        self, folder: Path, split: str, shard_bytes: int | None = None, without: Sequence[str] = ()
    ) -> list[Path]:
        """Writes parquet files `split-00000-of-00002.parquet` and returns them in order."""
        return named(self.parts(folder, shard_bytes, without), split)

    def parts(self, folder: Path, shard_bytes: int | None = None, without: Sequence[str] = ()) -> Iterator[Path]:
        """Writes parquet files and hands on each when it is finished."""
        names = [name for name in self.schema.names if name not in without]
        fields = [self.schema.field(name) for name in names]
        schema = pa.schema(fields, metadata=_features(self.schema, fields, pa.schema([])))
        return table_parts((table.select(names) for table in self.tables(names)), schema, folder, shard_bytes)

    def long_columns(self, row_bytes: int) -> list[str]:
        """Columns that are nested, or hold more bytes a row than that in the first rows."""
        first = next(iter(self.tables()), None)
        rows = max(1, first.num_rows) if first is not None else 1
        return [
            field.name
            for field in self.schema
            if pa.types.is_nested(field.type) or (first is not None and first[field.name].nbytes > row_bytes * rows)
        ]


AnyRows = DatasetRows | SourceRows


def lengths_name(column: str) -> str:
    """Name of the column that holds the lengths of a column of lists."""
    return _LENGTHS.format(column)


def open_rows(data: Any, *, split: str | None = None, marks: Sequence[str]) -> AnyRows:
    """The rows of some data, wherever they are.

    Args:
        data: see [`find_splits`].
        split (`str`, *optional*): the split; needed where there are several.
        marks (sequence of `str`): columns of which the data must have one, perhaps nested.

    Raises:
        InputError: nothing is there, or nothing that can be read.
        ColumnError: none of the columns is there.
    """
    from datasets import Dataset

    found = find_data(data, split=split)
    if isinstance(found.content, Dataset):
        return DatasetRows(found.content)
    return rows_of_source(source_of(found), marks)


def rows_of_source(source: Source, marks: Sequence[str]) -> SourceRows:
    """All rows of a source."""
    try:
        # the roots of nested columns come last: they may be text that holds JSON
        scan = source.scan([*marks, "text", *(mark.split(".")[0] for mark in marks if "." in mark)], 1)
    except ColumnError as error:
        schema = source.schema
        if schema is None:
            raise
        raise ColumnError(
            f"no column {marks[0]!r} in {source.name}; its columns are {', '.join(map(repr, schema.names)) or 'none'}"
        ) from error
    return SourceRows(source, int(scan.positions[-1]), scan.schema)


def _features(schema: pa.Schema, fields: Sequence[pa.Field], extra: pa.Schema) -> dict[bytes, bytes]:
    """The metadata of a schema, what `datasets` notes of its columns brought up to date."""
    from datasets import Features

    metadata = dict(schema.metadata or {})
    if metadata.pop(b"huggingface", None) is None:
        return metadata
    try:
        known = Features.from_arrow_schema(schema)
        added = Features.from_arrow_schema(extra)
    except (ValueError, TypeError, KeyError):
        # a feature type of a newer `datasets`: the types of Arrow serve
        return metadata
    features = Features({**{field.name: known[field.name] for field in fields}, **added})
    return metadata | dict(features.arrow_schema.metadata)


def _named_labels(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Class labels as their names."""
    from datasets import ClassLabel, Features

    try:
        features: Any = Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError):
        return table
    for n, name in enumerate(table.column_names):
        feature: Any = features
        for part in [name] if name in features else name.split("."):
            feature = feature.get(part) if isinstance(feature, dict) else None
        if isinstance(feature, ClassLabel):
            names = pa.array(feature.names, pa.string())
            chunks = [names.take(chunk) for chunk in table[name].chunks]
            table = table.set_column(n, name, pa.chunked_array(chunks, pa.string()))
    return table


def refuse_stream(data: Any) -> None:
    """Refuses a stream in memory, which may be gone after one pass; files are passed over more than once.

    Raises:
        InputError: it is one.
    """
    from datasets import IterableDataset, IterableDatasetDict

    if isinstance(data, (IterableDataset, IterableDatasetDict)):
        raise InputError(
            f"expected a Dataset, a table or a path, found {type(data).__name__}. A stream must be written first: "
            "score it with `ladm score` and give the folder it wrote, or load it without streaming."
        )


def refuse_selection(data: Any, mark: str) -> None:
    """Refuses a selection, which is no pool of scored rows.

    Raises:
        InputError: the folder or URL holds the file `mark`.
    """
    if read_record(data, mark) is not None:
        place = without_credentials(os.fspath(data)).rstrip("/")
        raise InputError(
            f"{place} is a selection, not a scored pool: give the pool it was made from, or {place}/data for the rows "
            "it kept alone"
        )
