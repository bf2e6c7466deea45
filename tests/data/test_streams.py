"""Streams whose rows change on the way, as JSON lines may."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Features, IterableDataset, Value

from ladm_hf.data import streams
from ladm_hf.data.open import open_source
from ladm_hf.errors import InputError


def rows_of(values: list[Any], key: str = "meta") -> Iterator[dict[str, Any]]:
    for n, value in enumerate(values):
        yield {"text": f"document {n}", key: value}


def read(values: list[Any], cut: int = 3) -> list[Any]:
    source = open_source(IterableDataset.from_generator(functools.partial(rows_of, values)))
    end = int(source.scan(["text"], 512).positions[-1])
    return [row["meta"] for low, high in ((0, cut), (cut, end)) for found in source.read(low, high)
            for row in found.table.to_pylist()]  # fmt: skip


@pytest.fixture(params=[1, 2, 1024])
def _rows_per_part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_TABLE_ROWS", request.param)


@pytest.mark.usefixtures("_rows_per_part")
def test_structs_that_change_are_joined_or_become_text() -> None:
    assert read([{"a": 1}] * 4 + [{"b": "x"}] * 4) == [{"a": 1, "b": None}] * 4 + [{"a": None, "b": "x"}] * 4
    assert read([{"a": 1}] * 4 + [{"a": "x"}] * 4) == ['{"a": 1}'] * 4 + ['{"a": "x"}'] * 4
    assert read([None, None, None, None, [1], [2.5]]) == [None, None, None, None, [1.0], [2.5]]
    assert read([{}] * 4 + [{"a": {}}]) == ["{}"] * 4 + ['{"a": {}}']


def test_what_is_no_text_is_told_as_in_json_lines() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from ({"text": text, "n": np.arange(2)} for text in ("a", 7, None, "\ud800"))

    source = open_source(IterableDataset.from_generator(rows))
    scan = source.scan(["text"], 512)
    (found,) = source.read(0, 4)
    assert found.problems == {1: "error: expected a string, found int", 3: "error: the text is not valid Unicode"}
    assert found.table["n"].to_pylist() == [[0, 1]] * 4
    assert source.fingerprint() == open_source(IterableDataset.from_generator(rows)).fingerprint()
    assert len(scan.cost) == 5


def test_named_features_are_kept() -> None:
    features = Features({"text": Value("large_string"), "meta": Value("int16")})
    dataset = IterableDataset.from_generator(functools.partial(rows_of, [1, 2, 3]), features=features)
    assert open_source(dataset).scan(["text"], 512).schema.equals(features.arrow_schema)


def test_objects_with_ever_new_keys_are_kept_as_json_and_told(caplog: pytest.LogCaptureFixture) -> None:
    values = [{f"key {n}": n, "é": [n]} for n in range(300)]
    assert [json.loads(value) for value in read(values)] == values
    assert "column 'meta' of a streamed data set holds objects with ever new keys" in caplog.text


def test_wide_objects_with_the_same_keys_stay_structs() -> None:
    values = [{f"key {n}": n for n in range(300)}] * 5
    assert read(values) == values


def broken(kind: type[Exception]) -> Iterator[dict[str, Any]]:
    yield {"text": "a"}
    raise kind("gone")


def test_errors_of_a_stream_say_where_unless_they_are_the_callers() -> None:
    for kind, expected in ((pa.ArrowInvalid, InputError), (ZeroDivisionError, ZeroDivisionError)):
        source = open_source(IterableDataset.from_generator(functools.partial(broken, kind)))
        with pytest.raises(expected, match="beyond row 1: ArrowInvalid: gone" if expected is InputError else "gone"):
            source.scan(["text"], 512)


@pytest.mark.parametrize("ending", ["zst", "lz4", "gz"])
def test_other_formats_are_unpacked_and_named(tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    codec = {"zst": "zstd", "gz": "gzip"}.get(ending, ending)
    with pa.output_stream(tmp_path / f"a.txt.{ending}", compression=codec) as file:
        file.write(b"one\ntwo\n")
    source = open_source(tmp_path / f"a.txt.{ending}")
    assert source.scan(["text"], 512).schema.names == ["text"]
    assert f"each line of {tmp_path / f'a.txt.{ending}'} is a row" in caplog.text
    assert [row["text"] for found in source.read(0, 2) for row in found.table.to_pylist()] == ["one", "two"]
    (tmp_path / "c.txt").write_bytes(b"\xff\xfetext\n\x00")
    with pytest.raises(InputError, match=r"c\.txt cannot be read beyond row 0"):
        open_source(tmp_path / "c.txt").scan(["text"], 512)


@pytest.mark.parametrize("typed", [False, True])
def test_every_pass_over_a_stream_must_begin_with_the_same_rows(typed: bool) -> None:
    """As where each rank was given its own part of it, or a shuffle has no seed."""
    features = Features({"text": Value("string"), "meta": Value("int64")}) if typed else None
    scanned, same, other = (
        open_source(IterableDataset.from_generator(rows_of, gen_kwargs={"values": values}, features=features))
        for values in ([1, 2, 3, 4], [1, 2, 3, 4], [2, 4, 6, 8])
    )
    layout = scanned.scan(["text"], 512).layout
    same.restore_layout(layout)
    assert [found.table["meta"].to_pylist() for found in same.read(0, 4)] == [[1, 2, 3, 4]]
    with pytest.raises(InputError, match=r"begins with other rows .*split_dataset_by_node"):
        other.restore_layout(layout)


def test_a_stream_that_is_shuffled_anew_in_every_pass_is_refused() -> None:
    passes: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        passes.append(len(passes))
        yield from ({"text": f"document {passes[-1] + n}"} for n in range(4))

    source = open_source(IterableDataset.from_generator(rows))
    source.scan(["text"], 512)
    with pytest.raises(InputError, match="begins with other rows"):
        list(source.read(0, 4))


def test_a_stream_that_was_set_to_a_place_is_refused() -> None:
    stream = IterableDataset.from_generator(rows_of, gen_kwargs={"values": [1, 2, 3]})
    iterator = iter(stream)
    next(iterator)
    stream.load_state_dict(stream.state_dict())
    with pytest.raises(InputError, match=r"load_state_dict.*skip\(n\)"):
        open_source(stream)
    rest = open_source(IterableDataset.from_generator(rows_of, gen_kwargs={"values": [1, 2, 3]}).skip(1))
    assert int(rest.scan(["text"], 512).positions[-1]) == 2
