"""Ranks: what rank 0 finds reaches the others, errors too."""

from __future__ import annotations

from typing import Any

import accelerate
import pytest
from accelerate import utils

from ladm_hf.errors import InputError, RunError
from ladm_hf.ranks import Ranks


class State:
    """Stands for accelerate's state of one rank of two."""

    num_processes = 2

    def __init__(self, index: int) -> None:
        self.process_index = self.local_process_index = index

    def __call__(self, **options: Any) -> State:
        return self

    def wait_for_everyone(self) -> None:
        raise RuntimeError("Connection closed by peer")


def ranks(monkeypatch: pytest.MonkeyPatch, index: int) -> Ranks:
    monkeypatch.setenv("WORLD_SIZE", "2")
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
