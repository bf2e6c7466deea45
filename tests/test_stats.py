"""Area under the curve and rank correlation, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from ladm_hf.stats import area_under_curve, correlation_by_group, spearman


def test_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    high, low = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 20).astype(float)
    pairs = (high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean()
    assert area_under_curve(high, low) == pytest.approx(pairs)
    assert area_under_curve([2.0], [1.0]) == 1.0
    assert np.isnan(area_under_curve([], [1.0]))


def test_rank_correlation_gives_equal_values_the_mean_of_their_ranks() -> None:
    ranks = [3.5, 1, 3.5, 2], [1, 2, 3, 4]
    assert spearman([3, 1, 3, 2], [10, 20, 30, 40]) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman([1, 2], [5, 4]) == pytest.approx(-1)
    # integers that a double cannot tell apart
    assert spearman([2**60, 2**60 + 1, 2**60 + 2], [1, 2, 3]) == pytest.approx(1)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])])
def test_nothing_to_rank_has_no_rank_correlation(x: list[float], y: list[float]) -> None:
    assert np.isnan(spearman(x, y))


def test_rank_correlation_by_group_is_that_of_each_group() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 9, 200).astype(float), rng.integers(0, 9, 200)
    group = rng.integers(0, 5, 200)
    x[group == 4] = 1.0
    group[:2] = 5
    found = correlation_by_group(x, y, group, 8)
    for n in range(4):
        assert found[n] == pytest.approx(spearman(x[group == n], y[group == n]))
    # all alike, two values, and no value at all
    assert np.isnan(found[4:]).all()
