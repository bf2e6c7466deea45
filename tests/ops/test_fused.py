"""The Triton kernel computes the definition: under Triton's interpreter on a CPU, compiled on a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from ladm_hf import ops
from ladm_hf.config import LadmConfig
from ladm_hf.errors import BackendError
from ladm_hf.ops import BACKENDS, causal, choose_backend, chunked, fused, naive
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring import attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(DEVICE == "cpu" and not fused.INTERPRETED, reason="needs a GPU or TRITON_INTERPRET=1")


@pytest.fixture(autouse=True)
def forget_trials():
    forget = ops._trial_problem.cache_clear
    forget()
    yield
    forget()


@pytest.fixture(autouse=True, scope="module")
def poisoned_outputs():
    """Fresh memory is NaN, so that an element nobody wrote shows."""
    empty = torch.empty

    def poisoned(*size, **options):
        fresh = empty(*size, **options)
        return fresh.fill_(torch.nan) if fresh.is_floating_point() else fresh

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        yield


def causal_lse(q: torch.Tensor, k: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    logits = scale * q.double() @ k.double().repeat_interleave(q.shape[1] // k.shape[1], 1).mT
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return logits.masked_fill(future, -torch.inf).logsumexp(-1).float()


def problem(lengths, config, dim, *, heads=2, kv_heads=1, padding=3, dtype=torch.float32, seed=0):
    """Queries and keys as projections leave them: heads inside tokens, one buffer, odd strides."""
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randn(len(lengths), max(lengths) + padding, heads + kv_heads, dim, generator=generator)
    q, k = packed.to(DEVICE, dtype).transpose(1, 2).split([heads, kv_heads], 1)
    return q, k, SpanGrid(lengths, config)


def check(q, k, grid, scale, softcap=None, rtol=2e-5) -> None:
    """With a log-sum-exp and without, against the definition in fp64."""
    expected = naive.span_focus(q.double(), k.double(), grid, scale, softcap=softcap).float()
    # where the prefix holds a hundredth of a row, the rounding of a log-sum-exp that is reused counts a hundredfold
    for lse, bound in ((None, rtol), (causal_lse(q, k, scale, softcap), max(rtol, 1e-4))):
        actual = fused.span_focus(q, k, grid, scale, lse, softcap)
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected, rtol=bound, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(0, 70), min_size=1, max_size=3), st.integers(1, 40),
    st.sampled_from([(1, 1), (4, 2), (3, 1)]), st.sampled_from([None, 5.0]), st.sampled_from([0.2, 1.0]),
)  # fmt: skip
def test_any_geometry_and_batch(d_afs, d_cds, extra, dim, heads, softcap, scale) -> None:
    config = LadmConfig(span_length=16, d_afs=d_afs, d_cds=d_cds, max_length=4096)
    lengths = [config.min_tokens + more for more in extra]
    q, k, grid = problem(lengths, config, dim, heads=heads[0], kv_heads=heads[1])
    check(q, k, grid, scale, softcap)


@pytest.mark.parametrize("dim", [32, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_head_dimensions_and_dtypes(dim: int, dtype: torch.dtype) -> None:
    config = LadmConfig(span_length=16, d_afs=1, d_cds=2, max_length=4096)
    check(*problem([config.min_tokens + 9], config, dim, dtype=dtype), dim**-0.5)


@pytest.mark.parametrize("span_length", [16, 32, 64, 128, 256])
def test_span_lengths(span_length: int) -> None:
    config = LadmConfig(span_length=span_length, d_afs=1, d_cds=2, max_length=4096)
    check(*problem([config.min_tokens + 5], config, 16, heads=1), 0.25)


def test_rows_whose_prefix_holds_almost_nothing_are_summed_again() -> None:
    config = LadmConfig(span_length=16, d_afs=1, max_length=4096)
    q, k, grid = problem([300, 200], config, 8)
    k = k * 0.1
    # each query finds itself so well that its prefix holds next to nothing, but for some queries
    k[..., 0] = torch.arange(k.shape[2], device=DEVICE) / 10
    q = q.clone()
    q[..., 0] = 8.0
    q[:, :, ::3, 0] = 0.0
    check(q, k, grid, 1.0, rtol=2e-4)
    # a log-sum-exp that is no number at all is no reason to fail
    lse = torch.full(q.shape[:3], torch.nan, device=DEVICE)
    torch.testing.assert_close(fused.span_focus(q, k, grid, 1.0, lse), fused.span_focus(q, k, grid, 1.0))


def test_strides_of_every_kind() -> None:
    config = LadmConfig(span_length=16, d_afs=1, max_length=4096)
    q, k, grid = problem([200], config, 16)
    expected = fused.span_focus(q, k, grid, 0.25)
    torch.testing.assert_close(fused.span_focus(q.contiguous(), k.contiguous(), grid, 0.25), expected)
    sideways = [x.mT.contiguous().mT for x in (q, k)]
    torch.testing.assert_close(fused.span_focus(*sideways, grid, 0.25), expected)
    lse = causal_lse(q, k, 0.25, None)
    spread = torch.stack([lse, lse], -1)[..., 0]
    torch.testing.assert_close(fused.span_focus(q, k, grid, 0.25, spread), fused.span_focus(q, k, grid, 0.25, lse))


def test_one_grid_for_a_whole_batch_and_batch_mates_change_no_bit() -> None:
    config = LadmConfig(span_length=16, d_afs=1, max_length=4096)
    q, k, _ = problem([230, 230], config, 16)
    shared = fused.span_focus(q, k, SpanGrid(230, config), 0.25)
    assert torch.equal(shared, fused.span_focus(q, k, SpanGrid([230, 230], config), 0.25))
    alone = fused.span_focus(q[1:], k[1:], SpanGrid(150, config), 0.25)
    together = fused.span_focus(q, k, SpanGrid([230, 150], config), 0.25)
    rows, columns = alone.shape[2:]
    assert torch.equal(together[1:, :, :rows, :columns], alone)
    assert not together[1, :, rows:].any()


@pytest.mark.parametrize(
    ("dtype", "dim", "span_length"), [(torch.float64, 8, 16), (torch.float32, 300, 16), (torch.float32, 8, 12)]
)
def test_inputs_outside_the_kernel_go_to_chunked(dtype: torch.dtype, dim: int, span_length: int) -> None:
    config = LadmConfig(span_length=span_length, d_afs=1, max_length=4096)
    q, k, grid = problem([200], config, dim, dtype=dtype)
    assert torch.equal(fused.span_focus(q, k, grid, 0.1), chunked.span_focus(q, k, grid, 0.1))


def test_the_backend_is_chosen_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend("auto", "cpu") is BACKENDS["chunked"]
    assert choose_backend("naive", "cpu") is BACKENDS["naive"]
    config = LadmConfig(span_length=16, d_afs=1, max_length=4096)
    q, k, grid = problem([200], config, 8)
    assert torch.equal(choose_backend("fused", DEVICE)(q, k, grid, 0.1), fused.span_focus(q, k, grid, 0.1))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="needs a CUDA device.*chunked"):
        choose_backend("fused", "cpu")
    monkeypatch.setattr(ops, "_trial_problem", lambda index: "")
    monkeypatch.setattr(ops, "_has_triton", lambda: False)
    with pytest.raises(BackendError, match="pip install triton"):
        choose_backend("fused", "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    assert choose_backend("auto", "cuda") is BACKENDS["chunked"]
    monkeypatch.setattr(ops, "_has_triton", lambda: True)
    assert choose_backend("auto", "cuda") is BACKENDS["fused"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert choose_backend("auto", "cuda") is BACKENDS["chunked"]
    assert "capability 8.0 or newer, not 7.5" in ops.triton_problem(torch.device("cuda"))


def test_a_gpu_where_triton_cannot_compile_takes_chunked(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    trials: list[torch.device] = []

    def trial(device: torch.device) -> float:
        trials.append(device)
        if device.index == 0:
            raise RuntimeError("Failed to find C compiler. Please specify via CC.\nand more")
        return {1: float("inf"), 2: 1e-4}[device.index]

    monkeypatch.setattr(ops, "_trial", trial)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")
    monkeypatch.setattr(causal, "kernel_name", lambda *_: "flash")
    for _ in range(2):
        assert choose_backend("auto", "cuda:0") is BACKENDS["chunked"]
        assert choose_backend("auto", "cuda:1") is BACKENDS["chunked"]
        assert choose_backend("auto", "cuda:2") is BACKENDS["fused"]
    # once for each device
    assert trials == [torch.device("cuda", index) for index in range(3)]
    assert len(caplog.messages) == 2
    assert "span focus on cuda:0 is computed by PyTorch" in caplog.text
    assert attention.describe("cuda:0").endswith(
        "PyTorch (chunked): a trial of Triton failed (RuntimeError: Failed to find C compiler. Please specify via CC.)"
    )
    assert attention.describe("cuda:1").endswith("PyTorch (chunked): a trial of Triton was off by inf")
    assert attention.describe("cuda:2").endswith("Triton (fused)")
    with pytest.raises(BackendError, match="cannot run here: a trial of Triton failed.*'chunked'"):
        choose_backend("fused", "cuda:0")


def test_running_out_of_memory_in_the_trial_settles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(device: torch.device) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(ops, "_trial", trial)
    with pytest.raises(torch.OutOfMemoryError):
        choose_backend("auto", "cuda:0")
    monkeypatch.setattr(ops, "_trial", lambda device: 0.0)
    assert choose_backend("auto", "cuda:0") is BACKENDS["fused"]


def test_the_trial_tells_a_kernel_that_works_from_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device(DEVICE)
    assert ops._trial(device) <= ops.TRIAL_TOLERANCE / 10
    monkeypatch.setattr(fused, "span_focus", lambda *problem: chunked.span_focus(*problem) * 1.5)
    assert ops._trial(device) > ops.TRIAL_TOLERANCE
