"""PFS in plain torch, one query span at a time: any device, memory flat in the document's length.

Only the sampled key spans are multiplied. The softmax's denominator over the prefix comes from the causal attention's
log-sum-exp where it is given,

    lse_prefix = lse + log(1 - exp(lse_own - lse)),    lse_own over the query span's own causal keys,

and from an exact pass over the prefix where it is not, and for the rows whose prefix holds too small a share of the
row's mass for that difference to be accurate.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ladm_hf.ops.spans import SpanGrid

# Share of a row's attention below which the prefix is summed again rather than taken as a difference: the relative
# error of the difference is the error of the log-sum-exp (about 1e-6 in fp32) over this share.
MIN_PREFIX_SHARE = 1e-2
# Logits held at once. On a CPU a block should stay in cache; elsewhere it should fill the device.
CPU_BLOCK, DEVICE_BLOCK = 1 << 18, 1 << 26


def span_focus(
    q: Tensor, k: Tensor, grid: SpanGrid, scale: float, lse: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """See `ladm_hf.ops`."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    batch, heads, _, dim = q.shape
    kv_heads, length, stride = k.shape[1], grid.span_length, grid.key_stride
    group = heads // kv_heads
    pfs = torch.zeros(batch, heads, *grid.shape, dtype=dtype, device=q.device)
    for b in range(batch):
        for row, start, count in grid.query_spans(b if len(grid) > 1 else 0):
            stop = start + length
            # [Hkv, G l, D]: the queries that share a KV head stand together
            queries = (scale * q[b, :, start:stop].to(dtype)).reshape(kv_heads, group * length, dim)
            full = None if lse is None else lse[b, :, start:stop].to(dtype).reshape(kv_heads, group * length)
            prefix = _prefix_lse(queries, k[b], start, length, full, softcap)
            # the sampled spans lie one stride apart, up to one stride before `start`: [Hkv, t, l, D], far to near
            keys = k[b, :, start - count * stride : start].unflatten(1, (count, stride))[:, :, :length]
            # [Hkv, t, G]
            focus = torch.empty(kv_heads, count, group, dtype=dtype, device=q.device)
            for part in _blocks(kv_heads, group * length * length, count, q):
                kv, spans = part
                logits = _logits(queries[kv], keys[kv, spans].to(dtype).flatten(1, 2), softcap)
                share = logits.sub_(prefix[kv, :, None]).exp_().unflatten(2, (-1, length)).sum(-1)
                focus[kv, spans] = share.unflatten(1, (group, length)).sum(2).transpose(1, 2)
            pfs[b, :, row, :count] = focus.flip(1).transpose(1, 2).reshape(heads, count)
    return pfs


def _blocks(kv_heads: int, size: int, count: int, like: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of KV heads and of `count` pieces of `size` logits each that keep a block within the device's bound."""
    if like.device.type == "cpu":
        step_heads, bound = 1, CPU_BLOCK
    else:
        step_heads, bound = kv_heads, DEVICE_BLOCK // kv_heads
    step = max(1, bound // size)
    for head in range(0, kv_heads, step_heads):
        for first in range(0, count, step):
            yield slice(head, head + step_heads), slice(first, min(first + step, count))


def _logits(queries: Tensor, keys: Tensor, softcap: float | None) -> Tensor:
    """`[Hkv, N, M]` from scaled queries `[Hkv, N, D]` and keys `[Hkv, M, D]`."""
    logits = queries @ keys.transpose(1, 2)
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def _prefix_lse(
    queries: Tensor, keys: Tensor, start: int, length: int, full: Tensor | None, softcap: float | None
) -> Tensor:
    """Log-sum-exp of every query over the keys `0..start`, `[Hkv, G l]`."""
    if full is None:
        return _exact_lse(queries, keys[:, :start], softcap)
    own = _logits(queries, keys[:, start : start + length].to(queries.dtype), softcap).unflatten(1, (-1, length))
    future = torch.ones(length, length, dtype=torch.bool, device=queries.device).triu_(1)
    own_lse = own.masked_fill_(future, -torch.inf).logsumexp(-1).flatten(1)
    share = -torch.expm1(own_lse - full)
    prefix = full + share.clamp(min=torch.finfo(share.dtype).tiny).log()
    for head, doubtful in enumerate(~(share >= MIN_PREFIX_SHARE)):
        if doubtful.any():
            prefix[head, doubtful] = _exact_lse(
                queries[head : head + 1, doubtful], keys[head : head + 1, :start], softcap
            )[0]
    return prefix


def _exact_lse(queries: Tensor, keys: Tensor, softcap: float | None) -> Tensor:
    """Log-sum-exp over all of `keys`, block by block, `[Hkv, N]`."""
    result = torch.empty(queries.shape[:2], dtype=queries.dtype, device=queries.device)
    parts: dict[int, list[Tensor]] = {}
    for heads, rows in _blocks(keys.shape[0], queries.shape[1], keys.shape[1], queries):
        logits = _logits(queries[heads], keys[heads, rows].to(queries.dtype), softcap)
        parts.setdefault(heads.start, []).append(logits.logsumexp(-1))
    for head, pieces in parts.items():
        result[head : head + pieces[0].shape[0]] = torch.stack(pieces).logsumexp(0)
    return result
