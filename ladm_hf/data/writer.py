"""Tables into a parquet file, in row groups of a size that readers can take."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ladm_hf.data.files import storage_errors

# Bytes in memory of a row group: small enough for the Hub's viewer, whatever the length of the rows.
ROW_GROUP_BYTES = 32 << 20


class GroupWriter:
    """Writes tables into a parquet file in row groups of about [`ROW_GROUP_BYTES`].

    Args:
        path (`Path`): the file.
        schema (`pa.Schema`): its columns.
        folder (`Path`): what an error of the file system is told to be about.
    """

    def __init__(self, path: Path, schema: pa.Schema, folder: Path) -> None:
        self.schema = schema
        self.folder = folder
        self.tables: list[pa.Table] = []
        self.bytes = 0
        with storage_errors(folder, path.name):
            # Arrow takes no path that is not valid Unicode, as it can be in the C locale
            self.file = open(path, "wb")  # noqa: SIM115
            try:
                self.writer = pq.ParquetWriter(self.file, schema, compression="zstd", write_page_index=True)
            except BaseException:
                self.file.close()
                raise

    def __enter__(self) -> GroupWriter:
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()

    def finish(self) -> None:
        """Writes the rows that are still in memory, and the end of the file."""
        self._flush()
        with storage_errors(self.folder, "a chunk"):
            self.writer.close()
            self.file.close()

    def close(self) -> None:
        """Lets go of the file, whatever it lacks."""
        self.tables = []
        for each in (self.writer, self.file):
            with contextlib.suppress(OSError):
                each.close()

    def write(self, table: pa.Table) -> None:
        if self.tables and self.bytes + table.nbytes > ROW_GROUP_BYTES:
            self._flush()
        self.tables.append(table)
        self.bytes += table.nbytes

    def _flush(self) -> None:
        # a row group without rows is more than the readers of some libraries can take
        if self.tables:
            table = pa.concat_tables(self.tables)
            with storage_errors(self.folder, "a chunk"):
                self.writer.write_table(table, row_group_size=table.num_rows)
            self.tables, self.bytes = [], 0
