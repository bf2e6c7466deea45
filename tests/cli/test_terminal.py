"""No command fails on what its terminal cannot show, nor when nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import ROOT
from datasets import Dataset

from ladm_hf.cli.terminal import plain_warnings, unfailing_output


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored pool whose domains no Latin-1 terminal can show."""
    path = tmp_path_factory.mktemp("pool") / "scored.parquet"
    Dataset.from_dict(
        {
            "text": ["一" * 40] * 6,
            "domain": ["网页", "книги", "ὕμνος"] * 2,
            "ladm_score": [float(i) for i in range(6)],
            "ladm_num_tokens": [3000] * 6,
            "ladm_status": ["ok"] * 6,
        }
    ).to_parquet(path)
    return path


def ladm(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("environment", {})}
    command = [sys.executable, "-m", "ladm_hf", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, **({"capture_output": True} | options))


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "cp1252", "NO_COLOR": "1", "COLUMNS": "1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb", "COLUMNS": "30"},
    ],
)
def test_a_selection_is_shown_on_any_terminal(pool: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    done = ladm("select", pool, tmp_path / "sélection", "--budget", "9000", environment=environment)
    assert done.returncode == 0, done.stderr
    assert b"total" in done.stdout
    assert (tmp_path / "sélection" / "selection.json").is_file()
    for arguments in (
        ["--help"],
        ["select", "--help"],
        ["score", "--no-such-option"],
        ["select", pool, "书", "-b", "x"],
    ):
        done = ladm(*arguments, environment=environment)
        assert done.returncode == (0 if arguments[-1] == "--help" else 1 if arguments[-1] == "x" else 2)
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_went_away_changes_nothing(pool: Path, tmp_path: Path, stream: str) -> None:
    read, write = os.pipe()
    os.close(read)
    other = "stderr" if stream == "stdout" else "stdout"
    done = ladm(
        "select", pool, tmp_path / "out", "--budget", "9000", capture_output=False,
        **{stream: write, other: subprocess.PIPE},
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 0
    assert b"Error" not in (done.stderr or b"")
    assert (tmp_path / "out" / "selection.json").is_file()
    refused = ladm("select", "no/such/pool", tmp_path / "x", capture_output=False, **{stream: subprocess.PIPE})
    assert refused.returncode == 1


def test_closed_streams_change_nothing(pool: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ladm_hf", "select", str(pool), str(tmp_path / "out"), "--budget", "9000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command], cwd=ROOT, env=environment)
    assert done.returncode == 0
    assert (tmp_path / "out" / "selection.json").is_file()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_to_a_full_disk_is_told_and_the_work_stays_done(pool: Path, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = ladm(
            "select", pool, tmp_path / "out", "--budget", "9000", capture_output=False, stdout=full,
            stderr=subprocess.PIPE,
        )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.decode().splitlines()[-1].startswith("ladm: standard output cannot be written: ")
    assert (tmp_path / "out" / "selection.json").is_file()


def test_streams_are_given_back() -> None:
    before = sys.stdout, sys.stderr
    with unfailing_output():
        assert sys.stdout is not before[0]
        print("ä", end="")
    assert (sys.stdout, sys.stderr) == before


def test_a_warning_is_one_line() -> None:
    with plain_warnings():
        assert warnings.formatwarning("all heads are averaged", UserWarning, __file__, 1) == (
            "warning: all heads are averaged\n"
        )
    assert __file__ in warnings.formatwarning("all heads are averaged", UserWarning, __file__, 1)
