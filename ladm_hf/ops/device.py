"""Launching and copying on the device of a tensor, threads of the host, and what its processor is."""

from __future__ import annotations

import functools
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

# Threads of Python that are within `one_thread`, and PyTorch's threads before the first of them was.
_lock = threading.Lock()
_within, _before = 0, 1
# Of what threads use in turn, by its parts.
_turns: WeakKeyDictionary[object, dict[str, threading.RLock]] = WeakKeyDictionary()


def launches_on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever device its arguments are on: makes it theirs for a while."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def sent_to(device: torch.device, tensor: Tensor) -> Tensor:
    """A tensor of the host on a device."""
    if device.type != "cuda":
        return tensor.to(device)
    # pinned, or the copy would wait for everything the device has been given so far
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes on this thread alone.

    For small tensors: where other work keeps the cores busy, threads wait for one another many times as long as one
    thread would take. Threads of Python that come to PyTorch meanwhile begin with one thread, until they leave such a
    block themselves.
    """
    global _within, _before
    with _lock:
        threads = torch.get_num_threads()
        if not _within:
            _before = threads
        elif threads == 1:
            # a thread that is new to PyTorch begins with what another has set for a while
            threads = _before
        _within += 1
    try:
        torch.set_num_threads(1)
        yield
    finally:
        with _lock:
            _within -= 1
            torch.set_num_threads(threads)


def turn(shared: object, part: str = "") -> AbstractContextManager[object]:
    """Lets threads of Python use something, or a part of it, one after another: `with turn(model):`, also nested."""
    return _turns.setdefault(shared, {}).setdefault(part, threading.RLock())


def _forget_threads() -> None:
    """In a forked process none of the other threads is left."""
    global _lock, _within
    _lock, _within = threading.Lock(), 0
    _turns.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def cpu_has(unit: str) -> bool:
    """Whether the processor has `"avx512_bf16"` or `"amx_tile"`, as far as this version of PyTorch tells."""
    return bool(getattr(torch.cpu, f"_is_{unit}_supported", lambda: False)())


@functools.cache
def cpu_is_amd() -> bool:
    """Whether the processor is AMD's, as far as the system tells: Linux in a file, Windows by Python."""
    file = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (file.read_text(encoding="utf-8") if file.exists() else platform.processor())
