from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladm_hf.scoring.batching import TokenBudget, is_out_of_memory


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_every_document_once_longest_first_within_the_budget(lengths: list[int], max_tokens: int) -> None:
    done: list[int] = []
    longest = []
    for batch, results in TokenBudget(max_tokens).run(lengths, lambda batch: [lengths[i] for i in batch]):
        assert results == [lengths[i] for i in batch]
        assert len(batch) == 1 or len(batch) * max(results) <= max_tokens
        longest.append(max(results))
        done += batch
    assert sorted(done) == list(range(len(lengths)))
    assert longest == sorted(longest, reverse=True)


@pytest.fixture
def quick_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage after every simulated failure would make up nearly all of a test's time."""
    monkeypatch.setattr("ladm_hf.scoring.batching._release_memory", lambda: None)


@pytest.mark.usefixtures("quick_release")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 400), st.integers(1, 60))
def test_out_of_memory_halves_and_goes_on(lengths: list[int], max_tokens: int, memory: int) -> None:
    """A device that holds `memory` tokens scores all that fits, and remembers a size that is safe."""

    def compute(batch: list[int]) -> list[int]:
        if len(batch) * lengths[batch[0]] > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch

    budget = TokenBudget(max_tokens)
    results = {i: found for batch, found in budget.run(lengths, compute) for i in batch}
    assert {i for i, found in results.items() if found is None} == {i for i, n in enumerate(lengths) if n > memory}
    failures = 0

    def count(batch: list[int]) -> list[int]:
        nonlocal failures
        failures += len(batch) * lengths[batch[0]] > memory and len(batch) > 1
        return compute(batch)

    list(budget.run(lengths, count))
    assert failures == 0


def test_other_errors_are_not_swallowed() -> None:
    def compute(batch: list[int]) -> list[int]:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        list(TokenBudget(10).run([1], compute))


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shape"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_padding_stays_small_once_a_batch_is_large_enough() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (2305 * (32768 / 2305) ** torch.rand(512, generator=generator)).long().tolist()
    batches = [batch for batch, _ in TokenBudget(262_144).run(lengths, lambda batch: batch)]
    padded = sum(len(batch) * lengths[batch[0]] for batch in batches)
    assert 1 - sum(lengths) / padded < 0.03
    assert len(batches) < 60
