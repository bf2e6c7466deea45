"""Causal attention on CPUs that multiply bfloat16 without matrix units: AVX512-BF16 and no AMX.

PyTorch's flash attention takes as long there in bfloat16 as in float32. Here the products are oneDNN's, which round
float32 inputs to bfloat16 and keep float32 sums; tiles of keys are joined by their log-sum-exp:

    lse = log(exp(lse_a) + exp(lse_b)),    output = exp(lse_a - lse) output_a + exp(lse_b - lse) output_b
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ladm_hf.ops.device import cpu_has

# Rows of logits, over the query heads that share a key head, and keys in a tile: it should stay in cache.
ROWS, KEYS = 256, 2048


def covers(dtype: torch.dtype) -> bool:
    """Whether this is the faster kernel on this CPU."""
    return (
        dtype == torch.bfloat16
        and cpu_has("avx512_bf16")
        and not cpu_has("amx_tile")
        # PyTorch 2.9 and newer
        and hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision")
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
    # a power of two can be multiplied before the rounding
    folded = scale if math.frexp(scale)[0] == 0.5 else 1.0
    with _bfloat16_products():
        for b in range(batch):
            for head in range(k.shape[1]):
                own = slice(head * group, (head + 1) * group)
                queries = (folded * q[b, own].float()).contiguous()
                keys, values = k[b, head].float().t(), v[b, head].float()
                for start in range(0, tokens, step):
                    rows = slice(start, min(start + step, tokens))
                    found = _rows(queries[:, rows], keys, values, start, future, scale / folded)
                    output[b, own, rows], lse[b, own, rows] = found
    return output, lse


def _rows(
    queries: Tensor, keys: Tensor, values: Tensor, start: int, future: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output `[G, l, D]` and log-sum-exp `[G, l]` of the queries from `start` on, keys `[D, T]`."""
    group, length, dim = queries.shape
    flat, stop = queries.reshape(-1, dim), start + length
    output, lse = None, torch.full((len(flat), 1), -torch.inf)
    for first in range(0, stop, KEYS):
        last = min(first + KEYS, stop)
        logits = flat @ keys[:, first:last]
        if scale != 1.0:
            logits.mul_(scale)
        if last > start:
            logits.view(group, length, -1)[:, :, start - first :].masked_fill_(future[:length, :length], -torch.inf)
        weights = logits.softmax(-1)
        tile_lse = logits.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
        tile = weights @ values[first:last]
        if output is None:
            output, lse = tile, tile_lse
            continue
        joint = torch.logaddexp(lse, tile_lse)
        output = output.mul_((lse - joint).exp()).add_(tile.mul_((tile_lse - joint).exp()))
        lse = joint
    assert output is not None
    return output.view(group, length, -1), lse.view(group, length)


@contextlib.contextmanager
def _bfloat16_products() -> Iterator[None]:
    """Has oneDNN multiply float32 matrices in bfloat16 meanwhile; the setting is the process's."""
    settings: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009, older stubs lack it
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
