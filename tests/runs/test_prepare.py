"""The paper's form: what is kept of each document, on one process and on several."""

from __future__ import annotations

import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from launches import GEOMETRY, dataset, document, parquet, rows, scorer
from transformers import AutoTokenizer

from ladm_hf import prepare_dataset, score_dataset
from ladm_hf.calculators.calculator import resolve
from ladm_hf.errors import ColumnError, ConfigError, InputError, RunError
from ladm_hf.runs.prepared import _text_of

TOKENIZER = AutoTokenizer.from_pretrained(str(resolve("ladm-nano").path))


def tokens(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, verbose=False)["input_ids"]
    return ids


def prepare(data: Any, output: Path, **options: Any) -> Dataset:
    return prepare_dataset(data, output, **{"min_tokens": 145, "max_length": 256, "progress": False, **options})


def test_documents_are_dropped_cut_and_numbered(tmp_path: Path) -> None:
    prepared = prepare(dataset(), tmp_path / "out")
    assert prepared.column_names == ["text", "meta", "input_ids", "index", "id"]
    kept = [n for n, row in enumerate(rows()) if len(tokens(row["text"])) >= 145]
    assert prepared["index"] == kept
    for row in prepared:
        source = rows()[row["index"]]
        ids = tokens(source["text"])
        assert row["input_ids"] == ids[:256]
        assert row["meta"] == source["meta"]
        assert source["text"].startswith(row["text"])
        assert (row["text"] == source["text"]) == (len(ids) <= 256)


def test_windows_cover_the_document(tmp_path: Path) -> None:
    texts = [document(n, n) + " é世\U0001f600" * 20 for n in (100, 2000, 900)]
    prepared = prepare(Dataset.from_dict({"text": texts}), tmp_path / "out", overflow="windows", min_tokens=1)
    for n, text in enumerate(texts):
        windows = [row for row in prepared if row["index"] == n]
        assert [row["chunked_index"] for row in windows] == list(range(len(windows)))
        assert "".join(row["text"] for row in windows) == text
        assert [i for row in windows for i in row["input_ids"]] == tokens(text)
        assert all(len(row["input_ids"]) <= 256 for row in windows)
        assert all(row["meta"] is None for row in windows)


def test_the_last_window_is_dropped_when_it_is_short(tmp_path: Path) -> None:
    text = document(600, 0)
    prepared = prepare(Dataset.from_dict({"text": [text]}), tmp_path / "out", overflow="windows")
    short = len(tokens(text)) % 256
    assert len(prepared) == len(tokens(text)) // 256 + (short >= 145)


def test_several_processes_give_the_same(tmp_path: Path) -> None:
    path = parquet(tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text("\n".join([json.dumps(row) for row in rows()]))
    one = prepare(path, tmp_path / "one", overflow="windows").to_list()
    assert prepare(path, tmp_path / "two", overflow="windows", num_proc=2).to_list() == one
    assert prepare(tmp_path / "in.jsonl", tmp_path / "three", overflow="windows").to_list() == one


def test_what_is_prepared_is_scored_like_the_source(tmp_path: Path) -> None:
    prepared = prepare(dataset(6), tmp_path / "out")
    ids = scorer(text_column=None)({"input_ids": prepared["input_ids"]})["ladm_score"].tolist()
    source = scorer()({"text": [rows()[n]["text"] for n in prepared["index"]]})["ladm_score"].tolist()
    assert ids == source


def test_other_columns_become_the_meta(tmp_path: Path) -> None:
    data = Dataset.from_dict({"body": [document(150, 0)], "url": ["u"], "index": ["x"], "input_ids": [[1]]})
    (row,) = prepare(data, tmp_path / "a", text_column="body")
    assert row["meta"] == {"url": "u", "index": "x"}
    assert (row["index"], row["text"]) == (0, document(150, 0))
    data = Dataset.from_dict({"text": [document(150, 0)], "index": [41], "doc": [{"a": 1}]})
    (row,) = prepare(data, tmp_path / "b")
    assert (row["index"], row["meta"]) == (41, {"doc": {"a": 1}})


def test_rows_without_a_text_are_left_out(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array([None, b"", b"  ", b"\xff", document(150, 0).encode()], pa.binary())})
    data = Dataset(table.set_column(0, "text", table["text"].combine_chunks().view(pa.string())))
    assert prepare(data, tmp_path / "out")["index"] == [4]
    assert prepare(dataset(1).select([]), tmp_path / "none").num_rows == 0


def test_options_that_cannot_work_are_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"overflow": "cut"}, "overflow"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"num_proc": 0}, "num_proc"),
        ({"max_length": 100}, "shorter than min_tokens"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(dataset(1), tmp_path / "out", **options)
    with pytest.raises(ColumnError, match="'body'"):
        prepare(dataset(1), tmp_path / "out", text_column="body")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(RunError, match="not empty"):
        prepare(dataset(1), tmp_path / "out")


def test_the_defaults_are_the_calculators(tmp_path: Path) -> None:
    assert prepare_dataset(dataset(3), tmp_path / "out", progress=False).num_rows == 0
    assert GEOMETRY.min_tokens < 2305


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ladm_hf.runs.prepare._prepare_chunk", fail)
    with pytest.raises(ZeroDivisionError):
        prepare(dataset(3), tmp_path / "out")
    assert not (tmp_path / "out" / ".ladm").exists()
    monkeypatch.undo()
    assert prepare(dataset(6), tmp_path / "out").num_rows > 0


class Threads(ThreadPoolExecutor):
    """Stands for the worker processes, in this one."""

    def __init__(self, workers: int, mp_context: Any, **options: Any) -> None:
        super().__init__(1, **options)


def test_the_work_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladm_hf.runs.prepare.ProcessPoolExecutor", Threads)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    one = prepare(dataset(), tmp_path / "one")
    assert prepare(dataset(), tmp_path / "two", num_proc=2).to_list() == one.to_list()

    def fail(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ladm_hf.runs.prepare._prepare_chunk", fail)
    with pytest.raises(ZeroDivisionError):
        prepare(dataset(3), tmp_path / "three", num_proc=2)
    assert not (tmp_path / "three" / "data").exists()


def test_a_tokenizer_that_knows_no_places_decodes(tmp_path: Path) -> None:
    encoded = {"input_ids": tokens("the river under a window")}
    assert _text_of(TOKENIZER, "", encoded, 0, len(encoded["input_ids"])) == "the river under a window"


LONG = document(150, 0)


def test_a_text_beside_the_chosen_column_is_kept() -> None:
    for columns, meta in (
        ({"content": LONG, "text": "other", "id": 1}, {"text": "other", "id": 1}),
        ({"content": LONG, "text": "other", "meta": {"a": 1}}, {"a": 1, "text": "other"}),
        ({"content": LONG, "text": "other", "index": "x", "meta": {"a": 1}}, {"a": 1, "text": "other", "index": "x"}),
        ({"content": LONG, "text": "other", "meta": None}, {"text": "other"}),
        ({"content": LONG, "chunked_index": 3}, {"chunked_index": 3}),
        ({"content": LONG, "text": None}, {"text": None}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            prepared = prepare(Dataset.from_list([columns]), Path(folder) / "out", text_column="content")
            (row,) = prepared.to_list()
        assert (row["text"], row["meta"]) == (LONG, meta)


def test_a_number_of_a_window_is_kept_or_made_anew(tmp_path: Path) -> None:
    data = Dataset.from_list([{"text": LONG, "chunked_index": 3, "meta": {"a": 1}}])
    (row,) = prepare(data, tmp_path / "one")
    assert (row["chunked_index"], row["meta"]) == (3, {"a": 1})
    (row,) = prepare(data, tmp_path / "two", overflow="windows")
    assert (row["chunked_index"], row["meta"]) == (0, {"a": 1, "chunked_index": 3})


def test_a_column_without_a_place_is_refused(tmp_path: Path) -> None:
    for meta in ("text", {"text": 1}):
        data = Dataset.from_list([{"content": LONG, "text": "other", "meta": meta}])
        with pytest.raises(ColumnError, match="'text' of its own.*rename the input's column 'text'"):
            prepare(data, tmp_path / "out", text_column="content")


def test_the_column_called_meta_may_hold_the_text(tmp_path: Path) -> None:
    (row,) = prepare(Dataset.from_list([{"meta": LONG, "id": 1}]), tmp_path / "out", text_column="meta")
    assert (row["text"], row["meta"]) == (LONG, {"id": 1})


@pytest.mark.parametrize("names", [("note",), ("meta", "note")])
def test_invalid_utf8_beside_the_text_stays_as_it_is(tmp_path: Path, names: tuple[str, ...]) -> None:
    odd = pa.array([b"\xff", b"fine"], pa.binary()).view(pa.string())
    columns = {"meta": pa.StructArray.from_arrays([odd], names=["x"]), "note": odd}
    pq.write_table(pa.table({"text": [LONG, LONG], **{name: columns[name] for name in names}}), tmp_path / "in.parquet")
    prepared = prepare(tmp_path / "in.parquet", tmp_path / "out").with_format("arrow")[:]
    notes = prepared["note"] if "note" in prepared.column_names else pc.struct_field(prepared["meta"], "note")
    assert [value.as_buffer().to_pybytes() for value in notes] == [b"\xff", b"fine"]


def test_texts_that_cannot_be_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": LONG}) + '\n{"text": 7}\n{"text"\n')
    assert prepare(tmp_path / "in.jsonl", tmp_path / "out").num_rows == 1
    assert "2 rows of" in caplog.text


def test_token_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    other = Path(shutil.copytree(str(resolve("ladm-nano").path), tmp_path / "other"))
    vocabulary = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    # two words change places: every id still fits
    entries = vocabulary["model"]["vocab"]
    first, second = sorted(entries, key=entries.__getitem__)[-2:]
    entries[first], entries[second] = entries[second], entries[first]
    (other / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    prepare(dataset(6), tmp_path / "prepared", model=other)
    data = str(tmp_path / "prepared" / "data")
    with pytest.raises(InputError, match="'input_ids' of .* were made by the tokenizer of '.*other'.*'ladm-nano'"):
        score_dataset(data, tmp_path / "refused", scorer(text_column=None), progress=False)
    ids = score_dataset(data, tmp_path / "same", scorer(model=other, text_column=None), progress=False)
    assert set(ids["ladm_status"]) == {"ok"}
    # the text wins, so it does not matter what made the ids
    assert set(score_dataset(data, tmp_path / "text", scorer(), progress=False)["ladm_status"]) == {"ok"}
    prepare(dataset(6), tmp_path / "own")
    same = score_dataset(
        str(tmp_path / "own" / "data"), tmp_path / "own-scored", scorer(text_column=None), progress=False
    )
    assert set(same["ladm_status"]) == {"ok"}
