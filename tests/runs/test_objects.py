"""Runs at a URL: any number of launches on one run, which counts each chunk once whatever the store does."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from launches import bits, dataset, expected, scorer

from ladm_hf import LadmConfig, run_status, score_dataset
from ladm_hf.data.object_store import ObjectStore, storage_at
from ladm_hf.data.run_record import RunRecord, run_id
from ladm_hf.errors import ConfigError, MissingExtraError, ResumeError, RunError, RunLockedError
from ladm_hf.runs import launch, objects, workers
from ladm_hf.runs.objects import RunObjects
from ladm_hf.runs.open import output_at
from ladm_hf.runs.output import CHUNKS, PENDING, RANKS

RUN = RunRecord(
    input="documents", split="train", identity={}, unit="rows", edges=(0, 1, 2, 3), costs=(1.0, 1.0, 1.0),
    schema=pa.schema([]), layout={}, run_id=run_id({}, (0, 1, 2, 3)),
)  # fmt: skip


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LEASE", 0.6)
    monkeypatch.setattr(objects, "LEASE", 0.6)
    monkeypatch.setattr(objects, "LISTING_SECONDS", 0.0)


def output(url: str) -> RunObjects:
    return RunObjects(storage_at(url))


def finish(run: RunObjects, chunk: int, content: bytes = b"content") -> dict[str, Any]:
    def write(path: Path) -> dict[str, Any]:
        path.write_bytes(content)
        return {"rows": 1, "tokens": 1, "statuses": {"ok": 1}, "seconds": 1.0}

    return run.finish(RUN, chunk, write, attempt="")


def chunks(run: RunObjects, launch: str, log: Any = lambda message: None) -> Iterator[int]:
    return run.take(RUN, launch, 0, lambda: None, log)


def objects_in(url: str, prefix: str) -> dict[str, bytes]:
    storage = storage_at(url)
    return {name: storage.read(name) or b"" for name in storage.entries(prefix)}


def test_a_launch_that_plans_while_another_begins_keeps_what_that_one_has_finished(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, planned = launch.Launch._plan, []

    def plan_late(self: Any, *arguments: Any) -> RunRecord:
        planned.append(plan(self, *arguments))
        if len(planned) == 1:
            score_dataset(dataset(), url, scorer(), num_chunks=6, progress=False)
            monkeypatch.setattr(objects.RunObjects, "finish", None)
        return planned[0]

    monkeypatch.setattr(launch.Launch, "_plan", plan_late)
    assert bits(score_dataset(dataset(), url, scorer(), num_chunks=6, progress=False)) == expected()
    assert len(planned) == 2


def test_a_launch_that_begins_while_another_moves_the_chunks_to_data_keeps_them(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, beginning = output(url), output(url)
    for chunk in range(3):
        finish(ending, chunk)
    entries, listed = ObjectStore.entries, []

    def publish_after_the_first_listing(self: ObjectStore, prefix: str) -> dict[str, Any]:
        found = entries(self, prefix)
        if self is beginning.storage and prefix in ("data", PENDING) and not listed:
            listed.append(prefix)
            ending.publish(RUN)
        return found

    monkeypatch.setattr(ObjectStore, "entries", publish_after_the_first_listing)
    beginning.enter(RUN, "beginning", "", new=False)
    assert listed
    assert sorted(beginning.records(RUN)) == [0, 1, 2]


def test_a_run_that_is_discarded_twice_at_once_is_whole_in_the_end(url: str) -> None:
    first, second = output(url), output(url)
    first.enter(RUN, "first", "", new=True)
    rest = chunks(first, "first")
    finish(first, next(rest), b"lost")
    # the second launch had found nobody at work either
    second.clear()
    second.enter(RUN, "second", "", new=True)
    for chunk in rest:
        finish(first, chunk)
    first.publish(RUN)
    assert set(objects_in(url, "data").values()) == {b"content"}
    assert len(objects_in(url, "data")) == 3


def test_of_two_settings_that_begin_at_once_only_those_in_force_count(url: str) -> None:
    refused, kept = output(url), output(url)
    other = dataclasses.replace(RUN, identity={"span": 8}, run_id="another")
    refused.enter(other, "refused", "", new=True)
    # a store without a conditional put lets both of them in
    kept.storage.put("run.json", RUN.to_json())
    assert kept.enter(RUN, "kept", "", new=True).run_id == RUN.run_id
    refused.workers.run_id = other.run_id
    assert not refused.workers.held()
    rest = chunks(kept, "kept")
    finish(kept, next(rest))
    # until it notices, the refused one goes on
    for chunk in range(3):
        refused.finish(other, chunk, lambda path: {"rows": path.write_bytes(b"other")}, attempt="")
    for chunk in rest:
        finish(kept, chunk)
    kept.publish(RUN)
    assert set(objects_in(url, "data").values()) == {b"content"}
    assert kept.is_complete(RUN, lambda message: None)


def test_the_first_sign_of_life_of_a_worker_is_not_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    pipe_file, failed = MemoryFileSystem.pipe_file, []

    def fail_once(self: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> Any:
        if RANKS in path and not failed:
            failed.append(path)
            raise TimeoutError
        return pipe_file(self, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fail_once)
    run = output(url)
    run.report(0, {"launch": "launch", "state": "starting"})
    assert failed
    assert list(run.workers.reports()) == ["launch-00000"]


@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_run_at_a_url_has_the_rows_of_a_run_in_a_folder(place: str, url: str, tmp_path: Path) -> None:
    where = url if place == "memory" else f"file://{tmp_path}/run"
    assert bits(score_dataset(dataset(), where, scorer(), num_chunks=6, jsonl=True, progress=False)) == expected()
    status = run_status(where)
    assert (status.state, status.chunks_done, status.rows) == ("finished", 6, 24)
    names = set(objects_in(where, ""))
    assert {name for name in names if name.startswith("data/")} == {
        f"data/train-{n:05d}-of-00006.parquet" for n in range(6)
    }
    assert {"run.json", "scores.jsonl", ".ladm/finished.json"} < names
    assert not [name for name in names if name.startswith((PENDING, ".ladm/claims"))]
    other = scorer(config=LadmConfig(span_length=16, max_length=512))
    with pytest.raises(ResumeError, match=r"config.span_length: 8 there, 16 now(.|\n)*--restart"):
        score_dataset(dataset(), where, other, progress=False)


def test_two_workers_never_get_the_same_chunk(url: str) -> None:
    one, other = output(url), output(url)
    first, second = chunks(one, "one"), chunks(other, "other")
    taken = [next(first), next(second), next(first)]
    assert sorted(taken) == [0, 1, 2]


def test_free_chunks_come_before_those_of_a_dead_worker(url: str, in_a_hurry: None) -> None:
    dead, alive = output(url), output(url)
    left = next(chunks(dead, "dead"))
    dead.storage.put(f"{RANKS}/dead-00000.json", json.dumps({"state": "at chunk", "machine": "elsewhere"}).encode())
    told: list[str] = []
    taken = []
    for chunk in chunks(alive, "alive", told.append):
        taken.append(chunk)
        finish(alive, chunk)
    assert sorted(taken) == [0, 1, 2]
    assert taken[-1] == left
    assert told == [f"chunk {left} was left by dead-00000"]


def test_the_chunk_of_a_worker_that_gives_signs_of_life_is_waited_for(url: str, in_a_hurry: None) -> None:
    busy, waiting = output(url), output(url)
    slow = next(chunks(busy, "busy"))
    looks: list[int] = []

    def check() -> None:
        # a clock that is two minutes off says nothing: only that the report changes counts
        looks.append(1)
        report = {"state": "at chunk", "machine": "elsewhere", "beat": len(looks), "time": 120.0 + len(looks)}
        busy.storage.put(f"{RANKS}/busy-00000.json", json.dumps(report).encode())
        if len(looks) == 30:
            finish(busy, slow)

    taken = []
    for chunk in waiting.take(RUN, "waiting", 0, check, lambda message: None):
        taken.append(chunk)
        finish(waiting, chunk)
    assert slow not in taken
    assert len(looks) >= 30


def test_who_waits_for_others_looks_less_and_less_often(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, waiting = output(url), output(url)
    taken = list(itertools.islice(chunks(busy, "busy"), 3))
    busy.storage.put(f"{RANKS}/busy-00000.json", json.dumps({"state": "at chunk", "machine": "elsewhere"}).encode())
    waits: list[float] = []

    def wait(self: RunObjects, seconds: float, check: Any) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            finish(busy, taken[0])
        if len(waits) == 9:
            for chunk in taken[1:]:
                finish(busy, chunk)

    monkeypatch.setattr(RunObjects, "_wait", wait)
    assert not list(chunks(waiting, "waiting"))
    assert waits[0] <= 2
    assert all(15 <= seconds <= 30 for seconds in waits[5:8])
    # something has happened: more may happen soon
    assert waits[8] <= 2


def test_of_two_results_of_a_chunk_the_first_counts_also_when_the_other_comes_after_the_end(url: str) -> None:
    one, other = output(url), output(url)
    for chunk in range(3):
        finish(one, chunk)
    assert finish(other, 1, b"another processor")["hash"] == one.records(RUN)[1]["hash"]
    one.publish(RUN)
    finish(other, 2, b"a straggler")
    assert set(objects_in(url, "data").values()) == {b"content"}
    assert len(objects_in(url, "data")) == 3
    assert one.is_complete(RUN, lambda message: None)


@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "record", "foreign record"])
@pytest.mark.parametrize("done", [True, False])
def test_a_damaged_chunk_is_finished_again(url: str, damage: str, done: bool) -> None:
    run = output(url)
    for chunk in range(3 if done else 2):
        finish(run, chunk)
    if done:
        run.publish(RUN)
    storage = run.storage
    [name] = [name for name in storage.entries("data" if done else PENDING) if "-00001-" in name]
    record = f"{CHUNKS}/00001.json"
    if damage == "removed":
        storage.delete([name])
    elif damage in ("cut", "changed"):
        storage.put(name, b"conten" if damage == "cut" else b"Content")
    else:
        storage.put(record, b"{" if damage == "record" else json.dumps({"run": "another"}).encode())
    again = output(url)
    assert not again.is_complete(RUN, lambda message: None)
    again.enter(RUN, "again", "", new=False)
    taken = []
    for chunk in chunks(again, "again"):
        taken.append(chunk)
        finish(again, chunk)
    assert 1 in taken
    assert set(taken) <= {1, 2}
    again.publish(RUN)
    assert again.is_complete(RUN, lambda message: None)
    assert set(objects_in(url, "data").values()) == {b"content"}


def test_discarding_a_run_that_somebody_writes_is_refused(url: str, in_a_hurry: None) -> None:
    run = output(url)
    run.storage.put("run.json", RUN.to_json())
    report = {"state": "at chunk 1", "machine": "elsewhere", "host": "elsewhere", "pid": 7}
    run.storage.put(f"{RANKS}/other-00000.json", json.dumps(report).encode())

    def beat(message: str) -> None:
        run.storage.put(f"{RANKS}/other-00000.json", json.dumps({**report, "beat": 2}).encode())

    with pytest.raises(RunLockedError, match="process 7 on elsewhere is writing memory://"):
        run.check_own(beat)
    run.check_own()


def test_a_place_with_other_data_and_a_store_that_is_not_there(url: str) -> None:
    run = output(url)
    run.storage.put("data/mine.parquet", b"mine")
    with pytest.raises(RunError, match=r"has no run.json but already a data"):
        run.check_new()
    run.storage.put("run.json", RUN.to_json())
    run.storage.put(f"{CHUNKS}/00000.json", b"{}")
    with pytest.raises(RunError, match=r"holds 'data/mine.parquet'"):
        run.check_own()
    with pytest.raises(ConfigError, match="is a repository, .* hf://buckets/owner/name/output"):
        output_at("hf://datasets/owner/name/run")
    with pytest.raises(ConfigError, match="storage_options are for URLs"):
        output_at("folder", {"endpoint_url": "x"})
    with pytest.raises(ConfigError, match="cannot open nothing://x: Protocol not known"):
        storage_at("nothing://x")
    with pytest.raises(MissingExtraError, match="pip install ossfs"):
        storage_at("oss://bucket/run")
