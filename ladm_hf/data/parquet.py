"""Parquet files as a source: rows by row group, read page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ladm_hf.arrays import Floats, Ints
from ladm_hf.data import sources
from ladm_hf.data.arrow_types import loadable_schemas
from ladm_hf.data.columns import BYTES_PER_TOKEN, conform, document_column, pick, root_column
from ladm_hf.data.content import explain, read_head
from ladm_hf.data.schemas import FileSchema, join_schemas
from ladm_hf.data.sources import Cost, FileSource, Rows, SourceScan, rows_per_table
from ladm_hf.errors import InputError


class ParquetSource(FileSource):
    """Rows of parquet files, in the order of their paths."""

    kind = "parquet"
    # Rows that count, all where it is None.
    _limit: int | None = None

    def _file(self, path: str, columns_buffer: bool = True) -> pq.ParquetFile:
        try:
            handle = path if self.local else self.fs.open(path, "rb")
            return pq.ParquetFile(handle, pre_buffer=False, buffer_size=(1 << 20) if columns_buffer else 0)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"cannot read {path} as parquet: {self._cause(path, error)}") from error

    def _cause(self, path: str, error: Exception) -> str:
        """Why a file is no parquet, as far as its first bytes tell."""
        try:
            head = read_head(self.fs, path)
        except OSError:
            return str(error)
        if head.startswith(b"PAR1"):
            return f"it is damaged or cut short ({error}): download or write it again"
        return f"it is {explain(head)}"

    def limit_rows(self, count: int) -> None:
        self._limit, rows = count, 0
        for number, path in enumerate(self.paths, 1):
            rows += self._footer(path).footer.num_rows
            if rows >= count:
                self.paths = self.paths[:number]
                return

    def scan(self, candidates: Sequence[str], max_tokens: int) -> SourceScan:
        files = self._of_each(self._footer)
        schemas = loadable_schemas([file.schema for file in files], self.name)
        self._schema = join_schemas([file._replace(schema=schema) for file, schema in zip(files, schemas, strict=True)])
        self._log_partitions()
        column = document_column(self._schema, candidates) if candidates else ""
        self._offsets = np.cumsum([0, *(file.footer.num_rows for file in files)]).astype(np.int64)
        positions, cost, size = self._footer_cost([file.footer for file in files], column, max_tokens)
        if self._limit is not None and self._limit < self._offsets[-1]:
            self._offsets = np.minimum(self._offsets, self._limit)
            kept = positions < self._limit
            positions, cost = (
                np.append(positions[kept], self._limit),
                np.append(cost[kept], np.interp(self._limit, positions, cost)),
            )
        if column and self.local and size <= sources.SCAN_BYTES:
            rows = Cost(max_tokens)
            for found in self.read(0, int(self._offsets[-1]), [root_column(self._schema, column)]):
                rows.add(pick(found.table, column))
            self._open = None
            positions, cost = rows.cumulative()
            return SourceScan(self._schema, positions, cost, self._layout())
        return SourceScan(self._schema, positions, cost, self._layout(), exact=False)

    def block_edges(self) -> list[int]:
        footers = [file.footer for file in self._of_each(self._footer)]
        rows = [meta.row_group(g).num_rows for meta in footers for g in range(meta.num_row_groups)]
        edges: list[int] = np.unique(np.minimum(np.cumsum([0, *rows]), self._offsets[-1])).tolist()
        return edges

    def _fingerprint_of(self, path: str) -> bytes:
        file = self._footer(path)
        return f"{file.schema.remove_metadata()}:{file.footer.to_dict()}".encode()

    def _footer(self, path: str) -> FileSchema:
        file = self._file(path, columns_buffer=False)
        return FileSchema(path, file.schema_arrow, file.metadata)

    def _footer_cost(self, metas: list[pq.FileMetaData], column: str, max_tokens: int) -> tuple[Ints, Floats, int]:
        """Cost at the borders of row groups, rows within one taken as equal; and the bytes of the column."""
        rows, costs, size = [0], [0.0], 0
        for meta in metas:
            for g in range(meta.num_row_groups):
                group = meta.row_group(g)
                chunks = [group.column(c) for c in range(group.num_columns)]
                mine = [c for c in chunks if c.path_in_schema == column or c.path_in_schema.startswith(column + ".")]
                bytes_ = sum(c.total_uncompressed_size for c in mine)
                size += bytes_
                is_list = any(c.path_in_schema != column for c in mine)
                tokens = sum(c.num_values for c in mine) if is_list else bytes_ / BYTES_PER_TOKEN
                rows.append(rows[-1] + group.num_rows)
                costs.append(costs[-1] + group.num_rows + min(tokens, group.num_rows * max_tokens))
        return np.array(rows, dtype=np.int64), np.array(costs), size

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> Iterator[Rows]:
        assert self._schema is not None
        schema = self._schema if columns is None else pa.schema([self._schema.field(c) for c in columns])
        for file, low, high in self._segments(start, stop):
            first, tables = self._reader(file, low, columns)
            for found in self._forward((file, columns), first, low, high, tables):
                yield Rows(conform(found.table, schema, self.paths[file]))

    def _reader(self, file: int, low: int, columns: Sequence[str] | None) -> tuple[int, Callable[[], Iterator[Rows]]]:
        """The first row of the row group that holds row `low` of a file, and a reader from there on."""
        if self._open is not None and self._open[:2] == ((file, columns), low):
            return low, lambda: iter(())
        opened = self._file(self.paths[file])
        meta = opened.metadata
        starts = np.cumsum([0] + [meta.row_group(g).num_rows for g in range(meta.num_row_groups)])
        group = int(np.searchsorted(starts, low, "right")) - 1
        size = sum(meta.row_group(g).total_byte_size for g in range(meta.num_row_groups))
        wanted = None if columns is None else [c for c in columns if c in opened.schema_arrow.names]

        def tables() -> Iterator[Rows]:
            batches = opened.iter_batches(
                batch_size=rows_per_table(size, meta.num_rows),
                row_groups=list(range(group, meta.num_row_groups)),
                columns=wanted,
                use_threads=False,
            )
            while (batch := self._next(batches, self.paths[file])) is not None:
                yield Rows(pa.Table.from_batches([batch]))

        return int(starts[group]), tables

    def _next(self, batches: Iterator[pa.RecordBatch], path: str) -> pa.RecordBatch | None:
        try:
            return next(batches, None)
        except (OSError, pa.ArrowException) as error:
            if "all lists to be of size" in str(error):
                raise InputError(
                    f"{path} has empty values in a column of lists of a fixed size ({error}), which pyarrow "
                    f"{pa.__version__} cannot read: install pyarrow 26 or write lists of any size"
                ) from error
            raise InputError(f"{path} is damaged ({error}): download or write it again") from error
