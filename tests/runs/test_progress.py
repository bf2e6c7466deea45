"""What a run says while it works, and of a run that nobody works on."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from launches import dataset, parquet, rows, scorer
from typer.testing import CliRunner

from ladm_hf import run_status, score_dataset
from ladm_hf.cli.app import app
from ladm_hf.runs import progress
from ladm_hf.runs.estimate import Pace
from ladm_hf.runs.folder import RunFolder
from ladm_hf.runs.lock import RunLock
from ladm_hf.runs.progress import ProgressBar
from ladm_hf.runs.runner import run_scoring
from ladm_hf.text import count, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99.4, "99 s"), (200, "3 min"), (6000, "1 h 40 min"), (200_000, "2 d 7 h"), (None, "?")],
)
def test_durations_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_for_people() -> None:
    assert [count(n) for n in (0, 999, 8200, 3.1e6, 2e9, 5e12)] == ["0", "999", "8.2k", "3.1M", "2.0B", "5.0T"]


def test_a_log_gets_lines_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    bar = ProgressBar(1000, stream=out)
    for second in range(0, 1000, 5):
        clock[0] = float(second)
        bar.update(Pace(second, 50.0, 1000.0 - second), "1/9 chunks")
    bar.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "ladm: 1.0 %, 1/9 chunks, 50 tokens/s, 16 min left"
    assert len(lines) == 7


def test_a_terminal_gets_a_bar_and_silence_is_kept() -> None:
    out, silent = Terminal(), io.StringIO()
    bar = ProgressBar(1000, stream=out)
    bar.update(Pace(500, 8200.0, None), "4/9 chunks")
    bar.say("hello")
    bar.close()
    assert "LADM  50 %" in out.getvalue()
    assert "8.2k tokens/s" in out.getvalue()
    assert "ladm: hello" in out.getvalue()
    quiet = ProgressBar(1000, show=False, stream=silent)
    quiet.update(Pace(500, 1.0, None), "x", now=True)
    quiet.say("hello")
    quiet.close()
    assert silent.getvalue() == ""


def test_the_status_of_a_running_launch(tmp_path: Path) -> None:
    score_dataset(dataset(6), tmp_path, scorer(), num_chunks=3, progress=False)
    folder = RunFolder(tmp_path)
    run = folder.load()
    assert run is not None
    folder.reopen()
    folder.chunk_file(run, 2).unlink()
    lock = RunLock(folder)
    lock.acquire()
    report: dict[str, Any] = {"state": "at chunk 2", "host": "here", "pid": 7, "launch": lock.launch, "chunks": 2}
    half = run.costs[2] / 2
    folder.report(0, {**report, "began": time.time() - 10, "chunk": 2, "cost": half, "done": half, "tokens": 500})
    status = run_status(tmp_path)
    assert (status.state, status.chunks_done) == ("running", 2)
    assert 0.5 < status.fraction < 1.0
    assert 40 < status.tokens_per_second < 51
    assert status.seconds_left == pytest.approx(10, abs=2)
    text = str(status)
    for words in (
        "running: ",
        "2 of 3 chunks",
        "tokens/s, ",
        " left",
        "rank 0 (here, process 7): at chunk 2",
        "held by",
    ):
        assert words in text
    (folder.hidden / "ranks" / "00000.json").write_text("{")
    assert run_status(tmp_path).tokens_per_second == 0.0
    lock.release()


def test_score_and_status_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = str(parquet(tmp_path / "in.parquet", 6)), str(tmp_path / "out")
    config = tmp_path / "config.json"
    config.write_text('{"span_length": 8, "max_length": 4096}')
    run = CliRunner().invoke
    done = run(app, ["score", source, output, "--config", str(config), "--max-length", "256", "--jsonl"])
    assert done.exit_code == 0, done.output
    assert "finished: 100.0 %" in done.stdout
    assert (tmp_path / "out" / "scores.jsonl").is_file()
    status = run(app, ["score", "--status", output])
    assert "6 rows" in status.stdout
    assert "4 ok, 2 too_short" in status.stdout
    refused = run(app, ["score", source, output, "--span-length", "32", "--max-length", "2048"])
    assert refused.exit_code == 1
    assert "config.span_length: 8 there, 32 now" in refused.stderr
    assert run(app, ["score", source]).exit_code == 2
    assert run(app, ["score", "--status", str(tmp_path)]).exit_code == 1
    quiet = run(app, ["score", source, output, "--config", str(config), "--max-length", "256", "--quiet"])
    assert (quiet.exit_code, quiet.output) == (0, "")
    monkeypatch.setenv("RANK", "1")
    other = run(app, ["score", str(tmp_path / "none.parquet"), output])
    assert (other.exit_code, other.output) == (1, "")


def test_prepare_on_the_command_line(tmp_path: Path) -> None:
    source, output = str(parquet(tmp_path / "in.parquet", 6)), str(tmp_path / "out")
    done = CliRunner().invoke(app, ["prepare", source, output, "--min-tokens", "145", "--max-length", "256"])
    assert done.exit_code == 0, done.output
    assert f"4 rows in {output}/data" in done.stdout


def test_the_bar_of_a_run_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladm_hf.runs.monitor.REPORT_SECONDS", 1)
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    slow = scorer()
    call = type(slow).__call__

    def wait(self: Any, batch: Any, rank: int | None = None) -> Any:
        time.sleep(1.2)
        return call(self, batch, rank)

    monkeypatch.setattr(type(slow), "__call__", wait)
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    score_dataset(dataset(4), tmp_path, slow, num_chunks=2)
    lines = [line for line in out.getvalue().splitlines() if line.startswith("ladm: ")]
    assert len(lines) >= 3
    assert lines[-1].startswith("ladm: 100.0 %, 2/2 chunks")
    assert len(rows(4)) == 4


def test_a_terminal_that_is_gone_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("gone")

    monkeypatch.setattr("sys.stderr", Gone())
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    run_scoring(dataset(4), tmp_path / "a", scorer(), chunks=2)
    monkeypatch.setattr("sys.stderr", None)
    run_scoring(dataset(4), tmp_path / "b", scorer(), chunks=2)
    assert [run_status(tmp_path / name).rows for name in "ab"] == [4, 4]


def test_errors_that_differ_in_their_numbers_count_as_one() -> None:
    errors = progress.ErrorCounts()
    errors.update({"error: ids run from 1 to 70,000": 2, "error: another": 1})
    errors.update({"error: ids run from 5 to 80,000": 3})
    assert errors.most_common() == {"error: ids run from 1 to 70,000": 5, "error: another": 1}
    assert errors.most_common(1) == {"error: ids run from 1 to 70,000": 5}
