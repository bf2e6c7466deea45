"""PFS -> AFS -> CDS: the score from the pairwise focus of spans, pure tensor maths.

For a document of `T` tokens, span length `l`, and `PFS(s, t)` averaged over heads (equations 2 to 5 of
arXiv 2503.02502, in the form the published code computes):

    sigma(s) = sample standard deviation (ddof 1) of PFS(s, .) over t
    AFS(s)   = (s / T) * sigma(s) * sum_t (t l d_afs / T) * PFS(s, t)
    CDS      = mean of AFS over s

Dimensions are those of `ladm_hf.ops`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ladm_hf.config import Ablation
from ladm_hf.ops.spans import SpanGrid


def aggregated_focus_score(pfs: Tensor, grid: SpanGrid, ablation: Ablation | None = None) -> Tensor:
    """AFS of every query span.

    Args:
        pfs (`Tensor` `[..., B, R, S]`, floating):
            Pairwise focus scores averaged over heads, in `0..l`. Absent pairs are ignored.
        grid ([`SpanGrid`]):
            The grid of the `B` documents.
        ablation (`str`, *optional*):
            `None`, `"no_std"` or `"no_length_weight"`.

    Returns:
        `Tensor` `[..., B, R]`, 0 where a document has no query span.
    """
    present = torch.as_tensor(grid.present, device=pfs.device)
    counts = torch.as_tensor(grid.num_key_spans, device=pfs.device, dtype=pfs.dtype).clamp(min=1)
    pfs = torch.where(present, pfs, torch.zeros((), dtype=pfs.dtype, device=pfs.device))
    if ablation == "no_length_weight":
        afs = pfs.sum(-1)
    else:
        lengths = torch.as_tensor(grid.num_tokens, device=pfs.device, dtype=pfs.dtype)[:, None]
        starts = torch.as_tensor(grid.query_starts, device=pfs.device, dtype=pfs.dtype)
        # [S], distance in tokens from query span to key span
        distances = grid.key_stride * torch.arange(1, grid.shape[1] + 1, device=pfs.device, dtype=pfs.dtype)
        afs = starts / lengths * (pfs * distances).sum(-1) / lengths
    if ablation != "no_std":
        mean = pfs.sum(-1) / counts
        squares = torch.where(present, (pfs - mean[..., None]).square(), torch.zeros_like(pfs)).sum(-1)
        afs = afs * (squares / (counts - 1).clamp(min=1)).sqrt()
    return torch.where(present.any(-1), afs, torch.zeros_like(afs))


def contextual_dependency_score(pfs: Tensor, grid: SpanGrid, ablation: Ablation | None = None) -> Tensor:
    """CDS of every document in one layer: the mean of AFS over its query spans.

    Args:
        pfs (`Tensor` `[..., B, R, S]`):
            Pairwise focus scores averaged over heads, in `0..l`. Leading dimensions (layers) are kept.
        grid ([`SpanGrid`]):
            The grid of the `B` documents.
        ablation (`str`, *optional*):
            `None`, `"no_std"` or `"no_length_weight"`.

    Returns:
        `Tensor` `[..., B]`, non-negative.
    """
    spans = torch.as_tensor((grid.query_starts >= 0).sum(-1), device=pfs.device, dtype=pfs.dtype)
    return aggregated_focus_score(pfs, grid, ablation).sum(-1) / spans
