"""PFS -> AFS -> CDS: the score from the pairwise focus of spans, pure tensor maths.

For a document of `T` tokens, span length `l`, and `PFS(s, t)` averaged over heads (equations 2 to 5 of
arXiv 2503.02502, in the form the published code computes):

    sigma(s) = sample standard deviation (ddof 1) of PFS(s, .) over t
    AFS(s)   = (s / T) * sigma(s) * sum_t (t l d_afs / T) * PFS(s, t)
    CDS      = mean of AFS over s

Where the heads of a calculator carry weights `w`, the document's score is not the mean over layers but

    prod_h (CDS_h / CDS_even) ** (w_h / sum(w))

with `CDS_even` the score, without sigma, of a head that attends evenly to all earlier tokens: `PFS(s, t) = l l / s`. A
ratio of 1 means that attention is spread over the whole document; the ratio, unlike CDS, does not change with length
for such a head.

Dimensions are those of `ladm_hf.ops`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ladm_hf.arrays import Floats
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


def even_score(grid: SpanGrid, ablation: Ablation | None = None) -> Tensor:
    """CDS, without sigma, of a head that attends evenly to all earlier tokens.

    Args:
        grid ([`SpanGrid`]): the grid of the `B` documents.
        ablation (`str`, *optional*): `"no_length_weight"` leaves out the length factors, as in the score beside it.

    Returns:
        `Tensor` `[B]`, fp64, positive.
    """
    starts = torch.as_tensor(grid.query_starts, dtype=torch.float64).clamp(min=1)
    pfs = (grid.span_length**2 / starts)[..., None].expand(-1, -1, grid.shape[1])
    if ablation != "no_length_weight":
        return contextual_dependency_score(pfs, grid, "no_std")
    # that ablation keeps sigma, which is 0 for such a head
    spans = torch.as_tensor((grid.query_starts >= 0).sum(-1), dtype=torch.float64)
    return torch.where(torch.as_tensor(grid.present), pfs, 0.0).sum((-2, -1)) / spans


def document_score(cds: Floats, weights: Sequence[float] | None) -> float:
    """The score of a document from CDS by layer, or from `CDS_h / CDS_even` by head where there are weights.

    Args:
        cds (`float64` array `[L]`): one for each layer or weighted head; ratios under 1e-6 count as 1e-6.
        weights (sequence of `float`, *optional*): of the heads.
    """
    if weights is None:
        return float(cds.mean())
    return float(np.exp(np.average(np.log(np.maximum(cds, 1e-6)), weights=weights)))
