"""PyTorch on one thread for a while, in several threads of Python at once."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import torch_threads

from ladm_hf.ops import device
from ladm_hf.ops.device import one_thread


@pytest.fixture
def within() -> Any:
    """Another thread is within `one_thread` until the event is set; how many threads it has afterwards."""
    entered, leave = threading.Event(), threading.Event()

    def wait() -> int:
        with one_thread():
            entered.set()
            assert leave.wait(20)
        return torch.get_num_threads()

    with torch_threads(2), ThreadPoolExecutor(1) as pool:
        found = pool.submit(wait)
        assert entered.wait(20)
        try:
            yield leave, found
        finally:
            leave.set()


def threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_no_thread_is_left_with_one_where_two_overlap(within: Any) -> None:
    leave, found = within

    def overlap() -> int:
        with one_thread():
            assert torch.get_num_threads() == 1
            leave.set()
            assert found.result() == 2
            assert torch.get_num_threads() == 1
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(overlap).result() == 2
    assert torch.get_num_threads() == threads_of_a_new_thread() == 2


def _threads_afterwards(found: Any) -> None:
    torch.set_num_threads(1)
    with one_thread():
        pass
    found.put(torch.get_num_threads())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_keeps_to_the_one_thread_that_it_may_have(within: Any) -> None:
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    process = context.Process(target=_threads_afterwards, args=(found,))
    process.start()
    assert found.get(timeout=20) == 1
    process.join()


def _takes_its_turn(shared: Any, found: Any) -> None:
    with device.turn(shared):
        found.put("taken")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_take_turns_and_a_forked_process_waits_for_none_of_them() -> None:
    shared, found = torch.nn.Identity(), queue.Queue()
    context = multiprocessing.get_context("fork")
    found_there = context.Queue()
    thread = threading.Thread(target=_takes_its_turn, args=(shared, found))
    with device.turn(shared), device.turn(shared):
        thread.start()
        process = context.Process(target=_takes_its_turn, args=(shared, found_there))
        with ThreadPoolExecutor(1) as other:
            # forked by a thread that has not taken its turn either
            other.submit(process.start).result()
        assert found_there.get(timeout=20) == "taken"
        assert found.empty()
    thread.join()
    assert found.get() == "taken"
    process.join()


def test_an_error_within_leaves_the_number_as_it_was() -> None:
    with torch_threads(2):
        with pytest.raises(ValueError, match="within"), one_thread():
            raise ValueError("within")
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("vendor", "expected"), [("AuthenticAMD", True), ("GenuineIntel", False)])
@pytest.mark.parametrize("told_by", ["file", "Python"])
def test_whose_processor_it_is(monkeypatch: pytest.MonkeyPatch, vendor: str, expected: bool, told_by: str) -> None:
    monkeypatch.setattr(device.Path, "exists", lambda path: told_by == "file")
    monkeypatch.setattr(device.Path, "read_text", lambda path, encoding: f"processor : 0\nvendor_id : {vendor}\n")
    monkeypatch.setattr(device.platform, "processor", lambda: f"x Family 25 Model 17, {vendor}")
    assert device.cpu_is_amd.__wrapped__() is expected
