"""The same-document objective: a query's attention should go to the spans of its own document, however far back.

For a query span `s` of a window whose tokens carry document labels, with `P` the softmax over the keys before `s` as
in the score, spans numbered from the start of the window:

    p(j)   = mean over heads and queries of the span of the sum of P over the keys of span j
    tau(j) = share of span j's tokens that are of the query's document, plus `rest` for j = 0, normalised over j
    loss   = cross-entropy of p against tau, mean over sampled spans

The mass `p` is what PFS is made of, so the loss trains the score itself: `p(j)` becomes the probability that span `j`
belongs to the document of `s`, relative to all others. Span 0, the attention sink, is left out of the score: it takes
the mass of a query that has nothing to look back to. Dimensions are those of `ladm_hf.ops`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ladm_hf.scoring.recorder import Recorder
from ladm_hf.training.windows import UNKNOWN


class FocusRecorder(Recorder):
    """Keeps the queries and keys of the supervised layers during one forward pass, with their gradients.

    Args:
        layers (sequence of `int`): the layers to keep.
    """

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        # layer -> (q [B, H, T, D], k [B, Hkv, T, D], scale)
        self.kept: dict[int, tuple[Tensor, Tensor, float]] = {}

    def wants(self, layer: int) -> bool:
        return layer in self.layers

    def is_last(self, layer: int) -> bool:
        return False

    def record(self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None) -> None:
        self.kept[layer] = (q, k, scale)


def same_document_loss(
    q: Tensor,
    k: Tensor,
    labels: Tensor,
    scale: float,
    span_length: int = 128,
    spans: int = 12,
    queries: int = 32,
    rest: float = 2.0,
    per_head: float = 0.3,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The cross-entropy above, over sampled query spans and sampled queries of each.

    Args:
        q (`Tensor` `[B, H, T, D]`) and k (`Tensor` `[B, Hkv, T, D]`): after the rotary embedding.
        labels (`Tensor` `[B, T]`, integer): document of each token; `T` a multiple of `span_length`. A query labelled
            `NO_TEXT` has no earlier part of its document, so that its target is the sink; a span with a query labelled
            `UNKNOWN` is left out of the mean.
        scale (`float`): multiplies `q . k`.
        span_length (`int`, *optional*, defaults to `128`): tokens in a span.
        spans (`int`, *optional*, defaults to `12`): query spans of each window, drawn with weight `s`.
        queries (`int`, *optional*, defaults to `32`): queries of each span.
        rest (`float`, *optional*, defaults to `2.0`): weight of the sink, in spans.
        per_head (`float`, *optional*, defaults to `0.3`): weight of the same loss for every head by itself; the rest
            goes to the loss of their mean.
        generator (`torch.Generator`, *optional*): on the device of `q`.

    Returns:
        Scalar, in nats above the entropy of `tau`: 0 for a perfect head.
    """
    batch, heads, length, dim = q.shape
    total = length // span_length
    device = q.device
    # later spans see more: they count more in the score and are drawn more often
    weights = torch.arange(total, device=device, dtype=torch.float32)
    chosen = torch.multinomial(weights.expand(batch, -1), min(spans, total - 1), generator=generator)
    offsets = torch.rand(batch, chosen.shape[1], span_length, device=device, generator=generator)
    offsets = offsets.argsort(-1)[..., : min(queries, span_length)]
    # [B, N]: rows of the sampled queries, and the first key that each may not see
    rows = (chosen[..., None] * span_length + offsets).flatten(1)
    limits = (chosen * span_length).repeat_interleave(offsets.shape[-1], 1)
    group = heads // k.shape[1]
    picked = q.gather(2, rows[:, None, :, None].expand(-1, heads, -1, dim)).float() * scale
    picked = picked.unflatten(1, (-1, group)).flatten(2, 3)
    # [B, H, N, T]
    logits = (picked @ k.float().transpose(2, 3)).unflatten(2, (group, -1)).flatten(1, 2)
    hidden = torch.arange(length, device=device) >= limits[..., None]
    logits = logits.masked_fill(hidden[:, None], -torch.inf)
    # [B, H, chosen, J]: mass of each span, then the mean over the queries of a span
    mass = logits.softmax(-1).unflatten(-1, (total, span_length)).sum(-1)
    mass = mass.unflatten(2, (chosen.shape[1], -1)).mean(3)
    own = labels.gather(1, rows)[..., None]
    same = (own == labels[:, None, :]) & (own >= 0)
    same = (same & ~hidden).unflatten(-1, (total, span_length)).float().mean(-1)
    target = same.unflatten(1, (chosen.shape[1], -1)).mean(2)
    target[..., 0] += rest
    target = target / target.sum(-1, keepdim=True)
    entropy = -torch.xlogy(target, target).sum(-1)
    together = _cross_entropy(mass.mean(1), target) - entropy
    alone = _cross_entropy(mass, target[:, None]).mean(1) - entropy
    loss = (1 - per_head) * together + per_head * alone
    # [B, chosen]: spans whose queries are all known
    known = (own[..., 0].unflatten(1, (chosen.shape[1], -1)) > UNKNOWN).all(-1)
    mean: Tensor = torch.where(known, loss, 0.0).sum() / known.sum().clamp(min=1)
    return mean


def _cross_entropy(mass: Tensor, target: Tensor) -> Tensor:
    return -(target * mass.clamp(min=1e-9).log()).sum(-1)
