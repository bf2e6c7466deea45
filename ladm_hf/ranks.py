"""The processes of one launch: which one is this, what rank 0 found, what each of them found.

    torchrun, accelerate launch    RANK                     WORLD_SIZE                LOCAL_RANK
    Open MPI's mpirun              OMPI_COMM_WORLD_RANK     OMPI_COMM_WORLD_SIZE      OMPI_COMM_WORLD_LOCAL_RANK
    MPICH's and Intel MPI's        PMI_RANK                 PMI_SIZE                  MPI_LOCALRANKID
    MVAPICH's                      MV2_COMM_WORLD_RANK      MV2_COMM_WORLD_SIZE       MV2_COMM_WORLD_LOCAL_RANK
    Slurm's srun                   SLURM_PROCID             SLURM_STEP_NUM_TASKS      SLURM_LOCALID

The variables of every launcher are handed to `torch.distributed` under torchrun's names.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ladm_hf.errors import BackendError, LadmError, RunError

T = TypeVar("T")

# A rank waits for the others as long as one chunk takes, and for rank 0 as long as it looks through the data; a rank
# that dies is noticed at once.
TIMEOUT = datetime.timedelta(days=2)
# Seconds after which a rank says that it waits for others to start.
_WAITING = 60.0


class _Launcher(NamedTuple):
    """A launcher, and the variables in which it numbers its processes: all of them, and those of one host."""

    name: str
    rank: str
    world: str
    local_rank: str
    local_world: str


# SLURM_NTASKS is not asked: it is set for a batch script too, which is one process.
_LAUNCHERS = (
    _Launcher("torchrun or accelerate launch", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    _Launcher(
        "mpirun of Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Launcher("mpirun of MPICH or Intel MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    _Launcher(
        "mpirun of MVAPICH",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    _Launcher("srun of Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""),
)
_SLURM = _LAUNCHERS[-1]


class Launch(NamedTuple):
    """What the launcher of this process says.

    Attributes:
        launcher ([`_Launcher`]): who started it; torchrun's variables where nobody did.
        rank (`int`, *optional*): number of this process, from 0; `None` where the launcher gives none.
        world (`int`): how many processes it started.
    """

    launcher: _Launcher
    rank: int | None
    world: int


def launched() -> Launch:
    """How this process was started, from the environment alone.

    Raises:
        BackendError: a variable of a launcher is no number.
    """
    for launcher in _LAUNCHERS:
        world = _number(launcher.world)
        if world is not None and world > 1:
            return Launch(launcher, _number(launcher.rank), world)
        if launcher is _LAUNCHERS[0] and "TORCHELASTIC_RUN_ID" in os.environ:
            # each task of mpirun or srun may start a torchrun of its own
            break
    ranks = (_number(launcher.rank) for launcher in _LAUNCHERS)
    return Launch(_LAUNCHERS[0], next((rank for rank in ranks if rank is not None), 0), 1)


def is_first_rank() -> bool:
    """False in all but the first of the processes of one launch; it loads neither torch nor accelerate."""
    return not launched().rank


def tell_launcher(message: str) -> None:
    """Has torchrun and `accelerate launch` end their report with why this process failed.

    They print a traceback of their own after the last line of a process, and then what it left in this file.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return
    # the earliest failure is taken for the cause: a second early, before the ranks that stop because of this one
    noted = {"py_callstack": message, "timestamp": str(int(time.time()) - 1)}
    with contextlib.suppress(OSError):
        Path(file).write_text(json.dumps({"message": {"message": message, "extraInfo": noted}}), encoding="utf-8")


class Ranks:
    """The ranks of a launch; one where there is no launcher.

    Attributes:
        index (`int`): number of this process, from 0.
        local (`int`): its number on this host.
        world (`int`): how many there are.

    Raises:
        BackendError: the launcher started several processes that do not see each other.
    """

    def __init__(self) -> None:
        self.index, self.local, self.world = 0, 0, 1
        self._state: Any = None
        launch = launched()
        # what accelerate has already set up counts, whoever did it
        accelerate_state = sys.modules.get("accelerate.state")
        ready = accelerate_state is not None and bool(accelerate_state.PartialState._shared_state)
        if launch.world == 1 and not ready:
            return
        if not ready:
            _tell_torch(launch)
        import torch
        from accelerate import PartialState

        ours = not ready and not (torch.distributed.is_available() and torch.distributed.is_initialized())
        with _tells_if_waiting(launch):
            # Without cpu=True accelerate takes every rank of a launch without GPUs for the only one.
            state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
        if launch.world > 1 and state.num_processes != launch.world:
            raise _unseen(launch, f"accelerate sees {state.num_processes}, so each would score everything")
        if state.num_processes > 1:
            self._state, self.world = state, state.num_processes
            self.index, self.local = state.process_index, state.local_process_index
            if ours:
                atexit.register(_end_gloo)

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def share(self, find: Callable[[], T]) -> T:
        """What `find()` returns or raises on rank 0, on every rank."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = find()
            except Exception as error:  # raised again below, here and on the other ranks
                outcome[1] = error
        if self._state is not None:
            from accelerate.utils import broadcast_object_list

            sent = [outcome[0], None if outcome[1] is None else _portable(outcome[1])]
            with _others_alive():
                broadcast_object_list(sent, from_process=0)
            if not self.is_main:
                outcome = sent
        if outcome[1] is not None:
            raise outcome[1]
        found: T = outcome[0]
        return found

    def gather(self, find: Callable[[], T]) -> list[T]:
        """What `find()` returns on each rank, in their order, on every rank.

        Raises:
            LadmError: `find()` raised on another rank; on that rank its own error.
        """
        if self._state is None:
            return [find()]
        from accelerate.utils import gather_object

        found: T | None = None
        failure: Exception | None = None
        try:
            found = find()
        except Exception as error:  # raised below, once the others have heard of it: they would wait for this rank
            failure = error
        message = None if failure is None else f"{type(failure).__name__}: {failure}"
        with _others_alive():
            answers = gather_object([(found, message)])
        if failure is not None:
            raise failure
        for rank, (_, message) in enumerate(answers):
            if message is not None:
                raise LadmError(f"rank {rank} of {self.world} failed, so there is no result: {message}")
        return [answer for answer, _ in answers]

    def wait(self) -> None:
        """Waits until every rank is here."""
        if self._state is not None:
            with _others_alive():
                self._state.wait_for_everyone()


def _number(variable: str) -> int | None:
    value = os.environ.get(variable) or None
    if value is None:
        return None
    if not value.isdecimal():
        raise BackendError(
            f"the variable {variable} should be a number that a launcher sets, found {value!r}: unset it"
        )
    return int(value)


def _tell_torch(launch: Launch) -> None:
    """Gives `torch.distributed` and accelerate the variables of torchrun."""
    launcher, rank, world = launch
    if rank is None:
        raise _unseen(launch, f"{launcher.rank} is not set: only one process is here")
    if launcher is _LAUNCHERS[0]:
        missing = [name for name in ("LOCAL_RANK", "MASTER_ADDR") if not os.environ.get(name)]
        if missing:
            raise _unseen(launch, f"{missing[0]} is not set: only one process is here")
        return
    local_rank, local_world = _number(launcher.local_rank), _number(launcher.local_world)
    if not os.environ.get("MASTER_ADDR"):
        os.environ["MASTER_ADDR"] = _first_host(launch, one_host=local_world == world)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(local_rank or 0))
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(local_world or world))
    os.environ.setdefault("MASTER_PORT", _slurm_port() if launcher is _SLURM else "29500")


def _first_host(launch: Launch, one_host: bool) -> str:
    """Where rank 0 runs."""
    if one_host or (launch.launcher is _SLURM and _number("SLURM_STEP_NUM_NODES") == 1):
        return "127.0.0.1"
    nodes = os.environ.get("SLURM_STEP_NODELIST")
    # rank 0 is on the first of the nodes, unless the step gives each rank its node
    if launch.launcher is _SLURM and nodes and os.environ.get("SLURM_DISTRIBUTION") != "arbitrary":
        with contextlib.suppress(OSError, subprocess.CalledProcessError, IndexError):
            command = ["scontrol", "show", "hostnames", nodes]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    raise BackendError(
        f"{launch.launcher.name} started {launch.world} processes on several hosts, which have to find each other: "
        "export MASTER_ADDR as the name of the host of rank 0"
    )


def _slurm_port() -> str:
    """A port of this step's own: other jobs and steps may run on the same node."""
    return str(10_000 + (101 * (_number("SLURM_JOB_ID") or 0) + (_number("SLURM_STEP_ID") or 0)) % 20_000)


@contextlib.contextmanager
def _tells_if_waiting(launch: Launch) -> Iterator[None]:
    """Says so where the other ranks do not come."""

    def tell() -> None:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        print(
            f"ladm: rank {launch.rank} waits for all {launch.world} processes of {launch.launcher.name} to meet at "
            f"{where}. If this process was started alone, stop it and unset {launch.launcher.world}.",
            file=sys.stderr,
            flush=True,
        )

    timer = threading.Timer(_WAITING, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_gloo() -> None:
    """Ends Gloo's threads: one that lets go of a tensor while Python shuts down aborts the process (PyTorch 2.13)."""
    # no other backend: NCCL's groups end together, and another rank may wait for this one or be gone
    import torch.distributed

    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def _unseen(launch: Launch, what: str) -> BackendError:
    return BackendError(
        f"{launch.launcher.world} is {launch.world}, but {what}. Start with `torchrun --nproc_per_node N`, "
        "`accelerate launch --multi_gpu --num_processes N`, mpirun or srun; on a machine without GPUs create "
        "PartialState(cpu=True) or Accelerator(cpu=True) before anything else of accelerate. Outside a launch unset "
        f"{launch.launcher.world}."
    )


@contextlib.contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            "another rank of this launch stopped, see its log. Finished chunks are kept: run the same command again."
        ) from error


def _portable(error: Exception) -> Exception:
    """An error that another process can unpickle."""
    return error if isinstance(error, LadmError) else RunError(f"rank 0 failed: {type(error).__name__}: {error}")
