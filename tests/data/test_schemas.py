"""Files whose columns differ: joined where no value changes, else refused with both names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from ladm_hf.data.open import open_source
from ladm_hf.data.schemas import join_types
from ladm_hf.errors import InputError


def write(folder: Path, *columns: Any, metadata: dict[bytes, bytes] | None = None) -> Path:
    for n, values in enumerate(columns):
        table = pa.table({"text": [f"document {n}"], "x": values}).replace_schema_metadata(metadata)
        pq.write_table(table, folder / f"{n}.parquet")
    return folder


def read(path: Path) -> tuple[pa.Schema, list[Any]]:
    source = open_source(path)
    scan = source.scan(["text"], 512)
    tables = [found.table for found in source.read(0, int(scan.positions[-1]))]
    return scan.schema, [value for table in tables for value in table["x"].to_pylist()]


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        (pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.large_string()),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), pa.string()),
        (pa.array([1], pa.int8()), pa.array([2], pa.int64()), pa.int64()),
        (pa.array([1]), pa.array([2.5]), pa.float64()),
        (pa.array([None], pa.null()), pa.array(["b"]), pa.string()),
        (pa.array([["a"]]), pa.array([["b"]], pa.large_list(pa.large_string())), pa.large_list(pa.large_string())),
        (pa.array([{"a": 1}]), pa.array([{"b": "x"}]), pa.struct([("a", pa.int64()), ("b", pa.string())])),
        (pa.array([{"a": [None]}]), pa.array([{"a": [1]}]), pa.struct([("a", pa.list_(pa.int64()))])),
    ],
)  # fmt: skip
def test_types_with_a_common_one_are_joined(
    tmp_path: Path, one: pa.Array, other: pa.Array, joined: pa.DataType
) -> None:
    for order in ((one, other), (other, one)):
        schema, values = read(write(tmp_path, *order))
        kind = schema.field("x").type
        names = {field.name for field in joined} if pa.types.is_struct(joined) else set()
        assert {field.name for field in kind} == names if names else kind == joined
        for value, (wanted,) in zip(values, (part.to_pylist() for part in order), strict=True):
            assert value == ({**dict.fromkeys(names), **wanted} if names else wanted)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array(["a"]), pa.array([1])),
        (pa.array(["a"]), pa.array([b"a"])),
        (pa.array([True]), pa.array([1])),
        (pa.array([{"a": 1}]), pa.array([{"a": "x"}])),
        (pa.array([{"a": 1}]), pa.array(["x"])),
        (pa.array([2**53 + 1]), pa.array([0.5])),
        (pa.array([1], pa.timestamp("s")), pa.array([1], pa.timestamp("s", "UTC"))),
    ],
)
def test_types_without_a_common_one_are_refused_with_both_files(tmp_path: Path, one: pa.Array, other: pa.Array) -> None:
    write(tmp_path, one, other)
    with pytest.raises(InputError, match="column 'x' is") as caught:
        read(tmp_path)
    for part in ("0.parquet", "1.parquet", "drop the column"):
        assert part in str(caught.value)


def test_integers_that_a_double_holds_are_joined_with_fractions(tmp_path: Path) -> None:
    assert read(write(tmp_path, pa.array([2**53]), pa.array([0.5])))[1] == [2.0**53, 0.5]
    assert join_types(pa.int64(), pa.string()) is None


def test_two_columns_of_one_name_are_named(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], names=["text", "score", "score"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet has 2 columns named 'score': rename"):
        read(tmp_path / "a.parquet")


def test_features_of_another_version_give_way_to_the_arrow_types(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features = {"text": {"_type": "Hologram"}, "x": {"dtype": "int64", "_type": "Value"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode(), b"other": b"kept"}
    schema, values = read(write(tmp_path, pa.array([1]), metadata=metadata))
    assert values == [1]
    assert schema.metadata == {b"other": b"kept"}
    assert "0.parquet" in caplog.text
    assert "Hologram" in caplog.text


def test_features_are_kept_and_class_labels_not_mixed(tmp_path: Path) -> None:
    for n, names in enumerate((["no", "yes"], ["no", "yes"], ["yes", "no"])):
        features = Features({"text": Value("string" if n else "large_string"), "x": ClassLabel(names=names)})
        Dataset.from_dict({"text": ["a"], "x": [1]}, features).to_parquet(tmp_path / f"{n}.parquet")
    with pytest.raises(InputError, match=r"'x' has the class labels \['no', 'yes'\] in .*0.parquet but"):
        read(tmp_path)
    (tmp_path / "2.parquet").unlink()
    found = Features.from_arrow_schema(read(tmp_path)[0])
    assert found == {"text": Value("large_string"), "x": ClassLabel(names=["no", "yes"])}
