"""An `IterableDataset` as a source: rows in order, each range by reading on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import xxhash

from ladm_hf.data.columns import BYTES_PER_TOKEN, conform, content_hash, document_column, nested_type, pick
from ladm_hf.data.inference import Inference, replace_surrogates, text_problem, to_json, to_table, value_in
from ladm_hf.data.sources import (
    MAX_TABLE_ROWS,
    TABLE_BYTES,
    Cost,
    Rows,
    SequentialSource,
    SourceScan,
    schema_layout,
    schema_of,
)
from ladm_hf.data.storable import storable_features, to_storable
from ladm_hf.errors import InputError

if TYPE_CHECKING:
    from datasets import IterableDataset

# Rows that the stream is asked for at once, and that tell a pass over it from another.
_STREAM_ROWS = 8

P = TypeVar("P", pa.Table, list[dict[str, Any]])


class StreamSource(SequentialSource):
    """Rows of an `IterableDataset`. Scanning it is one pass over the stream; every process streams it again.

    Where the stream names its features, its tables are taken as they are; else its rows are Python objects, whose
    columns are inferred as those of JSON lines are.

    Args:
        dataset (`IterableDataset`): the stream.
        name (`str`, *optional*): of the files or the Hub data set that it reads; `None` for a stream of the caller's,
            whose own errors are left as they are.
    """

    def __init__(self, dataset: IterableDataset, name: str | None = None) -> None:
        super().__init__()
        # a private name; without it nothing tells
        if getattr(dataset, "_starting_state_dict", None) is not None:
            raise InputError(
                "this stream is to start in its middle (load_state_dict), but it is read from its first row, more than "
                "once: give it as it was made, and for a part of it skip(n)"
            )
        self.dataset = dataset
        self.name = name or "a streamed data set"
        self._is_loaded = name is not None
        features = dataset.features and storable_features(dataset.features, self.name)
        self._schema = None if features is None else features.arrow_schema
        self._typed = dataset.features is not None
        self._column = ""
        self._rows = 0
        self._hash = self._head = ""

    def limit_rows(self, count: int) -> None:
        self.dataset = self.dataset.take(count)

    def scan(self, candidates: Sequence[str], max_tokens: int) -> SourceScan:
        cost = Cost(max_tokens)
        if self._typed:
            assert self._schema is not None
            self._column = document_column(self._schema, candidates) if candidates else ""
            for table in self._hashed(self._tables(), content_hash):
                cost.add(pick(table, self._column) if candidates else pa.chunked_array([pa.nulls(len(table))]))
        else:
            columns = Inference(self.name)
            for rows in self._hashed(self._python_rows(), _rows_hash):
                columns.add([replace_surrogates(row) for row in rows])
                cost.add_tokens(np.array([_tokens(row, candidates) for row in rows]))
            self._schema = columns.finish()
            columns.log()
            self._column = document_column(self._schema, candidates) if candidates else ""
        positions, cumulative = cost.cumulative()
        layout = {"rows": self._rows, "column": self._column, "head": self._head, **schema_layout(self._schema)}
        return SourceScan(self._schema, positions, cumulative, layout)

    def _tables(self) -> Iterator[pa.Table]:
        """The stream as tables, where its features are known."""
        pending: list[pa.Table] = []
        size = 0
        assert self._schema is not None
        for table in self._read_on(self.dataset.with_format("arrow").iter(batch_size=_STREAM_ROWS)):
            pending.append(to_storable(table, self._schema))
            size += table.nbytes
            if size >= TABLE_BYTES or _STREAM_ROWS * len(pending) >= MAX_TABLE_ROWS:
                yield pa.concat_tables(pending, promote_options="permissive")
                pending, size = [], 0
        if pending:
            yield pa.concat_tables(pending, promote_options="permissive")

    def _python_rows(self) -> Iterator[list[dict[str, Any]]]:
        """The stream as rows, where its features are not known."""
        pending: list[dict[str, Any]] = []
        size = 0
        for row in self._read_on(self.dataset.with_format(None)):
            pending.append(dict(row))
            size += sum(len(value) for value in row.values() if isinstance(value, (str, bytes, list)))
            if size >= TABLE_BYTES or len(pending) >= MAX_TABLE_ROWS:
                yield pending
                pending, size = [], 0
        if pending:
            yield pending

    def _read_on(self, parts: Iterable[Any]) -> Iterator[Any]:
        """The parts of the stream, with the errors of `datasets` in one that says where they arose."""
        from datasets.exceptions import DatasetsError
        from datasets.table import CastError

        expected = (Exception,) if self._is_loaded else (pa.ArrowException, DatasetsError, CastError)
        count = 0
        try:
            for part in parts:
                yield part
                count += len(part) if isinstance(part, pa.Table) else 1
        except InputError:
            raise
        except expected as error:
            message = str(error).strip().partition("\n")[0]
            if isinstance(error, UnicodeDecodeError):
                message += "; convert it to UTF-8, for instance with `iconv -f LATIN1 -t UTF-8`"
            raise InputError(
                f"{self.name} cannot be read beyond row {count:,}: {type(error).__name__}: {message}"
            ) from error

    def _hashed(self, parts: Iterator[P], hash_of: Callable[[P], bytes]) -> Iterator[P]:
        """The whole stream, noting how many rows there are, their hash and that of the first ones."""
        digest = xxhash.xxh3_128()
        rows = 0
        for part in parts:
            if not rows:
                self._head = hash_of(part[:_STREAM_ROWS]).hex()
            digest.update(hash_of(part))
            rows += len(part)
            yield part
        self._rows, self._hash = rows, digest.hexdigest()

    def _as_scanned(self, parts: Iterator[P], hash_of: Callable[[P], bytes]) -> Iterator[P]:
        """The stream again, refused where it begins with other rows than it did."""
        for n, part in enumerate(parts):
            if n == 0 and self._head not in ("", hash_of(part[:_STREAM_ROWS]).hex()):
                raise InputError(
                    f"{self.name} begins with other rows than when it was first read, or than on rank 0. Every pass "
                    "must give the same rows in the same order: seed what is random, and do not split the stream by "
                    "rank (split_dataset_by_node, shard), since the ranks divide the work themselves"
                )
            yield part

    def fingerprint(self) -> str:
        """A hash of all rows: one pass over the stream, unless it has been scanned."""
        if not self._hash:
            hashed = (
                self._hashed(self._tables(), content_hash)
                if self._typed
                else self._hashed(self._python_rows(), _rows_hash)
            )
            for _ in hashed:
                pass
        return self._hash

    def block_edges(self) -> list[int]:
        return sorted({0, self._rows})

    def restore_layout(self, layout: dict[str, Any]) -> None:
        self._schema, self._rows, self._column = schema_of(layout), layout["rows"], layout.get("column", "")
        self._head = layout.get("head", "")
        # at once: a process that is given no chunk reads nothing, and its part of a divided stream would be missing
        next(self._found_rows(), None)

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> Iterator[Rows]:
        for found in self._forward(0, 0, start, stop, self._found_rows):
            yield found if columns is None else Rows(found.table.select(list(columns)), found.problems)
        if stop == self._rows and self._open is not None:
            _, at, reader, rest = self._open
            if rest is not None or next(reader, None) is not None:
                raise InputError(f"{self.name} continues after {at:,} rows: it is longer than it was")

    def _found_rows(self) -> Iterator[Rows]:
        assert self._schema is not None
        if self._typed:
            for table in self._as_scanned(self._tables(), content_hash):
                yield Rows(conform(table, self._schema, self.name))
            return
        kind = nested_type(self._schema, self._column)
        for rows in self._as_scanned(self._python_rows(), _rows_hash):
            # without a column of documents, a row is what it is
            texts = enumerate(rows) if self._column else ()
            problems = {n: text_problem(row, self._column, kind) for n, row in texts}
            table = to_table([replace_surrogates(row) for row in rows], self._schema)
            yield Rows(table, {n: problem for n, problem in problems.items() if problem})


def _rows_hash(rows: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(xxhash.xxh3_128_digest(to_json(row).encode("utf-8", "surrogatepass")) for row in rows)


def _tokens(row: dict[str, Any], candidates: Sequence[str]) -> float:
    """Estimated tokens of a row's document."""
    values = (value_in(row, column) for column in candidates)
    value = next((value for value in values if value is not None), None)
    if isinstance(value, str):
        return math.ceil(len(value.encode("utf-8", "replace")) / BYTES_PER_TOKEN)
    return len(value) if isinstance(value, Sized) else 0
