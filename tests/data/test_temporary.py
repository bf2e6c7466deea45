"""Temporary folders of killed commands are removed by the next one, and those of living ones are not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from datasets import Dataset
from typer.testing import CliRunner

from ladm_hf.cli.app import app
from ladm_hf.data.temporary import ABANDONED_SECONDS, temporary_folder


def left_by_a_killed_process(prefix: str, parent: Path) -> Path:
    program = (
        "import os, signal, sys, pathlib\n"
        "from ladm_hf.data.temporary import temporary_folder\n"
        f"with temporary_folder({prefix!r}, pathlib.Path({str(parent)!r})) as folder:\n"
        "    (folder / 'half').write_text('half')\n"
        "    print(folder, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    return Path(done.stdout.strip())


def aged(folder: Path, seconds: float) -> Path:
    (folder / "x").mkdir(parents=True)
    for path in (folder / "x", folder):
        os.utime(path, (time.time() - seconds,) * 2)
    return folder


def test_the_next_folder_of_a_name_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    dead = left_by_a_killed_process("ladm-", tmp_path)
    assert (dead / "half").is_file()
    host = socket.gethostname()
    reused = aged(tmp_path / f"ladm-{host}-{os.getpid()}-reused", time.time() - psutil.Process().create_time() + 99)
    old = aged(tmp_path / "ladm-elsewhere-7-abc", ABANDONED_SECONDS + 99)
    recent = aged(tmp_path / "ladm-elsewhere-8-abc", ABANDONED_SECONDS - 99)
    other = aged(tmp_path / "other-elsewhere-7-abc", ABANDONED_SECONDS + 99)
    (tmp_path / "ladm-link").symlink_to(other)
    with temporary_folder("ladm-", tmp_path) as first, temporary_folder("ladm-", tmp_path) as second:
        assert first.is_dir()
        assert second.is_dir()
        assert not dead.exists()
        assert not reused.exists()
        assert not old.exists()
    assert {path.name for path in tmp_path.iterdir()} == {recent.name, other.name, "ladm-link"}


@pytest.mark.parametrize("prefix", [".selection-", ".prepare-"])
def test_a_killed_command_is_repeated_into_the_same_folder(prefix: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    dead = left_by_a_killed_process(prefix, output)
    rows = {"text": ["a word " * 3000], "ladm_score": [0.5], "ladm_num_tokens": [3000], "ladm_status": ["ok"]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "in.parquet")
    command = {
        ".selection-": ["select", str(tmp_path / "in.parquet"), str(output), "--budget", "9k", "--by", ""],
        ".prepare-": ["prepare", str(tmp_path / "in.parquet"), str(output)],
    }[prefix]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert not dead.exists()
    assert not [path.name for path in output.iterdir() if path.name.startswith(".")]
