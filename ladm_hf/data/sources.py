"""What a run reads: rows in order, cut anywhere, without holding them in memory.

A [`Source`] numbers its content in *units*: rows, or bytes for JSON lines, where a row belongs to the range in which it
begins. `scan()` looks at the data once and says what it costs; `read(start, stop)` gives the rows of a range.
Reading ranges in ascending order costs one pass, since the reader stays open between them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from ladm_hf.arrays import Floats, Ints
from ladm_hf.data.columns import content_hash, document_column, lengths, pick, root_column
from ladm_hf.data.storable import storable_features, to_storable
from ladm_hf.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# Bytes of one table that a source yields.
TABLE_BYTES = 8 << 20
MAX_TABLE_ROWS = 1024
# Local data up to this size is looked through row by row before a run; beyond it sizes are taken from file footers.
SCAN_BYTES = 16 << 30
# A text column up to this size goes into the fingerprint whole, a longer one by samples.
HASH_BYTES = 64 << 20
HASH_SAMPLES = 256
OPENERS = 16

# A folder of a partition by a column.
_PARTITION = re.compile(r"(?<=/)(\w+)=[^/]*/")

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a source.

    Attributes:
        table (`pa.Table`): the rows, all source columns.
        problems (`dict[int, str]`): rows of the table that could not be read, with the reason; their columns are null.
    """

    table: pa.Table
    problems: dict[int, str] = field(default_factory=dict)

    def slice(self, start: int, stop: int) -> Rows:
        """Rows `start..stop` of these."""
        problems = {row - start: problem for row, problem in self.problems.items() if start <= row < stop}
        return Rows(self.table.slice(start, stop - start), problems)


@dataclass(frozen=True)
class SourceScan:
    """What a source holds.

    Attributes:
        schema (`pa.Schema`): the columns.
        positions (`int64` array): units at which the cost is known, from 0 to the size of the source.
        cost (`float64` array): estimated tokens before each position.
        layout (`dict`): JSON values that let another process read the source without scanning it.
        exact (`bool`): the positions are all those at which a row begins that are worth a cut.
    """

    schema: pa.Schema
    positions: Ints
    cost: Floats
    layout: dict[str, Any]
    exact: bool = True


class Source:
    """Base of the sources.

    Attributes:
        name (`str`): for people.
        unit (`str`): `"rows"` or `"bytes"`.
        hub (`dict`, *optional*): `id` and `revision` of the Hub data set that this is, `None` for any other data.
    """

    name: str
    unit = "rows"
    hub: dict[str, str | None] | None = None
    _schema: Any = None

    @property
    def schema(self) -> pa.Schema | None:
        """Columns, `None` before they are known."""
        found: pa.Schema | None = self._schema
        return found

    def scan(self, candidates: Sequence[str], max_tokens: int) -> SourceScan:
        """Looks at the data.

        Args:
            candidates (sequence of `str`): columns that may hold the document; the first that exists counts. Without
                any, files are looked at for their columns alone.
            max_tokens (`int`): tokens beyond which a document costs no more.
        """
        raise NotImplementedError

    def restore_layout(self, layout: dict[str, Any]) -> None:
        """Takes over the `layout` of another process's scan."""

    def limit_rows(self, count: int) -> None:
        """Leaves out all rows but the first `count`, before anything is read."""
        raise NotImplementedError

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> Iterator[Rows]:
        """Rows of the units `start..stop`, in order, a few megabytes at a time."""
        raise NotImplementedError

    def row_starts(self, edges: Sequence[int]) -> list[int]:
        """Number of the first row of each range between `edges`."""
        return list(edges[:-1])

    def block_edges(self) -> list[int]:
        """Units from which reading costs nothing that lies before, ascending from 0 to the size, once scanned."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash that changes with the data: of all content where that is little, else of sizes and samples."""
        raise NotImplementedError


class Cost:
    """Collects the cost of rows in order."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.parts: list[npt.NDArray[np.float32]] = []

    def add(self, values: pa.ChunkedArray) -> None:
        self.add_tokens(lengths(values))

    def add_tokens(self, tokens: Floats) -> None:
        # every row costs something, so that rows without a text spread over the chunks too
        self.parts.append((1 + np.minimum(tokens, self.max_tokens)).astype(np.float32))

    def cumulative(self) -> tuple[Ints, Floats]:
        costs = np.concatenate([np.zeros(1, np.float32), *self.parts]).astype(np.float64)
        return np.arange(len(costs), dtype=np.int64), np.cumsum(costs)


class DatasetSource(Source):
    """Rows of a `datasets.Dataset`."""

    def __init__(self, dataset: Dataset) -> None:
        if dataset.format["type"] == "custom":
            raise InputError(
                "this Dataset has a transform (set_transform or with_transform), which changes its rows as they are "
                "read and would be lost in the result. Write the changed rows down first with "
                "dataset.with_format(None).map(transform, batched=True), or take the stored ones with "
                "dataset.with_format(None)"
            )
        self.dataset = dataset.with_format("arrow")
        self.name = f"a Dataset of {len(dataset):,} rows"
        self._features = storable_features(dataset.features, self.name)

    def limit_rows(self, count: int) -> None:
        self.dataset = self.dataset.select(range(min(count, len(self.dataset))))

    def fingerprint(self) -> str:
        rows = len(self.dataset)
        digest = xxhash.xxh3_128(f"{rows}:{self._schema.remove_metadata()}".encode())
        if rows * self._row_bytes <= HASH_BYTES:
            for found in self.read(0, rows):
                digest.update(content_hash(found.table))
        else:
            for row in np.unique(np.linspace(0, rows - 1, HASH_SAMPLES).astype(int)).tolist():
                digest.update(content_hash(self.dataset[row : row + 1]))
        return digest.hexdigest()

    def scan(self, candidates: Sequence[str], max_tokens: int) -> SourceScan:
        column = document_column(self._schema, candidates)
        cost = Cost(max_tokens)
        for found in self.read(0, len(self.dataset), [root_column(self._schema, column)]):
            cost.add(pick(found.table, column))
        positions, cumulative = cost.cumulative()
        return SourceScan(self._schema, positions, cumulative, {})

    @property
    def _schema(self) -> pa.Schema:
        return self._features.arrow_schema

    @cached_property
    def _row_bytes(self) -> float:
        sample = np.unique(np.linspace(0, len(self.dataset) - 1, 64).astype(int)).tolist() if len(self.dataset) else []
        size: int = sum(self.dataset[row : row + 1].nbytes for row in sample)
        return size / max(1, len(sample))

    def block_edges(self) -> list[int]:
        rows = len(self.dataset)
        return [*range(0, rows, MAX_TABLE_ROWS), rows]

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> Iterator[Rows]:
        dataset = self.dataset if columns is None else self.dataset.select_columns(list(columns))
        step = rows_per_table(int(self._row_bytes * len(self.dataset)), len(self.dataset))
        for low in range(start, stop, step):
            yield Rows(to_storable(dataset[low : min(stop, low + step)], self._schema))


class SequentialSource(Source):
    """A source of which each part can only be read forwards: it keeps the last reader open for the next range."""

    def __init__(self) -> None:
        self._open: tuple[Any, int, Iterator[Rows], Rows | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def _forward(
        self, part: Any, first: int, start: int, stop: int, reader_of: Callable[[], Iterator[Rows]]
    ) -> Iterator[Rows]:
        """Rows `start..stop` of a part, whose reader `reader_of()` begins at row `first`."""
        if self._open is not None and self._open[0] == part and first <= self._open[1] <= start:
            _, at, reader, rest = self._open
        else:
            at, reader, rest = first, reader_of(), None
        self._open = None
        while at < stop:
            found = rest if rest is not None else next(reader, None)
            if found is None:
                raise InputError(f"{self.name} ended after {at:,} rows of {stop:,}: it is shorter than it was")
            size = found.table.num_rows
            low, high = min(size, max(0, start - at)), min(size, stop - at)
            if high > low:
                yield found.slice(low, high)
            rest = found.slice(high, size) if high < size else None
            at += high
        self._open = (part, at, reader, rest)


class FileSource(SequentialSource):
    """Base of the sources made of files on one file system."""

    kind: str

    def __init__(self, fs: Any, paths: list[str], name: str) -> None:
        super().__init__()
        self.fs = fs
        self.paths = paths
        self.name = name
        self._schema: pa.Schema | None = None
        self._offsets: Ints = np.zeros(1, dtype=np.int64)

    @property
    def local(self) -> bool:
        return "file" in _protocols(self.fs)

    def restore_layout(self, layout: dict[str, Any]) -> None:
        self._schema = schema_of(layout)
        self._offsets = np.array(layout["offsets"], dtype=np.int64)

    def block_edges(self) -> list[int]:
        edges: list[int] = np.unique(self._offsets).tolist()
        return edges

    def fingerprint(self) -> str:
        sizes = [int(self.fs.size(path)) for path in self.paths]
        digest = xxhash.xxh3_128(repr(sizes).encode())
        whole = self.local and sum(sizes) <= HASH_BYTES
        for part in self._of_each(self._content_of if whole else self._fingerprint_of):
            digest.update(part)
        return digest.hexdigest()

    def _fingerprint_of(self, path: str) -> bytes:
        """What tells a large file from others of its size."""
        raise NotImplementedError

    def _content_of(self, path: str) -> bytes:
        return xxhash.xxh3_128_digest(self.fs.cat_file(path))

    def _of_each(self, function: Callable[[str], T]) -> list[T]:
        with ThreadPoolExecutor(OPENERS) as pool:
            return list(pool.map(function, self.paths))

    def _log_partitions(self) -> None:
        """Logs values that stand in the names of folders alone (`domain=books/`), as pandas and Spark write them."""
        assert self._schema is not None
        found = dict.fromkeys(key for path in self.paths for key in _PARTITION.findall(path))
        missing = [key for key in found if key not in self._schema.names]
        if missing:
            logger.warning(
                "the folders of %s name values of %s, which no file has as a column, so that they are left out: write "
                "them as a column, for instance by pandas.read_parquet(folder).to_parquet(file)",
                self.name, ", ".join(map(repr, missing)),
            )  # fmt: skip

    def _layout(self) -> dict[str, Any]:
        assert self._schema is not None
        return {"offsets": self._offsets.tolist(), **schema_layout(self._schema)}

    def _segments(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """`(file, first unit, last unit)` of a range, units counted within the file."""
        for file in range(int(np.searchsorted(self._offsets, start, "right")) - 1, len(self.paths)):
            first, end = int(self._offsets[file]), int(self._offsets[file + 1])
            if first >= stop:
                return
            if end > start:
                yield file, max(start, first) - first, min(stop, end) - first


def rows_per_table(size: int, rows: int) -> int:
    return int(min(MAX_TABLE_ROWS, max(1, TABLE_BYTES * rows // max(1, size))))


def schema_layout(schema: pa.Schema) -> dict[str, Any]:
    return {"schema": schema.serialize().to_pybytes().hex()}


def schema_of(layout: dict[str, Any]) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(layout["schema"])))


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
