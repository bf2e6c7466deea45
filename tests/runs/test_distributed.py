"""Runs on several processes: the same rows whatever the world, killed, terminated, on two nodes, or started twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from launches import (
    ROOT,
    bits,
    environment,
    expected,
    finished_chunks,
    free_port,
    kill,
    launch,
    parquet,
    result,
    rows,
    wait_for_chunks,
)

from ladm_hf import LadmScorer, run_status
from ladm_hf.data.run_record import RunRecord

# Documents that take a while, so that a launch is caught at work.
COUNT, WORDS = 45, 1800
SLOW = ["--span-length", "16", "--max-length", "2048"]
CONFIG = replace(LadmScorer().config, span_length=16, max_length=2048)


def arguments(tmp_path: Path) -> list[str]:
    source = tmp_path / "in.parquet"
    if not source.exists():
        parquet(source, COUNT, words=WORDS)
    return ["score", str(source), str(tmp_path / "out"), "--chunks", "30", *SLOW]


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=200)
    assert process.returncode == code, said
    return said


def run_program(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program on two ranks with the arguments of a run."""
    (tmp_path / "program.py").write_text(program)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
    ]
    return subprocess.run(
        [*command, str(tmp_path / "program.py"), *arguments(tmp_path)], cwd=ROOT, env=environment(), text=True,
        capture_output=True,
    )  # fmt: skip


def test_killed_at_random_moments_and_resumed_with_other_worlds(tmp_path: Path) -> None:
    chance = random.Random(0)
    for world in (2, 4):
        process = launch(arguments(tmp_path), world)
        wait_for_chunks(process, tmp_path / "out", finished_chunks(tmp_path / "out") + chance.randrange(2, 6))
        time.sleep(chance.random() / 10)
        done = finished_chunks(tmp_path / "out")
        # of the second launch only torchrun is killed: its ranks notice, and the next launch waits for that
        kill(process, tree=world == 2)
        assert run_status(tmp_path / "out").chunks_done >= done
    assert 4 <= run_status(tmp_path / "out").chunks_done < 30
    assert "resuming with" in ended(launch(arguments(tmp_path)))
    assert result(tmp_path / "out") == expected(COUNT, WORDS, CONFIG)
    assert set(run_status(tmp_path / "out").ranks) == {0}


def test_a_second_launch_is_refused_and_sigterm_leaves_a_run_to_go_on_with(tmp_path: Path) -> None:
    first = launch(arguments(tmp_path))
    wait_for_chunks(first, tmp_path / "out", 1)
    # a stopped process is alive, and cannot finish meanwhile
    first.send_signal(signal.SIGSTOP)
    assert run_status(tmp_path / "out").state == "running"
    second = launch(arguments(tmp_path))
    said = ended(second, 1)
    assert f"another launch is writing {tmp_path / 'out'}: process {first.pid}" in said
    assert "Traceback" not in said
    first.send_signal(signal.SIGCONT)
    first.terminate()
    said = ended(first, 143)
    assert "of 30 chunks finished and kept" in said
    assert "to resume: ladm score" in said
    assert not list((tmp_path / "out").rglob("*.tmp-*"))
    assert run_status(tmp_path / "out").state == "stopped"


def test_two_nodes_on_loopback(tmp_path: Path) -> None:
    port = str(free_port())
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(node),
             "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port, "-m", "ladm_hf",
             *arguments(tmp_path)],
            cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for node in range(2)
    ]  # fmt: skip
    for node in nodes:
        ended(node)
    assert result(tmp_path / "out") == expected(COUNT, WORDS, CONFIG)
    assert set(run_status(tmp_path / "out").ranks) == {0, 1}


def test_an_error_on_rank_0_is_told_once_and_ends_every_rank(tmp_path: Path) -> None:
    process = launch(["score", str(tmp_path / "none.parquet"), str(tmp_path / "out"), *SLOW], 2)
    said = ended(process, 1)
    assert said.count("error: no file, folder or glob") == 1
    # torchrun's own traceback comes after it, and ends with the cause
    assert "Traceback" in said
    assert "no file, folder or glob" in said.partition("Root Cause")[2]


def test_an_error_of_another_rank_is_told_too(tmp_path: Path) -> None:
    # rank 1 alone is asked for a device that is not there
    program = (
        "import os, sys\n"
        "if os.environ['RANK'] == '1':\n    sys.argv += ['--device', 'cuda:7']\n"
        "from ladm_hf.cli.app import app\napp()\n"
    )
    process = run_program(tmp_path, program)
    assert process.returncode == 1
    cause = process.stderr.partition("Root Cause")[2]
    assert "rank      : 1" in cause
    assert "device 'cuda:7' cannot be used here" in cause


def test_every_rank_takes_the_dtype_of_the_run(tmp_path: Path) -> None:
    # rank 1 is on a machine where auto is float32
    program = (
        "import os\n"
        "from ladm_hf.scoring import precision\n"
        "precision._multiplies_bfloat16 = lambda: os.environ['RANK'] == '0'\n"
        "precision.bfloat16_is_faster = lambda width, inner: True\n"
        "from ladm_hf.cli.app import app\napp()\n"
    )
    process = run_program(tmp_path, program)
    assert process.returncode == 0, process.stderr
    assert RunRecord.load(tmp_path / "out" / "run.json").identity["dtype"] == "bfloat16"
    assert set(run_status(tmp_path / "out").ranks) == {0, 1}
    found = rows(COUNT, WORDS)
    in_bfloat16 = LadmScorer(config=CONFIG, dtype="bfloat16")({"text": [row["text"] for row in found]})
    expected = bits(Dataset.from_dict({"id": [row["id"] for row in found], **in_bfloat16}))
    assert result(tmp_path / "out") == expected


def test_a_worker_that_dies_leaves_a_run_to_go_on_with(tmp_path: Path) -> None:
    process = launch(arguments(tmp_path), 2)
    wait_for_chunks(process, tmp_path / "out", 3)
    report = {}
    while 1 not in report:
        report = run_status(tmp_path / "out").ranks
        assert process.poll() is None
        time.sleep(0.05)
    subprocess.run(["kill", "-9", str(report[1]["pid"])], check=True)
    ended(process, 1)
    assert run_status(tmp_path / "out").state == "stopped"
    ended(launch(arguments(tmp_path)))
    assert result(tmp_path / "out") == expected(COUNT, WORDS, CONFIG)
