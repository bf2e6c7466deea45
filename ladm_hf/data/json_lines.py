"""JSON lines as a source: ranges of bytes, and lines that a broken neighbour does not take down.

A line belongs to the range of bytes in which it begins, so a file can be cut anywhere without being read. Compressed
files are cut by the bytes they unpack to. A line that is no JSON object stays a row, of nulls, with its problem told. A
column whose values are of several types becomes text, with everything but text written as JSON; so does one of numbers
that has both fractions and integers too large for a double. What is no valid Unicode is replaced by question marks.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.data import sources
from ladm_hf.data.columns import BYTES_PER_TOKEN, document_column, nested_type
from ladm_hf.data.data_files import COMPRESSED
from ladm_hf.data.sources import FileSource, Rows, Survey
from ladm_hf.errors import InputError

# Of a file that is not looked through, so much of its beginning tells the columns.
HEAD_BYTES = 8 << 20
SAMPLE_BYTES = 4096
SAMPLES = 16
_BLOCK = 1 << 20
# Integers beyond are not all exact as a double.
_EXACT = 2**53
# Bytes between the positions at which the cost is noted.
_GRAIN = 1024

Line = tuple[int, bytes]
Place = tuple[str, ...]


class JsonLinesSource(FileSource):
    """Rows of JSON-lines files, in the order of their paths."""

    unit = "bytes"

    def __init__(self, fs: Any, paths: list[str], name: str) -> None:
        super().__init__(fs, paths, name)
        self._column = ""
        self._whole = False
        # The file last read: (number, end of the range, first byte of the next line, handle).
        self._handle: tuple[int, int, int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_handle": None}

    def survey(self, candidates: Sequence[str], max_tokens: int) -> Survey:
        sizes = [self._size(path) for path in self.paths]
        self._offsets = np.cumsum([0, *sizes]).astype(np.int64)
        self._whole = self.local and sum(sizes) <= sources.SURVEY_BYTES
        positions: list[int] = []
        costs: list[float] = []
        total = 0.0
        schema = pa.schema([])
        wide: set[Place] = set()
        for file, size in enumerate(sizes):
            for lines in self._lines(file, 0, size if self._whole else min(size, HEAD_BYTES)):
                if file == 0 and lines[0][0] == 0 and lines[0][1].lstrip().startswith(b"["):
                    raise InputError(f"{self.paths[0]} holds a JSON array: write one object a line (JSON lines)")
                found = [_valid(row, line) for _, line in lines if (row := _parse(line)[0]) is not None]
                schema = _merge(schema, _infer(found, wide))
                for start, line in lines:
                    if not positions or int(self._offsets[file]) + start - positions[-1] >= _GRAIN:
                        positions.append(int(self._offsets[file]) + start)
                        costs.append(total)
                    total += 1 + min(max_tokens, len(line) / BYTES_PER_TOKEN)
        for path in wide:
            if pa.types.is_floating(_type_at(schema, path)):
                schema = schema.set(schema.get_field_index(path[0]), pa.field(path[0], pa.string()))
        self._schema = schema
        if not self._whole:
            positions, costs = self._offsets.tolist(), (self._offsets / BYTES_PER_TOKEN).tolist()
        else:
            positions, costs = [*positions, int(self._offsets[-1])], [*costs, total]
        self._column = document_column(schema, candidates)
        return Survey(schema, np.array(positions, np.int64), np.array(costs), self._layout(), exact=self._whole)

    def adopt(self, layout: dict[str, Any]) -> None:
        super().adopt(layout)
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

    # Lines

    def _compression(self, path: str) -> str | None:
        return "infer" if path.lower().endswith(COMPRESSED) else None

    def _size(self, path: str) -> int:
        """Bytes of a file, unpacked."""
        if self._compression(path) is None:
            return int(self.fs.size(path))
        size = 0
        with self._opened(path) as handle:
            while block := handle.read(_BLOCK):
                size += len(block)
        return size

    def _opened(self, path: str) -> Any:
        try:
            return self.fs.open(path, "rb", compression=self._compression(path))
        except (ImportError, ValueError, OSError) as error:
            raise InputError(f"cannot open {path}: {error}") from error

    def _lines(self, file: int, start: int, stop: int) -> Iterator[list[Line]]:
        """Groups of `(first byte, line)` for the lines of a file that begin in `start..stop`; blank lines are left
        out."""
        if start >= stop:
            return
        handle, at = self._seek(file, start)
        group: list[Line] = []
        size = 0
        while at < stop and (line := handle.readline()):
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
        handle, at = self._opened(path), 0
        if before is not None and before[0] == file and before[2] < start:
            handle, at = before[3], before[2]
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
            elif problem := _text_problem(_value(row, self._column), kind):
                problems[n] = problem
            rows.append(_valid(row or {}, line))
        if not self._whole:
            self._check_columns(rows, self.paths[file])
        return Rows(_table(rows, self._schema), problems)

    def _check_columns(self, rows: list[dict[str, Any]], path: str) -> None:
        """Refuses rows that the columns found at the beginning of the files would not hold."""
        assert self._schema is not None
        merged = _merge(self._schema, _infer(rows, set()))
        if not merged.equals(self._schema):
            odd = next(field for field in merged if field not in list(self._schema))
            raise InputError(
                f"column {odd.name!r} of {path} is {odd.type} here, unlike at the beginning of the files, which alone "
                "was looked at because they are remote or large. Convert the data to parquet first."
            )


def _parse(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The object on a line, or `None` and why there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"the line is not valid JSON ({error})"
    if not isinstance(row, dict):
        return None, f"the line is not a JSON object but a {type(row).__name__}"
    return row, ""


def _valid(row: dict[str, Any], line: bytes) -> dict[str, Any]:
    """A row whose keys and strings are all valid Unicode; only an escape or a byte of a surrogate makes others."""
    return _replaced(row) if b"\\u" in line or b"\xed" in line else row


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value if _is_unicode(value) else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_replaced(name): _replaced(item) for name, item in value.items()}
    return [_replaced(item) for item in value] if isinstance(value, list) else value


def _value(row: dict[str, Any], column: str) -> Any:
    """What a row has in a column, perhaps nested."""
    value: Any = row
    for name in [column] if column in row else column.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text_problem(value: Any, kind: pa.DataType) -> str:
    """The status of a document that a text column holds only in another form."""
    if value is None or not pa.types.is_string(kind):
        return ""
    if not isinstance(value, str):
        return f"error: expected a string, found {type(value).__name__}"
    return "" if _is_unicode(value) else "error: the text is not valid Unicode"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _infer(rows: list[dict[str, Any]], wide: set[Place]) -> pa.Schema:
    """The columns of some rows; adds those of integers that a double cannot hold to `wide`."""
    names = dict.fromkeys(name for row in rows for name in row)
    fields = []
    for name in names:
        try:
            values = pa.array([row.get(name) for row in rows])
            kind = values.type
            wide.update(_wide(values, (name,)))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            kind = pa.string()
        fields.append(pa.field(name, pa.string() if _unwritable(kind) else kind))
    return pa.schema(fields)


def _wide(values: pa.Array, path: Place) -> Iterator[Place]:
    """Where an array, perhaps nested, has integers that a double cannot hold.

    They meet fractions in files that pandas wrote: it writes an integer column as one of doubles where a value is
    missing, so identifiers are whole in one file and rounded in the next.
    """
    if pa.types.is_struct(values.type):
        for n, field in enumerate(values.type):
            yield from _wide(values.field(n), (*path, field.name))
    elif pa.types.is_list(values.type):
        yield from _wide(values.flatten(), path)
    elif pa.types.is_integer(values.type):
        bounds = pc.min_max(values).as_py()
        if bounds["max"] is not None and max(bounds["max"], -bounds["min"]) > _EXACT:
            yield path


def _type_at(schema: pa.Schema, path: Place) -> pa.DataType:
    """The type at a path of [`_wide`]; null where a column holds something else by now."""
    kind = schema.field(path[0]).type
    for name in [*path[1:], None]:
        while pa.types.is_list(kind):
            kind = kind.value_type
        if name is not None:
            kind = kind.field(name).type if pa.types.is_struct(kind) else pa.null()
    return kind


def _unwritable(kind: pa.DataType) -> bool:
    """Whether a type has a struct without fields in it, which parquet cannot hold."""
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_unwritable(field.type) for field in kind)
    return pa.types.is_list(kind) and _unwritable(kind.value_type)


def _merge(known: pa.Schema, found: pa.Schema) -> pa.Schema:
    """Columns that hold both; a column of two types that have no common one becomes text."""
    fields = {field.name: field for field in known}
    for field in found:
        if field.name in fields:
            try:
                both = [pa.schema([fields[field.name]]), pa.schema([field])]
                field = pa.unify_schemas(both, promote_options="permissive").field(0)
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                field = pa.field(field.name, pa.string())
        fields[field.name] = field
    return pa.schema(list(fields.values()))


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.table([_array([row.get(field.name) for row in rows], field.type) for field in schema], schema=schema)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(values, type=kind)
