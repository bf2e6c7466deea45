"""Ranks: what rank 0 finds reaches the others, errors too."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import accelerate
import pytest
from accelerate import PartialState, utils
from conftest import ROOT

import ladm_hf.ranks
from ladm_hf.errors import BackendError, InputError, LadmError, RunError
from ladm_hf.ranks import Ranks, is_first_rank, launched

MPI = {
    "Open MPI": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                 "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
    "MPICH": {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
    "MVAPICH": {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_LOCAL_RANK": "1",
                "MV2_COMM_WORLD_LOCAL_SIZE": "2"},
    "Slurm": {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "1",
              "SLURM_JOB_ID": "0", "SLURM_STEP_ID": "0"},
}  # fmt: skip
TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class State:
    """Stands for accelerate's state of one rank of two."""

    num_processes = 2

    def __init__(self, index: int) -> None:
        self.process_index = self.local_process_index = index

    def __call__(self, **options: Any) -> State:
        return self

    def wait_for_everyone(self) -> None:
        raise RuntimeError("Connection closed by peer")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever started the tests, and whatever other tests of this process left."""
    for variable in (*TORCH, *(variable for variables in MPI.values() for variable in variables)):
        # set first, so that what a test leaves is taken back
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setattr(PartialState, "_shared_state", {})


def ranks(monkeypatch: pytest.MonkeyPatch, index: int) -> Ranks:
    for name, value in {"WORLD_SIZE": "2", "RANK": str(index), "LOCAL_RANK": str(index), "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerate, "PartialState", State(index))
    return Ranks()


def test_one_process_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "")
    alone = Ranks()
    assert (alone.index, alone.local, alone.world, alone.is_main) == (0, 0, 1, True)
    assert alone.share(lambda: 3) == 3
    alone.wait()


def test_findings_and_errors_reach_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(utils, "broadcast_object_list", lambda values, from_process: sent.append(list(values)))
    first = ranks(monkeypatch, 0)
    assert first.share(lambda: "plan") == "plan"

    def fail(error: Exception) -> Any:
        raise error

    with pytest.raises(InputError, match="no file"):
        first.share(lambda: fail(InputError("no file")))
    with pytest.raises(ZeroDivisionError):
        first.share(lambda: fail(ZeroDivisionError("boom")))

    second = ranks(monkeypatch, 1)
    assert not second.is_main
    monkeypatch.setattr(
        utils, "broadcast_object_list", lambda values, from_process: values.__setitem__(slice(None), sent.pop(0))
    )
    assert second.share(lambda: fail(AssertionError())) == "plan"
    with pytest.raises(InputError, match="no file"):
        second.share(lambda: fail(AssertionError()))
    with pytest.raises(RunError, match="rank 0 failed: ZeroDivisionError: boom"):
        second.share(lambda: fail(AssertionError()))


def test_a_rank_that_stopped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="another rank of this launch stopped"):
        ranks(monkeypatch, 1).wait()


@pytest.mark.parametrize("launcher", MPI)
def test_every_launcher_is_understood(monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    for name, value in MPI[launcher].items():
        monkeypatch.setenv(name, value)
    assert (launched().rank, launched().world, is_first_rank()) == (1, 2, False)
    monkeypatch.setattr(accelerate, "PartialState", State(1))
    found = Ranks()
    assert (found.index, found.local, found.world) == (1, 1, 2)
    port = "10000" if launcher == "Slurm" else "29500"
    assert [os.environ[name] for name in TORCH] == ["1", "2", "1", "2", "127.0.0.1", port]


def test_several_hosts_need_the_name_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**MPI["MPICH"], "PMI_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerate, "PartialState", State(1))
    with pytest.raises(BackendError, match="export MASTER_ADDR"):
        Ranks()


def on_two_nodes(monkeypatch: pytest.MonkeyPatch, folder: Path, scontrol: str) -> None:
    """A step of Slurm on two nodes, where `scontrol` is a shell script."""
    for name, value in {**MPI["Slurm"], "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "node[08-09]"}.items():
        monkeypatch.setenv(name, value)
    (folder / "scontrol").write_text(f"#!/bin/sh\n{scontrol}\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(accelerate, "PartialState", State(1))


def test_several_nodes_of_slurm_meet_on_the_first_at_a_port_of_the_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ports = set()
    on_two_nodes(monkeypatch, tmp_path, '[ "$*" = "show hostnames node[08-09]" ] && printf "node08\\nnode09\\n"')
    for job, step in (("70123", "0"), ("70123", "1"), ("70124", "0")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_STEP_ID", step)
        for name in TORCH:
            monkeypatch.delenv(name, raising=False)
        Ranks()
        assert os.environ["MASTER_ADDR"] == "node08"
        ports.add(int(os.environ["MASTER_PORT"]))
    assert len(ports) == 3
    assert all(10_000 <= port < 30_000 for port in ports)


@pytest.mark.parametrize("scontrol", ["exit 1", "true"])
def test_without_an_answer_of_slurm_the_first_node_has_to_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scontrol: str
) -> None:
    on_two_nodes(monkeypatch, tmp_path, scontrol)
    with pytest.raises(BackendError, match="export MASTER_ADDR"):
        Ranks()


def test_a_torchrun_of_one_process_in_each_task_is_a_launch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**MPI["Slurm"], "RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    assert Ranks().world == 1
    assert is_first_rank()


def test_a_rank_that_waits_for_others_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    told = threading.Event()

    class Slow(State):
        def __call__(self, **options: Any) -> State:
            assert told.wait(30)
            return self

    monkeypatch.setattr(ladm_hf.ranks, "_WAITING", 0.01)
    monkeypatch.setattr("builtins.print", lambda *texts, **options: (sys.stderr.write(*texts), told.set()))
    for name, value in {**MPI["Slurm"], "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerate, "PartialState", Slow(1))
    Ranks()
    said = capsys.readouterr().err
    assert "rank 1 waits for all 2 processes of srun of Slurm to meet at 127.0.0.1:10707" in said
    assert "unset SLURM_STEP_NUM_TASKS" in said


def test_a_batch_script_of_slurm_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert Ranks().world == 1
    assert is_first_rank()


def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(BackendError, match="WORLD_SIZE should be a number.*'two'"):
        Ranks()


def test_a_failure_of_one_rank_is_heard_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise InputError("no such file")

    second = ranks(monkeypatch, 1)
    monkeypatch.setattr(utils, "gather_object", lambda mine: [("a", None), *mine])
    assert second.gather(lambda: "b") == ["a", "b"]
    with pytest.raises(InputError, match="no such file"):
        second.gather(fail)
    monkeypatch.setattr(utils, "gather_object", lambda mine: [(None, "InputError: no such file"), *mine])
    with pytest.raises(LadmError, match="rank 0 of 2 failed.*InputError: no such file"):
        second.gather(lambda: "b")

    def dead(mine: Any) -> Any:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(utils, "gather_object", dead)
    with pytest.raises(RunError, match="another rank of this launch stopped"):
        second.gather(lambda: "b")


GATHER = """
import atexit, json, pathlib, torch
def tell():
    threads = [file.read_text() for file in pathlib.Path("/proc/self/task").glob("*/comm")]
    print("left at exit:", torch.distributed.is_initialized(), sum("gloo" in name for name in threads))
# registered first, so called last
atexit.register(tell)
from ladm_hf.ranks import Ranks
ranks = Ranks()
print(json.dumps([ranks.world, ranks.gather(lambda: ranks.index), ranks.share(lambda: "from rank 0")]), flush=True)
ranks.wait()
"""


def test_two_processes_of_mpirun_find_each_other() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in "01":
        mine = {**MPI["Open MPI"], "OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_LOCAL_RANK": rank}
        environment = {**os.environ, **mine, "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen([sys.executable, "-c", GATHER], env=environment, stdout=subprocess.PIPE, text=True)
        )
    for process in processes:
        said, _ = process.communicate(timeout=120)
        found, left = said.splitlines()[-2:]
        assert json.loads(found) == [2, [0, 1], "from rank 0"]
        assert left == "left at exit: False 0"
