"""How much a layer attends to distant keys, and how evenly: LongAttn's two scores of a document.

For a document of `T` tokens, `k = T - 3 floor(T / 4)` (a quarter of it), and the causal softmax `P` of a head,

    M(n, m) = P(n, m) where m <= n - k, else 0
    strength   = 1/T sum_n sum_m M(n, m)
    uniformity = - variance of the T^2 entries of M (ddof 1)

each averaged over heads: `DS_T` and `DU_T` of Wu et al. 2025 (arXiv 2502.16860, equations 5 and 7) as their code
computes them, on the first layer. No `[T, T]` matrix is made. With `lse` over the keys `0..n` and `far` over the keys
`0..n-k`, which is a causal attention of the queries from `k` on to the keys before `T - k`,

    sum_m M(n, m) = exp(far - lse),    sum_m M(n, m)^2 = exp(far' - 2 lse)

where `far'` is of twice the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ladm_hf.ops.blockwise import blockwise_attention
from ladm_hf.ops.causal import causal_attention


def distant_attention(
    q: Tensor,
    k: Tensor,
    lengths: Sequence[int],
    scale: float,
    lse: Tensor | None = None,
    softcap: float | None = None,
    *,
    uniformity: bool = True,
    padded: Callable[[int], int] = int,
) -> Tensor:
    """Strength and uniformity of the distant attention of each document.

    Args:
        q (`Tensor` `[B, H, T, D]`), k (`Tensor` `[B, Hkv, T, D]`), scale, lse, softcap: as for `ladm_hf.ops`.
        lengths (sequence of `int`): tokens of each of the `B` documents.
        uniformity (`bool`, *optional*, defaults to `True`): NaN in its place where it is not wanted.
        padded (callable, *optional*): length to which the queries of a document are padded, for kernels that prepare
            themselves for each.

    Returns:
        `Tensor` `[B, 2]`, fp32: strength in 0..1 and uniformity, at most 0.
    """
    if lse is None:
        lse = _log_sum_exp(q, k, scale, softcap)
    return torch.stack(
        [
            _of_a_document(q[b : b + 1], k[b : b + 1], length, scale, lse[b, :, :length], softcap, uniformity, padded)
            for b, length in enumerate(lengths)
        ]
    )


def _of_a_document(
    q: Tensor,
    k: Tensor,
    length: int,
    scale: float,
    lse: Tensor,
    softcap: float | None,
    uniformity: bool,
    padded: Callable[[int], int],
) -> Tensor:
    count = 3 * (length // 4)
    first = length - count
    # causal: what is padded on the right is never read
    width = max(count, padded(count))
    queries, keys = _part(q, first, width), _part(k, 0, width)
    # [H, T - k]
    lse = lse[:, first:].float()
    far = _log_sum_exp(queries, keys, scale, softcap)[0, :, :count]
    total = (far - lse).exp().sum(-1)
    variance = torch.full_like(total, torch.nan)
    if uniformity:
        # softcap c tanh(x / c) of half the bound is half of that of x: twice the logits double both
        doubled = _log_sum_exp(queries, keys, 2 * scale, None if softcap is None else 2 * softcap)[0, :, :count]
        squares = (doubled - 2 * lse).exp().sum(-1)
        variance = (squares - (total / length).square()) / (length**2 - 1)
    return torch.stack([total / length, -variance]).mean(-1)


def _part(x: Tensor, start: int, width: int) -> Tensor:
    """`width` tokens of `[1, H, T, D]`, zeros where there are none."""
    part = x[:, :, start : start + width]
    return torch.nn.functional.pad(part, (0, 0, 0, width - part.shape[2])) if part.shape[2] < width else part


def _log_sum_exp(q: Tensor, k: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Over the causal keys of each query, `[B, H, T]` in fp32."""
    # keys in the place of values, which a log-sum-exp does not need
    attended = causal_attention(q, k, k, scale) if softcap is None else None
    if attended is None:
        attended = blockwise_attention(q, k, k, None, scale, softcap, None)
    return attended[1].float()
