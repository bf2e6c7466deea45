"""Area under the curve and rank correlation, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from ladm_hf.stats import area_under_curve, average_ranks


def test_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    high, low = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 20).astype(float)
    pairs = (high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean()
    assert area_under_curve(high, low) == pytest.approx(pairs)
    assert area_under_curve([2.0], [1.0]) == 1.0
    assert np.isnan(area_under_curve([], [1.0]))


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert average_ranks(np.array([3, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]
