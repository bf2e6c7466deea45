"""The processes of one launch: who am I, and telling the others what rank 0 found."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ladm_hf.errors import BackendError, LadmError, RunError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")

_WORLD_VARIABLES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# How torchrun and accelerate number their processes, then how Open MPI, MPICH (Intel MPI) and MVAPICH do.
_RANK_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
# A rank waits for the others as long as one chunk takes, and for rank 0 as long as it looks through the data.
TIMEOUT = datetime.timedelta(days=2)
# A rank whose share is done waits for the others in the gather; a rank that dies is noticed by the launcher.
GATHER_TIMEOUT = datetime.timedelta(days=1)


def is_first_rank() -> bool:
    """False in all but the first of the processes that `torchrun`, `accelerate launch` or `mpirun` started."""
    ranks = (os.environ.get(name) for name in _RANK_VARIABLES)
    return int(next(filter(None, ranks), 0)) == 0


class Ranks:
    """The ranks of a launch under `torchrun`, `accelerate launch` or `mpirun`; one where there is no launcher.

    Attributes:
        index (`int`): number of this process, from 0.
        local (`int`): its number on this host.
        world (`int`): how many there are.

    Raises:
        RunError: the launcher started several processes that do not see each other.
    """

    def __init__(self) -> None:
        self.index, self.local, self.world = 0, 0, 1
        self._state: Any = None
        launched = max(int(os.environ.get(name) or 1) for name in _WORLD_VARIABLES)
        if launched == 1:
            return
        import torch
        from accelerate import PartialState

        self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
        self.world = self._state.num_processes
        if self.world != launched:
            raise RunError(
                f"the launcher started {launched} processes but this one sees {self.world}, so each would score "
                "everything. On machines without a GPU, make no Accelerator or PartialState before this call, or make "
                "it with cpu=True."
            )
        self.index, self.local = self._state.process_index, self._state.local_process_index

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
            broadcast_object_list(sent, from_process=0)
            if not self.is_main:
                outcome = sent
        if outcome[1] is not None:
            raise outcome[1]
        found: T = outcome[0]
        return found

    def wait(self) -> None:
        """Waits until every rank is here."""
        if self._state is not None:
            try:
                self._state.wait_for_everyone()
            except RuntimeError as error:
                raise RunError(
                    "another rank of this launch stopped, see its log. Finished chunks are kept: run the same command "
                    "again."
                ) from error


def _portable(error: Exception) -> Exception:
    """An error that another process can unpickle."""
    return error if isinstance(error, LadmError) else RunError(f"rank 0 failed: {type(error).__name__}: {error}")


def launched_ranks() -> int:
    """Processes that `torchrun` or `accelerate launch` started."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def partial_state() -> PartialState | None:
    """The state of this rank, `None` where there is only one process."""
    import torch
    from accelerate import PartialState

    launched = launched_ranks()
    if launched == 1 and not PartialState._shared_state:
        return None
    remedy = (
        "Start with `torchrun --nproc_per_node N` or `accelerate launch --multi_gpu --num_processes N`; on a machine "
        "without GPUs create PartialState(cpu=True) or Accelerator(cpu=True) before anything else of accelerate. "
        "Outside a launch unset WORLD_SIZE."
    )
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR") if not os.environ.get(name)]
    if missing and not PartialState._shared_state:
        raise BackendError(f"WORLD_SIZE is {launched}, but {missing[0]} is not set: only one process is here. {remedy}")
    # Without cpu=True accelerate takes every rank of a launch without GPUs for the only one.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=GATHER_TIMEOUT)
    if launched > 1 and state.num_processes == 1:
        raise BackendError(
            f"WORLD_SIZE is {launched}, but accelerate sees one process, so each rank would score everything. {remedy}"
        )
    return state if state.num_processes > 1 else None
