"""The host's part of scoring by processes: the same results, and what becomes of a process that fails."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import random_ids

from ladm_hf import LadmScorer
from ladm_hf.calculators.calculator import Calculator
from ladm_hf.scoring import host, loader
from ladm_hf.scoring.encoder import Encoder
from ladm_hf.scoring.host import HostPart, HostProcesses
from ladm_hf.scoring.loader import Loader


def words(count: int, seed: int = 0) -> str:
    return " ".join(map(str, np.random.default_rng(seed).integers(0, 1000, count)))


TEXTS = [words(600), words(40), "", words(700), "naïve 港口 🙂 \ud800"]


@pytest.fixture(scope="module")
def part() -> HostPart:
    return HostPart(Encoder(LadmScorer("ladm-nano").calculator.load_tokenizer()))


def test_processes_give_what_the_process_itself_gives(part: HostPart) -> None:
    processes = HostProcesses(part)
    documents = [*TEXTS, np.array(random_ids(300)), None]
    with ThreadPoolExecutor(2) as threads:
        ids = list(threads.map(processes.encode, [TEXTS] * 4))
        counts = list(threads.map(lambda some: processes.count(some, ("compression",)), [documents] * 4))
    assert not processes._failed
    assert 1 <= len(processes._processes) <= 2
    for found in ids:
        assert repr(found) == repr(part.encode(TEXTS))
        assert all(row.dtype == np.int64 for row in found if not isinstance(row, str))
    assert all(repr(found) == repr(part.count(documents, ("compression",))) for found in counts)


def test_a_process_imports_neither_torch_nor_transformers(part: HostPart) -> None:
    script = (
        "import pickle, sys\npart = pickle.load(sys.stdin.buffer)\nassert part.encode(['a text'])\n"
        "print([name for name in ('torch', 'transformers', 'pyarrow', 'pandas') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(part), capture_output=True, check=True)
    assert found.stdout.decode().strip() == "[]"


def test_where_a_process_dies_threads_go_on(part: HostPart) -> None:
    processes = HostProcesses(part)
    assert processes.encode(TEXTS)
    ((_, process),) = processes._processes
    process.kill()
    process.wait()
    with pytest.warns(RuntimeWarning, match="a process that prepares documents for the device failed .*threads"):
        found = processes.encode(TEXTS)
    assert repr(found) == repr(part.encode(TEXTS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(processes.count(TEXTS, ())) == repr(part.count(TEXTS, ()))


@pytest.mark.parametrize("pipes", ["wide", "refused", "unknown"])
def test_what_is_longer_than_a_pipe_arrives_whole(part: HostPart, monkeypatch: pytest.MonkeyPatch, pipes: str) -> None:
    fcntl = pytest.importorskip("fcntl")
    many = [words(50_000, seed) for seed in range(6)]
    if pipes == "refused":
        monkeypatch.setattr(fcntl, "fcntl", Mock(side_effect=PermissionError("too much")))
    elif pipes == "unknown":
        monkeypatch.delattr(fcntl, "F_SETPIPE_SZ", raising=False)
    processes = HostProcesses(part)
    assert repr(processes.encode(many)) == repr(part.encode(many))
    assert not processes._failed


def test_an_answer_that_breaks_off_is_none() -> None:
    whole = BytesIO()
    host._send(["an answer"], whole)
    for length in range(len(whole.getvalue())):
        with pytest.raises(EOFError, match="has ended"):
            host._receive(BytesIO(whole.getvalue()[:length]))


def test_where_no_process_can_be_started_threads_do_the_work(part: HostPart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.warns(RuntimeWarning, match="no/such/python"):
        assert repr(HostProcesses(part).encode(TEXTS)) == repr(part.encode(TEXTS))


def test_processes_end_with_the_one_that_asked(part: HostPart) -> None:
    processes = HostProcesses(part)
    processes.count(TEXTS, ())
    ((_, process),) = processes._processes
    assert process.poll() is None
    del processes
    gc.collect()
    assert process.poll() is not None


def test_a_process_ends_with_its_input_even_where_it_was_killed(part: HostPart) -> None:
    script = (
        "import os, pickle, signal, sys\nfrom ladm_hf.scoring.host import HostPart, HostProcesses\n"
        "processes = HostProcesses(HostPart(None))\nprocesses.count(['a text'], ())\n"
        "print(processes._processes[0][1].pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pid = int(found.stdout)
    ended = threading.Event()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                break
        ended.wait(0.1)
    else:
        pytest.fail(f"process {pid} goes on without the one that asked")


def test_a_fork_ends_its_own_processes_and_leaves_the_others_alone(part: HostPart) -> None:
    script = (
        "import gc, os, threading\nfrom ladm_hf.scoring.host import HostPart, HostProcesses\n"
        "processes = HostProcesses(HostPart(None))\nprocesses.count(['a text'], ())\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    thread = threading.Thread(target=processes.count, args=(['a text'], ()))\n"
        "    thread.start()\n    thread.join()\n"
        "    (_, theirs), (_, mine) = processes._processes\n    del processes, thread\n    gc.collect()\n"
        "    os._exit(0 if mine.returncode is not None and theirs.returncode is None else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "processes.count(['a text'], ())\nassert len(processes._processes) == 1 and not processes._failed\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("entry", [Path("folder"), b"folder"])
def test_what_is_no_string_on_the_path_stops_no_process(part: HostPart, monkeypatch, entry: Any) -> None:
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    processes = HostProcesses(part)
    assert repr(processes.encode(TEXTS)) == repr(part.encode(TEXTS))
    assert not processes._failed


def test_a_tokenizer_is_loaded_once_until_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = Calculator.load_tokenizer

    def count(self: Calculator) -> Any:
        loads.append(self.identity)
        return load(self)

    monkeypatch.setattr(Calculator, "load_tokenizer", count)
    one = LadmScorer("ladm-nano")._loader
    first = one.host(texts=True)
    counts = one.host(texts=False)
    assert one.host(texts=True) is first
    assert one.host(texts=False) is counts
    assert len(loads) == 1


def test_what_fails_in_a_process_fails_as_it_does_without(part: HostPart) -> None:
    with pytest.warns(RuntimeWarning, match="EOFError"), pytest.raises(TypeError):
        HostProcesses(part).count([1], None)  # type: ignore[arg-type]


def test_much_work_goes_to_processes_and_gives_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    nano = LadmScorer("ladm-nano")
    texts: list[Any] = [words(600), None, words(40), "", words(700), b"\xff", 7, "\ud800 " * 90]
    ids = [random_ids(600), "no ids", [], random_ids(700, seed=2), None]
    expected, of_ids = nano.score_texts(texts), nano.score_input_ids(ids)
    monkeypatch.setattr(Loader, "works_ahead", lambda self, rank: True)
    monkeypatch.setattr("ladm_hf.scoring.rows.THREAD_CHARS", 1000)
    monkeypatch.setattr(loader, "MUCH_WORK", sum(len(text or "") for text in texts[:4]))
    monkeypatch.setattr(loader, "host_threads", lambda: 2)
    started: list[Any] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return popen(*arguments, **options)

    monkeypatch.setattr(host.subprocess, "Popen", start)
    ahead = LadmScorer("ladm-nano")
    assert repr(ahead.score_texts(texts[:4])) == repr(expected[:4])
    assert not started
    assert repr(ahead.score_texts(texts)) == repr(expected)
    assert started
    assert repr(ahead.score_input_ids(ids)) == repr(of_ids)
