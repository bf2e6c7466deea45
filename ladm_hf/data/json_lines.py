"""JSON lines as a source: ranges of bytes, and lines that a broken neighbour does not take down.

A line belongs to the range of bytes in which it begins, so a file can be cut anywhere without being read. Compressed
files are cut by the bytes they unpack to. A line that is no JSON object stays a row, of nulls, with its problem told. A
column whose values are of several types becomes text, with everything but text written as JSON; so does one of numbers
that has both fractions and integers too large for a double. What is no valid Unicode is replaced by question marks.
"""

from __future__ import annotations

import codecs
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ladm_hf.data import sources
from ladm_hf.data.columns import BYTES_PER_TOKEN, document_column, nested_type
from ladm_hf.data.content import (
    compression_in,
    is_json_array,
    known_content,
    open_unpacked,
    other_encoding,
    read_unpacked_head,
    reading,
    shown,
)
from ladm_hf.data.inference import Inference, replace_surrogates, text_problem, to_table
from ladm_hf.data.sources import FileSource, Rows, SourceScan
from ladm_hf.errors import ColumnError, InputError

# Of a file that is not looked through, so much of its beginning tells the columns.
HEAD_BYTES = 8 << 20
SAMPLE_BYTES = 4096
SAMPLES = 16
_BLOCK = 1 << 20
_BLOCK_BYTES = 32 << 20
# Bytes between the positions at which the cost is noted.
_GRAIN = 1024

Line = tuple[int, bytes]


class JsonLinesSource(FileSource):
    """Rows of JSON-lines files, in the order of their paths."""

    unit = "bytes"

    def __init__(self, fs: Any, paths: list[str], name: str) -> None:
        super().__init__(fs, paths, name)
        self._column = ""
        self._whole = False
        # Where the last file ends for us, at its end where it is None.
        self._end: int | None = None
        self._compressions: dict[str, str | None] = {}
        # The file last read: (number, end of the range, first byte of the next line, handle).
        self._handle: tuple[int, int, int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_handle": None}

    def limit_rows(self, count: int) -> None:
        for file in range(len(self.paths)):
            self._check_content(file)
            for lines in self._lines(file, 0, sys.maxsize):
                if len(lines) >= count:
                    start, line = lines[count - 1]
                    self.paths, self._end, self._handle = self.paths[: file + 1], start + len(line), None
                    return
                count -= len(lines)
        self._handle = None

    def scan(self, candidates: Sequence[str], max_tokens: int) -> SourceScan:
        ends = [] if self._end is None else [self._end]
        sizes = [*(self._size(path) for path in self.paths[: len(self.paths) - len(ends)]), *ends]
        self._offsets = np.cumsum([0, *sizes]).astype(np.int64)
        self._whole = self.local and sum(sizes) <= sources.SCAN_BYTES
        positions: list[int] = []
        costs: list[float] = []
        total = 0.0
        columns = Inference(self.name)
        for file, size in enumerate(sizes):
            self._check_content(file)
            problem, has_rows = "", False
            for lines in self._lines(file, 0, size if self._whole else min(size, HEAD_BYTES)):
                found = [_valid(row, line) for _, line in lines if (row := _parse(line)[0]) is not None]
                columns.add(found)
                problem, has_rows = problem or _parse(lines[0][1])[1], has_rows or bool(found)
                for start, line in lines:
                    if not positions or int(self._offsets[file]) + start - positions[-1] >= _GRAIN:
                        positions.append(int(self._offsets[file]) + start)
                        costs.append(total)
                    total += 1 + min(max_tokens, len(line) / BYTES_PER_TOKEN)
            if problem and not has_rows:
                raise InputError(self._no_line_parses(file, problem))
        if candidates and not positions:
            raise ColumnError(f"{self.name} has no row: its files are empty, so its columns are none")
        self._schema = columns.finish()
        columns.log()
        self._log_partitions()
        if not self._whole:
            positions, costs = self._offsets.tolist(), (self._offsets / BYTES_PER_TOKEN).tolist()
        else:
            positions, costs = [*positions, int(self._offsets[-1])], [*costs, total]
        self._column = document_column(self._schema, candidates) if candidates else ""
        return SourceScan(
            self._schema, np.array(positions, np.int64), np.array(costs), self._layout(), exact=self._whole
        )

    def _check_content(self, file: int) -> None:
        """Refuses a file that holds something else than lines, before its bytes are taken for one endless line."""
        head = read_unpacked_head(self.fs, self.paths[file])
        if is_json_array(head):
            raise InputError(f"{self.paths[file]} holds a JSON array, unlike {self.paths[0]}: give it by itself")
        if what := known_content(head):
            raise InputError(f"{self.paths[file]} holds no JSON lines; it is {what}")

    def _no_line_parses(self, file: int, problem: str) -> str:
        head = read_unpacked_head(self.fs, self.paths[file])
        first = head.lstrip().partition(b"\n")[0].rstrip()
        if "Extra data" in problem:
            problem += "; write one object a line, without commas between them, as `jq -c .` does"
        elif first.startswith(b"{") and b"\n" in head.strip() and not first.endswith(b"}"):
            problem = "an object is spread over several lines: write one a line (JSON lines), as `jq -c .` does"
        elif "codec can't decode" in problem:
            problem += f"; {other_encoding(self.fs, self.paths[file])}"
        return f"no line of {self.paths[file]}, which begins with {shown(head)}, is a JSON object: {problem}"

    def restore_layout(self, layout: dict[str, Any]) -> None:
        super().restore_layout(layout)
        self._column, self._whole = layout["column"], layout["whole"]

    def _layout(self) -> dict[str, Any]:
        return {**super()._layout(), "column": self._column, "whole": self._whole}

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> Iterator[Rows]:
        for file, low, high in self._segments(start, stop):
            for lines in self._lines(file, low, high):
                rows = self._rows(file, lines)
                yield rows if columns is None else Rows(rows.table.select(list(columns)), rows.problems)

    def row_starts(self, edges: Sequence[int]) -> list[int]:
        counts = [0]
        for start, stop in itertools.pairwise(edges):
            parts = (self._lines(file, low, high) for file, low, high in self._segments(start, stop))
            counts.append(counts[-1] + sum(len(lines) for part in parts for lines in part))
        return counts[:-1]

    def block_edges(self) -> list[int]:
        edges = set(super().block_edges())
        for path, (first, end) in zip(self.paths, itertools.pairwise(self._offsets.tolist()), strict=True):
            # what is packed can only be read from its beginning
            if self._compression(path) is None:
                edges.update(range(first, end, _BLOCK_BYTES))
        return sorted(edges)

    # Lines

    def _compression(self, path: str) -> str | None:
        if path not in self._compressions:
            self._compressions[path] = compression_in(self.fs, path)
        return self._compressions[path]

    def _size(self, path: str) -> int:
        """Bytes of a file, unpacked."""
        compression = self._compression(path)
        if compression is None:
            return int(self.fs.size(path))
        size = 0
        with reading(path, compression), self._opened(path) as handle:
            while block := handle.read(_BLOCK):
                size += len(block)
        return size

    def _opened(self, path: str) -> Any:
        return open_unpacked(self.fs, path, self._compression(path))

    def _lines(self, file: int, start: int, stop: int) -> Iterator[list[Line]]:
        """Groups of `(first byte, line)` for the lines of a file that begin in `start..stop`; blank lines are left
        out."""
        if start >= stop:
            return
        path = self.paths[file]
        with reading(path, self._compression(path)):
            handle, at = self._seek(file, start)
        group: list[Line] = []
        size = 0
        while at < stop:
            with reading(path, self._compression(path)):
                line = handle.readline()
            if not line:
                break
            if line.strip():
                group.append((at, line))
                size += len(line)
            at += len(line)
            if size >= sources.TABLE_BYTES or len(group) >= sources.MAX_TABLE_ROWS:
                yield group
                group, size = [], 0
        self._handle = (file, stop, at, handle)
        if group:
            yield group

    def _seek(self, file: int, start: int) -> tuple[Any, int]:
        """The file, at the first line that begins at `start` or later, and where that is."""
        before, self._handle = self._handle, None
        if before is not None and before[:2] == (file, start):
            return before[3], before[2]
        path = self.paths[file]
        if before is not None and before[0] == file and before[2] < start:
            handle, at = before[3], before[2]
        else:
            handle, at = self._opened(path), 0
        if start == at:
            return handle, at
        if self._compression(path) is None:
            handle.seek(start - 1)
        else:
            while at < start - 1 and (block := handle.read(min(_BLOCK, start - 1 - at))):
                at += len(block)
        return handle, start - 1 + len(handle.readline())

    def _fingerprint_of(self, path: str) -> bytes:
        """Pieces of the file, evenly spread, packed as it is."""
        size = int(self.fs.size(path))
        with self.fs.open(path, "rb") as handle:
            pieces = []
            for at in np.linspace(0, max(0, size - SAMPLE_BYTES), SAMPLES).astype(int).tolist():
                handle.seek(at)
                pieces.append(handle.read(SAMPLE_BYTES))
        return b"".join(pieces)

    def _rows(self, file: int, lines: list[Line]) -> Rows:
        assert self._schema is not None
        known = self._column in self._schema.names
        kind = self._schema.field(self._column).type if known else nested_type(self._schema, self._column)
        problems: dict[int, str] = {}
        rows: list[dict[str, Any]] = []
        for n, (start, line) in enumerate(lines):
            row, problem = _parse(line)
            if row is None:
                problems[n] = f"error: {problem}, at byte {start} of {os.path.basename(self.paths[file])}"
            elif problem := text_problem(row, self._column, kind):
                problems[n] = problem
            rows.append(_valid(row or {}, line))
        if not self._whole:
            self._check_columns(rows, self.paths[file])
        return Rows(to_table(rows, self._schema), problems)

    def _check_columns(self, rows: list[dict[str, Any]], path: str) -> None:
        """Refuses rows that the columns found at the beginning of the files would not hold."""
        assert self._schema is not None
        merged = Inference(path)
        merged.fields = {field.name: field.type for field in self._schema}
        merged.add(rows)
        if not merged.schema.equals(self._schema):
            odd = next(field for field in merged.schema if field not in list(self._schema))
            raise InputError(
                f"column {odd.name!r} of {path} is {odd.type} here, unlike at the beginning of the files, which alone "
                "was looked at because they are remote or large. Convert the data to parquet first."
            )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys must differ: of two values of one key, one would be lost."""
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} appears more than once")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _parse(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The object on a line, or `None` and why there is none."""
    try:
        # as json.loads does, which would make a decoder for every line
        row = _DECODER.decode(line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        return None, f"the line is not valid JSON ({error})"
    if not isinstance(row, dict):
        return None, f"the line is not a JSON object but a {type(row).__name__}"
    return row, ""


def _valid(row: dict[str, Any], line: bytes) -> dict[str, Any]:
    """A row whose keys and strings are all valid Unicode; only an escape or a byte of a surrogate makes others."""
    replaced: dict[str, Any] = replace_surrogates(row) if b"\\u" in line or b"\xed" in line else row
    return replaced
