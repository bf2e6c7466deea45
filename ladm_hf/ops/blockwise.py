"""Attention with softcap and attention sinks, which PyTorch's kernels lack, a block of queries at a time."""

from __future__ import annotations

import torch
from torch import Tensor

# Queries computed at once.
QUERY_BLOCK = 256


def blockwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Causal or masked attention in blocks of [`QUERY_BLOCK`] queries.

    Args:
        query (`Tensor` `[B, H, T, D]`), key and value (`Tensor` `[B, Hkv, S, D]`): after the rotary embedding.
        mask (`Tensor` `[B, 1, T, S]`, *optional*): `True` attends, or is added to the logits; `None` is causal.
        scale (`float`): of the logits.
        softcap (`float`, *optional*): bound `c` of the logits, `c tanh(logits / c)`.
        sinks (`Tensor` `[H]`, *optional*): a logit of each head that takes weight and gives nothing.

    Returns:
        The output `[B, T, H, D]`, and the log-sum-exp `[B, H, T]` in fp32, sinks left out.
    """
    heads, length, keys = query.shape[1], query.shape[2], key.shape[2]
    dtype = torch.promote_types(query.dtype, torch.float32)
    # [B, H, S, D]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    value = value.repeat_interleave(heads // value.shape[1], dim=1)
    positions = torch.arange(keys, device=query.device)
    outputs, lses = [], []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        # a plain causal block needs only the keys up to its own end
        limit = keys if mask is not None else keys - length + stop
        # in fp32: a log-sum-exp of logits rounded to half precision would not fit those of the span focus
        logits = query[:, :, start:stop].to(dtype) @ key[:, :, :limit].to(dtype).transpose(2, 3) * scale
        if softcap is not None:
            logits = logits.div_(softcap).tanh_().mul_(softcap)
        if mask is None:
            allowed = positions[:limit] <= positions[keys - length + start : keys - length + stop, None]
        else:
            allowed = mask[:, :, start:stop, :limit]
        if allowed.dtype == torch.bool:
            logits = logits.masked_fill_(~allowed, -torch.inf)
        else:
            logits = logits + allowed
        lse = logits.logsumexp(-1)
        lses.append(lse)
        if sinks is not None:
            lse = torch.logaddexp(lse, sinks.to(dtype).view(1, -1, 1).expand_as(lse))
        # a row that may attend to nothing gets nothing
        lse = lse.masked_fill(lse == -torch.inf, 0.0)
        weights = logits.sub_(lse.unsqueeze(-1)).exp_()
        outputs.append(weights.to(value.dtype) @ value[:, :, :limit])
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), torch.cat(lses, 2)
