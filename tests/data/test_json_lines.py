"""JSON lines: cut anywhere, and robust against what one line holds."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from launches import rows

from ladm_hf.data import json_lines
from ladm_hf.data.open import open_source
from ladm_hf.data.sources import Source
from ladm_hf.errors import ColumnError, InputError


def read(source: Source, start: int, stop: int) -> list[dict[str, Any]]:
    return [row for found in source.read(start, stop) for row in found.table.to_pylist()]


def problems(source: Source, stop: int) -> list[str]:
    return [problem for found in source.read(0, stop) for problem in found.problems.values()]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_any_cut_gives_every_line_once(tmp_path: Path, name: str) -> None:
    text = "\n".join(["", *(json.dumps(row) for row in rows()), "", "  "]).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    (tmp_path / ("b" + name)).write_bytes((tmp_path / name).read_bytes())
    source = open_source(str(tmp_path / "*"))
    size = int(source.scan(["text"], 512).positions[-1])
    assert size == 2 * len(text)
    whole = read(source, 0, size)
    assert [row["id"] for row in whole] == 2 * [row["id"] for row in rows()]
    for seed in range(5):
        cuts = sorted({0, size, *random.Random(seed).sample(range(size), 9)})
        ranges = list(itertools.pairwise(cuts))
        order = random.Random(seed).sample(ranges, len(ranges))
        parts = {start: read(source, start, stop) for start, stop in order}
        assert [row for start in sorted(parts) for row in parts[start]] == whole
        starts = source.row_starts(cuts)
        assert starts == [sum(len(parts[s]) for s in sorted(parts) if s < start) for start, _ in ranges]


def test_bad_lines_stay_rows_and_are_told(tmp_path: Path) -> None:
    lines = [
        '{"text": "good", "n": 1}', '{"text": "cut', "[1]", '{"text": 7, "n": 2}', '{"text": "\\ud800"}',
        '{"text": null, "n": 3}', '{"text": ["a"]}', "\ufeff{}", '"text"', "[" * 100_000,
    ]  # fmt: skip
    source = open_source(write(tmp_path / "a.jsonl", lines))
    size = int(source.scan(["text"], 512).positions[-1])
    found = read(source, 0, size)
    assert [row["n"] for row in found] == [1, None, None, 2, None, 3, None, None, None, None]
    assert found[3]["text"] == "7"
    told = problems(source, size)
    assert len(told) == 7
    for word in ("not valid JSON", "but a list", "found int", "not valid Unicode", "found list", "but a str"):
        assert any(word in problem for problem in told)


def test_a_key_that_appears_twice_is_named(tmp_path: Path) -> None:
    lines = ['{"text": "a", "n": 1}', '{"text": "b", "text": "c", "n": 2}', '{"text": "d", "meta": {"x": 1, "x": 2}}']
    source = open_source(write(tmp_path / "a.jsonl", lines))
    told = problems(source, int(source.scan(["text"], 512).positions[-1]))
    assert [key in problem for key, problem in zip(("'text'", "'x'"), told, strict=True)] == [True, True]
    with pytest.raises(InputError, match="no line of .*b.jsonl.*the key 'text' appears more than once"):
        open_source(write(tmp_path / "b.jsonl", lines[1:2])).scan(["text"], 512)


def test_columns_of_several_types_become_text_and_structs_are_joined(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": "a", "mixed": 1, "meta": {"x": 1}, "number": 1, "big": 1, "none": {}}),
        json.dumps({"text": "b", "mixed": [2], "meta": {"y": "z"}, "number": 2.5, "big": 2**70, "late": True}),
    ]
    source = open_source(write(tmp_path / "a.jsonl", lines))
    scan = source.scan(["text"], 512)
    found = read(source, 0, int(scan.positions[-1]))
    assert [row["mixed"] for row in found] == ["1", "[2]"]
    assert [row["meta"] for row in found] == [{"x": 1, "y": None}, {"x": None, "y": "z"}]
    assert [row["number"] for row in found] == [1.0, 2.5]
    assert [row["big"] for row in found] == ["1", str(2**70)]
    assert [row["none"] for row in found] == ["{}", None]
    assert [row["late"] for row in found] == [None, True]
    pq.write_table(pa.Table.from_pylist(found, scan.schema), tmp_path / "writable.parquet")


def test_types_that_differ_between_parts_are_reconciled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines.sources, "MAX_TABLE_ROWS", 2)
    lines = [json.dumps({"text": "a", "v": v}) for v in (1, 2, None, 2.5, "x", {"k": 1})]
    source = open_source(write(tmp_path / "a.jsonl", lines))
    size = int(source.scan(["text"], 512).positions[-1])
    assert [row["v"] for row in read(source, 0, size)] == ["1", "2", None, "2.5", "x", '{"k": 1}']


def test_what_is_no_unicode_costs_only_itself(tmp_path: Path) -> None:
    lines = [
        '{"text": "a", "meta": {"x": "good"}, "tags": ["t"]}',
        '{"text": "b", "meta": {"x": "\\ud800", "\\udfff": 1}, "tags": ["\\udc00"], "\\ud801": 2}',
        '{"text": "\\ud83d\\ude00", "meta": {"x": "\\ud83d\\ude00"}}',
        '{"text": "\\ud83d", "meta": {"x": null}}',
    ]
    for column, told in (("text", 1), ("meta.x", 1)):
        source = open_source(write(tmp_path / "a.jsonl", lines))
        size = int(source.scan([column], 512).positions[-1])
        found = read(source, 0, size)
        assert [row["meta"]["x"] for row in found] == ["good", "?", "\U0001f600", None]
        assert [row["text"] for row in found] == ["a", "b", "\U0001f600", "?"]
        assert (found[1]["meta"]["?"], found[1]["tags"], found[1]["?"]) == (1, ["?"], 2)
        assert problems(source, size) == ["error: the text is not valid Unicode"] * told


@pytest.mark.parametrize("rows_per_part", [1, 1024])
def test_large_integers_beside_fractions_become_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_part: int
) -> None:
    monkeypatch.setattr(json_lines.sources, "MAX_TABLE_ROWS", rows_per_part)
    large = 2**53 + 1
    lines = [
        json.dumps({"text": "a", "id": value, "plain": large, "few": 2**53 if n else 1.5, "meta": {"ids": [value]}})
        for n, value in enumerate((large, 1.5, -large))
    ]
    source = open_source(write(tmp_path / "a.jsonl", lines))
    found = read(source, 0, int(source.scan(["text"], 512).positions[-1]))
    assert [row["id"] for row in found] == [str(large), "1.5", str(-large)]
    assert [row["plain"] for row in found] == [large] * 3
    assert [row["few"] for row in found] == [1.5, 2.0**53, 2.0**53]
    assert [json.loads(row["meta"])["ids"] for row in found] == [[large], [1.5], [-large]]


def test_identifiers_keep_their_digits_though_pandas_wrote_some_as_fractions(tmp_path: Path) -> None:
    whole, gaps = [2**60 + 1, 2**60 + 3], [2**60 + 5, None]
    for name, numbers in (("a", whole), ("b", gaps)):
        frame = pd.DataFrame({"text": ["x", "y"], "id": numbers})
        frame.to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
    # a column with a gap is one of doubles
    assert '"id":1.15' in (tmp_path / "b.jsonl").read_text()
    source = open_source(str(tmp_path / "*.jsonl"))
    found = read(source, 0, int(source.scan(["text"], 512).positions[-1]))
    assert [row["id"] for row in found[:2]] == [str(number) for number in whole]
    assert float(found[2]["id"]) == pytest.approx(2**60)
    assert found[3]["id"] is None


def test_remote_files_are_not_read_through_but_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "HEAD_BYTES", 40)
    memory = fsspec.filesystem("memory")
    good = [json.dumps({"text": "word " * n}) for n in range(1, 60)]
    memory.pipe("/jsonl/a.jsonl", "\n".join(good).encode())
    source = open_source("memory://jsonl/a.jsonl")
    scan = source.scan(["text"], 512)
    assert scan.positions.tolist() == [0, len("\n".join(good))]
    assert len(read(source, 0, int(scan.positions[-1]))) == 59
    before = source.fingerprint()
    memory.pipe("/jsonl/a.jsonl", "\n".join([*good[:-1], json.dumps({"text": "b", "new": 1})]).encode())
    source = open_source("memory://jsonl/a.jsonl")
    assert source.fingerprint() != before
    scan = source.scan(["text"], 512)
    with pytest.raises(InputError, match="column 'new'"):
        read(source, 0, int(scan.positions[-1]))


def test_files_that_are_not_json_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ColumnError, match="none"):
        open_source(write(tmp_path / "b.jsonl", [])).scan(["text"], 512)
    gone = open_source(write(tmp_path / "c.jsonl", ["{}"]))
    (tmp_path / "c.jsonl").unlink()
    with pytest.raises(InputError, match="cannot read .*c.jsonl"):
        gone.scan(["text"], 512)


@pytest.mark.parametrize("rows_per_part", [1, 50, 1024])
def test_objects_with_ever_new_keys_are_kept_as_json_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, rows_per_part: int
) -> None:
    monkeypatch.setattr(json_lines.sources, "MAX_TABLE_ROWS", rows_per_part)
    meta = [{"seen": True, f"ref {n}": {"é": n}} for n in range(400)]
    kept = {f"k{k}": k for k in range(200)}
    lines = [json.dumps({"text": "a", "meta": m, "deep": {"refs": [m]}, "wide": kept}) for m in meta]
    source = open_source(write(tmp_path / "a.jsonl", lines))
    scan = source.scan(["text"], 512)
    found = read(source, 0, int(scan.positions[-1]))
    assert [json.loads(row["meta"]) for row in found] == meta
    assert [json.loads(row["deep"])["refs"] for row in found] == [[m] for m in meta]
    assert all(row["wide"] == kept for row in found)
    assert "'meta'" in caplog.text
    assert "'wide'" not in caplog.text


def test_texts_that_look_like_dates_numbers_or_types_stay_texts(tmp_path: Path) -> None:
    row = {
        "text": "(...) ,action: string, datetime: timestamp[s], author: string",
        "at": "2024-01-01T00:00:00",
        "n": "7",
    }
    source = open_source(write(tmp_path / "a.jsonl", [json.dumps(row)]))
    end = int(source.scan(["text"], 512).positions[-1])
    assert [part.table.to_pylist() for part in source.read(0, end)] == [[row]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_files_in_wider_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"text": "a"}\n{"text": "b"}\n'.encode(encoding))
    wanted = "UTF-32" if encoding == "utf-32" else "UTF-16"
    with pytest.raises(InputError, match=rf"a\.jsonl holds no JSON lines; it is text in {wanted}: .*iconv"):
        open_source(tmp_path / "a.jsonl").scan(["text"], 512)


def test_a_mark_of_byte_order_within_joined_files_is_no_part_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n' * 2)
    source = open_source(tmp_path / "a.jsonl")
    scan = source.scan(["text"], 512)
    assert [row["text"] for row in read(source, 0, int(scan.positions[-1]))] == ["a", "a"]
