"""CSV and JSON arrays: what their cells and objects are, not what a reader takes them for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ladm_hf.data.loaded import open_documents
from ladm_hf.data.open import open_source
from ladm_hf.errors import InputError


def read(data: Any) -> dict[str, list[Any]]:
    source = open_source(data)
    scan = source.scan(["text"], 512)
    rows = [row for part in source.read(0, int(scan.positions[-1])) for row in part.table.to_pylist()]
    return {name: [row[name] for row in rows] for name in scan.schema.names}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["007", "010"], ["007", "010"]),
        (["1.10", "1.9"], ["1.10", "1.9"]),
        (["NA", "null"], ["NA", "null"]),
        (["None", ""], ["None", None]),
        (["9007199254740993", ""], [9007199254740993, None]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["1", "2.5"], [1.0, 2.5]),
        (["9007199254740993", "2.5"], ["9007199254740993", "2.5"]),
        (["True", "false"], ["True", "false"]),
        (["-3", "0"], [-3, 0]),
        (["1e5", "2"], ["1e5", "2"]),
        (['"a ""b"", c\nd"', "plain"], ['a "b", c\nd', "plain"]),
        (["2024-01-02", "2024-01-03"], ["2024-01-02", "2024-01-03"]),
    ],
    ids=str,
)
def test_cells_of_csv_stay_what_they_are(tmp_path: Path, cells: list[str], expected: list[Any]) -> None:
    (tmp_path / "a.csv").write_text("text,value\n" + "".join(f"null,{cell}\n" for cell in cells))
    assert read(tmp_path / "a.csv") == {"text": ["null", "null"], "value": expected}


def test_a_column_has_one_type_in_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tid\nx\t1\n")
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"text\tid\tnew\ny\t02\tz\n"))
    assert read(tmp_path) == {"text": ["x", "y"], "id": ["1", "02"], "new": [None, "z"]}
    rows = open_documents(tmp_path)
    assert rows.to_dict() == {"text": ["x", "y"], "id": ["1", "02"], "new": [None, "z"]}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"text,id,id\na,1,2\n", "2 columns named 'id'"),
        (b"text,id\na,1,2\n", "Length of header"),
        (b"text\ncaf\xe9\n", "UTF-8"),
        (b"\n\n", "No columns"),
    ],
)
def test_csv_that_is_no_table_is_named(tmp_path: Path, content: bytes, cause: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.csv.*{cause}"):
        read(tmp_path / "a.csv")


def test_an_array_of_objects_is_read_as_lines_are(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": "a", "id": 1, "meta": {"x": 1}}, {"text": "b", "id": "2", "meta": {"y": None}}]
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = {"text": ["a", "b"], "id": ["1", "2"], "meta": [{"x": 1, "y": None}, {"x": None, "y": None}]}
    assert read(tmp_path / "a.json") == read(tmp_path / "b.jsonl") == expected
    for order in (["a.json", "b.jsonl"], ["b.jsonl", "a.json"]):
        with pytest.raises(InputError, match=r"(b\.jsonl holds no|a\.json holds a) JSON array"):
            read([tmp_path / name for name in order])


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("text,id\nnaïve,1\n".encode("latin-1"), "LATIN1"),
        ("text,id\nnaïve,1\n".encode("utf-16"), "it is text in UTF-16"),
        (b"text;id\na;1\n", "separated by ';', not ','"),
        (b"text\tid\na\t1\n", r"name it \.tsv"),
    ],
)
def test_tables_in_another_form_are_refused_with_a_remedy(tmp_path: Path, content: bytes, remedy: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.csv .*{remedy}"):
        open_source(tmp_path / "a.csv").scan(["text"], 512)


def test_lines_of_text_in_another_encoding_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("naïve\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.txt .*iconv"):
        open_source(tmp_path / "a.txt").scan(["text"], 512)
