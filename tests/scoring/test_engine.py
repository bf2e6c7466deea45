"""Work that a device does on its own: batches in flight, and the memory that a batch may take."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, random_ids, tiny_model, torch_threads

from ladm_hf.calculators.calculator import resolve
from ladm_hf.scoring.engine import DEVICE_BATCH_TOKENS, MAX_BATCH_TOKENS, Engine


@pytest.fixture
def engine() -> Engine:
    return Engine(resolve(tiny_model(num_hidden_layers=1)), SMALL, "float32", "cpu", "chunked", 600)


def test_batches_in_flight_give_the_same_scores_in_the_same_order(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [np.array(random_ids(length, length)) for length in (400, 300, 500, 290)]
    expected = list(engine.score_all(documents))
    events: list[str] = []
    empty, start = torch.empty, engine._start_score

    def started(batch):
        events.append("start")
        if len(batch) == 1 and len(batch[0]) == 500:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return start(batch)

    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **options: empty(*size, **options))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(
        torch.cuda,
        "Event",
        lambda: SimpleNamespace(record=lambda stream: None, synchronize=lambda: events.append("wait")),
    )
    monkeypatch.setattr(engine, "_asynchronous", True)
    monkeypatch.setattr(engine, "_start_score", started)
    actual = list(engine.score_all(documents))
    assert [batch for batch, _ in actual] == [batch for batch, _ in expected] == [[2], [0], [1, 3]]
    assert actual[0][1] is None
    for (_, ours), (_, theirs) in zip(actual[1:], expected[1:], strict=True):
        np.testing.assert_array_equal([found.cds for found in ours], [found.cds for found in theirs])
    # a batch is under way before the one in front of it is waited for
    assert events == ["start", "start", "start", "wait", "wait"]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_host_works_for_a_gpu_on_one_thread_and_on_a_cpu_on_all(engine, monkeypatch, on_gpu: bool) -> None:
    threads = []
    for name in ("run", "cds"):
        function = getattr(engine, name)
        monkeypatch.setattr(
            engine, name, lambda *given, f=function: threads.append(torch.get_num_threads()) or f(*given)
        )
    monkeypatch.setattr(engine, "_on_host", lambda tensors: lambda: torch.cat(tensors).double())
    monkeypatch.setattr(engine, "_asynchronous", on_gpu)
    with torch_threads(2):
        engine.score([np.array(random_ids(400))])
        assert torch.get_num_threads() == 2
    assert threads == [1 if on_gpu else 2] * 2


@pytest.mark.parametrize(
    ("free", "peak", "expected"), [(10**6, 2048 * 100, 5000), (10**15, 1, MAX_BATCH_TOKENS), (1, 10**9, 1)]
)
def test_a_batch_takes_a_share_of_the_free_memory(engine, monkeypatch, free: int, peak: int, expected: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    for name, value in {
        "memory_reserved": 0,
        "memory_allocated": 0,
        "max_memory_allocated": peak,
        "reset_peak_memory_stats": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    lengths: list[int] = []
    on_cuda = SimpleNamespace(
        model=SimpleNamespace(device=torch.device("cuda:0")),
        config=SMALL,
        plan=engine.plan,
        pfs=lambda documents: lengths.append(len(documents[0])),
    )
    assert Engine._default_batch_tokens(on_cuda) == expected
    assert lengths == [SMALL.max_length]

    def no_memory(documents):
        raise torch.OutOfMemoryError("CUDA out of memory")

    on_cuda.pfs = no_memory
    assert Engine._default_batch_tokens(on_cuda) == 1
    # no document of a scorable length is within reach, so there is nothing to measure
    on_cuda.plan = SimpleNamespace(reach=10)
    assert Engine._default_batch_tokens(on_cuda) == DEVICE_BATCH_TOKENS


def test_a_model_changed_under_the_engine_keeps_its_own_forward_pass(engine, monkeypatch) -> None:
    document = np.array(random_ids(300))
    (expected,) = engine.score([document])
    monkeypatch.setattr(engine, "_fast", SimpleNamespace(is_current=lambda: False))
    np.testing.assert_array_equal(engine.score([document])[0], expected)
    assert engine.forward_pass == "model"
