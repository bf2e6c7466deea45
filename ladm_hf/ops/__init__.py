"""`span_focus(q, k, grid, scale, lse=None, softcap=None) -> pfs`: how much each query span attends to each key span.

One signature, several implementations. Dimensions, here and everywhere in the package:

    B batch    H query heads    T tokens    D head dimension    R query spans    S key spans    L layers

- `q` `[B, H, T, D]` and `k` `[B, Hkv, T, D]`: after rotary embedding and any q/k norm, KV heads not repeated,
  `H` a multiple of `Hkv`. Right padding beyond a document's own length is never read.
- `grid`: a `SpanGrid` of `B` documents, or of one length shared by all.
- `scale` multiplies `q . k`; then `softcap`, where given, bounds it: `x -> softcap * tanh(x / softcap)`.
- `lse` `[B, H, T]`, *optional*: natural log of the sum of `exp` of those logits over the causal keys `0..i` of each
  query `i`, as attention kernels return it. It saves the pass over the prefix and changes no result.
- `pfs` `[B, H, R, S]`, fp32 (fp64 for fp64 input): sum over the keys of the key span, mean over nothing, of the softmax
  over the keys before the query span, summed over the queries of the query span. In `0..l`; 0 where a document has
  no such pair.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ladm_hf.ops import chunked, naive
from ladm_hf.spans import SpanGrid


class SpanFocus(Protocol):
    """The signature that every backend has."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        grid: SpanGrid,
        scale: float,
        lse: Tensor | None = None,
        softcap: float | None = None,
    ) -> Tensor: ...


BACKENDS: dict[str, SpanFocus] = {"naive": naive.span_focus, "chunked": chunked.span_focus}
