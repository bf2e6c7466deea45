"""Finished chunks are uploaded while the next one is scored, and none of them is lost by the way a launch ends."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launches import GEOMETRY, dataset, rows

from ladm_hf import LadmScorer, run_status, score_dataset
from ladm_hf.data.object_store import ObjectStore
from ladm_hf.errors import RowError, StorageError
from ladm_hf.runs import chunk_scorer
from ladm_hf.runs.runner import run_scoring
from ladm_hf.runs.uploads import Staged, Uploads

SECONDS = 20.0


class Lengths(LadmScorer):
    """Scores by length, in no time, and does something at one of its calls, counted from 1."""

    def __init__(self, number: int = 0, act: Any = None) -> None:
        super().__init__(config=GEOMETRY)
        self.calls, self.number, self.act = 0, number, act

    def __call__(self, batch: Any, rank: int | None = None, *others: Any) -> dict[str, Any]:
        self.calls += 1
        if self.calls == self.number:
            self.act()
        lengths = np.array([len(text) for text in batch["text"]])
        return {
            "ladm_score": lengths / 7, "ladm_num_tokens": lengths.astype(np.int32),
            "ladm_status": ["ok"] * len(lengths), "ladm_repetition": np.zeros(len(lengths)),
        }  # fmt: skip


def scores(url: str, scorer: LadmScorer | None = None, **options: Any) -> list[float]:
    options = {"num_chunks": 6, "progress": False, **options}
    found: list[float] = score_dataset(dataset(), url, scorer or Lengths(), **options)["ladm_score"]
    return list(found)


EXPECTED = [len(row["text"]) / 7 for row in rows()]


def slow_uploads(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Two events: the first upload has begun, and it may end."""
    begun, may_end = threading.Event(), threading.Event()
    upload = ObjectStore.upload

    def wait(self: ObjectStore, file: Path, name: str) -> Any:
        begun.set()
        assert may_end.wait(SECONDS)
        return upload(self, file, name)

    monkeypatch.setattr(ObjectStore, "upload", wait)
    return begun, may_end


def test_a_chunk_is_scored_while_the_one_before_it_is_uploaded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = slow_uploads(monkeypatch)

    def see() -> None:
        assert begun.wait(SECONDS)
        may_end.set()

    assert scores(url, Lengths(2, see)) == EXPECTED


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), RowError("a bad row")])
def test_a_launch_that_is_ended_keeps_what_is_being_uploaded(
    url: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, may_end = slow_uploads(monkeypatch)

    def leave() -> None:
        assert begun.wait(SECONDS)
        threading.Timer(0.3, may_end.set).start()
        raise error

    with pytest.raises(type(error)):
        scores(url, Lengths(2, leave), progress=None)
    assert run_status(url).chunks_done == 1
    said = capsys.readouterr().err
    assert ("uploading 1 scored chunks before the end: press Ctrl-C again to lose them" in said) == (
        not isinstance(error, RowError)
    )
    monkeypatch.undo()
    assert scores(url) == EXPECTED


def test_the_first_signal_breaks_off_no_upload_even_the_last(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upload = ObjectStore.upload

    def interrupt(self: ObjectStore, file: Path, name: str) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.3)
        return upload(self, file, name)

    with contextlib.ExitStack() as after, monkeypatch.context() as patched:
        # a shell has what it starts in the background ignore the signal
        after.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        patched.setattr(ObjectStore, "upload", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scores(url, progress=None, num_chunks=1)
    assert "uploading 1 scored chunks before the end" in capsys.readouterr().err
    assert run_status(url).chunks_done == 1
    assert scores(url, num_chunks=1) == EXPECTED


def test_an_upload_that_fails_ends_the_launch_and_leaves_nothing_behind(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def refuse(self: ObjectStore, file: Path, name: str) -> Any:
        raise StorageError("the store is full")

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "upload", refuse)
        with pytest.raises(StorageError, match="the store is full"):
            scores(url)
    assert not list(tmp_path.glob("ladm-chunk-*"))
    assert run_status(url).chunks_done == 0
    assert scores(url) == EXPECTED


def test_no_part_is_scored_after_an_upload_has_failed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, failed, finish = threading.Event(), threading.Event(), Uploads._finish
    later = []

    class Waiting(Lengths):
        def __call__(self, batch: Any, rank: int | None = None, *others: Any) -> dict[str, Any]:
            if begun.is_set():
                assert failed.wait(SECONDS)
                later.append(batch)
            return super().__call__(batch, rank)

    def refuse(self: ObjectStore, file: Path, name: str) -> Any:
        begun.set()
        raise StorageError("the store is full")

    def finish_and_tell(self: Uploads, *added: Any) -> None:
        finish(self, *added)
        failed.set()

    monkeypatch.setattr(ObjectStore, "upload", refuse)
    monkeypatch.setattr(Uploads, "_finish", finish_and_tell)
    # each row is a part
    monkeypatch.setattr(chunk_scorer, "FIRST_PART_TOKENS", 1)
    monkeypatch.setattr(chunk_scorer, "PART_SECONDS", 0.0)
    with pytest.raises(StorageError, match="the store is full"):
        scores(url, Waiting(), num_chunks=2)
    assert len(later) <= 1


def test_chunks_count_in_the_order_in_which_they_were_scored_and_one_waits_at_most() -> None:
    waiting: list[int] = []
    finished: list[int] = []
    gate = threading.Semaphore(0)

    def finish(chunk: int, staged: Staged) -> None:
        assert gate.acquire(timeout=SECONDS)
        waiting.append(uploads.left)
        finished.append(chunk)

    with Uploads(beside=True) as uploads:
        for chunk in range(5):
            gate.release()
            uploads.add(Staged(dict, lambda: None), lambda staged, chunk=chunk: finish(chunk, staged))
    assert finished == [0, 1, 2, 3, 4]
    assert max(waiting) <= 2


def test_after_a_failure_no_later_chunk_counts_and_each_is_discarded() -> None:
    discarded: list[int] = []
    finished: list[int] = []

    def finish(chunk: int) -> None:
        if chunk == 1:
            raise StorageError("silence")
        finished.append(chunk)

    def add_five() -> None:
        with Uploads(beside=True) as uploads:
            for chunk in range(5):
                staged = Staged(dict, lambda chunk=chunk: discarded.append(chunk))
                uploads.add(staged, lambda _, chunk=chunk: finish(chunk))

    with pytest.raises(StorageError, match="silence"):
        add_five()
    assert finished == [0]
    assert discarded == list(range(len(discarded)))
    assert len(discarded) in (2, 3)


def test_an_error_in_what_is_removed_is_raised_too() -> None:
    def discard() -> None:
        raise StorageError("it stays")

    def add_one() -> None:
        with Uploads(beside=True) as uploads:
            uploads.add(Staged(dict, discard), lambda _: None)

    with pytest.raises(StorageError, match="it stays"):
        add_one()


def test_a_signal_at_any_line_ends_the_wait_for_what_was_added() -> None:
    finished: list[int] = []

    def add_three(at: int) -> None:
        lines = itertools.count(1)

        def trace(frame: Any, event: str, _: Any) -> Any:
            if frame.f_code is not Uploads.add.__code__:
                return None
            if event == "line" and next(lines) == at:
                raise KeyboardInterrupt
            return trace

        with contextlib.suppress(KeyboardInterrupt), Uploads(beside=True) as uploads:
            sys.settrace(trace)
            for chunk in range(3):
                uploads.add(Staged(dict, lambda: None), lambda _, chunk=chunk: finished.append(chunk))
        sys.settrace(None)

    for at in range(1, 30):
        finished.clear()
        thread = threading.Thread(target=add_three, args=(at,), daemon=True)
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive(), f"a signal at line {at} of what was run in add"
        assert finished == list(range(len(finished)))
    assert finished == [0, 1, 2]


def test_a_chunk_in_s3_costs_ten_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    from s3 import BUCKET, S3

    call = s3fs.S3FileSystem._call_s3
    requests: collections.Counter[str] = collections.Counter()

    async def count(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        requests[method] += 1
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", count)
    counts = []
    with S3():
        for chunks in (4, 12):
            requests.clear()
            run_scoring(dataset(), f"s3://{BUCKET}/{chunks}", Lengths(), chunks=chunks, progress=False)
            counts.append(requests.copy())
    few, many = counts
    # how often others are looked for depends on the time alone
    for each in counts:
        del each["list_objects_v2"]
    # put: the claim, the file, its record; head: the file, twice, once to copy it, and the record before it is read
    assert {name: number / 8 for name, number in (many - few).items()} == {
        "put_object": 3, "head_object": 3, "get_object": 1, "copy_object": 1, "delete_object": 2,
    }  # fmt: skip
