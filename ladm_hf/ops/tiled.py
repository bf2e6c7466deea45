"""Causal attention on AMD's CPUs with AVX512-BF16, by products of oneDNN.

PyTorch's flash attention multiplies float32 there whatever the dtype, and with MKL, which takes its slow path on AMD's
processors; on Intel's it is the faster one. Here logits are float32 products of oneDNN; tiles of keys are joined by
their log-sum-exp:

    lse = log(exp(lse_a) + exp(lse_b)),    output = exp(lse_a - lse) output_a + exp(lse_b - lse) output_b
"""

from __future__ import annotations

import torch
from torch import Tensor

from ladm_hf.ops.device import cpu_has, cpu_is_amd

# Rows of logits, over the query heads that share a key head, and keys in a tile: it should stay in cache.
ROWS, KEYS = 256, 2048


def covers(dtype: torch.dtype) -> bool:
    """Whether this is the faster kernel on this CPU. By what it has, not by a trial: every run takes the same."""
    return (
        dtype in (torch.float32, torch.bfloat16)
        and cpu_has("avx512_bf16")
        and cpu_is_amd()
        and torch.backends.mkldnn.is_available()
    )


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output `[B, H, T, D]` and log-sum-exp `[B, H, T]`, as of `ladm_hf.ops.causal.causal_attention`."""
    batch, heads, tokens, _ = q.shape
    group = heads // k.shape[1]
    output = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = torch.empty(batch, heads, tokens, dtype=torch.float32)
    # a power of two, so that the own keys of the queries never lie in two tiles
    step = 1 << (max(1, ROWS // group).bit_length() - 1)
    future = torch.ones(step, step, dtype=torch.bool).triu_(1)
    for b in range(batch):
        for head in range(k.shape[1]):
            own = slice(head * group, (head + 1) * group)
            queries, keys = scale * q[b, own].float(), k[b, head].float().contiguous()
            for start in range(0, tokens, step):
                rows = slice(start, min(start + step, tokens))
                found = _rows(queries[:, rows], keys, v[b, head], start, future)
                output[b, own, rows], lse[b, own, rows] = found
    return output, lse


def _rows(queries: Tensor, keys: Tensor, values: Tensor, start: int, future: Tensor) -> tuple[Tensor, Tensor]:
    """Output `[G, l, D]` and log-sum-exp `[G, l]` of the queries from `start` on."""
    group, length, dim = queries.shape
    flat, stop = queries.reshape(-1, dim), start + length
    output, lse = None, torch.full((len(flat), 1), -torch.inf)
    for first in range(0, stop, KEYS):
        last = min(first + KEYS, stop)
        logits = _product(flat, keys[first:last])
        if last > start:
            logits.view(group, length, -1)[:, :, start - first :].masked_fill_(future[:length, :length], -torch.inf)
        weights = logits.softmax(-1)
        tile_lse = logits.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
        if values.dtype == torch.bfloat16:
            tile = (weights.bfloat16() @ values[first:last]).float()
        else:
            tile = _product(weights, values[first:last].t().contiguous())
        if output is None:
            output, lse = tile, tile_lse
            continue
        joint = torch.logaddexp(lse, tile_lse)
        output = output.mul_((lse - joint).exp()).add_(tile.mul_((tile_lse - joint).exp()))
        lse = joint
    assert output is not None
    return output.view(group, length, -1), lse.view(group, length)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """`x @ y.T` in float32, by oneDNN where `@` would take MKL."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
    return found
