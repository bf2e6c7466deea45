"""Whatever can be scored can be selected from, reported and published, without a copy of the pool anywhere."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from datasets import Dataset, Features, IterableDataset, Value, disable_progress_bars
from typer.testing import CliRunner

from ladm_hf import Selection, select
from ladm_hf.cli.app import app
from ladm_hf.errors import ColumnError, InputError
from ladm_hf.publishing.bundle import make_bundle
from ladm_hf.report.page import report
from ladm_hf.selection.reasons import DROP_REASON

disable_progress_bars()

BUDGET = 400
Row = dict[str, Any]


def rows() -> list[Row]:
    statuses = ["ok"] * 9 + ["too_short"]
    return [
        {
            "id": i, "text": f"Letter {i} from the coast. " * 40, "domain": "ab"[i % 2], "tags": [f"t{i}"],
            "ladm_score": None if i % 10 == 9 else (i * 7 % 30) / 10, "ladm_num_tokens": 40 + i,
            "ladm_status": statuses[i % 10],
        }
        for i in range(30)
    ]  # fmt: skip


def in_metadata(row: Row) -> Row:
    """A row as datatrove's writers put it."""
    return {"text": row["text"], "id": str(row["id"]), "metadata": {k: row[k] for k in row if k not in ("text", "id")}}


def lines(found: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in found).encode()


def jsonl(pack: Callable[[bytes], bytes], ending: str, shape: Callable[[Row], Row] = dict) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        for part in range(2):
            (folder / f"{part:05d}{ending}").write_bytes(pack(lines([shape(row) for row in rows()[part::2]])))
        return folder

    return write


def parquet(shape: Callable[[Row], Row] = dict) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        for part in range(2):
            table = pa.Table.from_pylist([shape(row) for row in rows()[part::2]])
            pq.write_table(table, folder / f"part-{part}.parquet", row_group_size=4)
        return folder

    return write


def json_text(row: Row) -> Row:
    kept = ("text", "id", "ladm_score", "ladm_num_tokens", "ladm_status")
    return {**{k: row[k] for k in kept}, "meta": json.dumps({"domain": row["domain"], "tags": row["tags"]})}


def saved(folder: Path) -> Path:
    Dataset.from_list(rows()).save_to_disk(folder)
    return folder


FORMS: dict[str, Callable[[Path], Any]] = {
    "parquet": parquet(),
    "one parquet file": lambda folder: parquet()(folder) / "part-0.parquet",
    "a glob": lambda folder: str(parquet()(folder) / "part-*.parquet"),
    "JSON lines": jsonl(bytes, ".jsonl"),
    "a gzip file": lambda folder: jsonl(gzip.compress, ".jsonl.gz")(folder) / "00000.jsonl.gz",
    "gzip": jsonl(gzip.compress, ".jsonl.gz"),
    "bzip2": jsonl(bz2.compress, ".jsonl.bz2"),
    "xz": jsonl(lzma.compress, ".jsonl.xz"),
    "datatrove, JSON lines": jsonl(gzip.compress, ".jsonl.gz", in_metadata),
    "datatrove, parquet": parquet(in_metadata),
    "meta as JSON text": parquet(json_text),
    "meta as JSON text in JSON lines": jsonl(bytes, ".jsonl", json_text),
    "save_to_disk": saved,
    "a data set": lambda folder: Dataset.from_list(rows()),
    "a table": lambda folder: pa.Table.from_pylist(rows()),
}


def ids(dataset: Dataset) -> list[int]:
    return [int(name) for name in dataset["id"]]


@pytest.mark.parametrize("form", FORMS)
def test_what_can_be_scored_can_be_selected_from_saved_reported_and_published(tmp_path: Path, form: str) -> None:
    pool = FORMS[form](tmp_path / "pool")
    by = "meta.domain" if "meta as" in form else "domain"
    part = rows()[::2] if form in ("one parquet file", "a gzip file") else rows()
    budget = BUDGET * len(part) // 30
    selection = select(pool, budget_tokens=budget, by=by, ties="id")
    expected = select(Dataset.from_list(part), budget_tokens=budget, ties="id")
    assert set(ids(selection.selected)) == set(ids(expected.selected))
    assert selection.table == expected.table
    assert selection.reasons() == expected.reasons()
    texts = {row["id"]: row["text"] for row in rows()}
    for dataset in (selection.selected, selection.dropped):
        assert all(row["text"] == texts[int(row["id"])] for row in dataset)
    assert len(selection.selected) + len(selection.dropped) == len(part)
    again = Selection.load(selection.save(tmp_path / "selection"))
    assert ids(again.selected) == ids(selection.selected)
    assert again.reasons() == selection.reasons()
    page = report(again, tmp_path / "report")
    assert "from the coast" in page.read_text(encoding="utf-8")
    (tmp_path / "work").mkdir()
    bundle = make_bundle(pool, tmp_path / "work", figures=())
    assert bundle.num_rows == len(part)
    assert all(pq.read_metadata(bundle.files[path]) for path in bundle.files if path.endswith(".parquet"))
    (tmp_path / "work2").mkdir()
    assert make_bundle(tmp_path / "selection", tmp_path / "work2", figures=()).num_rows == len(selection.selected)
    (tmp_path / "work3").mkdir()
    assert make_bundle(selection, tmp_path / "work3", figures=()).num_rows == len(selection.selected)


@pytest.mark.parametrize("writer", ["JsonlWriter", "ParquetWriter"])
def test_what_the_step_of_datatrove_writes_is_selected_from_as_it_lies(tmp_path: Path, writer: str) -> None:
    pytest.importorskip("datatrove")
    from datatrove.data import Document
    from datatrove.pipeline import writers

    documents = []
    for row in rows():
        metadata = {name: row[name] for name in ("domain", "ladm_num_tokens", "ladm_status")}
        score = float("nan") if row["ladm_score"] is None else row["ladm_score"]
        documents.append(Document(row["text"], str(row["id"]), metadata={**metadata, "ladm_score": score}))
    written = getattr(writers, writer)(str(tmp_path / "scored"))
    for rank in range(2):
        for _ in written.run(iter(documents[rank::2]), rank=rank, world_size=2):
            pass
    expected = select(Dataset.from_list([*rows()[::2], *rows()[1::2]]), budget_tokens=BUDGET)
    arguments = ["select", str(tmp_path / "scored"), str(tmp_path / "selected"), "-b", str(BUDGET)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    selection = Selection.load(tmp_path / "selected")
    assert set(ids(selection.selected)) == set(ids(expected.selected))
    assert selection.table == expected.table


def test_lines_that_are_no_json_are_dropped_with_their_reason(tmp_path: Path) -> None:
    file = tmp_path / "scored.jsonl"
    file.write_bytes(lines(rows()[:20]) + b'{"id": 20, "text": "cut o\n' + lines(rows()[21:]))
    selection = select(file, budget_tokens=BUDGET)
    assert len(selection.dropped) + len(selection.selected) == 30
    assert sum(count for reason, count in selection.reasons().items() if "not valid JSON" in reason) == 1
    assert any("1 error: the line is not valid JSON" in note for note in selection.notes)


def test_the_reasons_of_documents_without_a_score_are_told_with_counts(tmp_path: Path) -> None:
    def pool(statuses: list[str]) -> Dataset:
        found = [{**rows()[0], "ladm_status": "ok", "ladm_score": 1.0}]
        found += [{**rows()[0], "ladm_score": float("nan"), "ladm_status": status} for status in statuses]
        return Dataset.from_list(found)

    one = select(pool(["too_short"]), budget_tokens=10)
    assert "1 document has no score and was not a candidate: 1 too_short." in one.notes
    errors = [f"error: cannot read row {n}" for n in range(5)]
    many = select(pool(["empty", *errors, "too_short", "too_short", "null"]), budget_tokens=10)
    note = next(note for note in many.notes if "no score" in note)
    assert note == (
        "9 documents have no score and were not candidates: 5 error: cannot read row 0; 2 too_short; 1 empty; "
        "1 for other reasons."
    )
    none = select(pool(["empty"]).select([1]), budget_tokens=10)
    assert none.notes[1:] == [
        "No document of the pool has a score: nothing could be kept.",
        "1 document has no score and was not a candidate: 1 empty.",
    ]


def test_labels_of_classes_are_kept_and_domains_of_files_are_their_names(tmp_path: Path) -> None:
    from datasets import ClassLabel

    pool = Dataset.from_list(rows()).cast_column("domain", ClassLabel(names=["b", "a"]))
    pool.to_parquet(tmp_path / "pool.parquet")
    selection = select(tmp_path / "pool.parquet", budget_tokens=BUDGET)
    assert [row.domain for row in selection.table] == ["a", "b"]
    again = Selection.load(selection.save(tmp_path / "selection"))
    for part in (selection, again):
        assert part.selected.features["domain"] == ClassLabel(names=["b", "a"])
        assert part.dropped.features == Features(
            {**pool.features, "ladm_percentile": Value("float64"), DROP_REASON: Value("string")}
        )


def test_missing_columns_are_named_whatever_holds_the_rows(tmp_path: Path) -> None:
    for form in ("parquet", "JSON lines", "datatrove, parquet", "a data set"):
        pool = FORMS[form](tmp_path / form)
        with pytest.raises(ColumnError, match=r"no column 'source'.*domain.*--by \(by=\)"):
            select(pool, budget_tokens=BUDGET, by="source")
        with pytest.raises(ColumnError, match="'quality'"):
            select(pool, budget_tokens=BUDGET, score="quality")
        with pytest.raises(ColumnError, match="no column 'words'"):
            select(pool, budget_tokens=BUDGET, tokens="words")
        with pytest.raises(ColumnError, match="no column 'order'"):
            select(pool, budget_tokens=BUDGET, ties="order")
        with pytest.raises(ColumnError, match="input_ids"):
            select(pool, budget_tokens=BUDGET, tokens="document")
    (tmp_path / "texts.jsonl").write_bytes(lines([{"body": "a"}, {"body": "b"}]))
    with pytest.raises(ColumnError, match=r"no column 'ladm_score' .*'body'"):
        select(tmp_path / "texts.jsonl", budget_tokens=BUDGET)


def test_whole_documents_are_counted_in_files_too(tmp_path: Path) -> None:
    pool = Dataset.from_list([{**row, "input_ids": [1] * (100 + row["id"])} for row in rows()])
    pool.to_parquet(tmp_path / "pool.parquet")
    forms = (tmp_path / "pool.parquet", pool)
    found, expected = (select(form, budget_tokens=1500, tokens="document") for form in forms)
    assert found.table == expected.table
    assert found.frame()["tokens"].to_pylist() == expected.frame()["tokens"].to_pylist()


def test_a_stream_is_to_be_written_first(tmp_path: Path) -> None:
    stream = IterableDataset.from_generator(rows)
    for use in (lambda: select(stream, budget_tokens=BUDGET), lambda: make_bundle(stream, tmp_path)):
        with pytest.raises(InputError, match="A stream must be written first"):
            use()


def test_a_selection_is_no_pool(tmp_path: Path) -> None:
    selection = select(Dataset.from_list(rows()), budget_tokens=BUDGET)
    folder = selection.save(tmp_path / "selection")
    with pytest.raises(InputError, match="is a selection, not a scored pool"):
        select(folder, budget_tokens=5)
    assert len(select(folder / "data", budget_tokens=10**9).selected) == len(selection.selected)


MEASURED = """
import resource, sys
from typer.testing import CliRunner
from ladm_hf.cli.app import app
import datasets, pyarrow, pyarrow.parquet, ladm_hf.selection.selection, ladm_hf.data.rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
done = CliRunner().invoke(app, ["select", *sys.argv[1:], "-b", "100000"])
assert done.exit_code == 0, done.output
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_pool_of_files_is_neither_held_in_memory_nor_copied_into_the_home_folder(tmp_path: Path) -> None:
    size = 120 << 20
    texts = os.urandom(size // 2).hex()
    count = 600
    step = len(texts) // count
    table = pa.table(
        {
            "text": [texts[i * step : (i + 1) * step] for i in range(count)],
            "domain": ["ab"[i % 2] for i in range(count)],
            "ladm_score": [float(i * 7919 % 1000) for i in range(count)],
            "ladm_num_tokens": [1000] * count,
            "ladm_status": ["ok"] * count,
        }
    )
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=20)
    del table, texts
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT)}
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "pool.parquet"), str(tmp_path / "out")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) << 10 < size
    assert sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) < size / 20
    assert pq.read_table(tmp_path / "out" / "data").num_rows == 100


def test_texts_that_are_no_valid_unicode_are_selected_saved_and_reported(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows())
    broken = pa.array([b"From the \xff coast"] * 30, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(1, "text", broken), tmp_path / "pool.parquet")
    folder = select(tmp_path / "pool.parquet", budget_tokens=BUDGET).save(tmp_path / "selection")
    assert "From the \ufffd coast" in report(folder, tmp_path / "report").read_text(encoding="utf-8")


def test_feature_types_of_a_newer_datasets_serve_by_their_arrow_types(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows())
    features = {name: {"_type": "Hologram"} for name in table.column_names}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "pool.parquet")
    selection = select(tmp_path / "pool.parquet", budget_tokens=BUDGET)
    assert Selection.load(selection.save(tmp_path / "selection")).selected.to_list() == selection.selected.to_list()


def test_large_selections_of_files_are_written_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = FORMS["parquet"](tmp_path / "pool")
    monkeypatch.setattr("ladm_hf.data.sources.MAX_TABLE_ROWS", 3)
    monkeypatch.setattr("ladm_hf.data.shards.SHARD_BYTES", 4000)
    selection = select(pool, budget_tokens=BUDGET)
    folder = selection.save(tmp_path / "selection")
    files = sorted(file.name for file in (folder / "dropped").iterdir())
    assert len(files) > 1
    assert files == [f"dropped-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]
    again = Selection.load(folder)
    assert repr(again.dropped.to_list()) == repr(selection.dropped.to_list())
    assert again.selected.to_list() == selection.selected.to_list()


def test_the_data_of_a_selection_may_be_selected_from_into_its_own_folder(tmp_path: Path) -> None:
    folder = select(FORMS["parquet"](tmp_path / "pool"), budget_tokens=BUDGET).save(tmp_path / "selection")
    kept = ids(Selection.load(folder).selected)
    smaller = select(folder / "data", budget_tokens=BUDGET // 2)
    smaller.save(folder, overwrite=True)
    again = Selection.load(folder)
    assert set(ids(again.selected)) < set(kept)
    assert len(again.selected) + len(again.dropped) == len(kept)


def test_what_would_be_replaced_is_said(tmp_path: Path) -> None:
    selection = select(Dataset.from_list(rows()), strategy="top-k", k=2)
    folder = selection.save(tmp_path / "selection")
    report(folder, folder / "report")
    with pytest.raises(InputError, match=r"a selection by top-k that keeps .*the report beside it describes that one"):
        selection.save(folder)
    (folder / "selection.json").write_text("{")
    with pytest.raises(InputError, match="a selection that cannot be read"):
        selection.save(folder)
    assert Selection.load(selection.save(folder, overwrite=True)).table == selection.table
