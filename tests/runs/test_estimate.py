"""Trials of the first rows, and how long the work will take."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import IterableDataset
from launches import OPTIONS, bits, dataset, parquet, rows, scorer
from typer.testing import CliRunner

from ladm_hf import run_status, score_dataset
from ladm_hf.cli.app import app
from ladm_hf.data.open import open_source
from ladm_hf.errors import ConfigError, ResumeError
from ladm_hf.runs import launch
from ladm_hf.runs.estimate import pace, seconds_left
from ladm_hf.runs.runner import estimate_scoring


def source(kind: str, folder: Path) -> Any:
    """24 documents, in three files where there are files."""
    parts = [rows(24)[n : n + 8] for n in (0, 8, 16)]
    folder.mkdir(exist_ok=True)
    if kind == "parquet":
        for n in range(3):
            table = dataset(24).with_format("arrow")[8 * n : 8 * n + 8]
            pq.write_table(table, folder / f"{n}.parquet", row_group_size=3)
    elif kind in ("jsonl", "jsonl.gz"):
        for n, part in enumerate(parts):
            text = "".join(json.dumps(row) + "\n\n" for row in part).encode()
            (folder / f"{n}.{kind}").write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    elif kind == "stream":
        return IterableDataset.from_generator(lambda: iter(rows(24)))
    elif kind == "dataset":
        return dataset(24)
    elif kind == "saved":
        dataset(24).save_to_disk(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return bits(score_dataset(dataset(24), tmp_path_factory.mktemp("whole"), scorer(), progress=False))


KINDS = ["parquet", "jsonl", "jsonl.gz", "stream", "dataset", "saved"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1, 8, 11, 24, 999])
def test_a_limit_scores_the_first_rows_and_no_other(kind: str, limit: int, tmp_path: Path, whole: list[Any]) -> None:
    data = source(kind, tmp_path / "in")
    scored = score_dataset(data, tmp_path / "out", scorer(), limit=limit, num_chunks=3, progress=False)
    assert bits(scored) == whole[:limit]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_what_lies_beyond_the_limit_is_not_opened(kind: str, tmp_path: Path) -> None:
    data = source(kind, tmp_path / "in")
    for n in (1, 2):
        (tmp_path / "in" / f"{n}.{kind}").write_bytes(b"")
    scored = score_dataset(data, tmp_path / "out", scorer(), limit=8, progress=False)
    assert len(scored) == 8


def test_a_large_file_is_not_looked_through_for_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladm_hf.data.sources.SCAN_BYTES", 0)
    for kind in ("parquet", "jsonl"):
        scored = score_dataset(
            source(kind, tmp_path / kind), tmp_path / f"{kind}-out", scorer(), limit=11, progress=False
        )
        assert [row["id"] for row in scored] == [f"row-{n}" for n in range(11)]


def test_a_run_is_resumed_with_its_limit_alone(tmp_path: Path) -> None:
    data = str(parquet(tmp_path / "in.parquet"))
    arguments = ["score", data, str(tmp_path / "out"), *OPTIONS, "--limit", "5"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert run_status(tmp_path / "out").rows == 5
    assert CliRunner().invoke(app, arguments).exit_code == 0
    with pytest.raises(ResumeError, match="limit: 5 there, None now"):
        score_dataset(data, tmp_path / "out", scorer(), progress=False)
    with pytest.raises(ConfigError, match="limit must be positive, got 0"):
        score_dataset(data, tmp_path / "x", scorer(), limit=0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_is_near_what_there_is(kind: str, tmp_path: Path) -> None:
    found = estimate_scoring(source(kind, tmp_path / "in"), scorer())
    truth = score_dataset(dataset(24), tmp_path / "out", scorer(), progress=False)["ladm_num_tokens"]
    assert found is not None
    assert found.documents == (
        24 if open_source(source(kind, tmp_path / "in")).unit == "rows" else pytest.approx(24, rel=0.3)
    )
    assert found.tokens == pytest.approx(sum(truth), rel=0.3)
    assert found.seconds == pytest.approx(found.tokens / found.tokens_per_second, rel=0.5)
    assert "measured on a sample" in str(found)


def test_the_command_estimates_and_writes_nothing(tmp_path: Path) -> None:
    data = str(parquet(tmp_path / "in.parquet"))
    done = CliRunner().invoke(app, ["score", data, str(tmp_path / "out"), *OPTIONS, "--estimate"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("about 24 documents, ")
    assert not (tmp_path / "out").exists()
    assert (
        CliRunner().invoke(app, ["score", data, *OPTIONS, "--estimate", "--limit", "5"]).stdout.startswith("about 5 ")
    )


def test_long_work_begins_with_an_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(launch, "LONG_WORK", 100)
    scored = score_dataset(dataset(24), tmp_path / "out", scorer())
    assert "ladm: estimate: about 24 documents, " in capsys.readouterr().err
    assert len(scored) == 24


def test_nothing_to_score_has_no_estimate(tmp_path: Path) -> None:
    assert estimate_scoring(dataset(24).select([]), scorer()) is None
    assert estimate_scoring(dataset(2).map(lambda row: {"text": ""}), scorer()) is None


def test_the_pace_counts_finished_chunks_and_rows_of_running_ones() -> None:
    reports = [
        {"time": 110.0, "began": 100.0, "cost": 20.0, "chunk": 2, "done": 120.0, "tokens": 60},
        {"time": 108.0, "began": 100.0, "cost": 50.0, "chunk": 0, "done": 0.0, "tokens": 0},
    ]
    found = pace([100.0, 100.0, 100.0], {0}, reports)
    assert (found.done, found.tokens_per_second) == (120.0, 6.0)
    # 180 are left, and this launch did 120 in ten seconds
    assert found.seconds_left == 15.0
    assert pace([10.0], set(), []).seconds_left is None
    assert seconds_left(5.0, 0.0, 1.0) is None
