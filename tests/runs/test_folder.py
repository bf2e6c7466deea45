"""One launch at a time, and files that are whole or not there."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ladm_hf.data.files import storage_errors, write_atomically
from ladm_hf.data.run_record import RunRecord, run_id
from ladm_hf.errors import ResumeError, RunError, StorageError
from ladm_hf.runs.folder import RunFolder

RUN = RunRecord(
    input="documents", split="train", identity={}, unit="rows", edges=(0, 1, 2), costs=(1.0, 1.0),
    schema=pa.schema([]), layout={}, run_id=run_id({}, (0, 1, 2)),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "out")
    folder.path.mkdir()
    folder.prepare("launch")
    return folder


def finish(folder: RunFolder, chunk: int, content: bytes = b"content") -> dict[str, Any]:
    def write(path: Path) -> dict[str, Any]:
        path.write_bytes(content)
        return {"rows": 1}

    return folder.finish(RUN, chunk, write, attempt="me")


def test_only_one_rank_gets_a_chunk(folder: RunFolder) -> None:
    assert folder.claim("launch", 0)
    assert not folder.claim("launch", 0)
    with pytest.raises(RunError, match="taken over by another launch"):
        folder.claim("gone", 0)
    folder.prepare("next")
    assert folder.claim("next", 0)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed", "no record", "broken record", "odd record"])
def test_a_damaged_chunk_does_not_count(folder: RunFolder, damage: str) -> None:
    finish(folder, 0)
    assert folder.is_sound(RUN, 0)
    file, record = folder.chunk_file(RUN, 0), folder.hidden / "chunks" / "00000.json"
    if damage == "truncated":
        file.write_bytes(b"conten")
    elif damage == "flipped":
        file.write_bytes(b"Content")
    elif damage == "removed":
        file.unlink()
    else:
        record.write_text({"no record": "", "broken record": '{"size"', "odd record": "[1]"}[damage])
    assert not folder.is_sound(RUN, 0)
    finish(folder, 0)
    assert folder.is_sound(RUN, 0)


def test_a_chunk_of_another_run_does_not_count(folder: RunFolder) -> None:
    finish(folder, 0)
    assert folder.is_sound(RUN, 0)
    other = dataclasses.replace(RUN, run_id=run_id({"model": "other"}, RUN.edges))
    assert not folder.is_sound(other, 0)
    assert not folder.records(other)


def test_a_failed_write_leaves_nothing(folder: RunFolder) -> None:
    def write(path: Path) -> dict[str, Any]:
        path.write_bytes(b"half")
        raise StorageError("full")

    with pytest.raises(StorageError):
        folder.finish(RUN, 0, write, attempt="me")
    assert list(folder.pending.iterdir()) == []
    assert folder.record(0) is None


def test_leftovers_of_a_killed_launch_are_removed(folder: RunFolder) -> None:
    finish(folder, 0)
    (folder.pending / "train-00001-of-00002.parquet.tmp-x").write_text("half")
    (folder.path / "run.json.tmp-1").write_text("half")
    folder.prepare("next")
    assert [file.name for file in folder.pending.iterdir()] == ["train-00000-of-00002.parquet"]
    assert not (folder.path / "run.json.tmp-1").exists()


def test_data_appears_and_goes_as_a_whole(folder: RunFolder) -> None:
    finish(folder, 0)
    finish(folder, 1)
    assert not folder.data.exists()
    folder.publish()
    folder.publish()
    assert len(list(folder.data.iterdir())) == 2
    assert set(folder.records(RUN)) == folder.finished(RUN) == {0, 1}
    folder.reopen()
    folder.reopen()
    assert not folder.data.exists()
    assert folder.is_sound(RUN, 1)
    folder.clear()
    assert folder.records(RUN) == {}
    assert folder.finished(RUN) == set()


def test_a_full_disk_is_told_from_other_errors(tmp_path: Path) -> None:
    for error in (OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), OSError("No space left on device")):
        with pytest.raises(StorageError, match=r"no space left .* free some space"), storage_errors(tmp_path, "it"):
            raise error
    with pytest.raises(StorageError, match="cannot write it"), storage_errors(tmp_path, "it"):
        raise PermissionError("read-only")


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", "old")

    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_run_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.load() is None
    for text, message in {"{": "cannot be read", "[]": "cannot be read", '{"format": 99}': "format 99"}.items():
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ResumeError, match=message):
            folder.load()


def test_the_output_must_be_a_folder_without_other_data(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="URL 's3://bucket/x'"):
        RunFolder("s3://bucket/x")
    (tmp_path / "data").mkdir()
    with pytest.raises(RunError, match="already a data"):
        RunFolder(tmp_path).check_new()
