"""The journal of a `map`: finished rows are not scored again, whatever happened to the files."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from launches import ROOT, bits, dataset, document, expected, rows, scorer

from ladm_hf import LadmConfig
from ladm_hf.data.object_store import storage_at
from ladm_hf.errors import RowError, StorageError
from ladm_hf.scoring import journal as journals
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.journal import Finished, Journal, document_key, with_journal


class StopError(Exception):
    pass


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the documents that reach the model."""
    seen: list[int] = []
    score = Engine.measure

    def count(self: Engine, documents: list[Any]) -> Any:
        seen.extend(map(len, documents))
        return score(self, documents)

    monkeypatch.setattr(Engine, "measure", count)
    return seen


def batch(data: Dataset) -> dict[str, Any]:
    return {"text": list(data["text"])}


def test_an_interrupted_map_goes_on_where_it_stopped(tmp_path: Path, scored: list[int]) -> None:
    data = dataset(12)
    interrupted = scorer(journal=tmp_path)

    def fail_late(rows: Any) -> Any:
        if rows["id"][0] == "row-8":
            raise StopError
        return interrupted(rows)

    with pytest.raises(StopError):
        data.map(fail_late, batched=True, batch_size=4, load_from_cache_file=False)
    done = len(scored)
    assert done == 6
    result = data.map(scorer(journal=tmp_path), batched=True, batch_size=5, load_from_cache_file=False)
    # the third of the rows that is too short never reaches the model
    assert len(scored) == 8
    assert bits(result) == expected(12)


def test_rows_are_kept_within_a_batch(tmp_path: Path, scored: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladm_hf.scoring.call.JOURNAL_CHARS", 1)
    data = batch(dataset(6))
    score = Engine.measure

    def fail_at_third(self: Engine, documents: list[Any]) -> Any:
        if len(scored) == 2:
            raise StopError
        return score(self, documents)

    monkeypatch.setattr(Engine, "measure", fail_at_third)
    with pytest.raises(StopError):
        scorer(journal=tmp_path)(data)
    monkeypatch.setattr(Engine, "measure", score)
    scorer(journal=tmp_path)(data)
    assert len(scored) == 4


def test_num_proc_shares_the_journal(tmp_path: Path, scored: list[int]) -> None:
    result = dataset(12).map(scorer(journal=tmp_path), batched=True, batch_size=3, num_proc=2)
    assert bits(result) == expected(12)
    scored.clear()
    again = scorer(journal=tmp_path)(batch(dataset(12)))
    assert scored == []
    assert bits(Dataset.from_dict({"id": [row["id"] for row in rows(12)], **again})) == expected(12)


def test_the_journal_changes_no_fingerprint(tmp_path: Path) -> None:
    assert Hasher.hash(scorer()) == Hasher.hash(scorer(journal=tmp_path)) == Hasher.hash(scorer(journal=tmp_path / "x"))


def test_another_configuration_or_document_is_scored_anew(tmp_path: Path, scored: list[int]) -> None:
    data = batch(dataset(3))
    scorer(journal=tmp_path)(data)
    other = LadmConfig(span_length=8, max_length=256, ablation="no_length_weight")
    without, kept = scorer(config=other)(data), scorer(config=other, journal=tmp_path)(data)
    assert np.array_equal(without["ladm_score"], kept["ladm_score"], equal_nan=True)
    assert len(scored) == 6


def test_token_ids_are_journalled_too(tmp_path: Path, scored: list[int]) -> None:
    ids = {"input_ids": [list(range(100, 300)), None, [1, 2], list(range(500, 700))]}
    first = scorer(journal=tmp_path, text_column=None)(ids)
    second = scorer(journal=tmp_path, text_column=None)(ids)
    assert np.array_equal(first["ladm_score"], second["ladm_score"], equal_nan=True)
    assert first["ladm_status"] == second["ladm_status"] == ["ok", "null", "too_short", "ok"]
    assert len(scored) == 2


def test_a_bad_row_is_told_by_its_place_in_the_batch(tmp_path: Path) -> None:
    texts = [document(250, 0), document(250, 1), None]
    for _ in range(2):
        with pytest.raises(RowError, match="row 2 of this batch"):
            scorer(journal=tmp_path, on_error="raise")({"text": texts})


def test_damaged_files_lose_only_the_damaged_records(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "me")
    keys = [document_key(str(n)) for n in range(10)]
    journal.add([(key, Finished(float(n), n)) for n, key in enumerate(keys) if key])
    journal.add([])
    (file,) = journal.folder.iterdir()
    data = bytearray(file.read_bytes())
    assert len(data) == 320
    data[3 * 32 + 20] ^= 1
    file.write_bytes(bytes(data[:-7]))
    (journal.folder / "empty.rows").touch()
    found = [Journal(tmp_path, "me").get(key) for key in keys if key]
    assert found == [Finished(float(n), n) if n not in (3, 9) else None for n in range(10)]


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    two = ((5, 2), Finished(2.0, 2))
    Journal(tmp_path, "me").add([((5, 1), Finished(1.0, 1)), two, two])
    journal = Journal(tmp_path, "me")
    assert [journal.get((5, n)) for n in range(4)] == [None, Finished(1.0, 1), Finished(2.0, 2), None]
    assert journal.get((2**64 - 1, 0)) is None


def test_documents_have_keys_by_kind_and_content() -> None:
    keys = [
        document_key(document)
        for document in ("", "a", "\ud800", np.array([1, 2]), np.array([], dtype=np.int64), np.array([1]))
    ]
    assert len(set(keys)) == 6
    assert document_key(np.array([1, 2], dtype=np.int64)) == document_key(np.array([1, 2], dtype=np.int32))
    assert document_key(None) is None is document_key(3)


ADD = """
import sys
from ladm_hf.scoring.journal import Finished, Journal, document_key
journal = Journal(sys.argv[1], "me")
for n in range(int(sys.argv[2]), int(sys.argv[2]) + 200):
    journal.add([(document_key(str(n)), Finished(float(n), n))])
"""


def test_processes_write_side_by_side(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path), start], cwd=ROOT) for start in ("0", "100", "200")
    ]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    journal = Journal(tmp_path, "me")
    assert all(journal.get(document_key(str(n)) or (0, 0)) == Finished(float(n), n) for n in range(400))
    assert len(list(journal.folder.iterdir())) == 3


def test_only_scored_rows_are_kept_and_groups_are_small(tmp_path: Path) -> None:
    calls: list[list[Any]] = []

    def score(group: list[Any]) -> list[Finished]:
        calls.append(group)
        return [Finished(1.0, 5) if text else Finished(float("nan"), 0, "empty") for text in group]

    journal = Journal(tmp_path, "me")
    with_journal(journal, ["abc", "", "defg", "h", None], 4, score)
    assert calls == [["abc", "", "defg"], ["h", None]]
    calls.clear()
    assert [row.status for row in with_journal(Journal(tmp_path, "me"), ["h", "", "abc"], 4, score)] == [
        "ok",
        "empty",
        "ok",
    ]
    assert calls == [[""]]


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "me")

    def fail(*args: Any) -> int:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(StorageError, match="the journal"):
        journal.add([((1, 1), Finished(1.0, 1))])


def test_a_journal_in_an_object_store_keeps_what_its_processes_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://journal-{uuid.uuid4().hex}"
    first = Journal(url, "scorer", 1)
    rows = [((n, n), Finished(n / 7, n, signals=(n / 3,))) for n in range(50)]
    for row in rows[:40]:
        first.add([row])
    assert Journal(url, "scorer", 1).get((0, 0)) == rows[0][1]
    # a second process, whose object grows beyond its limit
    monkeypatch.setattr(journals, "_OBJECT_BYTES", 200)
    monkeypatch.setattr(journals, "_REST", 1)
    second = Journal(url, "scorer", 1)
    for row in rows[40:]:
        second.add([row])
    assert first._objects is not None
    first._objects.flush()
    again = Journal(url, "scorer", 1)
    assert [again.get(key) for key, _ in rows] == [found for _, found in rows]
    assert Journal(url, "another", 1).get((0, 0)) is None
    names = storage_at(url).entries("")
    assert len(names) == 1 + 2
    assert all(name.endswith(".rows") for name in names)
