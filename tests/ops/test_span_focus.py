"""Every backend computes the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ladm_hf.config import LadmConfig
from ladm_hf.ops import chunked, naive
from ladm_hf.ops.spans import SpanGrid


@st.composite
def problems(draw: st.DrawFn):
    config = LadmConfig(
        span_length=draw(st.integers(2, 9)),
        d_afs=draw(st.integers(1, 5)),
        d_cds=draw(st.integers(1, 5)),
        max_length=4096,
    )
    batch = draw(st.integers(1, 3))
    lengths = [config.min_tokens + draw(st.integers(0, 150)) for _ in range(batch)]
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    dim = draw(st.sampled_from([1, 3, 8, 17]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    padding = draw(st.integers(0, 5))
    shape = (max(lengths) + padding, dim)
    q = torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)
    k = torch.randn(batch, kv_heads, *shape, generator=generator, dtype=torch.float64)
    # sharp attention too: scales that put nearly all of a row's mass on one key
    scale = draw(st.sampled_from([0.1, 1.0, 8.0]))
    softcap = draw(st.sampled_from([None, 5.0]))
    return q, k, SpanGrid(lengths, config), scale, softcap


def causal_lse(q: torch.Tensor, k: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    logits = scale * q @ k.transpose(-1, -2)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), -torch.inf).logsumexp(-1)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_chunked_agrees_with_the_definition_in_fp64(problem) -> None:
    q, k, grid, scale, softcap = problem
    expected = naive.span_focus(q, k, grid, scale, softcap=softcap)
    torch.testing.assert_close(chunked.span_focus(q, k, grid, scale, softcap=softcap), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_reusing_the_log_sum_exp_changes_nothing_in_fp64(problem) -> None:
    q, k, grid, scale, softcap = problem
    expected = naive.span_focus(q, k, grid, scale, softcap=softcap)
    lse = causal_lse(q, k, scale, softcap)
    actual = chunked.span_focus(q, k, grid, scale, lse, softcap)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_a_row_whose_prefix_holds_almost_nothing_is_summed_again() -> None:
    torch.manual_seed(0)
    config = LadmConfig(span_length=8, max_length=400)
    grid = SpanGrid(300, config)
    q = torch.randn(1, 2, 300, 4)
    k = torch.randn(1, 2, 300, 4) * 0.1
    # each query finds itself so well that its prefix holds less than 1e-9 of its mass
    k[..., 0] = torch.arange(300.0) / 10
    q[..., 0] = 40.0
    lse = causal_lse(q, k, 1.0, None)
    actual = chunked.span_focus(q, k, grid, 1.0, lse)
    torch.testing.assert_close(actual, naive.span_focus(q, k, grid, 1.0), rtol=1e-4, atol=1e-7)


def test_blocks_cover_long_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(chunked, "CPU_BLOCK", 100)
    grid = SpanGrid([410, 333], LadmConfig(span_length=8, max_length=500))
    q, k = torch.randn(2, 4, 420, 8), torch.randn(2, 2, 420, 8)
    torch.testing.assert_close(chunked.span_focus(q, k, grid, 0.3), naive.span_focus(q, k, grid, 0.3))


@pytest.mark.parametrize("span_focus", [naive.span_focus, chunked.span_focus])
def test_padding_is_never_read(span_focus) -> None:
    torch.manual_seed(0)
    config = LadmConfig(span_length=8, max_length=500)
    q, k = torch.randn(2, 4, 400, 8), torch.randn(2, 2, 400, 8)
    q[0, :, 350:] = torch.nan
    k[0, :, 350:] = torch.nan
    pfs = span_focus(q, k, SpanGrid([350, 400], config), 0.3)
    alone = span_focus(q[:1, :, :350], k[:1, :, :350], SpanGrid(350, config), 0.3)
    rows, columns = alone.shape[2:]
    torch.testing.assert_close(pfs[:1, :, :rows, :columns], alone, rtol=0, atol=0)
    assert pfs.isfinite().all()
    assert (pfs[0, :, rows:] == 0).all()


@pytest.mark.parametrize("span_focus", [naive.span_focus, chunked.span_focus])
def test_one_grid_serves_a_batch_of_equal_lengths(span_focus) -> None:
    torch.manual_seed(0)
    config = LadmConfig(span_length=8, max_length=500)
    q, k = torch.randn(3, 2, 300, 8), torch.randn(3, 2, 300, 8)
    shared = span_focus(q, k, SpanGrid(300, config), 0.3)
    torch.testing.assert_close(shared, span_focus(q, k, SpanGrid([300] * 3, config), 0.3), rtol=0, atol=0)


def test_pfs_of_all_keys_sums_to_the_span_length() -> None:
    # stride 1 and every span sampled: only the first span and the nearest are missing
    config = LadmConfig(span_length=4, d_afs=1, max_length=100)
    q, k = torch.zeros(1, 1, 60, 2), torch.zeros(1, 1, 60, 2)
    pfs = naive.span_focus(q, k, SpanGrid(60, config), 1.0)[0, 0, 0]
    # uniform attention over 56 keys: every span of 4 keys gets 4 queries * 4 / 56
    assert pfs.tolist() == pytest.approx([16 / 56] * 13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_summed_in_fp32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    grid = SpanGrid(300, LadmConfig(span_length=8, max_length=500))
    q, k = torch.randn(1, 4, 300, 16).to(dtype), torch.randn(1, 2, 300, 16).to(dtype)
    pfs = chunked.span_focus(q, k, grid, 0.25)
    assert pfs.dtype == torch.float32
    torch.testing.assert_close(pfs, naive.span_focus(q.float(), k.float(), grid, 0.25))
