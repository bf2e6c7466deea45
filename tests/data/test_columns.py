"""Columns by name: nested, in JSON text, and of bytes that are no text."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset

from ladm_hf.data.columns import column, document_column, to_objects, to_rows
from ladm_hf.errors import ColumnError

METAS = [{"set": "a", "n": 1, "deep": {"x": "é"}}, {"set": None}, None, {"n": 2.5}]


def packed(metas: list[Any]) -> Dataset:
    return Dataset.from_dict({"meta": [None if meta is None else json.dumps(meta) for meta in metas]})


def test_columns_are_found_in_json_text() -> None:
    data = packed(METAS)
    assert column(data, "meta.set").to_pylist() == ["a", None, None, None]
    assert column(data, "meta.n").to_pylist() == ["1", None, None, "2.5"]
    assert column(data, "meta.deep.x").to_pylist() == ["é", None, None, None]
    assert column(data.select([3, 0]), "meta.n").to_pylist() == ["2.5", "1"]
    table = pa.table({"meta": pa.ExtensionArray.from_storage(pa.json_(), data.data.column("meta").combine_chunks())})
    assert column(Dataset(table), "meta.deep.x").to_pylist() == ["é", None, None, None]
    nested = Dataset.from_dict({"row": [{"meta": json.dumps(METAS[0])}]})
    assert column(nested, "row.meta.deep.x").to_pylist() == ["é"]


def test_what_json_text_does_not_hold_is_said() -> None:
    for data, name, message in (
        (packed(METAS), "meta.sets", "no 'sets' in column 'meta', which is text that has keys such as 'set', 'n'"),
        (packed(METAS), "meta.deep", "is an object"),
        (packed([{"a": [1]}]), "meta.a", "is a list"),
        (Dataset.from_dict({"meta": ["no json", "[1]"]}), "meta.a", "no JSON object"),
        (packed(METAS), "metas.set", "no column 'metas.set'"),
    ):
        with pytest.raises(ColumnError, match=message):
            column(data, name)


def test_a_document_in_json_text_is_pointed_out() -> None:
    with pytest.raises(ColumnError, match=r"'meta' is text: if that is JSON, write 'meta.text' as a column"):
        document_column(pa.schema([("meta", pa.string())]), ["meta.text"])


def test_invalid_utf8_is_shown_with_replacement_characters() -> None:
    odd = pa.array([b"\xffa", None, b"b"], pa.binary()).view(pa.string())
    table = pa.table({
        "text": odd,
        "struct": pa.StructArray.from_arrays([odd], names=["x"]),
        "list": pa.ListArray.from_arrays([0, 1, 1, 3], odd),
    })  # fmt: skip
    assert to_objects(table["text"]) == ["\ufffda", None, "b"]
    assert to_rows(table)[0] == {"text": "\ufffda", "struct": {"x": "\ufffda"}, "list": ["\ufffda"]}
    assert to_rows(table)[2] == {"text": "b", "struct": {"x": "b"}, "list": [None, "b"]}
