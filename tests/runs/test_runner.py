"""`score_dataset` in one process: the same scores as the scorer alone, and nothing lost or doubled on the way."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import READS_EMPTY_FIXED_SIZE_LISTS, run_record
from datasets import ClassLabel, Dataset, load_dataset
from launches import GEOMETRY, bits, dataset, document, expected, parquet, result, rows, scorer

from ladm_hf import LadmConfig, LadmScorer, run_status, score_dataset
from ladm_hf.data.parquet import ParquetSource
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.score_columns import score_columns
from ladm_hf.data.writer import GroupWriter
from ladm_hf.errors import (
    BackendError,
    ColumnError,
    ConfigError,
    InputError,
    ResumeError,
    RowError,
    RunError,
    StorageError,
)
from ladm_hf.runs import chunk_scorer, launch, runner
from ladm_hf.runs.chunk_scorer import ChunkScorer
from ladm_hf.runs.folder import RunFolder
from ladm_hf.runs.launch import Launch
from ladm_hf.runs.lock import RunLock
from ladm_hf.scoring import precision
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.host import HostPart
from ladm_hf.scoring.loader import Loader
from ladm_hf.scoring.repetition import repetition
from ladm_hf.scoring.rows import COUNTING_THREADS

QUICK = LadmConfig(span_length=16, max_length=512)


class QuickScorer(LadmScorer):
    """Scores by length, to test what is around a scorer."""

    calls: list[int]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"config": QUICK, **options})
        self.calls = []

    def __call__(self, batch: Any, rank: int | None = None) -> dict[str, Any]:
        (texts,) = batch.values()
        self.calls.append(len(texts))
        good = [isinstance(text, str) and len(text) > 500 for text in texts]
        return {
            "ladm_score": np.array([len(t) / 7 if g else np.nan for t, g in zip(texts, good, strict=True)]),
            "ladm_num_tokens": np.array([len(t) // 4 if g else 0 for t, g in zip(texts, good, strict=True)], np.int32),
            "ladm_status": ["ok" if g else "too_short" if isinstance(t, str) else f"error: {type(t).__name__}"
                            for t, g in zip(texts, good, strict=True)],
            "ladm_repetition": np.array([repetition(text) for text in texts]),
        }  # fmt: skip


class FailingScorer(QuickScorer):
    """Raises an error at its nth call."""

    def __init__(self, error: BaseException, at: int) -> None:
        super().__init__()
        self.error, self.at = error, at

    def __call__(self, batch: Any, rank: int | None = None) -> dict[str, Any]:
        if len(self.calls) == self.at:
            raise self.error
        return super().__call__(batch, rank)


def quick(data: Any, output: Path, maker: LadmScorer | None = None, **options: Any) -> Dataset:
    return score_dataset(data, output, maker or QuickScorer(), progress=False, **options)


def quick_expected(count: int = 24) -> list[Any]:
    found = rows(count)
    return bits(Dataset.from_dict({"id": [r["id"] for r in found], **QuickScorer()({"t": [r["text"] for r in found]})}))


def test_a_run_gives_the_rows_and_the_scores_of_the_scorer(tmp_path: Path) -> None:
    scored = score_dataset(parquet(tmp_path / "in.parquet"), tmp_path / "out", scorer(), num_chunks=5, progress=False)
    assert bits(scored) == expected() == result(tmp_path / "out")
    assert scored.remove_columns(list(score_columns())).to_list() == rows()
    assert scored["ladm_repetition"] == [repetition(row["text"]) for row in rows()]
    loaded = load_dataset(str(tmp_path / "out"), split="train")
    assert bits(loaded) == expected()
    assert len(list((tmp_path / "out" / "data").iterdir())) == 5


def test_features_outlive_the_run(tmp_path: Path) -> None:
    data = dataset(4).add_column("kind", [0, 1, 0, 1]).cast_column("kind", ClassLabel(names=["x", "y"]))
    scored = quick(data, tmp_path)
    assert scored.features["kind"] == data.features["kind"]
    assert scored.features["ladm_score"].dtype == "float64"
    assert scored.features["ladm_num_tokens"].dtype == "int32"


@pytest.mark.parametrize("count", [0, 1, 2, 24])
@pytest.mark.parametrize("num_chunks", [None, 1, 3, 100])
def test_any_number_of_rows_and_chunks(tmp_path: Path, count: int, num_chunks: int | None) -> None:
    # the second is the same call, of a finished run
    for _ in range(2):
        scored = quick(dataset(24).select(range(count)), tmp_path, num_chunks=num_chunks)
        assert bits(scored) == quick_expected()[:count]


def test_json_lines_with_bad_lines_keep_every_row(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in rows()]
    lines[4], lines[10] = '{"cut', '{"id": "row-10", "text": 10}'
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    scored = quick(tmp_path / "in.jsonl", tmp_path / "out", num_chunks=7)
    want = quick_expected()
    found = bits(scored)
    assert [row for n, row in enumerate(found) if n not in (4, 10)] == [
        r for n, r in enumerate(want) if n not in (4, 10)
    ]
    assert "not valid JSON" in found[4][3]
    assert found[10][3] == "error: expected a string, found int"
    assert np.isnan(scored["ladm_score"][4])
    with pytest.raises(RowError, match=r"in chunk 1, .* not valid JSON"):
        quick(tmp_path / "in.jsonl", tmp_path / "strict", QuickScorer(on_error="raise"), num_chunks=7)


def test_a_poisoned_row_in_every_batch_costs_only_itself(tmp_path: Path) -> None:
    texts: list[Any] = [row["text"].encode() for row in rows()]
    poison = {3: b"\xff\xfe" * 1000, 8: None, 13: b"", 20: b"\xed\xa0\x80"}
    for row, value in poison.items():
        texts[row] = value
    array = pa.array(texts, pa.binary())
    table = pa.table({"id": [row["id"] for row in rows()], "text": array.view(pa.string())})
    pq.write_table(table, tmp_path / "in.parquet")
    result = quick(tmp_path / "in.parquet", tmp_path / "out", num_chunks=4).with_format("arrow")[:]
    assert result["id"].to_pylist() == table["id"].to_pylist()
    statuses = result["ladm_status"].to_pylist()
    for row, want in enumerate(quick_expected()):
        if row not in poison:
            assert statuses[row] == want[3]
    assert statuses[3] == statuses[20] == "error: bytes"


FIXED_SIZE = pa.list_(pa.int64(), 200)


@pytest.mark.skipif(READS_EMPTY_FIXED_SIZE_LISTS, reason="pyarrow reads them")
def test_an_empty_list_of_fixed_size_that_pyarrow_cannot_read_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"input_ids": pa.array([list(range(200)), None], FIXED_SIZE)}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="in.parquet has empty values in a column of lists.*install pyarrow 26"):
        score_dataset(tmp_path / "in.parquet", tmp_path / "out", scorer(), progress=False)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int64()),
        pa.large_list(pa.int32()),
        pytest.param(FIXED_SIZE, marks=pytest.mark.skipif(not READS_EMPTY_FIXED_SIZE_LISTS, reason="needs pyarrow 26")),
    ],
)
def test_token_ids_are_scored_where_there_is_no_text(tmp_path: Path, kind: pa.DataType) -> None:
    ids = [list(range(n, n + 200)) for n in range(3)]
    pq.write_table(
        pa.table({"input_ids": pa.array([*ids, None], kind), "index": [5, 6, 7, 8]}), tmp_path / "in.parquet"
    )
    scored = score_dataset(tmp_path / "in.parquet", tmp_path / "out", scorer(), progress=False)
    assert scored["ladm_status"] == ["ok", "ok", "ok", "null"]
    assert scored["ladm_score"][:3] == [score.score for score in scorer().score_input_ids(ids)]


def test_a_nested_text_column(tmp_path: Path) -> None:
    data = Dataset.from_list([{"id": row["id"], "doc": {"body": row["text"]}} for row in rows(6)])
    assert bits(quick(data, tmp_path, QuickScorer(text_column="doc.body"))) == quick_expected(6)


def test_scores_alone_join_by_index(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows()))
    data = parquet(tmp_path / "in.parquet")
    for n, path in enumerate((data, tmp_path / "in.jsonl", dataset())):
        scored = quick(path, tmp_path / str(n), num_chunks=5, scores_only=True)
        assert scored.column_names == ["index", *score_columns()]
        assert scored["index"] == list(range(24))
        assert [row[1:] for row in bits(scored)] == [row[1:] for row in quick_expected()]


def test_the_published_scripts_jsonl(tmp_path: Path) -> None:
    quick(dataset(3), tmp_path / "a", jsonl=True)
    lines = [json.loads(line) for line in (tmp_path / "a" / "scores.jsonl").read_text().splitlines()]
    assert lines[0] == {"index": 0, "chunked_index": 0, "score": len(rows()[0]["text"]) / 7, "meta": {"set": "a"}}
    assert lines[2] == {"index": 2, "chunked_index": 0, "score": None, "meta": {"set": "a"}}
    data = dataset(3).add_column("index", [7, 7, 8]).add_column("chunked_index", [0, 1, 0]).remove_columns("meta")
    quick(data, tmp_path / "b")
    assert not (tmp_path / "b" / "scores.jsonl").exists()
    # asked for later, of a run that is finished
    quick(data, tmp_path / "b", jsonl=True)
    lines = [json.loads(line) for line in (tmp_path / "b" / "scores.jsonl").read_text().splitlines()]
    assert [(line["index"], line["chunked_index"], line["meta"]) for line in lines] == [
        (7, 0, None), (7, 1, None), (8, 0, None),
    ]  # fmt: skip
    assert bits(load_dataset(str(tmp_path / "b"), split="train")) == quick_expected(3)


def test_row_groups_are_sized_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladm_hf.data.writer.ROW_GROUP_BYTES", 50_000)
    monkeypatch.setattr(chunk_scorer, "FIRST_PART_TOKENS", 1)
    texts = [document(n, n) for n in (100, 20_000, 100, 100, 3000, 3000, 3000, 3000, 100)]
    quick(Dataset.from_dict({"text": texts}), tmp_path, num_chunks=1)
    meta = pq.ParquetFile(tmp_path / "data" / "train-00000-of-00001.parquet").metadata
    groups = [meta.row_group(n) for n in range(meta.num_row_groups)]
    assert sum(group.num_rows for group in groups) == 9
    assert all(group.num_rows == 1 or group.total_byte_size < 60_000 for group in groups)
    assert len(groups) > 3


def test_an_error_loses_only_its_chunk_and_the_next_launch_goes_on(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        quick(dataset(), tmp_path, FailingScorer(ZeroDivisionError("boom"), 7), num_chunks=12)
    status = run_status(tmp_path)
    assert (status.state, status.chunks_done, status.chunks) == ("stopped", 7, 12)
    assert "failed: ZeroDivisionError: boom" in str(status)
    assert "Traceback" in (tmp_path / "logs" / "rank-00000.log").read_text()
    again = QuickScorer()
    assert bits(quick(dataset(), tmp_path, again)) == quick_expected()
    assert len(again.calls) == 5
    assert run_status(tmp_path).state == "finished"


def test_a_finished_run_is_not_scored_again(tmp_path: Path) -> None:
    quick(dataset(), tmp_path)
    again = QuickScorer()
    assert bits(quick(dataset(), tmp_path, again)) == quick_expected()
    assert again.calls == []


@pytest.mark.parametrize("finished", [True, False])
def test_damaged_chunks_are_scored_again(tmp_path: Path, finished: bool) -> None:
    if finished:
        quick(dataset(), tmp_path, num_chunks=8)
    else:
        with pytest.raises(ZeroDivisionError):
            quick(dataset(), tmp_path, FailingScorer(ZeroDivisionError(), 7), num_chunks=8)
    folder = tmp_path / "data" if finished else tmp_path / ".ladm" / "data"
    files = sorted(folder.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-20])
    middle = bytearray(files[3].read_bytes())
    middle[len(middle) // 2] ^= 1
    files[3].write_bytes(bytes(middle))
    files[5].unlink()
    again = QuickScorer()
    assert bits(quick(dataset(), tmp_path, again)) == quick_expected() == result(tmp_path)
    assert len(again.calls) == 3 if finished else 4


def test_another_identity_is_refused_with_every_difference(tmp_path: Path) -> None:
    quick(dataset(), tmp_path, num_chunks=4)
    other = LadmConfig(span_length=8, max_length=256)
    with pytest.raises(ResumeError) as error:
        quick(dataset(23), tmp_path, QuickScorer(config=other), num_chunks=5, scores_only=True)
    for name in (
        "config.span_length: 16 there, 8 now",
        "config.max_length: 512",
        "data: ",
        "num_chunks: 4 there, 5 now",
        "scores_only: False there, True now",
        "--restart",
        "4 finished chunks",
    ):
        assert name in str(error.value)
    assert "model" not in str(error.value)
    assert bits(quick(dataset(), tmp_path)) == quick_expected()
    fresh = quick(dataset(23), tmp_path, QuickScorer(config=other), num_chunks=5, restart=True)
    assert len(fresh) == 23
    assert quick(dataset(), tmp_path / "new", restart=True).num_rows == 24


def test_a_run_continues_in_the_dtype_it_was_begun_in(tmp_path: Path, monkeypatch, capsys) -> None:
    def on_a_machine_of(dtype: str) -> LadmScorer:
        monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: dtype == "bfloat16")
        monkeypatch.setattr(precision, "bfloat16_is_faster", lambda width, inner: True)
        return scorer(device="cpu")

    for begun, elsewhere in (("bfloat16", "float32"), ("float32", "bfloat16")):
        folder = tmp_path / begun
        data = dataset(6)
        expected = bits(score_dataset(data, folder, on_a_machine_of(begun), num_chunks=3, progress=False))
        assert RunRecord.load(folder / "run.json").identity["dtype"] == begun
        sorted((folder / "data").iterdir())[1].unlink()
        capsys.readouterr()
        with pytest.raises(ResumeError, match=f"dtype: '{begun}' there, '{elsewhere}' now"):
            score_dataset(data, folder, scorer(device="cpu", dtype=elsewhere), progress=False)
        assert bits(score_dataset(data, folder, on_a_machine_of(elsewhere))) == expected
        said = capsys.readouterr().err
        assert f"begun in {begun} and continues in it; dtype='auto' would be {elsewhere} on this machine" in said
        assert bits(score_dataset(data, folder, on_a_machine_of(elsewhere), restart=True, progress=False)) != expected


def test_restart_touches_no_data_but_a_runs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(RunError, match="already a data"):
        quick(dataset(), tmp_path, restart=True)
    quick(dataset(), tmp_path / "out")
    with pytest.raises(ColumnError):
        quick(dataset(), tmp_path / "out", QuickScorer(text_column="body"), restart=True)
    assert bits(quick(dataset(), tmp_path / "out")) == quick_expected()
    (tmp_path / "out" / "run.json").write_text("{")
    with pytest.raises(ResumeError, match="cannot be read"):
        quick(dataset(), tmp_path / "out")
    assert bits(quick(dataset(), tmp_path / "out", restart=True)) == quick_expected()


def test_chunks_of_another_run_do_not_count(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        quick(dataset(), tmp_path, FailingScorer(KeyboardInterrupt(), 4), num_chunks=8)
    (tmp_path / "run.json").unlink()
    again = QuickScorer(config=LadmConfig(span_length=8, max_length=256))
    assert bits(quick(dataset(), tmp_path, again, num_chunks=8)) == quick_expected()
    assert sum(again.calls) == 24


def test_a_restart_that_is_killed_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(dataset(), tmp_path, num_chunks=4)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rmdir", killed)
        with pytest.raises(KeyboardInterrupt):
            quick(dataset(), tmp_path, num_chunks=4, restart=True)
    again = QuickScorer(config=LadmConfig(span_length=8, max_length=256))
    assert bits(quick(dataset(), tmp_path, again, num_chunks=5, restart=True)) == quick_expected()
    assert sum(again.calls) == 24


def test_a_run_that_a_row_stopped_goes_on_without_it(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join([*(json.dumps(row) for row in rows()), "{"]))
    with pytest.raises(RowError):
        quick(tmp_path / "in.jsonl", tmp_path / "out", QuickScorer(on_error="raise"), num_chunks=4)
    again = QuickScorer()
    assert bits(quick(tmp_path / "in.jsonl", tmp_path / "out", again, num_chunks=4))[:24] == quick_expected()
    assert sum(again.calls) < 24
    assert json.loads((tmp_path / "out" / "run.json").read_text())["hub"] is None


def test_the_output_may_look_like_a_glob(tmp_path: Path) -> None:
    assert bits(quick(dataset(), tmp_path / "run[1]*", num_chunks=2)) == quick_expected()


def test_restart_removes_only_what_a_run_wrote(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    (other / "run.json").write_text('{"format": "theirs"}')
    (other / "data" / "precious.bin").touch()
    for restart in (False, True, True):
        with pytest.raises(RunError):
            quick(dataset(), other, restart=restart)
    assert sorted(path.name for path in other.rglob("*")) == ["data", "precious.bin", "run.json"]
    own = tmp_path / "own"
    own.mkdir()
    (own / "notes.tmp-1").touch()
    quick(dataset(), own)
    assert (own / "notes.tmp-1").exists()
    (own / "data" / "precious.bin").touch()
    with pytest.raises(RunError, match=r"precious\.bin"):
        quick(dataset(), own, restart=True)
    (own / "data" / "precious.bin").unlink()
    assert bits(quick(dataset(), own, restart=True)) == quick_expected()


def test_windows_cost_what_they_are_long(tmp_path: Path) -> None:
    texts = [document(3000, 0), *(document(300, n) for n in range(10))]
    for overflow, most in (("truncate", 11), ("windows", 2)):
        config = LadmConfig(span_length=8, max_length=256, overflow=overflow)  # type: ignore[arg-type]
        quick(Dataset.from_dict({"text": texts}), tmp_path / overflow, QuickScorer(config=config), num_chunks=2)
        files = sorted((tmp_path / overflow / "data").iterdir())
        assert pq.read_metadata(files[0]).num_rows <= most
    assert pq.read_metadata(files[0]).num_rows == 1


def test_options_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_chunks"):
        quick(dataset(), tmp_path, num_chunks=0)
    with pytest.raises(ConfigError, match="scores_only"):
        quick(dataset(), tmp_path, scores_only=True, jsonl=True)
    with pytest.raises(ColumnError, match="'ladm_score' already"):
        quick(dataset().add_column("ladm_score", [0.0] * 24), tmp_path)
    with pytest.raises(ColumnError, match="no column 'body'"):
        quick(dataset(), tmp_path, QuickScorer(text_column="body"))
    with pytest.raises(RunError, match="no run in"):
        run_status(tmp_path / "nothing")
    assert quick(dataset().add_column("ladm_score", [0.0] * 24), tmp_path, scores_only=True).num_rows == 24


def test_a_failure_before_the_work_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        quick(tmp_path / "none.parquet", tmp_path / "out")
    with pytest.raises(ColumnError):
        quick(dataset(), tmp_path / "out", QuickScorer(text_column="body"))
    assert bits(quick(dataset(), tmp_path / "out")) == quick_expected()


def test_ctrl_c_keeps_the_finished_chunks_and_says_how_to_go_on(tmp_path: Path, capfd: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        score_dataset(dataset(), tmp_path, FailingScorer(KeyboardInterrupt(), 3), num_chunks=6)
    said = capfd.readouterr().err
    assert "stopped with 3 of 6 chunks finished and kept" in said
    assert "to resume: the same call of score_dataset()" in said
    assert not (tmp_path / ".ladm" / "lock").exists()
    assert bits(score_dataset(dataset(), tmp_path, QuickScorer())) == quick_expected()
    said = capfd.readouterr().err
    assert "resuming with 3 of 6 chunks finished" in said
    assert "100.0 %, 6/6 chunks" in said


def test_sigterm_ends_in_order(tmp_path: Path) -> None:
    class Terminated(QuickScorer):
        def __call__(self, batch: Any, rank: int | None = None) -> dict[str, Any]:
            if len(self.calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(batch, rank)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        quick(dataset(), tmp_path, Terminated(), num_chunks=6)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert run_status(tmp_path).chunks_done == 2
    assert "interrupted" in str(run_status(tmp_path))
    assert bits(quick(dataset(), tmp_path)) == quick_expected()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size=400k tmpfs {folder} 2> /dev/null"):
        pytest.skip("no right to mount a file system")
    yield folder
    os.system(f"umount {folder}")


def test_a_full_disk_ends_clearly_and_the_run_goes_on_with_more_space(small_disk: Path) -> None:
    noise = np.random.default_rng(0)
    data = Dataset.from_dict({"id": list(range(40)), "text": [noise.bytes(8000).hex() for _ in range(40)]})
    with pytest.raises(StorageError, match="no space left .* free some space"):
        quick(data, small_disk / "out", num_chunks=40)
    assert not list((small_disk / "out").rglob("*.tmp-*"))
    done = run_status(small_disk / "out").chunks_done
    assert 5 < done < 40
    os.system(f"mount -o remount,size=8m {small_disk}")
    again = QuickScorer()
    scored = quick(data, small_disk / "out", again)
    assert scored["id"] == list(range(40))
    assert sum(again.calls) == 40 - done


@pytest.mark.parametrize("error", [OSError("the network is down"), pa.ArrowInvalid("corrupt page")])
def test_a_source_that_breaks_is_told_from_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = parquet(tmp_path / "in.parquet")
    read = ParquetSource.read

    def break_late(self: ParquetSource, start: int, *args: Any) -> Any:
        yield from read(self, start, *args)
        if start > 10:
            raise error

    monkeypatch.setattr(ParquetSource, "read", break_late)
    with pytest.raises(InputError, match="cannot read rows .* (network|corrupt)"):
        quick(path, tmp_path / "out", num_chunks=6)
    monkeypatch.setattr(ParquetSource, "read", read)
    assert bits(quick(path, tmp_path / "out")) == quick_expected()


def test_a_launch_that_was_overtaken_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladm_hf.runs.monitor.REPORT_SECONDS", 1)

    class Overtaken(QuickScorer):
        def __call__(self, batch: Any, rank: int | None = None) -> dict[str, Any]:
            if len(self.calls) == 1:
                (tmp_path / ".ladm" / "lock").write_text(
                    '{"host": "elsewhere", "pid": 1, "started": 1.0, "launch": "other"}'
                )
                import time

                time.sleep(2.5)
            return super().__call__(batch, rank)

    with pytest.raises(RunError, match="another launch has taken over"):
        quick(dataset(), tmp_path, Overtaken(), num_chunks=6)
    assert "elsewhere" in (tmp_path / ".ladm" / "lock").read_text()


def test_a_chunk_that_another_launch_removed_is_no_fault_of_the_disk(tmp_path: Path, monkeypatch) -> None:
    def overtaken(folder: RunFolder, run: RunRecord, chunk: int, temporary: Path, figures: Any) -> Any:
        lock = tmp_path / ".ladm" / "lock"
        lock.write_text('{"host": "elsewhere", "pid": 1, "started": 1.0, "launch": "other"}')
        folder.prepare("other")
        return place(folder, run, chunk, temporary, figures)

    place = RunFolder._place
    monkeypatch.setattr(Loader, "works_ahead", lambda self, rank: True)
    monkeypatch.setattr(RunFolder, "_place", overtaken)
    with pytest.raises(RunError, match="another launch has taken over"):
        score_dataset(dataset(12), tmp_path, scorer(), num_chunks=1, progress=False)


def test_chunks_that_vanish_are_missed(tmp_path: Path) -> None:
    class Careless(QuickScorer):
        def __call__(self, batch: Any, rank: int | None = None) -> dict[str, Any]:
            for file in (tmp_path / ".ladm" / "data").glob("*.parquet"):
                file.unlink()
            return super().__call__(batch, rank)

    with pytest.raises(RunError, match="5 chunks are missing"):
        quick(dataset(), tmp_path, Careless(), num_chunks=6)


def test_parts_grow_with_the_speed_of_the_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_scorer, "FIRST_PART_TOKENS", 100)
    growing, steady = QuickScorer(), QuickScorer()
    data = Dataset.from_dict({"id": list(range(200)), "text": ["word " * 20] * 200})
    quick(data, tmp_path / "a", growing, num_chunks=1)
    monkeypatch.setattr(chunk_scorer, "PART_SECONDS", 0.0)
    quick(data, tmp_path / "b", steady, num_chunks=1)
    assert sum(growing.calls) == sum(steady.calls) == 200
    assert max(steady.calls) == 3
    assert growing.calls[:4] == [3, 7, 15, 30]


def test_launchers_whose_processes_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from accelerate import PartialState

    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(PartialState, "__init__", lambda self, *args, **options: None)
    monkeypatch.setattr(PartialState, "num_processes", 1, raising=False)
    with pytest.raises(BackendError, match="WORLD_SIZE is 2, but accelerate sees 1"):
        quick(dataset(), tmp_path, QuickScorer())


def test_the_geometry_of_the_tests_has_documents_on_both_sides() -> None:
    assert {row[3] for row in expected()} == {"ok", "too_short"}
    assert GEOMETRY.min_tokens == 145


def test_a_rank_with_other_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(runner.Ranks):
        def __init__(self) -> None:
            super().__init__()
            self.index = 1

        def share(self, find: Any) -> Any:
            return RunFolder(tmp_path).load(), "launch"

    quick(dataset(), tmp_path)
    monkeypatch.setattr(runner, "Ranks", Second)
    with pytest.raises(InputError, match="rank 1 was given other rows than rank 0"):
        quick(dataset(23), tmp_path)


def test_no_rank_outlives_its_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ladm_hf.runs.monitor import Heartbeat

    left: list[int] = []

    def leave(code: int) -> None:
        left.append(code)
        heart.stopped.set()

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    run = run_record(edges=(0, 1), costs=(1.0,))
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(os, "getppid", lambda: 4321)
    heart = Heartbeat(RunFolder(tmp_path), run, "launch", runner.Ranks(), None, False)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "_exit", leave)
    heart.start()
    heart.thread.join()
    assert left[0] == 1
    assert "the launcher is gone" in (tmp_path / "logs" / "rank-00000.log").read_text()


def test_a_transform_is_refused(tmp_path: Path) -> None:
    data = dataset(3)
    for changed in (data.with_transform(lambda batch: {"text": ["cut"] * len(batch["text"])}), data):
        if changed is data:
            data.set_transform(lambda batch: {"text": ["cut"] * len(batch["text"])})
        with pytest.raises(InputError, match=r"has a transform.*with_format\(None\)\.map\(transform, batched=True\)"):
            quick(changed, tmp_path)
    assert not list(tmp_path.iterdir())
    quick(data.with_format(None), tmp_path / "plain")
    assert len(result(tmp_path / "plain")) == 3


@pytest.mark.parametrize("lines", [False, True])
def test_a_thread_that_reads_and_tokenises_ahead_changes_no_row(tmp_path: Path, monkeypatch, lines: bool) -> None:
    data: Any = dataset(24)
    if lines:
        bad = [json.dumps(row) for row in rows(24)]
        bad[5], bad[17] = "{not json", '{"id": 17, "text": null}'
        (tmp_path / "data.jsonl").write_text("\n".join(bad))
        data = tmp_path / "data.jsonl"
    plain = score_dataset(data, tmp_path / "plain", scorer(), num_chunks=5, progress=False)
    monkeypatch.setattr(Loader, "works_ahead", lambda self, rank: True)
    monkeypatch.setattr("ladm_hf.scoring.rows.THREAD_CHARS", 2000)
    monkeypatch.setattr(chunk_scorer, "FIRST_DEVICE_PART_TOKENS", 1000)
    threaded = score_dataset(data, tmp_path / "threaded", scorer(), num_chunks=5, progress=False)
    assert bits(threaded) == bits(plain)
    assert threaded["ladm_status"] == plain["ladm_status"]


def test_a_run_that_works_ahead_stops_at_an_error_and_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Loader, "works_ahead", lambda self, rank: True)
    begin, calls = LadmScorer.begin, []

    def third_fails(self: LadmScorer, batch: Any, rank: int | None = None) -> Any:
        calls.append(len(next(iter(batch.values()))))
        if len(calls) == 3:
            raise RuntimeError("the third part")
        return begin(self, batch, rank)

    monkeypatch.setattr(LadmScorer, "begin", third_fails)
    with pytest.raises(RuntimeError, match="the third part"):
        score_dataset(dataset(12), tmp_path / "run", scorer(), num_chunks=6, progress=False)
    assert run_status(tmp_path / "run").chunks_done == 2
    found = score_dataset(dataset(12), tmp_path / "run", scorer(), num_chunks=6, progress=False)
    assert bits(found) == expected(12)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens at a device that computes on its own, one document in a batch, where all parts are there at once."""
    events: list[str] = []
    all_made, take, start, write = threading.Event(), Launch._take_chunks, ChunkScorer.start, GroupWriter.write

    def start_all(self: Engine, documents: list[Any]) -> Iterator[tuple[list[int], Any]]:
        for i in range(len(documents)):
            events.append("start")
            found = self.measure([documents[i]])
            yield [i], lambda found=found: (events.append("wait"), found)[1]

    def take_all(self: Launch) -> Iterator[Any]:
        yield from take(self)
        all_made.set()

    def wait_and_start(self: ChunkScorer, item: Any) -> bool:
        assert all_made.wait(20)
        return start(self, item)

    def write_and_tell(self: GroupWriter, table: pa.Table) -> None:
        events.append("write")
        write(self, table)

    monkeypatch.setattr(Loader, "works_ahead", lambda self, rank: True)
    monkeypatch.setattr(launch, "PARTS_AHEAD", 100)
    monkeypatch.setattr(Engine, "start_all", start_all)
    monkeypatch.setattr(Engine, "in_flight", 1)
    monkeypatch.setattr(Launch, "_take_chunks", take_all)
    monkeypatch.setattr(ChunkScorer, "start", wait_and_start)
    monkeypatch.setattr(GroupWriter, "write", write_and_tell)
    return events


def test_a_part_is_finished_while_the_device_is_at_the_next_one(tmp_path: Path, device: list[str]) -> None:
    found = score_dataset(dataset(12), tmp_path, scorer(), num_chunks=4, progress=False)
    assert bits(found) == expected(12)
    # of the three documents of a chunk one is too short
    part = ["start", "start", "wait"]
    assert device == [*part, *[*part, "wait", "write"] * 3, "wait", "write"]


def test_what_fails_at_the_start_of_a_part_costs_none_before_it(tmp_path: Path, device: list[str]) -> None:
    bad = [*rows(9), {"id": "bad", "text": "short", "meta": {"set": "a"}}]
    with pytest.raises(RowError, match=r"in chunk 2, rows from 0 on: row 2 .*too_short"):
        score_dataset(
            Dataset.from_list([row for row in bad if len(row["text"]) > 500 or row["id"] == "bad"]),
            tmp_path, scorer(on_error="raise"), num_chunks=3, progress=False,
        )  # fmt: skip
    assert run_status(tmp_path).chunks_done == 2


def test_a_model_that_cannot_be_loaded_is_not_loaded_again_for_the_next_part(
    tmp_path: Path, monkeypatch, device: list[str]
) -> None:
    def engine(self: Loader, rank: int | None) -> Engine:
        device.append("load")
        raise BackendError("no memory for the model")

    monkeypatch.setattr(Loader, "engine", engine)
    with pytest.raises(BackendError, match="no memory for the model"):
        score_dataset(dataset(12), tmp_path, scorer(), num_chunks=4, progress=False)
    assert device == ["load"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), StorageError("the disk is gone")])
def test_a_run_that_ends_while_a_part_is_finished_loses_no_row(
    tmp_path: Path, monkeypatch, device: list[str], error: BaseException
) -> None:
    def third_fails(self: GroupWriter, table: pa.Table) -> None:
        if device.count("write") == 2:
            raise error
        write(self, table)

    with monkeypatch.context() as patched:
        write = GroupWriter.write
        patched.setattr(GroupWriter, "write", third_fails)
        with pytest.raises(type(error)):
            score_dataset(dataset(12), tmp_path, scorer(), num_chunks=4, progress=False)
    # the device had the last part already
    assert device.count("start") == 8
    assert run_status(tmp_path).chunks_done == 2
    assert not [path.name for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert not [thread for thread in threading.enumerate() if thread.name in ("ladm-ahead", "ladm-upload")]
    assert bits(score_dataset(dataset(12), tmp_path, scorer(), num_chunks=4, progress=False)) == expected(12)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_disk_that_is_full_at_the_end_of_a_chunk_loses_no_row(tmp_path: Path, monkeypatch, ahead: bool) -> None:
    finish, files = GroupWriter.finish, []

    def second_is_full(self: GroupWriter) -> None:
        files.append(self.file)
        if len(files) == 2:
            with open("/dev/full", "wb") as full:
                os.dup2(full.fileno(), self.file.fileno())
        finish(self)

    monkeypatch.setattr(Loader, "works_ahead", lambda self, rank: ahead)
    monkeypatch.setattr(GroupWriter, "finish", second_is_full)
    with pytest.raises(StorageError, match="no space left .* free some space"):
        score_dataset(dataset(12), tmp_path, scorer(), num_chunks=6, progress=False)
    assert run_status(tmp_path).chunks_done == 1
    assert all(file.closed for file in files)
    assert not [path.name for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert bits(score_dataset(dataset(12), tmp_path, scorer(), num_chunks=6, progress=False)) == expected(12)


def test_after_an_error_no_thread_works_for_rows_that_nobody_scores(tmp_path: Path, monkeypatch) -> None:
    ended, counted = threading.Event(), []

    def count(self: HostPart, documents: list[Any], signals: Any) -> Any:
        assert ended.wait(20)
        counted.extend(documents)
        return [(0.0, {}) for _ in documents]

    def fail(*rows: Any) -> Any:
        raise RuntimeError("the device")

    monkeypatch.setattr(Loader, "works_ahead", lambda self, rank: True)
    monkeypatch.setattr(HostPart, "count", count)
    monkeypatch.setattr("ladm_hf.scoring.call.start_rows", fail)
    monkeypatch.setattr("ladm_hf.scoring.rows.THREAD_CHARS", 1)
    failing = scorer()
    with pytest.raises(RuntimeError, match="the device"):
        score_dataset(dataset(24), tmp_path / "run", failing, num_chunks=6, progress=False)
    ended.set()
    failing._loader.host_threads().counting.shutdown()
    assert len(counted) <= COUNTING_THREADS


def test_a_run_is_not_written_beside_its_own_data(tmp_path: Path) -> None:
    dataset().to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="another output folder"):
        score_dataset(tmp_path, f"{tmp_path}/.", scorer(), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("scores_only", [False, True])
def test_padding_that_a_mask_tells_is_not_scored(tmp_path: Path, scores_only: bool) -> None:
    ids = list(range(240))
    padded = {"input_ids": [[*ids, *[0] * 50], ids], "attention_mask": [[1] * 240 + [0] * 50, [1] * 240]}
    pq.write_table(pa.table(padded), tmp_path / "a.parquet")
    found = score_dataset(tmp_path / "a.parquet", tmp_path / "out", scorer(), scores_only=scores_only, progress=False)
    assert found["ladm_num_tokens"] == [240, 240]
    assert found["ladm_score"][0] == found["ladm_score"][1]


def test_a_second_sigterm_does_not_break_off_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminated(QuickScorer):
        def __call__(self, batch: Any, rank: int | None = None) -> dict[str, Any]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(batch, rank)

    release = RunLock.release

    def terminated_again(lock: RunLock) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        release(lock)

    monkeypatch.setattr(RunLock, "release", terminated_again)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        score_dataset(dataset(6), tmp_path / "out", Terminated(), progress=False)
    assert ended.value.code == 143
    assert run_status(tmp_path / "out").state == "stopped"
    assert not (tmp_path / "out" / ".ladm" / "lock").exists()
    assert signal.getsignal(signal.SIGTERM) == before
