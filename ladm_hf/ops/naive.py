"""The definition of PFS, written out: materialise the softmax over the prefix, then sum it span by span.

    P = softmax over the keys k < s of scale * q . k
    PFS(s, t) = sum of P over the l queries from s and the l keys from e = s - t l d_afs

Slow and large on purpose: every other backend is checked against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ladm_hf.ops.spans import SpanGrid


def span_focus(
    q: Tensor, k: Tensor, grid: SpanGrid, scale: float, lse: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """See `ladm_hf.ops`. `lse` is ignored."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    batch, heads = q.shape[:2]
    # [B, H, T, D]
    k = k.repeat_interleave(heads // k.shape[1], dim=1)
    pfs = torch.zeros(batch, heads, *grid.shape, dtype=dtype, device=q.device)
    for b in range(batch):
        sample = b if len(grid) > 1 else 0
        for row, start, _ in grid.query_spans(sample):
            queries = q[b, :, start : start + grid.span_length].to(dtype)
            # [H, l, s]
            logits = scale * queries @ k[b, :, :start].to(dtype).transpose(1, 2)
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            focus = torch.softmax(logits, dim=-1)
            for column, key in enumerate(grid.key_starts(sample, row).tolist()):
                pfs[b, :, row, column] = focus[:, :, key : key + grid.span_length].sum((1, 2))
    return pfs
