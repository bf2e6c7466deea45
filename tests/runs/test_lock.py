"""One launch at a time: who holds a run's folder, whether that launch lives, and how soon that is known."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from ladm_hf.errors import RunLockedError
from ladm_hf.runs import lock as run_lock
from ladm_hf.runs.folder import RunFolder
from ladm_hf.runs.lock import RunLock


@pytest.fixture
def lock(tmp_path: Path) -> RunLock:
    return RunLock(RunFolder(tmp_path))


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "LEASE", 1.2)
    monkeypatch.setattr(run_lock, "GRACE", 0.6)


def owned_by(lock: RunLock, **owner: Any) -> None:
    """Writes a lock file, by default one of a launch elsewhere, in the form of version 0.1.0."""
    lock.path.parent.mkdir(parents=True, exist_ok=True)
    lock.path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1.0, "launch": "other", **owner}))


@contextlib.contextmanager
def beating(lock: RunLock, clock: float = 0.0) -> Iterator[None]:
    """Another process gives signs of life, by a clock that differs by some seconds from this one's."""
    program = (
        f"import os, time\nwhile True: now = time.time() + {clock}; os.utime({str(lock.path)!r}, (now, now)); "
        "time.sleep(0.1)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        before = lock.path.stat().st_mtime
        while lock.path.stat().st_mtime == before:
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


def test_a_second_launch_on_this_host_is_refused_at_once(lock: RunLock, monkeypatch: pytest.MonkeyPatch) -> None:
    second = RunLock(lock.folder)
    lock.acquire()
    assert lock.is_alive()

    def wait(seconds: float) -> None:
        raise AssertionError("waits for a launch that is alive for certain")

    with monkeypatch.context() as patched:
        patched.setattr(run_lock.time, "sleep", wait)
        for refused in (second.acquire, second.check_free):
            with pytest.raises(RunLockedError, match=f"process {os.getpid()} on"):
                refused()
    second.release()
    assert lock.held()
    lock.release()
    assert not lock.is_alive()
    second.check_free()
    assert not second.held()
    second.acquire()
    assert second.held()
    second.release()


def test_of_launches_that_begin_together_one_gets_the_lock(tmp_path: Path) -> None:
    locks = [RunLock(RunFolder(tmp_path)) for _ in range(6)]
    together = threading.Barrier(len(locks))

    def acquire(lock: RunLock) -> bool:
        together.wait()
        try:
            lock.acquire()
        except RunLockedError:
            return False
        return True

    with ThreadPoolExecutor(len(locks)) as pool:
        got = list(pool.map(acquire, locks))
    assert sum(got) == 1
    assert [lock.held() for lock in locks] == got
    for lock in locks:
        lock.release()
    assert not locks[0].path.exists()


def test_the_lock_of_a_dead_process_is_taken_at_once(lock: RunLock) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    owned_by(lock, host=socket.gethostname(), pid=process.pid, started=time.time())
    lock.acquire()
    assert lock.held()
    # a process number that is in use again, by another process
    owned_by(lock, host=socket.gethostname(), pid=os.getpid(), started=1.0)
    lock.acquire()
    assert lock.held()
    lock.release()


def test_a_killed_process_that_nobody_waited_for_is_dead(lock: RunLock) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    owned_by(lock, host=socket.gethostname(), pid=process.pid, started=psutil.Process(process.pid).create_time())
    assert lock.is_alive()
    process.kill()
    end = time.monotonic() + 30
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not lock.is_alive()
    process.wait()


def test_a_process_without_its_launcher_is_given_time_to_end(lock: RunLock, in_a_hurry: None) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = psutil.Process(process.pid).create_time()
    try:
        owned_by(lock, host=socket.gethostname(), pid=process.pid, started=started, launcher=1)
        with pytest.raises(RunLockedError, match=f"process {process.pid} on"):
            lock.acquire()
        waits = lock._watch(print)
        assert next(waits)[0] == "orphan"
    finally:
        process.kill()
        process.wait()
    assert next(waits)[0] == "dead"
    lock.acquire()
    assert lock.held()
    lock.release()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\xff"])
def test_an_unreadable_lock_is_no_lock(lock: RunLock, content: str) -> None:
    lock.path.parent.mkdir()
    lock.path.write_text(content, encoding="latin-1")
    lock.acquire()
    assert lock.held()
    lock.release()


def test_another_host_is_judged_by_its_signs_of_life(lock: RunLock, in_a_hurry: None) -> None:
    said: list[str] = []
    owned_by(lock)
    with beating(lock), pytest.raises(RunLockedError, match="process 1 on elsewhere"):
        lock.acquire(said.append)
    assert said == ["process 1 on elsewhere may have died: waiting up to 1 s for a sign of life"]
    lock.acquire()
    assert lock.held()
    lock.release()


def test_a_launch_that_died_long_ago_elsewhere_is_not_waited_for_long(lock: RunLock, monkeypatch: Any) -> None:
    monkeypatch.setattr(run_lock, "GRACE", 0.3)
    said: list[str] = []
    owned_by(lock)
    os.utime(lock.path, (time.time() - 100, time.time() - 100))
    lock.acquire(said.append)
    assert lock.held()
    assert "waiting up to 0 s" in said[0]
    lock.release()


@pytest.mark.parametrize("clock", [-3600.0, 3600.0])
def test_clocks_that_differ_change_no_judgement(lock: RunLock, in_a_hurry: None, clock: float) -> None:
    owned_by(lock)
    with beating(lock, clock), pytest.raises(RunLockedError, match="elsewhere"):
        lock.acquire()
    lock.acquire()
    assert lock.held()
    lock.release()


def test_a_container_of_the_same_host_name_counts_as_another_host(lock: RunLock, in_a_hurry: None) -> None:
    # its process 999999999 is none of ours
    owned_by(lock, host=socket.gethostname(), pid=999999999, namespace=7)
    with beating(lock), pytest.raises(RunLockedError, match="process 999999999"):
        lock.acquire()


def test_who_may_only_read_a_folder_sees_whether_its_launch_lives(
    lock: RunLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned_by(lock)

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    assert lock.is_alive()
    os.utime(lock.path, (1, 1))
    assert not lock.is_alive()


def test_a_lock_gives_signs_of_life_until_another_launch_has_it(lock: RunLock, monkeypatch: Any) -> None:
    monkeypatch.setattr(run_lock, "HEARTBEAT", 0.05)
    lock.acquire()
    os.utime(lock.path, (1, 1))
    end = time.monotonic() + 30
    while lock.path.stat().st_mtime == 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    owned_by(lock)
    time.sleep(0.2)
    os.utime(lock.path, (1, 1))
    time.sleep(0.2)
    assert lock.path.stat().st_mtime == 1
    assert not lock.held()


def test_a_file_system_that_does_not_answer_takes_no_lock_away(lock: RunLock, monkeypatch: Any) -> None:
    lock.acquire()

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        assert lock.held()
    lock.path.unlink()
    assert not lock.held()
