from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from ladm_hf.config import LadmConfig
from ladm_hf.ops.scores import aggregated_focus_score, contextual_dependency_score, document_score, even_score
from ladm_hf.ops.spans import SpanGrid

CONFIG = LadmConfig(span_length=4, d_afs=2, d_cds=3, max_length=500)


def cds_by_definition(pfs: torch.Tensor, grid: SpanGrid, sample: int, ablation: str | None) -> float:
    length, afs = grid.num_tokens[sample], []
    for row, start, count in grid.query_spans(sample):
        focus = pfs[sample, row, :count].tolist()
        weighted = sum(
            (t * 4 * 2 / length if ablation != "no_length_weight" else 1) * f for t, f in enumerate(focus, 1)
        )
        if ablation != "no_length_weight":
            weighted *= start / length
        if ablation != "no_std":
            weighted *= statistics.stdev(focus)
        afs.append(weighted)
    return statistics.mean(afs)


@pytest.mark.parametrize("ablation", [None, "no_std", "no_length_weight"])
def test_cds_is_the_definition_for_mixed_lengths(ablation) -> None:
    torch.manual_seed(0)
    grid = SpanGrid([100, 47, 200], CONFIG)
    pfs = torch.rand(2, 3, *grid.shape, dtype=torch.float64)
    actual = contextual_dependency_score(pfs, grid, ablation)
    expected = [[cds_by_definition(layer, grid, i, ablation) for i in range(3)] for layer in pfs]
    assert actual.tolist() == [pytest.approx(row, rel=1e-12) for row in expected]


def test_absent_pairs_do_not_count_even_as_nan() -> None:
    grid = SpanGrid([100, 47], CONFIG)
    pfs = torch.rand(2, *grid.shape, dtype=torch.float64)
    filled = torch.where(torch.as_tensor(grid.present), pfs, torch.tensor(math.nan, dtype=torch.float64))
    assert torch.equal(contextual_dependency_score(filled, grid), contextual_dependency_score(pfs, grid))
    assert (aggregated_focus_score(filled, grid)[1, len(grid.query_spans(1)) :] == 0).all()


def test_an_even_head_scores_one_at_any_length() -> None:
    for length in (2305, 4096, 10_000):
        grid = SpanGrid(length)
        pfs = 128 * 128 / torch.as_tensor(grid.query_starts, dtype=torch.float64)[0, :, None].expand(*grid.shape)
        ratio = contextual_dependency_score(pfs[None], grid, "no_std") / even_score(grid, "no_std")
        torch.testing.assert_close(ratio, torch.ones_like(ratio))
        # without the length factors: the sum of its PFS, averaged over query spans
        expected = (pfs * torch.as_tensor(grid.present)[0]).sum(-1).mean()
        torch.testing.assert_close(even_score(grid, "no_length_weight"), expected[None])


def test_weighted_heads_are_read_by_a_geometric_mean() -> None:
    cds = np.array([0.5, 0.01, 0.0])
    assert document_score(cds, None) == pytest.approx(0.17)
    assert document_score(cds, (2.0, 1.0, 1.0)) == pytest.approx((0.5**2 * 0.01 * 1e-6) ** 0.25)
