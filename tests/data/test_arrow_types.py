"""Columns in types of Arrow that `datasets` does not know: kept with their values, and told."""

from __future__ import annotations

import datetime
import decimal
import logging
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features

from ladm_hf.data.arrow_types import loadable_schemas, loadable_type, to_loadable
from ladm_hf.data.open import find_data, from_table, open_source

ENTRIES = pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())]))
ID = uuid.UUID(int=7).bytes
# binary of a fixed size where `datasets` holds it
STORED_ID = loadable_type(pa.binary(16))
UUIDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([ID, None], pa.binary(16)))
CASES: dict[str, tuple[pa.Array, pa.DataType, list[Any]]] = {
    "map": (
        pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int64())),
        ENTRIES,
        [[{"key": "a", "value": 1}, {"key": "b", "value": None}], None],
    ),
    "map of maps": (
        pa.array([[("a", [("b", 1)])], []], pa.map_(pa.string(), pa.map_(pa.string(), pa.int64()))),
        pa.list_(pa.struct([("key", pa.string()), ("value", ENTRIES)])),
        [[{"key": "a", "value": [{"key": "b", "value": 1}]}], []],
    ),
    "list view": (pa.array([[1, 2], None], pa.list_view(pa.int64())), pa.list_(pa.int64()), [[1, 2], None]),
    "large list view": (
        pa.array([[], ["x"]], pa.large_list_view(pa.string_view())), pa.large_list(pa.large_string()), [[], ["x"]],
    ),
    "string view": (pa.array(["a", None], pa.string_view()), pa.large_string(), ["a", None]),
    "binary view": (pa.array([b"\xff", None], pa.binary_view()), pa.large_binary(), [b"\xff", None]),
    "categories of views": (
        pa.DictionaryArray.from_arrays(pa.array([1, None], pa.uint8()), pa.array(["a", "b"], pa.string_view())),
        pa.large_string(),
        ["b", None],
    ),
    "decimal32": (
        pa.array([decimal.Decimal("1.10"), None], pa.decimal32(5, 2)),
        pa.decimal128(5, 2),
        [decimal.Decimal("1.10"), None],
    ),
    "uuid": (UUIDS, STORED_ID, [ID, None]),
    "uuids": (pa.ListArray.from_arrays([0, 1, 2], UUIDS), pa.list_(STORED_ID), [[ID], [None]]),
    "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())), pa.bool_(), [True, None]),
    "tensor": (
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8).reshape(2, 2, 2)),
        pa.list_(pa.int64(), 4),
        [[0, 1, 2, 3], [4, 5, 6, 7]],
    ),
    "struct": (
        pa.array([{"m": [("k", 1)], "v": [[1]]}, None],
                 pa.struct([("m", pa.map_(pa.string(), pa.int64())), ("v", pa.list_(pa.list_view(pa.int64()), 1))])),
        pa.struct([("m", ENTRIES), ("v", pa.list_(pa.list_(pa.int64()), 1))]),
        [{"m": [{"key": "k", "value": 1}], "v": [[1]]}, None],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_keep_what_they_are_in_a_type_that_datasets_knows(name: str) -> None:
    array, kind, values = CASES[name]
    assert loadable_type(array.type) == kind
    Features.from_arrow_schema(pa.schema([("x", kind)]))
    found = to_loadable(pa.chunked_array([array, array.slice(1), array.slice(0, 0)]))
    found.validate(full=True)
    assert found.type == kind
    assert found.to_pylist() == [*values, values[1]]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(), pa.null(), pa.decimal256(50, 2), pa.timestamp("ns", "Europe/Berlin"), pa.json_(), pa.float16(),
        pa.dictionary(pa.int8(), pa.string()), pa.list_(pa.struct([("a", pa.date32())])),
    ],
    ids=str,
)  # fmt: skip
def test_types_that_datasets_knows_stay(kind: pa.DataType) -> None:
    assert loadable_type(kind) == kind


def parquet_holds(array: pa.Array) -> bool:
    """Not categories of views, and list views only since pyarrow 25."""
    try:
        pq.write_table(pa.table({"x": array}), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError:
        return False
    return True


def test_files_with_such_columns_are_read_as_what_can_be_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = {name: case for name, case in CASES.items() if parquet_holds(case[0])}
    columns = {name: array for name, (array, _, _) in cases.items()}
    pq.write_table(pa.table({"text": ["a", "b"], **columns}), tmp_path / "pool.parquet")
    source = open_source(tmp_path)
    scan = source.scan(["text"], 10)
    table = pa.concat_tables(found.table for found in source.read(0, 2))
    for name, (_, kind, values) in cases.items():
        assert pa.types.is_nested(kind) or table[name].type == kind
        assert table[name].to_pylist() == values
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(m.startswith("column 'uuid' of") and str(STORED_ID) in m for m in told)
    assert not any("'string view'" in message for message in told)
    pq.write_table(table, tmp_path / "again.parquet")
    assert Dataset.from_parquet(str(tmp_path / "again.parquet"), cache_dir=str(tmp_path / "cache")).num_rows == 2
    assert scan.schema.equals(table.schema)


def test_a_table_with_such_columns_is_data_too() -> None:
    columns = {name: array for name, (array, _, _) in CASES.items()}
    assert from_table(pa.table(columns)).to_dict() == {name: values for name, (_, _, values) in CASES.items()}


def test_frames_are_data() -> None:
    import pandas as pd

    frame = pd.DataFrame({"text": ["a", None], "when": [datetime.datetime(2020, 1, 1)] * 2})
    assert find_data(frame).content["text"] == ["a", None]  # type: ignore[index]


def test_each_column_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    schema = pa.schema([("m", pa.map_(pa.string(), pa.int64()))])
    loadable_schemas([schema, schema], "the pool")
    assert len(caplog.records) == 1
