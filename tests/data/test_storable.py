"""Columns of data sets that parquet cannot hold as they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Value

from ladm_hf.data.open import open_source
from ladm_hf.data.rows import open_rows
from ladm_hf.data.storable import storable_features
from ladm_hf.errors import InputError

OBJECTS = {
    "text": ["one", "two", "three"],
    "meta": [{}, None, {}],
    "tools": [[{}], [], None],
    "deep": [{"a": {}}, {"a": {}}, None],
}
TEXTS = {"meta": ["{}", None, "{}"], "tools": ["[{}]", "[]", None], "deep": ['{"a": {}}', '{"a": {}}', None]}


@pytest.mark.parametrize("stream", [False, True])
def test_objects_without_fields_are_kept_as_json(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_dict(OBJECTS)
    source = open_source(rows.to_iterable_dataset() if stream else rows)
    scan = source.scan(["text"], 512)
    assert scan.schema.field("meta").type == pa.string()
    found = pa.concat_tables(part.table for part in source.read(0, 3))
    assert found.to_pydict() == OBJECTS | TEXTS
    assert [part.table.column_names for part in source.read(0, 3, ["deep"])] == [["deep"]]
    assert "column 'tools' of" in caplog.text


def test_a_part_of_a_data_set_is_written_with_them(tmp_path: Path) -> None:
    rows = Dataset.from_dict(OBJECTS).select([2, 0])
    (file,) = open_rows(rows, marks=["text"]).write(tmp_path, "train")
    assert pq.read_table(file).to_pydict() == {"text": ["three", "one"]} | {
        name: [values[2], values[0]] for name, values in TEXTS.items()
    }
    assert Dataset.from_parquet(str(file), cache_dir=str(tmp_path)).features["meta"] == Value("string")


def test_another_type_that_parquet_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sink: object, schema: pa.Schema) -> None:
        if schema.names == ["meta"]:
            raise pa.ArrowNotImplementedError("Unhandled type")
        pq.core.ParquetWriter(sink, schema).close()

    monkeypatch.setattr("ladm_hf.data.storable.pq.ParquetWriter", refuse)
    with pytest.raises(InputError, match=r"cannot hold column 'meta' of my pool, which is string"):
        storable_features(Dataset.from_dict({"meta": ["a"]}).features, "my pool")
